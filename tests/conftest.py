"""Fixtures of all tests: a real PostgreSQL server for the test run, and a fresh database for each test."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from psycopg import sql

from catalog.database import migrate
from penstock import postgres
from penstock.topics.embedded import EmbeddedServer
from tests.reaper import VARIABLE, short_folder

QUICK: Final = {
    "fsync": "off", "full_page_writes": "off", "max_connections": "100", "autovacuum_naptime": "1h",
}  # fmt: skip
"""Tests kill processes, never the machine, so data that the kernel has accepted survives without fsync.

Autovacuum would visit each of hundreds of databases every minute.
"""

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def reaper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """End what the tests started when this test process ends, even if it is killed."""
    token = os.environ[VARIABLE] = uuid.uuid4().hex[:8]
    program = [sys.executable, "-m", "tests.reaper"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(program, stdin=subprocess.PIPE, text=True, start_new_session=True, cwd=root) as process:
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
def new_database(pg: EmbeddedServer) -> Callable[[], str]:
    """Create a fresh, empty database and return its DSN; for tests that need several, otherwise use `database`."""
    return partial(_copy, pg, "template1")


@pytest.fixture(scope="session")
def new_catalog(pg: EmbeddedServer, new_database: Callable[[], str]) -> Callable[[], str]:
    """Create a database with an empty catalog and return its DSN: a copy, ten times as fast as a migration."""
    template = new_database()
    migrate(template)
    return partial(_copy, pg, _name(template))


@pytest.fixture
def database(pg: EmbeddedServer, new_database: Callable[[], str]) -> Iterator[str]:
    """The DSN of a fresh, empty database, dropped after the test even if sessions are still open."""
    with _dropped(pg, new_database()) as dsn:
        yield dsn


@pytest.fixture
def catalog(pg: EmbeddedServer, new_catalog: Callable[[], str]) -> Iterator[str]:
    """The DSN of an empty catalog, dropped after the test."""
    with _dropped(pg, new_catalog()) as dsn:
        yield dsn


def _let_roles_in(server: EmbeddedServer) -> None:
    """Let this process log in as any role, and not only as the server's own."""
    with postgres.connect(server.dsn("postgres"), "tests") as session:
        found = session.execute("SHOW hba_file").fetchone()
        assert found
        hba = Path(found[0])
        hba.write_text("local all all trust\n")
        session.execute("SELECT pg_reload_conf()")


def _copy(pg: EmbeddedServer, template: str) -> str:
    name = f"test_{next(_numbers)}"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    with postgres.connect(pg.dsn("postgres"), "tests") as session:
        session.execute(copy.format(sql.Identifier(name), sql.Identifier(template)))
    return pg.dsn(name)


@contextmanager
def _dropped(pg: EmbeddedServer, dsn: str) -> Iterator[str]:
    yield dsn
    with postgres.connect(pg.dsn("postgres"), "tests") as session:
        session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(_name(dsn))))


def _name(dsn: str) -> str:
    return dsn.rpartition("dbname=")[2]
