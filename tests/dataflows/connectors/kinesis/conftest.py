"""A stream of Kinesis of its own, read in this process, or by launchers into a table of PostgreSQL."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.kinesis.positions import Position
from dataflows.connectors.kinesis.source import KinesisSource
from dataflows.connectors.streaming import StreamOrder
from dataflows.data.chunks import Chunk
from penstock.models.connection import KinesisConnection
from penstock.models.formats import Format
from tests.dataflows.conftest import Launchers, task_of
from tests.kinesis import KinesisServer

WAIT = 60.0
FORM = {"type": "jsonl", "columns": {"id": "bigint"}}
FIRST = "shardId-000000000000"
_numbers = count(1)


@dataclass
class Read:
    """What a reader has passed on: rows with their shards, positions after it, and the splits."""

    rows: list[tuple[int, str]] = field(default_factory=list)
    positions: dict[str, str] = field(default_factory=dict)
    splits: int = 0

    @property
    def ids(self) -> list[int]:
        return [one for one, _ in self.rows]

    @property
    def ended(self) -> list[str]:
        """The numbers of the shards that are read to their end."""
        return [name[-2:] for name, text in sorted(self.positions.items()) if Position.parse(text).ended]


def rows_of(chunk: Chunk) -> list[tuple[int, str]]:
    """Return the rows of a chunk: numbers, and their shards."""
    return (
        [(one["id"], one["_shard"]) for one in chunk.data.to_pylist()] if isinstance(chunk.data, pa.RecordBatch) else []
    )


@dataclass
class Shards:
    """A stream of Kinesis; `target` is a table of its own."""

    kinesis: KinesisServer
    folder: Path
    launchers: Launchers | None = None
    dsn: str = ""
    letters: str = ""
    number: int = field(default_factory=lambda: next(_numbers))
    reading: KinesisSource | None = None
    """The source that `drained` reads."""

    @property
    def stream(self) -> str:
        return f"events-{self.number}"

    @property
    def target(self) -> str:
        return f"w.t{self.number}"

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-9000-{self.number:012d}"

    def send(self, *ids: int, shard: str | None = None, key: str = "k") -> None:
        self.kinesis.send(self.stream, *(json.dumps({"id": one}).encode() for one in ids), shard=shard, key=key)

    def split(self, shard: str = FIRST) -> None:
        self.kinesis.split(self.stream, shard)

    # -- in this process --

    def source(self, form: Any = FORM, **changes: Any) -> KinesisSource:
        connection = self.kinesis.connection(self.folder) | changes
        settings = KinesisConnection.model_validate(connection)
        declared: Any = None if form is None else TypeAdapter(Format).validate_python(form)
        return KinesisSource(Place("items", "bus", settings, self.stream, self.folder, declared))

    def begin(self, begin: Any = "earliest", known: Mapping[str, str] | None = None) -> dict[str, str]:
        with closing(self.source()) as source:
            return dict(known or {}) | dict(source.beginnings(known or {}, begin))

    def drained(
        self,
        positions: Mapping[str, str],
        *,
        rows: int = 1000,
        between: Callable[[Read], None] = lambda _: None,
        again: bool = True,
        draining: bool = True,
    ) -> Read:
        """Read all there is; `between` is called after each split, which is read once more if `again`."""
        read = Read(positions=dict(positions))
        with closing(self.source()) as source:
            self.reading = source
            table = source.describe()
            schema = pa.schema([("id", pa.int64()), ("_shard", pa.string())])
            order = ReadOrder(table, ["id", "_shard"], None, schema, rows, lambda: None)
            begins = dict(source.beginnings(positions, "earliest"))
            read.positions |= begins
            stream = StreamOrder(
                order, "00", 1, read.positions, 0.0, read.positions.update, lambda: None, draining=lambda: draining
            )
            with closing(source.stream(stream)) as reader:
                for chunk in reader.chunks():
                    read.rows += rows_of(chunk)
                    if chunk.last:
                        for move in chunk.moves:
                            assert read.positions[move.partition] == move.start
                            read.positions[move.partition] = move.end
                        if again:
                            parts = reader.read("00", reader.splits[chunk.split])
                            same = [one for part in parts for one in rows_of(part)]
                            assert read.rows[len(read.rows) - len(same) :] == same
                        reader.committed(chunk.split)
                        read.splits += 1
                        between(read)
        return read

    def changed(self, positions: Mapping[str, str], **changes: Any) -> dict[str, str]:
        """Return positions with other values in each."""
        return {name: str(replace(Position.parse(text), **changes)) for name, text in positions.items()}

    # -- by launchers --

    def task(self, run: str = "r1", attempt: int = 1, **changes: Any) -> dict[str, Any]:
        """Return the task of a run; `changes` replace parts of the pipeline's spec."""
        spec: dict[str, Any] = {
            "mode": "stream",
            "source": {"connection": "bus", "object": self.stream, "format": FORM},
            "sink": {"connection": "lake", "object": self.target, "write": "append"},
            "limits": {"linger": "20ms"},
        }
        connections = {"bus": self.kinesis.connection(self.folder), "lake": {"type": "postgres", "dsn": self.dsn}}
        task = task_of(run, self.uid, connections, spec | changes, self.folder, attempt=attempt)
        return task | {"secrets": str(self.folder), "letters": self.letters}

    def query(self, text: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as session:
            done = session.execute(text)
            return done.fetchall() if done.description else []

    def rows(self, columns: str = "id") -> list[tuple[Any, ...]]:
        """Return the rows of the target, in the order in which they were written."""
        try:
            return self.query(f"SELECT {columns} FROM {self.target} ORDER BY ctid")
        except psycopg.errors.UndefinedTable:
            return []

    def until(self, rows: int) -> None:
        end = time.monotonic() + WAIT
        while len(self.rows()) < rows:
            assert time.monotonic() < end, (len(self.rows()), rows)
            time.sleep(0.05)


@pytest.fixture
def shards(kinesis: KinesisServer, tmp_path: Path) -> Callable[..., Shards]:
    """Make a stream that is read in this process."""

    def make(count: int = 1) -> Shards:
        made = Shards(kinesis, tmp_path)
        kinesis.create(made.stream, count)
        return made

    return make


@pytest.fixture(scope="module")
def lake(new_database: Callable[[], str]) -> str:
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CREATE SCHEMA w")
    return dsn


@pytest.fixture(scope="module")
def letters(new_catalog: Callable[[], str]) -> str:
    """A catalog that keeps dead letters."""
    return new_catalog()


@pytest.fixture
def stream(
    kinesis: KinesisServer, launchers: Launchers, lake: str, letters: str, tmp_path: Path
) -> Callable[..., Shards]:
    """Make a stream that launchers write to PostgreSQL."""

    def make(count: int = 1) -> Shards:
        made = Shards(kinesis, tmp_path, launchers, lake, letters)
        kinesis.create(made.stream, count)
        return made

    return make
