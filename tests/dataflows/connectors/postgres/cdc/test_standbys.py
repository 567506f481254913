"""Servers that look like the one that was read: restored from an older copy, a standby, a standby that was promoted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.topics.embedded import EmbeddedServer
from tests.conftest import CHANGES, QUICK
from tests.dataflows.connectors.postgres.cdc.conftest import Changes
from tests.reaper import short_folder

pytestmark = pytest.mark.xdist_group("cdc")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that a server's account can reach."""
    made = short_folder()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Run a server with its data in `home`; yield the DSN of a database."""
    server = EmbeddedServer(home, configuration=QUICK | CHANGES)
    with server.lease():
        yield server.dsn("postgres")


def copied(home: Path, name: str) -> Path:
    """Copy the data of a server that does not run."""
    subprocess.run(["cp", "--archive", home, home.with_name(name)], check=True)
    return home.with_name(name)


def done(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        for one in statements:
            session.execute(one)


def test_another_state_of_the_server_is_refused(changes: Callable[..., Changes], home: Path) -> None:
    made = changes(rows=0)

    def reading(dsn: str, run: str) -> dict[str, Any]:
        task = made.task(run)
        return task | {"connections": task["connections"] | {"shop": {"type": "postgres", "dsn": dsn}}}

    def until(dsn: str, run: str, rows: int) -> None:
        task = reading(dsn, run)
        pid = made.launchers.start(task)
        made.until("SELECT to_regclass('{t}') IS NOT NULL")
        made.until(f"SELECT count(*) = {rows} FROM {{t}}")
        made.stop(pid, task)

    def refused(dsn: str, run: str) -> str:
        return str(made.launchers.run(reading(dsn, run))["error"]["what"])

    first, more = "SELECT generate_series(1, 5)", "SELECT generate_series(6, 9)"
    with serving(home / "a") as dsn:
        done(dsn, f"CREATE TABLE {made.source} (id int PRIMARY KEY)", f"INSERT INTO {made.source} {first}")
        until(dsn, "r1", 5)
    older = copied(home / "a", "older")
    with serving(home / "a") as dsn:
        done(dsn, f"INSERT INTO {made.source} {more}")
        until(dsn, "r2", 9)
    standby = copied(home / "a", "standby")
    (standby / "data" / "standby.signal").touch()
    with serving(older) as dsn:
        assert "it was restored" in refused(dsn, "r3")
    with serving(standby) as dsn:
        assert "the server is a standby" in refused(dsn, "r4")
        done(dsn, "SELECT pg_promote()")
        assert "the server is on timeline 2, and the position on 1" in refused(dsn, "r5")
    with serving(home / "a") as dsn:
        done(dsn, f"DELETE FROM {made.source} WHERE id < 3")
        until(dsn, "r6", 7)


def test_a_server_that_is_killed_loses_and_doubles_nothing(changes: Callable[..., Changes], home: Path) -> None:
    made = changes(rows=0)
    server = EmbeddedServer(home / "a", configuration=QUICK | CHANGES)
    server.acquire()
    task = made.task()
    task["connections"] |= {"shop": {"type": "postgres", "dsn": server.dsn("postgres")}}
    done(server.dsn("postgres"), f"CREATE TABLE {made.source} (id int PRIMARY KEY)")
    pid = made.launchers.start(task)
    for number in range(1, 4):
        done(server.dsn("postgres"), f"INSERT INTO {made.source} SELECT generate_series({number}00, {number}50)")
        made.until("SELECT to_regclass('{t}') IS NOT NULL")
        made.until(f"SELECT count(*) = {number * 51} FROM {{t}}")
        if number < 3:
            os.kill(int((home / "a" / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            assert made.launchers.ended(pid, task)["error"]["transient"]
            server.ensure()
            pid = made.launchers.start(task | {"attempt": number + 1})
    made.stop(pid, task)
    server.release()
