"""A stream from a topic of its own to a table of its own, on PostgreSQL if nothing else is said, run by launchers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow.parquet as pq
import pytest

from dataflows.connectors.contract import Place
from dataflows.connectors.files.log import FolderLog
from dataflows.connectors.files.manifest import FolderState
from dataflows.connectors.files.store import LocalStore
from dataflows.connectors.kafka.state import KafkaState
from penstock.models.connection import KafkaConnection
from tests.dataflows.conftest import Launchers, task_of
from tests.dataflows.connectors.conftest import MISSING, Rows
from tests.dataflows.connectors.conftest import in_bucket as bucket
from tests.kafka import KafkaServer

WAIT = 60.0
_numbers = count(1)


@dataclass(frozen=True)
class Lake:
    """System that streams write to: its connection, and access to it without Penstock."""

    connection: dict[str, Any]
    query: Callable[[str], Rows]
    schema: str = ""
    """Schema of the tables, with the dot; none if a name needs none."""
    order: str = ""
    """Clause by which rows come in the order in which they were written."""
    locked: bool = False
    """True if nobody else can read it while a stream writes to it."""
    folder: Path | None = None
    """The root of its files, if it is no database."""
    broker: KafkaServer | None = None
    """The server of its topics, if it is no database."""


@dataclass
class Stream:
    """Stream from topic `topic` to `target`; `letters` is the catalog that keeps its dead letters."""

    kafka: KafkaServer
    launchers: Launchers
    lake: Lake
    letters: str | None
    folder: Path
    partitions: int
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def topic(self) -> str:
        return f"events-{self.number}"

    @property
    def target(self) -> str:
        return f"{self.lake.schema}t{self.number}"

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-9000-{self.number:012d}"

    def task(self, run: str = "r1", attempt: int = 1, **changes: Any) -> dict[str, Any]:
        """Return the task of a run; `changes` replace parts of the pipeline's spec."""
        spec: dict[str, Any] = {
            "mode": "stream",
            "source": {"connection": "bus", "object": self.topic},
            "sink": {"connection": "lake", "object": self.target, "write": "append"},
            "limits": {"linger": "20ms"},
        }
        connections = {
            "bus": {"type": "kafka", "bootstrap": self.kafka.bootstrap},
            "lake": self.lake.connection,
        }
        task = task_of(run, self.uid, connections, spec | changes, self.folder, attempt=attempt)
        task |= {"secrets": str(self.folder)}
        return task | ({"letters": self.letters} if self.letters else {})

    def send(self, *numbers: int, partition: int = 0) -> None:
        """Append an event for each number."""
        values = [json.dumps({"id": one, "name": f"event {one}"}).encode() for one in numbers]
        self.kafka.send(self.topic, *values, partition=partition)

    def ids(self) -> list[int]:
        """Return the ids in the target, in the order in which they were written."""
        if self.lake.broker is not None:
            return [one["id"] for one in self.messages()]
        if self.lake.folder is not None:
            return [one for path in self.files() for one in pq.read_table(path).column("id").to_pylist()]
        try:
            return [row[0] for row in self.rows(f"SELECT id FROM {self.target}{self.lake.order}")]
        except MISSING:
            return []

    def messages(self) -> list[dict[str, Any]]:
        """Return the committed messages of the target."""
        assert self.lake.broker is not None
        return [json.loads(one.value() or b'{"id": null}') for one in self.lake.broker.read(self.target)]

    def files(self) -> list[Path]:
        """Return the files that a plain listing of the target shows, in the order of their splits."""
        assert self.lake.folder is not None
        return sorted((self.lake.folder / self.target).glob("*.parquet"), key=lambda path: path.stem.split("-")[-2])

    def count(self) -> int:
        """Return how many rows are committed."""
        return len(self.ids()) if self.lake.folder is None else sum(one["rows"] for one in self.log().files)

    def log(self) -> FolderState:
        """Return what the log of the target's folder says."""
        assert self.lake.folder is not None
        return FolderLog(LocalStore(self.lake.folder, "tests"), self.target, "tests").refresh()

    @property
    def place(self) -> Place:
        """The target of a stream to a topic."""
        return Place("tests", "lake", KafkaConnection(**self.lake.connection), self.target)

    def rows(self, query: str) -> Rows:
        return self.lake.query(query)

    def until(self, rows: int) -> None:
        """Wait until the target has so many rows; if it is locked, until so many messages are written."""
        if self.lake.broker is not None:
            self.lake.broker.until(self.target, rows)
            return
        found, end = self._mirrored if self.lake.locked else self.count, time.monotonic() + WAIT
        while found() < rows:
            assert time.monotonic() < end, f"{found()} of {rows} rows"
            time.sleep(0.05 if self.lake.locked else 0.02)

    def _mirrored(self) -> int:
        return sum(self.mirrored(part) for part in range(self.partitions))

    def mirrored(self, partition: int) -> int:
        """Return how many messages of a partition are written, as the broker is told after each commit."""
        return max(0, self.kafka.committed("penstock-items", self.topic, partition))

    def stop(self, pid: int, task: dict[str, Any]) -> dict[str, Any]:
        """Ask a run to stop; return its result."""
        os.kill(pid, signal.SIGTERM)
        return self.launchers.ended(pid, task)

    def taken(self, rows: int, run: str = "r1", **changes: Any) -> dict[str, Any]:
        """Run until the target has so many rows, then stop; return the result."""
        task = self.task(run, **changes)
        pid = self.launchers.start(task)
        self.until(rows)
        return self.stop(pid, task)

    def positions(self) -> dict[str, dict[str, Any]]:
        """Return the positions at the sink, by partition."""
        if self.lake.broker is not None:
            state = KafkaState(self.place, self.uid, self.topic, "tests")
            return {part: json.loads(position) for part, position in state.positions().items()}
        if self.lake.folder is not None:
            found = self.log().pipeline(self.uid).source(self.topic).get("positions", {})
            return {part: json.loads(position) for part, position in found.items()}
        table = f"{self.lake.schema}_penstock_offsets"
        rows = self.rows(f"SELECT part, position FROM {table} WHERE pipeline = '{self.uid}' ORDER BY part")
        return {part: json.loads(position) for part, position in rows}


