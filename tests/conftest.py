"""Fixtures of all tests: a real PostgreSQL server for the test run, and a fresh database for each test."""

from __future__ import annotations

import gc
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck, settings
from psycopg import sql

from catalog.database import migrate
from penstock import postgres
from penstock.topics.embedded import EmbeddedServer
from tests.kafka import KafkaServer, free_port
from tests.kinesis import KinesisServer
from tests.mariadb import MysqlServer, program
from tests.reaper import TEMPORARY, VARIABLE, short_folder
from tests.s3 import S3Server

QUICK: Final = {
    "fsync": "off", "full_page_writes": "off", "max_connections": "100", "autovacuum_naptime": "1h",
}  # fmt: skip
"""Tests kill processes, never the machine, so data that the kernel has accepted survives without fsync.

Autovacuum would visit each of hundreds of databases every minute.
"""

ROOT: Final = Path(__file__).parents[1]

if "TMPDIR" not in os.environ:
    tempfile.tempdir = os.environ["TMPDIR"] = TEMPORARY
CHANGES: Final = {"wal_level": "logical", "max_wal_senders": "12", "max_replication_slots": "12"}
"""Settings of a server whose changes can be read."""

Execute = Callable[[sql.Composed], None]
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Draw the same examples each time in `make test`: a commit passes always or never. `make chaos` draws new ones."""
    settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("new", derandomize=False, deadline=None, print_blob=True)
    if settings.get_current_profile_name() in ("default", "ci"):
        settings.load_profile("same" if config.option.markexpr == "not chaos" else "new")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Run tests that share a fixture of their module in one worker, so that it is made once.

    pytest-xdist starts larger groups before smaller ones, and tests on their own last, of these the `long` ones first:
    all workers end at about the same time. Its 3.8 writes a group where pytest 9.2 no longer reads it, so it is put
    into the id of the test here.
    """
    for item in items:
        fixtures = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009 - mypy knows no such attribute
        if any(made[-1].scope == "module" for made in fixtures) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(ROOT))))
    yield
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for item in items:
        if "@" in (named := vars(item).get("_nodeid", "")):
            setattr(item, "_id", NodeId.parse(named))  # noqa: B010 - as above


def pytest_collection_finish() -> None:
    """Leave the items of thousands of tests out of later collections of garbage."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a table of the faults that tests have counted; see tests/dataflows/connectors/kafka/test_faults.py."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, ())]
    found = [value for one in reports for name, value in one.user_properties if name == "faults"]
    if found:
        terminalreporter.section("faults", "-")
        names = list(found[0])
        for row in (dict(zip(names, names, strict=True)), *found):
            terminalreporter.write_line("".join(f"{row[name]!s:>16}" for name in names))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return a seed of random values: in `make test` the same each time, in `make chaos` a new one."""
    if request.config.option.markexpr == "not chaos":
        return zlib.crc32(request.node.name.encode())
    return random.SystemRandom().randrange(2**32)


@pytest.fixture(scope="session", autouse=True)
def reaper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """End what the tests started when this test process ends, even if it is killed."""
    token = os.environ[VARIABLE] = uuid.uuid4().hex[:8]
    program = [sys.executable, "-m", "tests.reaper"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT) as process:
        assert process.stdin is not None
        process.stdin.write(f"{token}\n{tmp_path_factory.getbasetemp()}\n")
        process.stdin.flush()
        yield
        process.stdin.close()


@pytest.fixture(scope="session")
def pg(reaper: None) -> Iterator[EmbeddedServer]:
    """The embedded server of this test run (of this worker, under pytest-xdist), deleted at its end."""
    server = EmbeddedServer(short_folder(), configuration=QUICK)
    server.acquire()
    try:
        _let_roles_in(server)
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def logical(reaper: None) -> Iterator[EmbeddedServer]:
    """A server whose changes can be read; mark its tests with `xdist_group("cdc")`, so that one is enough."""
    server = EmbeddedServer(short_folder(), configuration=QUICK | CHANGES)
    server.acquire()
    try:
        _let_roles_in(server)
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def kafka(reaper: None) -> Iterator[KafkaServer]:
    """A broker of Apache Kafka of this test run; mark its tests with `xdist_group`, so that few are enough.

    Those of pipelines are group `kafka`, those of the log `kafka-log`, and those that it shares with PostgreSQL
    `kafka-topics`: one group would outlast all other tests, and large ones start first, while CPU is left for others.
    """
    server = KafkaServer(short_folder())
    server.make()
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.home)


