"""Connector under test, and the single steps of a run on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import pyarrow as pa
import pytest

from dataflows.connectors import (
    Chunk,
    Claim,
    Column,
    Connector,
    Counters,
    Method,
    Native,
    Owner,
    Place,
    PublishOrder,
    ReadOrder,
    Refused,
    RunRow,
    Source,
    Split,
    Table,
    Target,
    Window,
    Writer,
    WriterOrder,
    arrow_type,
    column_type,
)
from dataflows.connectors.inspection import check_source, check_target
from dataflows.data.changes import CHANGE_COLUMN
from penstock.models.pipeline import Sink

__all__ = [
    "ALL",
    "COLUMNS",
    "EVERYTHING",
    "HALVES",
    "HOUR",
    "NAMES",
    "SLOT",
    "Case",
    "Pipeline",
    "Row",
    "Run",
    "made_rows",
    "read",
]

Row = tuple[Any, ...]
COLUMNS: Final = (Column("id", "bigint", nullable=False), Column("name", "text"), Column("price", "double precision"))
NAMES: Final = tuple(one.name for one in COLUMNS)
EVERYTHING: Final = Window(None, None)
HOUR: Final = timedelta(hours=1)
SLOT: Final = "00"
HALVES: Final = (Split(0, None, "30"), Split(1, "30", None))


def made_rows(ids: Iterable[int], prefix: str = "row") -> list[Row]:
    """Return rows of `COLUMNS`; some have a NULL or an empty text."""
    return [(at, None if at % 7 == 0 else "" if at % 7 == 1 else f"{prefix} {at}", at / 4) for at in ids]


ALL: Final = made_rows(range(1, 61))


@dataclass(frozen=True, slots=True)
class Case:
    """Connector class under test, its connection, and the objects to test it on."""

    connector: type[Connector]
    settings: Any
    source_object: str | None
    cursor: str | None
    target_object: str | None
    form: Any

    def place(self, name: str) -> Place:
        """Return an object of the connection."""
        return Place("conformance", "tested", self.settings, name, None, self.form)

    @contextmanager
    def source(self, name: str) -> Iterator[Source]:
        """Connect to the object as a source; skip the test if the connector cannot read."""
        try:
            found = self.connector.source(self.place(name))
        except Refused as error:
            pytest.skip(f"it is not a source: {error}")
        check_source(found, "source")
        with closing(found):
            yield found

    def rows(self, name: str, *, rows: int = 1 << 50, names: Sequence[str] = ()) -> list[Row]:
        """Return all rows of an object, read in splits of about `rows` rows."""
        with self.source(name) as source:
            table = source.describe()
            key = source.split_key(table)
            splits = source.plan(table, key, EVERYTHING, rows, 0)
            held = source.hold(table, HOUR) if splits else None
            return [row for one in read(source, table, splits, key, names=names, held=held) for row in one]

    def pipeline(self, *writes: str) -> Pipeline:
        """Return a new pipeline into the object, in the first write mode that is not refused; skip if all are."""
        if self.target_object is None:
            pytest.skip("give --target-object to test it as a sink")
        refused = None
        for write in writes:
            key = ("id",) if write == "merge" else ()
            sink = Sink(connection="tested", object=self.target_object, write=write, key=key)
            found = Pipeline(self, str(uuid4()), sink)
            try:
                with found.target() as target:
                    target.check(None, COLUMNS)
                return found
            except Refused as error:
                refused = error
        pytest.skip(f"it does not write by {' or '.join(writes)}: {refused}")


def read(
    source: Source,
    table: Table,
    splits: Sequence[Split],
    key: Column | None,
    *,
    names: Sequence[str] = (),
    held: str | None = None,
    batch_rows: int = 7,
) -> list[list[Row]]:
    """Return the rows of each split; assert that its chunks obey the contract."""
    names = names or [one.name for one in table.columns if not one.hidden and arrow_type(column_type(one)) is not None]
    kinds = {one.name: arrow_type(column_type(one)) for one in table.columns}
    schema = pa.schema([(name, kinds[name]) for name in names])
    order = ReadOrder(table, tuple(names), key, schema, batch_rows, lambda: None, held)
    with closing(source.reader(order)) as reader:
        return [_checked(list(reader.read(SLOT, split)), split, schema, batch_rows) for split in splits]


def _checked(chunks: list[Chunk], split: Split, schema: pa.Schema, batch_rows: int) -> list[Row]:
    assert chunks, "a split without rows also has a closing marker"
    *batches, marker = chunks
    assert [(one.slot, one.split, one.sequence) for one in chunks] == [
        (SLOT, split.number, at) for at in range(len(chunks))
    ], "chunks carry their slot and split, and are numbered from 0"
    assert marker.last, "the last chunk of a split is its marker"
    assert marker.data is None, "the marker holds no rows"
    found: list[Row] = []
    for one in batches:
        assert not one.last, "only the last chunk of a split is its marker"
        assert isinstance(one.data, pa.RecordBatch), "decoded rows are Arrow batches"
        assert one.data.schema.equals(schema), "batches have exactly the schema that was asked for"
        assert one.rows == one.read == one.data.num_rows <= batch_rows, "a batch has at most the rows asked for"
        found += [tuple(row[name] for name in schema.names) for row in one.data.to_pylist()]
    assert marker.rows == marker.read == len(found), "the marker has the number of rows of the whole split"
    return found


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Pipeline into the object under test."""

    case: Case
    uid: str
    sink: Sink
    changes: bool = False
    """True if its rows are changes, each with what it does."""

    @contextmanager
    def target(self, generation: int = 0) -> Iterator[Target]:
        """Connect to the object as a sink."""
        owner = Owner(self.uid, "conformance.rows", self.sink, generation, changes=self.changes)
        found = self.case.connector.target(self.case.place(self.sink.object), owner)
        check_target(found, "target")
        with closing(found):
            yield found

    @contextmanager
    def run(self, name: str, splits: Sequence[Split] = HALVES) -> Iterator[Run]:
        """Return a run that owns the pipeline and has a plan, its own from an earlier attempt or a new one."""
        with self.target() as target:
            yield Run.begun(target, name, self.sink.write, tuple(splits), changes=self.changes)

    def finish(self, name: str, rows: Sequence[Row]) -> dict[str, Any]:
        """Run to the end, in one split."""
        with self.run(name, [Split(0)]) as run:
            run.write(0, rows)
            return run.publish()

    def rows(self) -> list[Row]:
        """Return the rows that any reader sees now, by id."""
        return sorted(self.case.rows(self.sink.object, names=NAMES))

    def drop(self) -> None:
        """Drop the pipeline's state and its target."""
        with self.target() as target:
            target.drop(table=True)