@pytest.fixture(scope="module")
def lake(new_database: Callable[[], str]) -> Iterator[Lake]:
    """A database of PostgreSQL with an empty schema for targets."""
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CREATE SCHEMA w")

        def query(text: str) -> Rows:
            done = session.execute(text)
            return done.fetchall() if done.description else []

        yield Lake({"type": "postgres", "dsn": dsn}, query, "w.", " ORDER BY ctid")


def in_sqlite(request: pytest.FixtureRequest, folder: Path) -> Lake:
    path = folder / "lake.sqlite"

    def query(text: str) -> Rows:
        with closing(sqlite3.connect(path, isolation_level=None)) as session:
            return session.execute(text).fetchall()

    return Lake({"type": "sqlite", "path": str(path)}, query, order=" ORDER BY rowid")


def in_duckdb(request: pytest.FixtureRequest, folder: Path) -> Lake:
    path = folder / "lake.duckdb"

    def query(text: str) -> Rows:
        with closing(duckdb.connect(str(path))) as session:
            return session.execute(text).fetchall()

    return Lake({"type": "duckdb", "path": str(path)}, query, order=" ORDER BY rowid", locked=True)


def in_mysql(request: pytest.FixtureRequest, folder: Path) -> Lake:
    server, database = request.getfixturevalue("mariadb"), request.getfixturevalue("new_schema")()
    (folder / "secret").write_text((server.home / "secret").read_text())
    connection = server.connection(database, password=f"${{file:{folder}/secret}}")
    return Lake(connection, lambda text: server.query(text, database))


def no_query(text: str) -> Rows:
    raise NotImplementedError(text)


def in_folder(request: pytest.FixtureRequest, folder: Path) -> Lake:
    (folder / "lake").mkdir()
    return Lake({"type": "files", "root": str(folder / "lake")}, no_query, folder=folder / "lake")


def in_bucket(request: pytest.FixtureRequest, folder: Path) -> Lake:
    system = bucket(request, folder)
    root = request.getfixturevalue("s3").home / "data/lake" / folder.name
    root.mkdir()
    return Lake(system.connection | {"url": f"s3://lake/{folder.name}"}, no_query, folder=root)


def in_kafka(request: pytest.FixtureRequest, folder: Path) -> Lake:
    server = request.getfixturevalue("kafka")
    return Lake({"type": "kafka", "bootstrap": server.bootstrap}, no_query, broker=server)


DATABASES = {"mysql": in_mysql, "sqlite": in_sqlite, "duckdb": in_duckdb}
"""Databases besides PostgreSQL that streams write to, by name."""
LAKES = {**DATABASES, "files": in_folder, "s3": in_bucket, "kafka": in_kafka}
"""Sinks of streams besides PostgreSQL, by name."""


@pytest.fixture(scope="module")
def letters(new_catalog: Callable[[], str]) -> str:
    """A catalog that keeps dead letters."""
    return new_catalog()


@pytest.fixture
def stream(
    kafka: KafkaServer,
    launchers: Launchers,
    lake: Lake,
    letters: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Callable[..., Stream]:
    """Make a stream, with its topic, into one of `LAKES` or PostgreSQL."""

    def make(partitions: int = 1, *, into: str | None = None, config: dict[str, str] | None = None) -> Stream:
        where = lake if into is None else LAKES[into](request, tmp_path)
        made = Stream(kafka, launchers, where, letters, tmp_path, partitions)
        kafka.create(made.topic, partitions, config)
        return made

    return make
