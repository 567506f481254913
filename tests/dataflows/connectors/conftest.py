"""Every system that is both a source and a sink, behind one shape, and pipelines in and out of it.

A world is one object of one system. Items come from an SQLite file (the hub) and go back to another table of it, so
that what a system was given and what it gave back are compared by the same means. A new system is one more maker.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import duckdb
import psycopg
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
import pymysql
import pytest

from dataflows.connectors.sql.names import shadow_prefix
from penstock.failpoints import POINTS
from tests.dataflows.conftest import Launchers, launchers
from tests.dataflows.connectors.files.conftest import SECRET, S3Server, s3
from tests.dataflows.connectors.mysql.conftest import MysqlServer, mariadb, new_schema

__all__ = ["CUTS", "KEYED", "SYSTEMS", "Flow", "SourceFile", "System", "launchers", "mariadb", "new_schema", "s3"]

_numbers = count(1)
MISSING: Final = (
    psycopg.errors.UndefinedTable, sqlite3.OperationalError, duckdb.CatalogException, duckdb.IOException,
    pymysql.ProgrammingError,
)  # fmt: skip
"""What systems say of a table that is not there."""
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class System:
    """One object of one system: how pipelines name it, and how anybody else looks into it."""

    name: str
    connection: dict[str, Any]
    look: Callable[[], list[int]]
    """The ids that everybody sees there now, in order; none where there is no such object yet."""
    leftovers: Callable[[str], list[str]]
    """What a run has left behind that nobody reads, by the pipeline's uid."""
    denied: dict[str, Any]
    """A connection to it whose user may not."""
    away: Callable[[], AbstractContextManager[None]]
    """It cannot be reached for as long as the context lasts: sessions are ended, its server or files are gone."""
    object: str = "copied"
    cursor: str = "id"
    format: dict[str, Any] | None = None
    rows: Callable[[str], Rows] = lambda query: []  # noqa: ARG005 - a stand-in of the same shape
    """What a query of the system's own answers, where there is such."""
    refused: tuple[str, ...] = ()
    """Types that it has no form for, and refuses by name."""
    held: bool = False
    """Whether what a run has open can be read to its end while the system is away."""

    def sink(self, write: str, **more: Any) -> dict[str, Any]:
        told = {"connection": self.name, "object": self.object, "write": write, **more}
        return told | ({"format": self.format} if self.format else {})

    def source(self, *, cursor: bool) -> dict[str, Any]:
        told: dict[str, Any] = {"connection": self.name, "object": self.object}
        return told | ({"cursor": {"field": self.cursor}} if cursor else {})


@dataclass(frozen=True)
class SourceFile:
    """The SQLite file that items come from, and where they end."""

    path: Path
    connection: dict[str, Any]

    def rows(self, query: str, values: Sequence[Any] = ()) -> Rows:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as session:
            return session.execute(query, values).fetchall()

    def add(self, rows: int) -> None:
        self.rows(
            "WITH RECURSIVE n(g) AS (SELECT (SELECT coalesce(max(id), 0) + 1 FROM items) UNION ALL SELECT g + 1 FROM n "
            "LIMIT ?) INSERT INTO items SELECT g, CASE g % 7 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'größe ' || g END, "
            "CASE WHEN g % 5 > 0 THEN g * 1.25 END FROM n",
            (rows,),
        )

    def ids(self) -> list[int]:
        return [row[0] for row in self.rows("SELECT id FROM items ORDER BY id")]


def tabled(query: Callable[[str], Rows]) -> Callable[[], list[int]]:
    """The ids in a table; none where nobody has made it."""

    def look() -> list[int]:
        try:
            return [row[0] for row in query("SELECT id FROM copied ORDER BY id")]
        except MISSING:
            return []

    return look


def unfinished(query: Callable[[str], Rows], tables: str) -> Callable[[str], list[str]]:
    """Shadows that are still there, by the names in `tables`, and splits that are still planned."""

    def leftovers(uid: str) -> list[str]:
        shadows = [name for (name,) in query(tables) if name.startswith(shadow_prefix(uid))]
        return [*shadows, *map(str, query(f"SELECT split FROM _penstock_splits WHERE pipeline = '{uid}'"))]

    return leftovers


@contextmanager
def renamed(path: Path) -> Iterator[None]:
    """The folder has another name for a while."""
    other = path.with_name(f"{path.name}-away")
    path.rename(other)
    try:
        yield
    finally:
        assert not path.exists(), f"{list(path.rglob('*'))} was made where nothing should be"
        other.rename(path)


@contextmanager
def stopped(server: S3Server | MysqlServer) -> Iterator[None]:
    """A server that is killed, and started again after a while."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def shut(dsn: str) -> Iterator[None]:
    """A database whose sessions of Penstock's are ended, and that takes no others for a while."""
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(psycopg.conninfo.make_conninfo(dsn, dbname="postgres"), autocommit=True) as session:
        session.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        session.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = %s AND starts_with(application_name, 'penstock')",
            (name,),
        )
        try:
            yield
        finally:
            session.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def postgres(request: pytest.FixtureRequest, folder: Path) -> System:
    return in_database(request.getfixturevalue("database"))