@pytest.fixture(scope="session")
def kinesis(reaper: None) -> Iterator[KinesisServer]:
    """A server of Amazon Kinesis of this test run; mark its tests with `xdist_group("kinesis")`, so one is enough."""
    server = KinesisServer()
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def mariadb(reaper: None) -> Iterator[MysqlServer]:
    """A MariaDB server of this test run."""
    server = MysqlServer(short_folder(), free_port(), program())
    try:
        server.make()
        server.start()
        server.let_in()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home)


@pytest.fixture
def new_schema(mariadb: MysqlServer) -> Iterator[Callable[[], str]]:
    """Create a fresh, empty database on the server of MariaDB; return its name."""
    made = []

    def make() -> str:
        name = f"test_{next(_numbers)}"
        mariadb.query(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        made.append(name)
        return name

    yield make
    for name in made:
        mariadb.query(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def s3(reaper: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of S3 of this test run."""
    server = S3Server(tmp_path_factory.mktemp("s3"), free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def owner(pg: EmbeddedServer) -> Iterator[Execute]:
    """Execute a statement on the database `postgres`; one session for all of them, and another one if it is lost."""
    with ExitStack() as sessions:
        opened: list[psycopg.Connection[Any]] = []

        def execute(statement: sql.Composed) -> None:
            if not opened or opened[-1].closed:
                opened.append(sessions.enter_context(closing(postgres.connect(pg.dsn("postgres"), "tests"))))
            opened[-1].execute(statement)

        def once_more(statement: sql.Composed) -> None:
            try:
                execute(statement)
            except psycopg.OperationalError:
                if not opened[-1].closed:
                    raise
                execute(statement)

        yield once_more


@pytest.fixture(scope="session")
def new_database(pg: EmbeddedServer, owner: Execute) -> Callable[[], str]:
    """Create a fresh, empty database and return its DSN; for tests that need several, otherwise use `database`."""
    return partial(_copy, pg, owner, "template1")


@pytest.fixture(scope="session")
def new_catalog(pg: EmbeddedServer, owner: Execute, new_database: Callable[[], str]) -> Callable[[], str]:
    """Create a database with an empty catalog and return its DSN: a copy, ten times as fast as a migration."""
    template = new_database()
    migrate(template)
    return partial(_copy, pg, owner, _name(template))


@pytest.fixture
def database(owner: Execute, new_database: Callable[[], str]) -> Iterator[str]:
    """The DSN of a fresh, empty database, dropped after the test even if sessions are still open."""
    with _dropped(owner, new_database()) as dsn:
        yield dsn


@pytest.fixture
def catalog(owner: Execute, new_catalog: Callable[[], str]) -> Iterator[str]:
    """The DSN of an empty catalog, dropped after the test."""
    with _dropped(owner, new_catalog()) as dsn:
        yield dsn


def _let_roles_in(server: EmbeddedServer) -> None:
    """Let this process log in as any role, and not only as the server's own."""
    with postgres.connect(server.dsn("postgres"), "tests") as session:
        found = session.execute("SHOW hba_file").fetchone()
        assert found
        hba = Path(found[0])
        hba.write_text("local all all trust\n")
        session.execute("SELECT pg_reload_conf()")


def _copy(pg: EmbeddedServer, owner: Execute, template: str) -> str:
    name = f"test_{next(_numbers)}"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    owner(copy.format(sql.Identifier(name), sql.Identifier(template)))
    return pg.dsn(name)


@contextmanager
def _dropped(owner: Execute, dsn: str) -> Iterator[str]:
    yield dsn
    owner(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(_name(dsn))))


def _name(dsn: str) -> str:
    return dsn.rpartition("dbname=")[2]
