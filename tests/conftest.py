"""What every room's tests share: a real PostgreSQL of the run's own, and a fresh database for each test."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from psycopg import sql

from penstock import postgres
from penstock.topics.embedded import EmbeddedServer

QUICK: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}
"""Tests kill processes, never the machine: what the kernel has taken survives without fsync."""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def pg() -> Iterator[EmbeddedServer]:
    """The embedded server of this test run (of this worker, under pytest-xdist), gone with it."""
    home = Path(tempfile.mkdtemp(prefix="pen-", dir="/tmp"))
    server = EmbeddedServer(home, configuration=QUICK)
    server.acquire()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def new_database(pg: EmbeddedServer) -> Callable[[], str]:
    """Make a fresh, empty database and return its DSN; `database` is the usual way, this the one for several."""

    def make() -> str:
        name = f"test_{next(_numbers)}"
        with postgres.connect(pg.dsn("postgres"), "tests") as session:
            session.execute(sql.SQL("CREATE DATABASE {} STRATEGY file_copy").format(sql.Identifier(name)))
        return pg.dsn(name)

    return make


@pytest.fixture
def database(pg: EmbeddedServer, new_database: Callable[[], str]) -> Iterator[str]:
    """The DSN of a fresh, empty database, dropped after the test with whoever is still in it."""
    dsn = new_database()
    yield dsn
    name = dsn.rpartition("dbname=")[2]
    with postgres.connect(pg.dsn("postgres"), "tests") as session:
        session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