def in_database(dsn: str) -> System:

    def query(text: str) -> Rows:
        with psycopg.connect(dsn, autocommit=True) as session:
            return session.execute(text).fetchall()

    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("DROP ROLE IF EXISTS stranger")
        session.execute("CREATE ROLE stranger LOGIN")
    stranger = {"type": "postgres", "dsn": psycopg.conninfo.make_conninfo(dsn, user="stranger")}
    leftovers = unfinished(query, "SELECT relname FROM pg_class WHERE relkind = 'r'")
    return System(
        "postgres",
        {"type": "postgres", "dsn": dsn},
        tabled(query),
        leftovers,
        stranger,
        lambda: shut(dsn),
        object="public.copied",
    )


def sqlite(request: pytest.FixtureRequest, folder: Path) -> System:
    path = folder / "world.sqlite"

    def query(text: str) -> Rows:
        with closing(sqlite3.connect(path)) as session:
            return session.execute(text).fetchall()

    leftovers = unfinished(query, "SELECT name FROM sqlite_master WHERE type = 'table'")
    nowhere = {"type": "sqlite", "path": str(folder / "none" / "world.sqlite")}
    connection = {"type": "sqlite", "path": str(path)}
    return System("sqlite", connection, tabled(query), leftovers, nowhere, lambda: renamed(folder), held=True)


def duck(request: pytest.FixtureRequest, folder: Path) -> System:
    path = folder / "world.duckdb"

    def query(text: str) -> Rows:
        with closing(duckdb.connect(str(path), read_only=True)) as session:
            return session.execute(text).fetchall()

    leftovers = unfinished(query, "SELECT table_name FROM duckdb_tables()")
    nowhere = {"type": "duckdb", "path": str(folder / "none" / "world.duckdb")}
    connection = {"type": "duckdb", "path": str(path)}
    return System("duckdb", connection, tabled(query), leftovers, nowhere, lambda: renamed(folder), held=True)


def mysql(request: pytest.FixtureRequest, folder: Path) -> System:
    server: MysqlServer = request.getfixturevalue("mariadb")
    database = request.getfixturevalue("new_schema")()
    (folder / "secret").write_text((server.home / "secret").read_text())

    def query(text: str) -> Rows:
        return server.query(text, database)

    leftovers = unfinished(query, f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}'")
    connection = server.connection(database, password=f"${{file:{folder}/secret}}")
    stranger = connection | {"user": "stranger"}
    return System("mysql", connection, tabled(query), leftovers, stranger, lambda: stopped(server), rows=query)


READERS: Final[dict[str, Callable[[Path], Any]]] = {
    "parquet": pyarrow.parquet.read_table, "csv": pyarrow.csv.read_csv, "jsonl": pyarrow.json.read_json,
}  # fmt: skip


def of_files(
    name: str,
    root: Path,
    kind: str,
    connection: dict[str, Any],
    denied: dict[str, Any],
    folder: str,
    away: Callable[[], AbstractContextManager[None]],
) -> System:
    def look() -> list[int]:
        found = (READERS[kind](path) for path in sorted((root / folder).glob(f"*.{kind}")))
        return sorted(one for table in found for one in table.column("id").to_pylist())

    def leftovers(uid: str) -> list[str]:
        return [str(one) for one in (root / folder / "_penstock").rglob(f"*.{kind}")]

    refused = () if kind == "parquet" else ("bytea",)
    return System(name, connection, look, leftovers, denied, away, folder, "_modified", {"type": kind}, refused=refused)


def in_folder(kind: str) -> Callable[[pytest.FixtureRequest, Path], System]:
    def make(request: pytest.FixtureRequest, folder: Path) -> System:
        root = folder / "root"
        root.mkdir()
        denied = {"type": "files", "root": "/sys/kernel"}  # where not even root may make anything
        connection = {"type": "files", "root": str(root)}
        return of_files(kind, root, kind, connection, denied, "copied", lambda: renamed(root))

    return make


def in_bucket(request: pytest.FixtureRequest, folder: Path) -> System:
    server: S3Server = request.getfixturevalue("s3")
    for name, text in (("key", "penstock"), ("secret", SECRET), ("wrong", "wrong")):
        (folder / name).write_text(text)
    connection = {
        "type": "s3",
        "url": "s3://lake",
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key": f"${{file:{folder}/key}}",
        "secret_key": f"${{file:{folder}/secret}}",
    }
    denied = connection | {"secret_key": f"${{file:{folder}/wrong}}"}
    root, folder_name = server.home / "data" / "lake", f"w{next(_numbers)}/copied"
    return of_files("s3", root, "parquet", connection, denied, folder_name, lambda: stopped(server))


