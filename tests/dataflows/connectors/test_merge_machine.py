"""`merge` and `scd2` of random batches give the same rows as a model in Python, on every system that merges by key."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

from dataflows.connectors.contract import Owner, Place, WriterOrder
from dataflows.connectors.duckdb.connector import DuckdbConnector
from dataflows.connectors.history import history_columns
from dataflows.connectors.mysql.connector import MysqlConnector
from dataflows.connectors.postgres.connector import PostgresConnector
from dataflows.connectors.sql.merge import differing
from dataflows.connectors.sql.names import FileObjectName
from dataflows.connectors.sqlite.connector import SqliteConnector
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.splits import Split
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, parse_type
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink

if TYPE_CHECKING:
    from tests.dataflows.connectors.conftest import System

CONNECTORS: dict[str, Any] = {
    "postgres": PostgresConnector,
    "mysql": MysqlConnector,
    "sqlite": SqliteConnector,
    "duckdb": DuckdbConnector,
}
COLUMNS = (
    Column("id", "bigint", nullable=False),
    Column("part", "text", nullable=False),
    Column("name", "text"),
    Column("v", "bigint"),
    Column("gone", "boolean"),
)
TRIGGERS = {
    "postgres": (
        "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER same BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION same()",
    ),
    "mysql": ("CREATE TRIGGER same BEFORE UPDATE ON t FOR EACH ROW SET NEW.name = NEW.name",),
    "sqlite": ("CREATE TRIGGER same AFTER UPDATE ON t BEGIN SELECT 1; END",),
    "duckdb": (),
}
"""Triggers that change nothing, but make the writer compare the rows that it has written."""
OBJECTS = {"postgres": "public.t", "mysql": "t", "sqlite": "t", "duckdb": "t"}
BATCHES = 40
Row = tuple[int, str, str | None, int | None, bool | None]
Rows = list[tuple[Any, ...]]


class Model:
    """Return the rows after a `merge`: the last of each key, unless a newer one is there, or was deleted."""

    def __init__(self, *, version: bool = False, delete: bool = False) -> None:
        self.rows: dict[tuple[int, str], tuple[str | None, int | None]] = {}
        self.buried: dict[tuple[int, str], int] = {}
        self.version, self.delete = version, delete

    def merge(self, rows: Sequence[Row]) -> None:
        last: dict[tuple[int, str], Row] = {}
        for row in rows:
            known = last.get(row[:2])
            if known is None or not self.version or _age(row) >= _age(known):
                last[row[:2]] = row
        for key, (_, _, name, v, gone) in last.items():
            there = self.rows.get(key)
            newer = there is None or not self.version or there[1] is None or (v is not None and there[1] <= v)
            if self.delete and gone:
                if newer:
                    self.rows.pop(key, None)
                if self.version and v is not None:
                    self.buried[key] = max(v, self.buried.get(key, v))
            elif newer and not (self.version and key in self.buried and (v is None or self.buried[key] > v)):
                self.rows[key] = (name, v)

    def all(self) -> Rows:
        return sorted((*key, *values) for key, values in self.rows.items())


def _age(row: Row) -> int:
    return -1 if row[3] is None else row[3]


class History:
    """Return the rows after `scd2`: each change of a key's name opens a row, which the next one closes."""

    def __init__(self, *, delete: bool) -> None:
        self.rows: dict[tuple[int, str], list[list[Any]]] = {}
        self.delete = delete

    def merge(self, rows: Sequence[Row]) -> None:
        of: dict[tuple[int, str], dict[int, Row]] = {}
        for row in rows:
            of.setdefault(row[:2], {})[row[3] or 0] = row
        for key, versions in of.items():
            line = self.rows.setdefault(key, [])
            highest = max((max(begin, end or 0) for _, begin, end in line), default=None)
            begun = max((begin for _, begin, _ in line), default=None)
            for v in sorted(versions):
                if begun is not None and highest is not None and (v <= begun or v < highest):
                    continue
                _, _, name, _, flag = versions[v]
                gone = self.delete and flag
                open_ = next((one for one in line if one[2] is None), None)
                if open_ is not None and (gone or open_[0] != name):
                    open_[2] = v
                if not gone and (open_ is None or open_[0] != name):
                    line.append([name, v, None])

    def all(self) -> Rows:
        found = ((*key, *one, one[2] is None) for key, line in self.rows.items() for one in line)
        return sorted(found, key=lambda row: (row[:2], row[3]))


