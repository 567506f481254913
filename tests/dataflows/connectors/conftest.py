"""Every system that is both a source and a sink, as a `System`, and pipelines into and out of it.

Items come from an SQLite file (`source_file`) and go back to another table of it, so that the rows sent to a system and
the rows read from it are compared in one database. A new system needs one more factory in `SYSTEMS`.
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
from tests.dataflows.conftest import Launchers
from tests.dataflows.connectors.ducks import query_file
from tests.mariadb import MysqlServer
from tests.pairs import soon
from tests.s3 import SECRET, S3Server

__all__ = [
    "CUTS",
    "FORMATS",
    "KEYED",
    "SYSTEMS",
    "Flow",
    "SourceFile",
    "System",
]

_numbers = count(1)
MISSING: Final = (
    psycopg.errors.UndefinedTable, sqlite3.OperationalError, duckdb.CatalogException, duckdb.IOException,
    pymysql.ProgrammingError,
)  # fmt: skip
"""Errors of the drivers for a table that does not exist."""
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class System:
    """One object of one system: its name in pipelines, and access to it without Penstock."""

    name: str
    connection: dict[str, Any]
    ids: Callable[[], list[int]]
    """Return the visible ids, in order; none if the object does not exist yet."""
    leftovers: Callable[[str], list[str]]
    """Return the leftovers of unfinished runs, by the pipeline's uid."""
    denied: dict[str, Any]
    """A connection to it whose user lacks the permission."""
    unreachable: Callable[[], AbstractContextManager[None]]
    """Context in which it cannot be reached: sessions are ended, its server or files are gone."""
    object: str = "copied"
    cursor: str = "id"
    format: dict[str, Any] | None = None
    rows: Callable[[str], Rows] = lambda query: []  # noqa: ARG005 - a stand-in of the same shape
    """Run a query of the system's own language, if it has one."""
    refused: tuple[str, ...] = ()
    """Types that it cannot store, and refuses by name."""
    keeps_open_files: bool = False
    """True if a run can read an open file to its end while the system is unreachable."""

    def sink(self, write: str, **more: Any) -> dict[str, Any]:
        options = {"connection": self.name, "object": self.object, "write": write, **more}
        return options | ({"format": self.format} if self.format else {})

    def source(self, *, cursor: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"connection": self.name, "object": self.object}
        return options | ({"cursor": {"field": self.cursor, "ordered": True}} if cursor else {})


@dataclass(frozen=True)
class SourceFile:
    """The SQLite file that items come from and go back to."""

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


def ids_of_table(query: Callable[[str], Rows]) -> Callable[[], list[int]]:
    """Return a query of the ids in the table; none if it does not exist."""

    def ids() -> list[int]:
        try:
            return [row[0] for row in query("SELECT id FROM copied ORDER BY id")]
        except MISSING:
            return []

    return ids


def unfinished(query: Callable[[str], Rows], tables: str) -> Callable[[str], list[str]]:
    """Return a query of the remaining shadow tables (`tables` lists all tables) and of the splits still planned."""

    def leftovers(uid: str) -> list[str]:
        shadows = [name for (name,) in query(tables) if name.startswith(shadow_prefix(uid))]
        return [*shadows, *map(str, query(f"SELECT split FROM _penstock_splits WHERE pipeline = '{uid}'"))]

    return leftovers


@contextmanager
def renamed_away(path: Path) -> Iterator[None]:
    """Rename the folder for the length of the context."""
    other = path.with_name(f"{path.name}-away")
    path.rename(other)
    try:
        yield
    finally:
        assert not path.exists(), f"{list(path.rglob('*'))} were created in a folder that is away"
        other.rename(path)


@contextmanager
def stopped(server: S3Server | MysqlServer) -> Iterator[None]:
    """Kill the server for the length of the context."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def refusing_connections(dsn: str) -> Iterator[None]:
    """End Penstock's sessions of a database and refuse new ones for the length of the context."""
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
        session.execute("DROP TABLE IF EXISTS public.copied")  # of the system that this test had before
        session.execute("DROP ROLE IF EXISTS stranger")
        session.execute("CREATE ROLE stranger LOGIN")
    stranger = {"type": "postgres", "dsn": psycopg.conninfo.make_conninfo(dsn, user="stranger")}
    leftovers = unfinished(query, "SELECT relname FROM pg_class WHERE relkind = 'r'")
    return System(
        "postgres",
        {"type": "postgres", "dsn": dsn},
        ids_of_table(query),
        leftovers,
        stranger,
        lambda: refusing_connections(dsn),
        object="public.copied",
    )


def sqlite(request: pytest.FixtureRequest, folder: Path) -> System:
    path = folder / "data.sqlite"

    def query(text: str) -> Rows:
        with closing(sqlite3.connect(path)) as session:
            return session.execute(text).fetchall()

    leftovers = unfinished(query, "SELECT name FROM sqlite_master WHERE type = 'table'")
    nowhere = {"type": "sqlite", "path": str(folder / "none" / "data.sqlite")}
    connection = {"type": "sqlite", "path": str(path)}
    return System(
        "sqlite",
        connection,
        ids_of_table(query),
        leftovers,
        nowhere,
        lambda: renamed_away(folder),
        keeps_open_files=True,
    )