SYSTEMS: Final[dict[str, Callable[[pytest.FixtureRequest, Path], System]]] = {
    "postgres": postgres, "sqlite": sqlite, "duckdb": duck, "parquet": in_folder("parquet"), "csv": in_folder("csv"),
    "jsonl": in_folder("jsonl"), "s3": in_bucket, "mysql": mysql,
}  # fmt: skip
KEYED: Final = (
    ("postgres", "merge"), ("postgres", "scd2"), ("sqlite", "merge"), ("duckdb", "merge"), ("mysql", "merge"),
)  # fmt: skip
"""Systems that can find a row again, and by which modes they do; each other one refuses these modes."""
CUTS: Final = tuple(
    cut
    for point in POINTS
    for cut in ([f"{point}:{at}" for at in range(3)] if point.startswith(("read.", "commit.")) else [point])
)
"""Every point that a run of three splits meets."""


@pytest.fixture
def worlds(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], System]:
    """Make a world of a system; one of PostgreSQL a test."""

    def make(name: str) -> System:
        folder = tmp_path / f"world{next(_numbers)}"
        folder.mkdir()
        return SYSTEMS[name](request, folder)

    return make


@pytest.fixture(params=SYSTEMS)
def world(worlds: Callable[[str], System], request: pytest.FixtureRequest) -> System:
    return worlds(request.param)


@dataclass
class Flow:
    """One pipeline between two ends."""

    launchers: Launchers
    folder: Path
    connections: dict[str, Any]
    source: dict[str, Any]
    sink: dict[str, Any]
    split_rows: int = 20
    number: int = field(default_factory=lambda: next(_numbers))
    spec: dict[str, Any] = field(default_factory=dict)
    """More of the pipeline than its ends."""
    letters: str | None = None
    """Where its dead letters are kept."""

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-b000-{self.number:012d}"

    def task(self, run: str, attempt: int = 1) -> dict[str, Any]:
        return {
            "run": run,
            "attempt": attempt,
            "uid": self.uid,
            "connections": self.connections,
            "pipeline": {
                "apiVersion": "penstock/v1",
                "kind": "Pipeline",
                "metadata": {"name": "items"},
                "spec": {"source": self.source, "sink": self.sink, **self.spec},
            },
            "result": str(self.folder / f"{self.number}-{next(_numbers)}.json"),
            "progress": None,
            "split_rows": self.split_rows,
            "secrets": str(self.folder),
            "letters": self.letters,
        }

    def run(self, run: str, failpoint: str | None = None) -> dict[str, Any]:
        return self.launchers.run(self.task(run), failpoint)

    def completed(self, run: str) -> int:
        """Rows read."""
        found = self.run(run)
        assert found["status"] == "completed", found.get("error", found)
        counters = found["counters"]
        assert counters["rows_in"] == counters["rows_out"] + counters["filtered"] + counters["dead"]
        return int(counters["rows_in"])

    def failed(self, run: str) -> dict[str, Any]:
        """The error."""
        found = self.run(run)
        assert found["status"] == "failed", found
        return dict(found["error"])

    def stopped(self, task: dict[str, Any], point: str) -> int:
        return self.launchers.stopped(task, point)

    def woken(self, pid: int, task: dict[str, Any]) -> dict[str, Any]:
        return self.launchers.woken(pid, task)

    def ended(self, pid: int, task: dict[str, Any]) -> dict[str, Any]:
        return self.launchers.ended(pid, task)


@pytest.fixture
def hub(tmp_path: Path) -> SourceFile:
    path = tmp_path / "hub.sqlite"
    made = SourceFile(path, {"type": "sqlite", "path": str(path)})
    made.rows("CREATE TABLE items (id INTEGER PRIMARY KEY, name VARCHAR, price DOUBLE)")
    return made


Flows = Callable[..., Flow]


@pytest.fixture
def into(hub: SourceFile, tmp_path: Path, launchers: Launchers) -> Flows:
    """Make a pipeline from a table of the hub into a world."""

    def make(world: System, write: str, table: str = "items", **sink: Any) -> Flow:
        source: dict[str, Any] = {"connection": "hub", "object": table}
        if write == "append":
            source["cursor"] = {"field": "id"}
        connections = {"hub": hub.connection, world.name: world.connection}
        return Flow(launchers, tmp_path, connections, source, world.sink(write, **sink))

    return make


@pytest.fixture
def out_of(hub: SourceFile, tmp_path: Path, launchers: Launchers) -> Flows:
    """Make a pipeline from a world into the hub's table `back`."""

    def make(world: System, write: str) -> Flow:
        connections = {"hub": hub.connection, world.name: world.connection}
        sink = {"connection": "hub", "object": "back", "write": write}
        return Flow(launchers, tmp_path, connections, world.source(cursor=write == "append"), sink)

    return make
