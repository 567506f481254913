"""Queries for pipelines and their versions, connections, policies, mappings and workers."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from catalog import tables
from catalog.entries import (
    ConnectionEntry,
    MappingVersion,
    Page,
    PipelineEntry,
    PipelineVersion,
    PolicyEntry,
    WorkerEntry,
)
from catalog.pages import LIMIT, by_name
from penstock.errors import NotFound, did_you_mean

__all__ = [
    "connections",
    "mapping",
    "mappings",
    "pipeline",
    "pipelines",
    "policies",
    "policy_by_hash",
    "statuses",
    "version",
    "versions",
    "workers",
]


def _living() -> Select[Any]:
    table = tables.pipelines
    return select(table).where(table.c.deleted_at.is_(None), table.c.version.is_not(None))


def pipeline(connection: Connection, name: str) -> PipelineEntry:
    """Return the pipeline `name`, unless it is deleted. Raises NotFound, with the nearest name."""
    table = tables.pipelines
    query = _living().where(table.c.name == name).order_by(table.c.changed.desc())
    row = connection.execute(query).mappings().first()
    if row is None:
        names = connection.execute(_living().with_only_columns(table.c.name)).scalars()
        hint = did_you_mean(name, names) or "see them all: penstock list"
        raise NotFound("there is no such pipeline", value=name, hint=hint)
    return PipelineEntry(**row)


def next_tick(connection: Connection, name: str) -> datetime | None:
    """Return when the schedule of an active pipeline is due next, in UTC; None if it has none."""
    table = tables.timers
    one = pipeline(connection, name)
    begins = f"tick:{one.uid}:{one.version}:"
    query = (
        select(table.c.due)
        .where(table.c.fired_at.is_(None), table.c.timer.startswith(begins, autoescape=True))
        .order_by(table.c.changed.desc())
        .limit(1)
    )
    return connection.execute(query).scalar() if one.status == "active" else None


def next_comparisons(connection: Connection, name: str) -> dict[str, datetime]:
    """Return when both sides of an active pipeline are compared next, in UTC, by the kind of the comparison."""
    table, one = tables.timers, pipeline(connection, name)
    if one.status != "active":
        return {}
    found: dict[str, datetime] = {}
    for kind in ("check", "deletes"):
        query = select(table.c.due).where(table.c.fired_at.is_(None), table.c.subject == f"{kind} {name}")
        begins = table.c.timer.startswith(f"{kind}:{one.uid}:", autoescape=True)
        due = connection.execute(query.where(begins).order_by(table.c.changed.desc()).limit(1)).scalar()
        if due is not None and (one.pipeline["spec"].get(kind) or {}).get("every"):
            found[kind] = due
    return found


def pipelines(
    connection: Connection,
    *,
    status: str | None = None,
    label: tuple[str, str] | None = None,
    limit: int = LIMIT,
    after: str | None = None,
) -> Page[PipelineEntry]:
    """Return the pipelines that are not deleted by name, optionally in one status or with one label."""
    table, query = tables.pipelines, _living()
    if status is not None:
        query = query.where(table.c.status == status)
    if label is not None:
        query = query.where(table.c.labels.contains(dict([label])))
    return by_name(connection, query, table.c.name, lambda row: PipelineEntry(**row), limit=limit, after=after)


def statuses(connection: Connection, names: Collection[str]) -> dict[str, str]:
    """Return the status of each pipeline of `names` that is not deleted."""
    table = tables.pipelines
    rows = connection.execute(
        _living().with_only_columns(table.c.name, table.c.status).where(table.c.name.in_(list(names)))
    )
    return {row.name: row.status for row in rows}


def versions(connection: Connection, uid: str) -> tuple[PipelineVersion, ...]:
    """Return all versions of the pipeline `uid`, oldest first, also of a deleted pipeline."""
    table = tables.pipeline_versions
    rows = connection.execute(select(table).where(table.c.uid == uid).order_by(table.c.version)).mappings()
    return tuple(PipelineVersion(**row) for row in rows)


def version(connection: Connection, uid: str, number: int) -> PipelineVersion | None:
    """Return one version of the pipeline `uid`, also of a deleted pipeline; None if the catalog does not have it."""
    table = tables.pipeline_versions
    query = select(table).where(table.c.uid == uid, table.c.version == number)
    row = connection.execute(query).mappings().first()
    return None if row is None else PipelineVersion(**row)


def connections(connection: Connection) -> tuple[ConnectionEntry, ...]:
    """Return all connections by name."""
    rows = connection.execute(select(tables.connections).order_by(tables.connections.c.name.collate("C"))).mappings()
    return tuple(ConnectionEntry(**row) for row in rows)


def policies(connection: Connection) -> tuple[PolicyEntry, ...]:
    """Return the policies in force, by name."""
    rows = connection.execute(select(tables.policies).order_by(tables.policies.c.name.collate("C"))).mappings()
    return tuple(PolicyEntry(**row) for row in rows)


def policy_by_hash(connection: Connection, hash: str) -> PolicyEntry | None:
    """Return the policy that a decision names, in force or not."""
    table = tables.policy_versions
    row = (
        connection.execute(select(table).where(table.c.hash == hash).order_by(table.c.offset.desc())).mappings().first()
    )
    return None if row is None else PolicyEntry(**{name: value for name, value in row.items() if name != "offset"})


def workers(connection: Connection) -> tuple[WorkerEntry, ...]:
    """Return all workers by name, including lost ones."""
    rows = connection.execute(select(tables.workers).order_by(tables.workers.c.worker.collate("C"))).mappings()
    return tuple(WorkerEntry(**{**row, "kinds": row["kinds"] and tuple(row["kinds"])}) for row in rows)


def mapping(connection: Connection, name: str, version: int | None = None) -> MappingVersion:
    """Return a mapping at `version`, or at its latest. Raises NotFound."""
    table = tables.mapping_versions
    query = select(table).where(table.c.name == name).order_by(table.c.version.desc())
    if version is not None:
        query = query.where(table.c.version == version)
    row = connection.execute(query).mappings().first()
    if row is None:
        names = connection.execute(select(tables.mappings.c.name)).scalars()
        raise NotFound("there is no such mapping or version", value=name, hint=did_you_mean(name, names))
    return MappingVersion(**row)


def mappings(connection: Connection, *, limit: int = LIMIT, after: str | None = None) -> Page[MappingVersion]:
    """Return the latest version of each mapping, by name."""
    old, live = tables.mapping_versions, tables.mappings
    query = select(old).join(live, (live.c.name == old.c.name) & (live.c.version == old.c.version))
    return by_name(connection, query, old.c.name, lambda row: MappingVersion(**row), limit=limit, after=after)
