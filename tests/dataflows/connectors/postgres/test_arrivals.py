"""Sources whose rows come from another server: a hot standby, and a table that a subscription fills, by real servers.

What is open at their origin cannot be seen there, so a cursor needs a lag, which counts from what has arrived.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataflows.connectors.contract import Place
from dataflows.connectors.postgres.connector import PostgresConnector
from dataflows.data.cursors import CursorRule, Window
from penstock.errors import PenstockError, Refused
from penstock.models.connection import parse_connection
from penstock.topics.embedded import EmbeddedServer, _programs_for
from tests.reaper import short_folder

SECOND, WAIT = timedelta(seconds=1), 20.0
SETTINGS = (
    "-c listen_addresses='' -c fsync=off -c wal_level=logical -c max_wal_senders=4 -c max_replication_slots=4 "
    "-c shared_buffers=16MB -c wal_sender_timeout=4s -c max_worker_processes=8"
)


@dataclass
class Server:
    """A server of its own, as the account that `pg` has, at a socket in `home`."""

    home: Path
    options: dict[str, Any]
    programs: Path

    def run(self, program: str, *words: str) -> None:
        command = [str(self.programs / program), *words]
        with (self.home / "said").open("ab") as said:
            done = subprocess.run(command, cwd=self.home, stdout=said, stderr=said, check=False, **self.options)
        assert done.returncode == 0, (self.home / "said").read_text()

    def start(self) -> None:
        self.run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", f"-k {self.home} {SETTINGS}", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", "data", "-m", "immediate", "stop")

    def dsn(self, database: str = "postgres") -> str:
        return f"host={self.home} user=postgres dbname={database}"

    def query(self, text: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn(database), autocommit=True) as session:
            found = session.execute(text)
            return found.fetchall() if found.description else []

    def window(
        self, cursor: str = "at", lag: timedelta | None = None, database: str = "postgres", table: str = "t"
    ) -> Window:
        settings = parse_connection("shop", {"type": "postgres", "dsn": self.dsn(database)})
        with closing(PostgresConnector.source(Place("items", "shop", settings, f"public.{table}"))) as source:
            found = source.describe()
            column = found.column(cursor)
            assert column
            return source.window(found, column, None, CursorRule(lag) if lag else CursorRule())


@pytest.fixture(scope="module")
def new_server(pg: EmbeddedServer) -> Iterator[Callable[[], Server]]:
    account, place = pg._where()
    programs = _programs_for(account, place)
    made: list[Server] = []

    def make() -> Server:
        home = short_folder()
        account.own(home)
        made.append(Server(home, dict(account.options()), programs))
        return made[-1]

    yield make
    for server in reversed(made):
        with suppress(AssertionError):
            server.stop()
        shutil.rmtree(server.home)


@pytest.fixture(scope="module")
def primary(new_server: Callable[[], Server]) -> Server:
    server = new_server()
    server.run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
    server.start()
    server.query("CREATE TABLE t (id serial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())")
    server.query("INSERT INTO t (at) VALUES (now() - interval '1 hour')")
    return server


@pytest.fixture(scope="module")
def standby(primary: Server, new_server: Callable[[], Server]) -> Server:
    server = new_server()
    server.run("pg_basebackup", "-d", primary.dsn(), "-D", "data", "-R", "-X", "stream", "-c", "fast")
    server.start()
    return server


@pytest.fixture(scope="module")
def subscriber(primary: Server) -> str:
    """Name of a database of the primary in which a subscription fills the table `t`."""
    primary.query("CREATE DATABASE origin")
    primary.query("CREATE DATABASE copied")
    make = "CREATE TABLE t (id serial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())"
    for name in ("origin", "copied"):
        primary.query(make, name)
    primary.query("INSERT INTO t (at) VALUES (now() - interval '1 hour')", "origin")
    primary.query("CREATE PUBLICATION sent FOR TABLE t", "origin")
    primary.query("SELECT pg_create_logical_replication_slot('sent', 'pgoutput')", "origin")
    primary.query(
        f"CREATE SUBSCRIPTION got CONNECTION '{primary.dsn('origin')}' PUBLICATION sent "
        "WITH (create_slot = false, slot_name = 'sent')",
        "copied",
    )
    return "copied"


def eventually(made: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not made():
        assert time.monotonic() < end
        time.sleep(0.05)


def reached(window: Window) -> datetime:
    assert window.upper is not None
    return datetime.fromisoformat(window.upper)


def seen(server: Server, database: str = "postgres") -> int:
    return int(server.query("SELECT count(*) FROM t", database)[0][0])


def read_in_time(asked: Callable[[], Window], wanted: datetime) -> None:
    """Check that windows reach a time soon, and never go beyond it."""

    def made() -> bool:
        found = asked()
        assert found.upper is None or reached(found) <= wanted
        return found.upper is not None and reached(found) == wanted

    eventually(made)


def test_a_standby_needs_a_lag_which_counts_from_what_it_has_replayed(primary: Server, standby: Server) -> None:
    primary.query("INSERT INTO t DEFAULT VALUES")
    eventually(lambda: seen(standby) == seen(primary))
    for cursor in ("at", "id"):
        with pytest.raises(Refused, match="hot standby"):
            standby.window(cursor)
    ((old,),) = primary.query("SELECT max(at) FROM t")
    read_in_time(lambda: standby.window(lag=SECOND), old)
    standby.query("SELECT pg_wal_replay_pause()")
    try:
        primary.query("INSERT INTO t DEFAULT VALUES")
        ((new,),) = primary.query("SELECT max(at) FROM t")
        time.sleep(1.5)
        assert reached(standby.window(lag=SECOND)) <= old < new
    finally:
        standby.query("SELECT pg_wal_replay_resume()")
    eventually(lambda: seen(standby) == seen(primary))
    read_in_time(lambda: standby.window(lag=SECOND), new)


@contextmanager
def locked(server: Server, database: str, table: str = "t") -> Iterator[None]:
    """Hold a lock that lets nobody write to the table, though all may read it."""
    with psycopg.connect(server.dsn(database)) as session:
        session.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        yield


def test_a_subscription_needs_a_lag_which_counts_from_what_it_has_applied(primary: Server, subscriber: str) -> None:
    eventually(lambda: seen(primary, subscriber) == seen(primary, "origin"))
    primary.query("INSERT INTO t DEFAULT VALUES", "origin")
    eventually(lambda: seen(primary, subscriber) == seen(primary, "origin"))
    for cursor in ("at", "id"):
        with pytest.raises(Refused, match="subscription"):
            primary.window(cursor, database=subscriber)
    ((old,),) = primary.query("SELECT max(at) FROM t", "origin")
    read_in_time(lambda: primary.window(lag=SECOND, database=subscriber), old)
    with locked(primary, subscriber):
        primary.query("INSERT INTO t DEFAULT VALUES", "origin")
        ((new,),) = primary.query("SELECT max(at) FROM t", "origin")
        time.sleep(2)
        assert reached(primary.window(lag=SECOND, database=subscriber)) <= old < new
    eventually(lambda: seen(primary, subscriber) == seen(primary, "origin"))
    read_in_time(lambda: primary.window(lag=SECOND, database=subscriber), new)


def test_a_subscription_that_does_not_run_is_refused(primary: Server, subscriber: str) -> None:
    eventually(lambda: seen(primary, subscriber) == seen(primary, "origin"))
    primary.query("ALTER SUBSCRIPTION got DISABLE", subscriber)
    try:

        def made() -> bool:
            with suppress(PenstockError):
                primary.window(lag=SECOND, database=subscriber)
                return False
            return True

        eventually(made)
        with pytest.raises(Refused, match="the subscription is not running"):
            primary.window(lag=SECOND, database=subscriber)
    finally:
        primary.query("ALTER SUBSCRIPTION got ENABLE", subscriber)
    unknown = "SELECT 1 FROM pg_stat_subscription WHERE latest_end_time IS NULL"
    eventually(lambda: not primary.query(unknown, subscriber))


def test_a_subscription_to_other_tables_holds_no_window_back(primary: Server, subscriber: str) -> None:
    eventually(lambda: seen(primary, subscriber) == seen(primary, "origin"))
    idle = "PUBLICATION others WITH (connect = false, slot_name = NONE)"
    primary.query(f"CREATE SUBSCRIPTION idle CONNECTION '{primary.dsn('origin')}' {idle}", subscriber)
    try:
        assert primary.window(lag=SECOND, database=subscriber).upper
    finally:
        primary.query("DROP SUBSCRIPTION idle", subscriber)


def test_a_table_that_is_still_copied_is_refused(primary: Server, subscriber: str) -> None:
    eventually(lambda: seen(primary, subscriber) == seen(primary, "origin"))
    for name in ("origin", subscriber):
        primary.query("CREATE TABLE u (id serial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())", name)
    primary.query("INSERT INTO u (at) VALUES (now() - interval '1 hour'), (now() - interval '2 hours')", "origin")
    primary.query("ALTER PUBLICATION sent ADD TABLE u", "origin")
    with locked(primary, subscriber, "u"):
        primary.query("ALTER SUBSCRIPTION got REFRESH PUBLICATION", subscriber)
        copying = "SELECT 1 FROM pg_subscription_rel WHERE srrelid = 'u'::regclass AND srsubstate = 'd'"
        eventually(lambda: bool(primary.query(copying, subscriber)))
        with pytest.raises(Refused, match="still copies its tables"):
            primary.window(lag=SECOND, database=subscriber, table="u")
        assert primary.window(lag=SECOND, database=subscriber).upper

    def made() -> bool:
        with suppress(PenstockError):
            return primary.window(lag=SECOND, database=subscriber, table="u").upper is not None
        return False

    eventually(made)
