"""Folders for files, on this machine and in a bucket of a real S3 server; pipelines from a table to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

from dataflows.connectors.contract import Owner, Place, ReadOrder
from dataflows.connectors.files.connector import FilesConnector, S3Connector
from dataflows.connectors.files.manifest import STAGED
from dataflows.connectors.files.source import FilesSource
from dataflows.connectors.files.store import Store
from dataflows.data.splits import Split
from dataflows.data.types import arrow_type, parse_type
from penstock.models.connection import parse_connection
from penstock.models.formats import Format
from penstock.models.pipeline import Sink
from tests.dataflows.conftest import source_of, task_of
from tests.s3 import SECRET, S3Server

if TYPE_CHECKING:
    from tests.dataflows.conftest import Launchers

_numbers = count(1)


@dataclass
class Files:
    """A connection to files with a root of its own, and the local folder that stores them."""

    kind: str
    root: Path
    connection: dict[str, Any]
    secrets: Path

    def place(self, object: str, form: Format | None = None) -> Place:
        settings = parse_connection("files", self.connection)
        return Place("items", "files", settings, object, self.secrets, form)

    @property
    def connector(self) -> type[FilesConnector | S3Connector]:
        return S3Connector if self.kind == "s3" else FilesConnector

    @property
    def store(self) -> Store:
        return self.source("x").store

    def source(self, object: str, form: Format | None = None) -> FilesSource:
        return self.connector.source(self.place(object, form))

    def target(self, object: str, write: str = "replace", **sink: Any) -> Any:
        spec = Sink.parse({"connection": "files", "object": object, "write": write, **sink})
        return self.connector.target(self.place(object, spec.format), Owner("u1", "items", spec))

    def write(self, path: str, data: bytes) -> Path:
        """Write a file without Penstock."""
        if self.kind == "s3":
            self.store.put(path, data)
        else:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(data)
        return self.root / path

    def visible(self, folder: str, ending: str = ".parquet") -> list[Path]:
        """Return the files that a plain listing of a folder shows."""
        return sorted((self.root / folder).glob(f"*{ending}"))

    def staged(self, folder: str) -> list[str]:
        """Return the staged files below `_penstock`."""
        return [one.path for one in self.store.list(f"{folder}/{STAGED}".rstrip("/"))]


def read(source: FilesSource, columns: list[str] | None = None, split_rows: int = 100_000) -> pa.Table:
    """Read all rows of a source, as a run without a cursor does."""
    return read_all(source, columns, split_rows)[0]


def read_all(
    source: FilesSource, columns: list[str] | None = None, split_rows: int = 100_000
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Read all rows of a source; return them, and the values of the refused ones."""
    from dataflows.data.cursors import Window

    table = source.describe()
    names = columns or [column.name for column in table.columns if not column.hidden]
    schema = pa.schema([(name, arrow_type(parse_type(table.column(name).type))) for name in names])  # type: ignore[union-attr]
    reader = source.reader(ReadOrder(table, names, None, schema, 1000, lambda: None))
    splits: tuple[Split, ...] = source.plan(table, None, Window(None, None), split_rows, 0)
    try:
        chunks = [chunk for split in splits for chunk in reader.read("00", split)]
    finally:
        reader.close()
    batches = [chunk.data for chunk in chunks if chunk.data is not None]
    found = pa.Table.from_batches(batches, schema=schema)
    assert sum(chunk.rows for chunk in chunks if chunk.last) == found.num_rows
    refused = [row for chunk in chunks if chunk.refused is not None for row in chunk.refused.to_pylist()]
    return found, [json.loads(row["values"]) for row in refused]


@pytest.fixture
def new_files(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Files]:
    """Make an empty connection of a kind: ``files`` or ``s3``."""

    def make(kind: str) -> Files:
        if kind == "files":
            root = tmp_path / f"root{next(_numbers)}"
            root.mkdir()
            return Files(kind, root, {"type": "files", "root": str(root)}, tmp_path)
        server: S3Server = request.getfixturevalue("s3")
        (tmp_path / "key").write_text("penstock")
        (tmp_path / "secret").write_text(SECRET)
        prefix = f"p{next(_numbers)}-{tmp_path.name[-40:]}"
        connection = {
            "type": "s3",
            "url": f"s3://lake/{prefix}",
            "endpoint": server.endpoint,
            "region": "us-east-1",
            "access_key": f"${{file:{tmp_path}/key}}",
            "secret_key": f"${{file:{tmp_path}/secret}}",
        }
        return Files(kind, server.home / "data" / "lake" / prefix, connection, tmp_path)

    return make


@pytest.fixture(params=["files", "s3"])
def files(new_files: Callable[[str], Files], request: pytest.FixtureRequest) -> Files:
    return new_files(request.param)


@dataclass
class Export:
    """One pipeline from ``public.items`` to a folder, and the tasks of its runs."""

    files: Files
    session: psycopg.Connection[Any]
    dsn: str
    folder: Path
    write: str
    sink: dict[str, Any] = field(default_factory=dict)
    split_rows: int = 200
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def target(self) -> str:
        return f"out/t{self.number}"

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-8000-{self.number:012d}"

    def task(self, run: str, **changes: Any) -> dict[str, Any]:
        sink = {"connection": "lake", "object": self.target, "write": self.write, **self.sink}
        connections = {"shop": {"type": "postgres", "dsn": self.dsn}, "lake": self.files.connection}
        more = {"secrets": str(self.files.secrets), "split_rows": self.split_rows}
        spec = {"source": source_of(self.write), "sink": sink}
        return task_of(run, self.uid, connections, spec, self.folder, **more) | changes

    def rows(self, names: list[Path] | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of the folder, read by Penstock's source; or the rows of these files."""
        if names is None:
            return _rows(read(self.files.source(self.target)))
        import pyarrow.parquet as pq

        return [row for name in names for row in _rows(pq.read_table(name))]

    def wanted(self) -> list[tuple[Any, ...]]:
        return self.session.execute("SELECT id, name, price, at FROM public.items").fetchall()

    def differences(self) -> dict[str, int]:
        """Return the numbers of lost and duplicate (or foreign) rows, by the log and by a plain listing."""
        found: dict[str, int] = {}
        wanted = sorted(self.wanted(), key=repr)
        for way, rows in (("log", self.rows()), ("glob", self.rows(self.files.visible(self.target)))):
            have = sorted(rows, key=repr)
            if have != wanted:
                found[way] = len(have) - len(wanted)
                found[f"{way} lost"] = len(set(wanted) - set(have))
        return found

    def add(self, rows: int) -> None:
        self.session.execute(
            "INSERT INTO items (name, price) SELECT 'more ' || g, g FROM generate_series(1, %s) g", (rows,)
        )


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True)) if table.num_rows else []


@pytest.fixture
def export(
    items: tuple[psycopg.Connection[Any], str], tmp_path: Path, new_files: Callable[[str], Files]
) -> Callable[..., Export]:
    """Make an export to a folder of its own."""

    def make(kind: str, write: str, **sink: Any) -> Export:
        session, dsn = items
        return Export(new_files(kind), session, dsn, tmp_path, write, sink)

    return make


@pytest.fixture
def completed(launchers: Launchers) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Run a task that must complete; return its counters."""

    def run(task: dict[str, Any]) -> dict[str, Any]:
        result = launchers.run(task)
        assert result["status"] == "completed", result
        return dict(result["counters"])

    return run