class Sinks:
    """Target of a system, and a writer that commits one split after the other."""

    def __init__(self, system: System, secrets: Path, columns: tuple[Column, ...], **spec: Any) -> None:
        place = Place("items", "to", parse_connection("to", system.connection), OBJECTS[system.name], secrets)
        sink = Sink.parse({"connection": "to", "object": OBJECTS[system.name], "key": ["id", "part"], **spec})
        self.target = CONNECTORS[system.name].target(place, Owner("u1", "items", sink))
        self.columns, self.version = columns, spec.get("version")
        history = history_columns(COLUMNS[3]) if spec["write"] == "scd2" else ()
        self.target.state.make()
        self.target.make((*(one for one in columns if one.name != spec.get("delete")), *history))
        for statement in TRIGGERS[system.name]:
            self.execute(statement)
        claim = self.target.state.claim(("00",), "r1")
        assert isinstance(claim, Claim)
        self.generation = claim.generation
        with self.target.state.owned(self.generation):
            plan = RunRow("r1", spec["write"], None, None, None, Counters())
            self.target.state.write_plan(plan, tuple(Split(number) for number in range(BATCHES)))

    def execute(self, statement: str) -> Rows:
        """Execute a statement in the target's own session; return its rows."""
        session = getattr(self.target, "session", None) or self.target.database
        if hasattr(session, "rows"):
            return list(session.rows(statement))
        found = session.execute(statement)
        return list(found.fetchall()) if found.description else []

    def order(self) -> WriterOrder:
        """Return the order of the run's one writer."""
        return WriterOrder(
            self.target.create_load_table("r1", self.generation),
            self.columns,
            True,  # noqa: FBT003 - `arrow` is the third
            "00",
            "r1",
            self.generation,
            lambda: None,
            lambda _: None,
            self.version,
        )

    def write(self, batches: Sequence[Sequence[Row]], check: Callable[[int], None]) -> None:
        """Commit each batch as a split; call `check` with its number after the commit."""
        names = [one.name for one in self.columns]
        schema = pa.schema([(one.name, arrow_type(parse_type(one.type))) for one in self.columns])
        with closing(self.target.writer(self.order())) as writer:
            writer.open()
            for number, rows in enumerate(batches):
                all_names = [one.name for one in COLUMNS]
                lines = [dict(zip(all_names, row, strict=True)) for row in rows]
                data = pa.RecordBatch.from_pylist([{name: line[name] for name in names} for line in lines], schema)
                writer.write(Chunk("00", number, 0, data, len(rows), read=len(rows)))
                writer.write(Chunk("00", number, 1, None, len(rows), last=True, read=len(rows)))
                check(number)


def batch(rng: random.Random, *, nulls: bool = True) -> list[Row]:
    """Return rows of few keys and versions, so that they meet."""

    def row() -> Row:
        v = None if nulls and rng.random() < 0.15 else rng.randrange(9)
        return rng.randrange(3), rng.choice("ab"), rng.choice(["x", "y", "X", None]), v, rng.choice([True, False, None])

    return [row() for _ in range(rng.randrange(1, 6))]


