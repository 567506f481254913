"""Fixtures: SQLite and DuckDB files, and pipelines from `items` in one file to a table in another."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from dataflows.connectors.contract import Owner, Place, ReadOrder
from dataflows.connectors.duckdb.connector import DuckdbConnector
from dataflows.connectors.sqlite.connector import SqliteConnector
from dataflows.data.cursors import Window
from dataflows.data.types import arrow_type, column_type
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink
from tests.dataflows.conftest import task_of
from tests.dataflows.connectors.ducks import query_file

if TYPE_CHECKING:
    from tests.dataflows.conftest import Launchers

_numbers = count(1)
CONNECTORS: dict[str, type[SqliteConnector | DuckdbConnector]] = {"sqlite": SqliteConnector, "duckdb": DuckdbConnector}


@dataclass
class File:
    """Database file, and access to it by its own library."""

    kind: str
    path: Path

    @property
    def connection(self) -> dict[str, str]:
        return {"type": self.kind, "path": str(self.path)}

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self.kind == "duckdb":
            return query_file(self.path, query, values)
        with closing(sqlite3.connect(self.path, isolation_level=None)) as session:
            return session.execute(query, values).fetchall()

    def script(self, *statements: str) -> None:
        for statement in statements:
            self.rows(statement)

    def tables(self) -> set[str]:
        names = "SELECT table_name FROM duckdb_tables()" if self.kind == "duckdb" else "SELECT name FROM sqlite_master"
        return {row[0] for row in self.rows(names)}

    def place(self, object: str) -> Place:
        return Place("items", self.kind, parse_connection("file", self.connection), object)

    def source(self, object: str) -> Any:
        return CONNECTORS[self.kind].source(self.place(object))

    def target(self, object: str, write: str = "replace", **sink: Any) -> Any:
        spec = Sink.parse({"connection": "file", "object": object, "write": write, **sink})
        return CONNECTORS[self.kind].target(self.place(object), Owner("u1", "items", spec))


def read(source: Any, rows: int = 100_000) -> pa.Table:
    """Return all rows of a source, as a run reads them without a cursor."""
    table = source.describe()
    schema = pa.schema([(column.name, arrow_type(column_type(column))) for column in table.columns])
    key = source.split_key(table)
    reader = source.reader(ReadOrder(table, schema.names, key, schema, 1000, lambda: None))
    with closing(reader):
        splits = source.plan(table, key, Window(None, None), rows, 0)
        chunks = [chunk for split in splits for chunk in reader.read("00", split)]
    found = pa.Table.from_batches([chunk.data for chunk in chunks if chunk.data is not None], schema=schema)
    assert sum(chunk.rows for chunk in chunks if chunk.last) == found.num_rows
    return found


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str], File]:
    """Name a file of a kind, without creating it."""
    return lambda kind: File(kind, tmp_path / f"{next(_numbers)}.{kind}")


@dataclass
class Move:
    """Pipeline from `items` of one file to `copied` of another, and the tasks of its runs."""

    source: File
    sink: File
    folder: Path
    write: str
    launchers: Launchers
    spec: dict[str, Any] = field(default_factory=dict)
    split_rows: int = 200
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-9000-{self.number:012d}"

    def task(self, run: str, **changes: Any) -> dict[str, Any]:
        source: dict[str, Any] = {"connection": "from", "object": "items"}
        if self.write != "replace":
            source["cursor"] = {"field": "id", "ordered": True}
        sink: dict[str, Any] = {"connection": "to", "object": "copied", "write": self.write}
        if self.write == "merge":
            sink["key"] = ["id"]
        connections = {"from": self.source.connection, "to": self.sink.connection}
        spec = {"source": source, "sink": sink, **self.spec}
        return task_of(run, self.uid, connections, spec, self.folder, split_rows=self.split_rows) | changes

    def fill(self, rows: int = 600) -> None:
        self.source.rows("CREATE TABLE items (id INTEGER PRIMARY KEY, name VARCHAR, price DOUBLE)")
        self.add(rows)

    def add(self, rows: int) -> None:
        first = self.source.rows("SELECT coalesce(max(id), 0) + 1 FROM items")[0][0]
        self.source.rows(
            "WITH RECURSIVE n(g) AS (SELECT ? UNION ALL SELECT g + 1 FROM n WHERE g + 1 < ?) INSERT INTO items "
            "SELECT g, CASE g % 7 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'item ' || g END, "
            "CASE WHEN g % 5 > 0 THEN g * 1.25 END FROM n",
            (first, first + rows),
        )

    def wanted(self) -> list[tuple[Any, ...]]:
        return self.source.rows("SELECT id, name, price FROM items ORDER BY id")

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the rows that any reader sees in the target now."""
        there = "copied" in self.sink.tables()
        return self.sink.rows("SELECT id, name, price FROM copied ORDER BY id") if there else []

    def run(self, run: str, failpoint: str | None = None, without: tuple[str, ...] = ()) -> dict[str, Any]:
        return self.launchers.run(self.task(run), failpoint, without)

    def completed(self, run: str) -> dict[str, Any]:
        found = self.run(run)
        assert found["status"] == "completed", found.get("error", found)
        return dict(found["counters"])

    def leftovers(self) -> list[str]:
        """Return the shadow tables and planned splits that are left."""
        state = {"_penstock_positions", "_penstock_runs", "_penstock_splits", "_penstock_of_runs"}
        known = [name for name in self.sink.tables() if name not in state and "_penstock_deleted_" not in name]
        shadows = [name for name in known if name.startswith("_penstock_")]
        return [*shadows, *map(str, self.sink.rows("SELECT split FROM _penstock_splits"))]


@pytest.fixture
def move(tmp_path: Path, files: Callable[[str], File], launchers: Launchers) -> Callable[..., Move]:
    def make(source: str, sink: str, write: str, *, rows: int = 600, **spec: Any) -> Move:
        made = Move(files(source), files(sink), tmp_path, write, launchers, spec)
        made.fill(rows)
        return made

    return make