@dataclass(slots=True)
class Run:
    """Attempt of a run, in the steps of a launcher."""

    target: Target
    name: str
    generation: int
    into: str
    columns: tuple[Column, ...]
    method: Method | None
    committed: list[Counters] = field(default_factory=list)

    @classmethod
    def begun(cls, target: Target, name: str, write: str, splits: tuple[Split, ...], *, changes: bool = False) -> Run:
        """Claim the pipeline, create its table, and plan."""
        state = target.state
        state.make()
        claim = state.claim((SLOT,), name)
        assert isinstance(claim, Claim), "a run that has not ended can be claimed"
        if target.describe() is None:
            with state.owned(claim.generation):
                target.make(target.column_types(COLUMNS) if isinstance(target, Native) else COLUMNS)
        table = target.describe()
        assert table is not None, "a created table is described"
        columns = tuple(one for one in table.columns if one.name in NAMES)
        columns += (CHANGE_COLUMN,) if changes else ()
        method = target.check(table, ())
        if state.run(name) is None:
            cursor, upper = ("id", "60") if write == "append" else (None, None)
            older, base = state.unfinished(name), state.counters()
            with state.owned(claim.generation):
                state.write_plan(RunRow(name, write, cursor, None, upper, base), splits)
                if older is not None:
                    state.supersede(older.run, name)
        into = target.create_load_table(name, claim.generation)
        assert target.load_table(name) == into, "load_table names the table of create_load_table"
        return cls(target, name, claim.generation, into, columns, method)

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Open a writer of the run's only slot."""
        order = WriterOrder(
            into=self.into,
            columns=self.columns,
            arrow=True,
            slot=SLOT,
            run=self.name,
            generation=self.generation,
            check=lambda: None,
            committed=self.committed.append,
            sources={one: one for one in NAMES},
        )
        found = self.target.writer(order)
        with closing(found):
            found.open()
            yield found

    def chunk(self, split: int, rows: Sequence[Row]) -> Chunk:
        """Return the rows as a chunk for the writer; of changes, each row ends with what it does."""
        names = (*NAMES, CHANGE_COLUMN.name)
        kinds = [arrow_type(column_type(one)) for one in self.columns]
        values = [[row[names.index(one.name)] for row in rows] for one in self.columns]
        arrays = [pa.array(some, kind) for some, kind in zip(values, kinds, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, names=[one.name for one in self.columns])
        finishing = self.target.finishing(self.columns)
        return Chunk(SLOT, split, 0, finishing(batch) if finishing else batch, len(rows), read=len(rows))

    def write(self, split: int, rows: Sequence[Row], marked: int | None = None) -> None:
        """Write and commit a split; its marker has the number of rows, or `marked`."""
        with self.writer() as writer:
            writer.write(self.chunk(split, rows))
            self.end(writer, split, len(rows) if marked is None else marked)

    def end(self, writer: Writer, split: int, rows: int) -> None:
        """Send a split's marker, and let the writer commit."""
        writer.write(Chunk(SLOT, split, 1, None, rows, last=True, read=rows))
        writer.done()

    def publish(self, position: str | None = None) -> dict[str, Any]:
        """Publish and finish the run."""
        names = tuple(one.name for one in self.columns)
        return self.target.publish(PublishOrder(self.name, self.generation, position, names, {}, self.method))
