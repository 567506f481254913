"""`MetadataStore`, the entry point to the catalog: one transaction for each use case."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from catalog import datasets, faults, history, pipelines, proposals, sets, snapshots
from catalog.answers import Command
from catalog.database import driver_of
from catalog.dataset_folds import dataset_id, forgotten, put_mapping
from catalog.entries import (
    ConnectionEntry,
    Dataset,
    Decision,
    DiscoveryEntry,
    ErrorEntry,
    Known,
    MappingVersion,
    Page,
    PipelineEntry,
    PipelineVersion,
    PolicyEntry,
    ProposalEntry,
    RunEntry,
    SchemaVersion,
    SetEntry,
    Snapshot,
    TaskEntry,
    WorkerEntry,
)
from catalog.lineage import Node, Step
from catalog.near import lineage
from catalog.overview import Overview, overview
from catalog.pages import LIMIT
from catalog.projection import changes
from catalog.queries import ALL, Filters
from catalog.results import Results, results
from catalog.rows import Change, Entry, fold
from catalog.waiting import Commits
from penstock.errors import NotFound
from penstock.models import DatasetRef, Model, SchemaMapping
from penstock.postgres import translated
from penstock.records import Record
from penstock.records.execution import SchemaObserved

__all__ = ["MetadataStore"]


class MetadataStore:
    """Reads the catalog, and stores mappings and snapshots. Thread-safe.

    Every method is one transaction of its own, and raises Unavailable when the database cannot be used.
    """

    commits: Commits
    """Wakes threads that wait for the projection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.commits = Commits(self._session)

    # --- datasets

    def dataset(self, id: str) -> Dataset:
        """The catalog entry `id`. Raises NotFound."""
        with self._transaction() as connection:
            return datasets.dataset(connection, id)

    def dataset_of(self, ref: DatasetRef) -> Dataset:
        """The catalog entry of `ref`. Raises NotFound."""
        return self.dataset(dataset_id(ref.connection, ref.object))

    def datasets(
        self,
        *,
        connection: str | None = None,
        kind: str | None = None,
        tag: str | None = None,
        limit: int = LIMIT,
        after: str | None = None,
    ) -> Page[Dataset]:
        """Entries by connection and object."""
        with self._transaction() as session:
            return datasets.datasets(session, connection_name=connection, kind=kind, tag=tag, limit=limit, after=after)

    def search(
        self, query: str, filters: Filters = ALL, *, fuzzy: bool = False, limit: int = 20, after: str | None = None
    ) -> Results:
        """Return a page of the entries that match, best first; see `catalog.results`."""
        with self._transaction() as session:
            return results(session, query, filters, fuzzy=fuzzy, limit=limit, after=after)

    def put_dataset(self, observed: SchemaObserved, *, at: datetime, offset: int) -> Dataset:
        """Create or change an entry, with a new schema version if its schema differs."""
        self.write([(offset, _fact("schema.observed", str(observed.dataset), observed, at))])
        return self.dataset_of(observed.dataset)

    def delete_dataset(self, ref: DatasetRef) -> None:
        """Drop an entry with the history of its schemas. Raises NotFound."""
        found = self.dataset_of(ref).id
        self._fold([(0, forgotten(found))])

    def known(self, refs: Collection[DatasetRef]) -> dict[DatasetRef, Known]:
        """Return the hashes of each of `refs` that has an entry, by which a discovery sees what has changed."""
        with self._transaction() as connection:
            return datasets.known(connection, refs)

    def discovered(self, connection: str) -> set[str]:
        """Return the objects of a connection that a discovery has found and that are not gone."""
        with self._transaction() as session:
            return datasets.discovered(session, connection)

    def schema_history(self, id: str) -> tuple[SchemaVersion, ...]:
        """Return every schema that the dataset has had, oldest first. Raises NotFound."""
        with self._transaction() as connection:
            return datasets.schema_history(connection, id)

    def schema_at(self, id: str, *, version: int | None = None, at: datetime | None = None) -> SchemaVersion:
        """The schema of `version`, the one that was current at `at`, or the current one. Raises NotFound."""
        with self._transaction() as connection:
            return datasets.schema_at(connection, id, version=version, at=at)

    def lineage(self, begin: Node, *, up: bool, depth: int) -> tuple[Step, ...]:
        """Return what `begin` comes from or goes to, over at most `depth` pipelines. Raises NotFound."""
        with self._transaction() as connection:
            return lineage(connection, begin, up=up, depth=depth)

    # --- mappings

    def put_mapping(self, mapping: SchemaMapping, *, at: datetime, actor: str, offset: int) -> MappingVersion:
        """Store `mapping` as the next version of its name, regardless of its own `version`."""
        self._fold([(offset, put_mapping(mapping, at=at, actor=actor, offset=offset))])
        return self.mapping(mapping.name)

    def mapping(self, name: str, version: int | None = None) -> MappingVersion:
        """A mapping at `version`, or at its latest. Raises NotFound."""
        with self._transaction() as connection:
            return pipelines.mapping(connection, name, version)

    def mappings(self, *, limit: int = LIMIT, after: str | None = None) -> Page[MappingVersion]:
        """The latest version of each mapping, by name."""
        with self._transaction() as connection:
            return pipelines.mappings(connection, limit=limit, after=after)

    # --- pipelines, connections, policies, workers

    def pipeline(self, name: str) -> PipelineEntry:
        """Return the pipeline `name`, unless it is deleted. Raises NotFound, with the most similar name."""
        with self._transaction() as connection:
            return pipelines.pipeline(connection, name)

    def next_tick(self, name: str) -> datetime | None:
        """Return when the schedule of an active pipeline is due next, in UTC; None if it has none."""
        with self._transaction() as connection:
            return pipelines.next_tick(connection, name)

    def next_comparisons(self, name: str) -> dict[str, datetime]:
        """Return when both sides of an active pipeline are compared next, in UTC, by the kind of the comparison."""
        with self._transaction() as connection:
            return pipelines.next_comparisons(connection, name)

    def pipelines(
        self,
        *,
        status: str | None = None,
        label: tuple[str, str] | None = None,
        limit: int = LIMIT,
        after: str | None = None,
    ) -> Page[PipelineEntry]:
        """Return the pipelines that are not deleted, by name, optionally in one status or with one label."""
        with self._transaction() as connection:
            return pipelines.pipelines(connection, status=status, label=label, limit=limit, after=after)

    def overview(self) -> list[Overview]:
        """Return every pipeline that is not deleted, with its last run and the time of its next one, by name."""
        with self._transaction() as connection:
            return overview(driver_of(connection))

    def set_entry(self, name: str) -> SetEntry:
        """Return the last listing of the set `name`, and the last start of its members. Raises NotFound."""
        with self._transaction() as connection:
            return sets.set_entry(driver_of(connection), name, pipelines.pipeline(connection, name).uid)

    def listing_failed(self, name: str) -> Mapping[str, Any] | None:
        """Return the error of the last listing of the set `name` if it was given up; None if it was not."""
        with self._transaction() as connection:
            return sets.listing_failed(driver_of(connection), name)

    def group_runs(self, group: str) -> dict[str, str]:
        """Return the runs of one start of a set by id, with their pipelines, in the order of the queue."""
        with self._transaction() as connection:
            return sets.group_runs(driver_of(connection), group)

    def statuses(self, names: Collection[str]) -> dict[str, str]:
        """Return the status of each pipeline of `names` that is not deleted."""
        with self._transaction() as connection:
            return pipelines.statuses(connection, names)

    def pipeline_versions(self, name: str) -> tuple[PipelineVersion, ...]:
        """Return all versions of the pipeline `name`, oldest first. Raises NotFound."""
        with self._transaction() as connection:
            return pipelines.versions(connection, pipelines.pipeline(connection, name).uid)

    def connections(self) -> tuple[ConnectionEntry, ...]:
        """All connections by name; secrets are references."""
        with self._transaction() as connection:
            return pipelines.connections(connection)

    def policies(self) -> tuple[PolicyEntry, ...]:
        """The policies in force, by name."""
        with self._transaction() as connection:
            return pipelines.policies(connection)

    def policy_by_hash(self, hash: str) -> PolicyEntry | None:
        """The policy that a decision names, in force or not."""
        with self._transaction() as connection:
            return pipelines.policy_by_hash(connection, hash)

    def workers(self) -> tuple[WorkerEntry, ...]:
        """All workers by name, including lost ones."""
        with self._transaction() as connection:
            return pipelines.workers(connection)

    # --- history, latest first

    def run(self, id: str) -> RunEntry:
        """The run `id`. Raises NotFound."""
        with self._transaction() as connection:
            found = history.run(connection, id)
        if found is None:
            raise NotFound("there is no such run", value=id, hint="see the latest: penstock runs")
        return found

    def runs_by_id(self, ids: Collection[str]) -> tuple[RunEntry, ...]:
        """Return the runs of `ids` that the catalog has."""
        with self._transaction() as connection:
            return history.runs_by_id(connection, ids)

    def runs(
        self,
        *,
        pipeline: str | None = None,
        member_of: str | None = None,
        status: str | None = None,
        limit: int = LIMIT,
        after: str | None = None,
    ) -> Page[RunEntry]:
        """Runs, of one pipeline, of the members of a set, or in one status."""
        with self._transaction() as connection:
            return history.runs(
                connection, pipeline=pipeline, member_of=member_of, status=status, limit=limit, after=after
            )

    def runs_of(self, name: str, *, limit: int) -> Page[RunEntry]:
        """Runs of the pipeline `name`, or of its members if it is a set. Raises NotFound."""
        is_set = bool(self.pipeline(name).pipeline["spec"]["source"].get("objects"))
        return self.runs(member_of=name, limit=limit) if is_set else self.runs(pipeline=name, limit=limit)

    def proposals(self, *, every: bool = False) -> tuple[ProposalEntry, ...]:
        """Changes of schemas that wait for an answer, oldest first; with `every` all."""
        with self._transaction() as connection:
            return proposals.proposals(connection, every=every)

    def tasks(
        self, *, run: str | None = None, status: str | None = None, limit: int = LIMIT, after: str | None = None
    ) -> Page[TaskEntry]:
        """Tasks, of one run or in one status."""
        with self._transaction() as connection:
            return history.tasks(connection, run=run, status=status, limit=limit, after=after)

    def decision(self, id: str) -> Decision:
        """The decision `id`. Raises NotFound."""
        with self._transaction() as connection:
            found = history.decision(connection, id)
        if found is None:
            raise NotFound("there is no such decision", value=id, hint="see the latest: penstock decisions")
        return found

    def decisions(self, *, limit: int = LIMIT, after: str | None = None, **choice: Any) -> Page[Decision]:
        """Decisions, the latest first; `history.decisions` says what may be chosen."""
        with self._transaction() as connection:
            return history.decisions(connection, **choice, limit=limit, after=after)

    def errors(
        self,
        *,
        pipeline: str | None = None,
        run: str | None = None,
        code: str | None = None,
        limit: int = LIMIT,
        after: str | None = None,
    ) -> Page[ErrorEntry]:
        """Errors, of one pipeline or run, or of one code."""
        with self._transaction() as connection:
            return history.errors(connection, pipeline=pipeline, run=run, code=code, limit=limit, after=after)

    def templates(self, code: str) -> dict[str, str]:
        """Return the sentences of the last errors of one code, without what varies, by fingerprint."""
        with self._transaction() as connection:
            return faults.templates(driver_of(connection), code)

    def count_errors(self, code: str) -> int:
        """Return the number of errors of one code."""
        with self._transaction() as connection:
            return history.count_errors(connection, code)

    # --- writing without the log

    def write(self, records: Sequence[tuple[int, Record]]) -> None:
        """Fold records into the catalog, atomically, without moving its position.

        For tools and tests without a topic: where a projector runs, the next rebuild removes what is not on the topic.
        """
        self._fold([(offset, change) for offset, record in records for change in changes(offset, record)])

    def _fold(self, found: Sequence[tuple[int, Change | Entry]]) -> None:
        with self._transaction() as connection:
            fold(driver_of(connection), found)

    def discovery(self, id: str) -> DiscoveryEntry:
        """The discovery `id`. Raises NotFound."""
        with self._transaction() as connection:
            found = history.discovery(connection, id)
        if found is None:
            raise NotFound("there is no such discovery", value=id, hint="penstock discover CONNECTION")
        return found

    # --- commands

    def command(self, id: str) -> Command:
        """The command `id`. Raises NotFound, possibly also for a command that was just sent."""
        with self._transaction() as connection:
            found = history.command(connection, id)
        if found is None:
            raise NotFound("there is no such command", value=id, hint="see the latest: penstock events --type command")
        return found

    # --- snapshots

    def save_snapshots(self, found: Sequence[Snapshot]) -> None:
        """Store `found` atomically, each replacing its agent's last one."""
        with self._transaction() as connection:
            snapshots.save(connection, found)

    def load_snapshots(self) -> dict[str, Snapshot]:
        """The snapshot of each agent that has one."""
        with self._transaction() as connection:
            return snapshots.load(connection)

    # --- closing

    def close(self) -> None:
        """Stop listening and close idle connections; may be called more than once."""
        self.commits.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.Error):
                raise translated(error.orig, where="catalog") from error
            raise
        except psycopg.Error as error:
            raise translated(error, where="catalog") from error

    def _session(self) -> psycopg.Connection:
        """Open a session outside the pool."""
        raw = self._engine.raw_connection()
        driver = driver_of(raw)
        raw.detach()
        driver.rollback()
        driver.autocommit = True
        return driver


def _fact(type_: str, key: str, payload: Model, at: datetime) -> Record:
    return Record(type=type_, key=key, at=at, actor="store", payload=payload.to_dict())