@pytest.mark.parametrize(
    "options", [{}, {"version": "v"}, {"delete": "gone"}, {"version": "v", "delete": "gone"}], ids=str
)
@pytest.mark.parametrize("kind", CONNECTORS)
def test_a_merge_of_any_batches_equals_the_model(
    kind: str, options: dict[str, str], new_system: Callable[[str], System], tmp_path: Path, seed: int
) -> None:
    rng, model = random.Random(seed), Model(**dict.fromkeys(options, True))
    columns = tuple(one for one in COLUMNS if one.name != "gone" or "delete" in options)
    sinks = Sinks(new_system(kind), tmp_path, columns, write="merge", **options)
    batches = [batch(rng) for _ in range(BATCHES)]

    def check(number: int) -> None:
        model.merge(batches[number])
        have = sinks.execute("SELECT id, part, name, v FROM t ORDER BY id, part")
        assert [tuple(row) for row in have] == model.all(), f"seed {seed}, batch {number}: {batches[: number + 1]}"

    with closing(sinks.target):
        sinks.write(batches, check)


def test_writers_that_make_the_same_table_of_tombstones_wait_for_each_other(
    new_system: Callable[[str], System], tmp_path: Path
) -> None:
    """Of two `CREATE TABLE IF NOT EXISTS` at once, PostgreSQL fails the later with a duplicate key of its catalog."""
    system = new_system("postgres")
    sinks = Sinks(system, tmp_path, COLUMNS, write="merge", version="v", delete="gone")
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with closing(sinks.target), ThreadPoolExecutor(1) as threads, psycopg.connect(system.connection["dsn"]) as other:
        tombstones = sinks.target._merge(sinks.order()).tombstones
        other.execute("SELECT pg_advisory_xact_lock(hashtext('penstock.positions'))")
        other.execute(tombstones.make(COLUMNS, lambda column: column.type))
        done = threads.submit(sinks.write, [[(1, "a", "x", 1, False)]], lambda _: None)
        end = time.monotonic() + 30
        while sinks.execute(waits) == [(0,)]:
            assert time.monotonic() < end
            assert not done.done()
        other.commit()
        done.result()
        assert sinks.execute("SELECT id, name FROM t") == [(1, "x")]


@pytest.mark.parametrize("options", [{}, {"delete": "gone"}], ids=str)
def test_a_history_of_any_batches_equals_the_model(
    options: dict[str, str], new_system: Callable[[str], System], tmp_path: Path, seed: int
) -> None:
    rng, model = random.Random(seed), History(delete="delete" in options)
    columns = tuple(one for one in COLUMNS if one.name != "gone" or "delete" in options)
    sinks = Sinks(new_system("postgres"), tmp_path, columns, write="scd2", version="v", **options)
    batches = [batch(rng, nulls=False) for _ in range(BATCHES)]

    def check(number: int) -> None:
        model.merge(batches[number])
        have = sinks.execute(
            "SELECT id, part, name, valid_from, valid_to, is_current FROM t ORDER BY id, part, valid_from"
        )
        assert [tuple(row) for row in have] == model.all(), f"seed {seed}, batch {number}: {batches[: number + 1]}"

    with closing(sinks.target):
        sinks.write(batches, check)


def test_rows_that_a_sqlite_table_does_not_hold_as_often_are_counted() -> None:
    rng, names = random.Random(1), ("a", "b")
    with closing(sqlite3.connect(":memory:")) as session:
        for name in ("sink", "shadow"):
            session.execute(f"CREATE TABLE {name} (a TEXT, b BIGINT)")
        for _ in range(30):
            rows = {name: [_few(rng) for _ in range(rng.randrange(1, 9))] for name in ("sink", "shadow")}
            for name, lines in rows.items():
                session.execute(f"DELETE FROM {name}")
                session.executemany(f"INSERT INTO {name} VALUES (?, ?)", lines)
            query = differing(FileObjectName("main", "sink"), FileObjectName("main", "shadow"), names)
            missing = len(Counter(rows["shadow"]) - Counter(rows["sink"]))
            assert session.execute(query).fetchone() == (missing,), rows


def _few(rng: random.Random) -> tuple[str | None, int | None]:
    return rng.choice(["x", "X", None]), rng.choice([1, None])