def duck(request: pytest.FixtureRequest, folder: Path) -> System:
    path = folder / "data.duckdb"

    def query(text: str) -> Rows:
        return query_file(path, text)

    leftovers = unfinished(query, "SELECT table_name FROM duckdb_tables()")
    nowhere = {"type": "duckdb", "path": str(folder / "none" / "data.duckdb")}
    connection = {"type": "duckdb", "path": str(path)}
    return System(
        "duckdb",
        connection,
        ids_of_table(query),
        leftovers,
        nowhere,
        lambda: renamed_away(folder),
        keeps_open_files=True,
    )


def mysql(request: pytest.FixtureRequest, folder: Path) -> System:
    server: MysqlServer = request.getfixturevalue("mariadb")
    database = request.getfixturevalue("new_schema")()
    (folder / "secret").write_text((server.home / "secret").read_text())

    def query(text: str) -> Rows:
        return server.query(text, database)

    leftovers = unfinished(query, f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}'")
    connection = server.connection(database, password=f"${{file:{folder}/secret}}")
    stranger = connection | {"user": "stranger"}
    return System("mysql", connection, ids_of_table(query), leftovers, stranger, lambda: stopped(server), rows=query)


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
    unreachable: Callable[[], AbstractContextManager[None]],
) -> System:
    def ids() -> list[int]:
        found = (READERS[kind](path) for path in sorted((root / folder).glob(f"*.{kind}")))
        return sorted(one for table in found for one in table.column("id").to_pylist())

    def leftovers(uid: str) -> list[str]:
        return [str(one) for one in (root / folder / "_penstock").rglob(f"*.{kind}")]

    refused = () if kind == "parquet" else ("bytea",)
    return System(
        name, connection, ids, leftovers, denied, unreachable, folder, "_modified", {"type": kind}, refused=refused
    )


def in_folder(kind: str) -> Callable[[pytest.FixtureRequest, Path], System]:
    def make(request: pytest.FixtureRequest, folder: Path) -> System:
        root = folder / "root"
        root.mkdir()
        denied = {"type": "files", "root": "/sys/kernel"}  # not even root can create files there
        connection = {"type": "files", "root": str(root)}
        return of_files(kind, root, kind, connection, denied, "copied", lambda: renamed_away(root))

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
"""Systems and the write modes by key that they support; all others refuse these modes."""
FORMATS: Final = {"csv", "jsonl"}
"""Systems that differ from `parquet` only in the bytes of a file, of which the tests of files tell: they are long."""
CUTS: Final = tuple(
    cut
    for point in POINTS
    for cut in ([f"{point}:{at}" for at in range(3)] if point.startswith(("read.", "commit.")) else [point])
)
"""Every failpoint that a run of three splits passes."""


@pytest.fixture
def new_system(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], System]:
    """Make an unused system of a kind; of PostgreSQL a test has one database, whose former target is dropped."""

    def make(name: str) -> System:
        folder = tmp_path / f"system{next(_numbers)}"
        folder.mkdir()
        return SYSTEMS[name](request, folder)

    return make


@pytest.fixture(params=soon(SYSTEMS, *(one for one in SYSTEMS if one not in FORMATS)))
def system(new_system: Callable[[str], System], request: pytest.FixtureRequest) -> System:
    return new_system(request.param)


@dataclass
class Flow:
    """One pipeline from a source to a sink."""

    launchers: Launchers
    folder: Path
    connections: dict[str, Any]
    source: dict[str, Any]
    sink: dict[str, Any]
    split_rows: int = 20
    number: int = field(default_factory=lambda: next(_numbers))
    spec: dict[str, Any] = field(default_factory=dict)
    """Further keys of the pipeline's `spec`."""
    letters: str | None = None
    """DSN of the catalog for its dead letters."""

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

    def run(self, run: str, failpoint: str | None = None, without: tuple[str, ...] = ()) -> dict[str, Any]:
        return self.launchers.run(self.task(run), failpoint, without)

    def completed(self, run: str) -> int:
        """Run to completion; return the number of rows read."""
        found = self.run(run)
        assert found["status"] == "completed", found.get("error", found)
        counters = found["counters"]
        assert counters["rows_in"] == counters["rows_out"] + counters["filtered"] + counters["dead"]
        return int(counters["rows_in"])

    def failed(self, run: str) -> dict[str, Any]:
        """Run to failure; return the error."""
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
def source_file(tmp_path: Path) -> SourceFile:
    path = tmp_path / "items.sqlite"
    made = SourceFile(path, {"type": "sqlite", "path": str(path)})
    made.rows("CREATE TABLE items (id INTEGER PRIMARY KEY, name VARCHAR, price DOUBLE)")
    return made


Flows = Callable[..., Flow]


@pytest.fixture
def into(source_file: SourceFile, tmp_path: Path, launchers: Launchers) -> Flows:
    """Make a pipeline from a table of the source file into a system."""

    def make(system: System, write: str, table: str = "items", **sink: Any) -> Flow:
        source: dict[str, Any] = {"connection": "local", "object": table}
        if write == "append":
            source["cursor"] = {"field": "id", "ordered": True}
        connections = {"local": source_file.connection, system.name: system.connection}
        return Flow(launchers, tmp_path, connections, source, system.sink(write, **sink))

    return make


@pytest.fixture
def out_of(source_file: SourceFile, tmp_path: Path, launchers: Launchers) -> Flows:
    """Make a pipeline from a system into the source file's table `back`."""

    def make(system: System, write: str) -> Flow:
        connections = {"local": source_file.connection, system.name: system.connection}
        sink = {"connection": "local", "object": "back", "write": write}
        return Flow(launchers, tmp_path, connections, system.source(cursor=write == "append"), sink)

    return make
