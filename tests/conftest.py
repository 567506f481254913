"""Fixtures of all tests: a real PostgreSQL server for the test run, and a fresh database for each test."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from psycopg import sql

from penstock import postgres
from penstock.topics.embedded import EmbeddedServer
from tests.reaper import VARIABLE, short_folder

QUICK: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}
"""Tests kill processes, never the machine, so data that the kernel has accepted survives without fsync."""

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
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def new_database(pg: EmbeddedServer) -> Callable[[], str]:
    """Create a fresh, empty database and return its DSN; for tests that need several, otherwise use `database`."""

    def make() -> str:
        name = f"test_{next(_numbers)}"
        with postgres.connect(pg.dsn("postgres"), "tests") as session:
            session.execute(sql.SQL("CREATE DATABASE {} STRATEGY file_copy").format(sql.Identifier(name)))
        return pg.dsn(name)

    return make


@pytest.fixture
def database(pg: EmbeddedServer, new_database: Callable[[], str]) -> Iterator[str]:
    """The DSN of a fresh, empty database, dropped after the test even if sessions are still open."""
    dsn = new_database()
    yield dsn
    name = dsn.rpartition("dbname=")[2]
    with postgres.connect(pg.dsn("postgres"), "tests") as session:
        session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
