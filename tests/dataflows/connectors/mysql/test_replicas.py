"""A server that really replicates another one: its cursors need a lag, which counts from what was replicated."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors.contract import Place
from dataflows.connectors.mysql.connector import MysqlConnector
from dataflows.connectors.mysql.replication import late
from dataflows.data.cursors import CursorRule, Window
from penstock.errors import Refused, Unavailable
from penstock.models.connection import parse_connection
from tests.dataflows.conftest import Launchers, task_of
from tests.mariadb import SECRET, MysqlServer, program
from tests.reaper import short_folder

WAIT = 30.0
SECOND = timedelta(seconds=1)
_numbers = count(1)


@dataclass
class Pair:
    """Two servers, of which `replica` repeats what is written to `source`."""

    source: MysqlServer
    replica: MysqlServer
    started: list[MysqlServer] = field(default_factory=list)

    def follow(self, name: str = "", *, start: bool = True, **options: str) -> None:
        """Let the replica follow the source, by a connection of that name."""
        own, after = (
            (f"'{name}' ", "") if name and self.replica.mariadb else ("", f" FOR CHANNEL '{name}'" if name else "")
        )
        given = {
            "MASTER_HOST": "'127.0.0.1'", "MASTER_PORT": str(self.source.port), "MASTER_USER": "'repl'",
            "MASTER_PASSWORD": f"'{SECRET}'", "MASTER_CONNECT_RETRY": "1", **options,
        }  # fmt: skip
        settings = ", ".join(f"{name} = {value}" for name, value in given.items())
        self.replica.query(f"CHANGE MASTER {own}TO {settings}{after}")
        if start:
            self.replica.query(f"START SLAVE {own}{after}")

    def forget(self) -> None:
        """Make the replica a server of its own again."""
        self.replica.query("STOP ALL SLAVES" if self.replica.mariadb else "STOP SLAVE")
        for name in [row[0] for row in self.replica.query("SHOW ALL SLAVES STATUS")] if self.replica.mariadb else [""]:
            self.replica.query(f"RESET SLAVE {repr(name) if self.replica.mariadb else ''} ALL")

    def write(self, statement: str) -> None:
        self.source.query(statement, "shop")

    def caught_up(self) -> None:
        """Wait until the replica has all of the source's rows."""
        wanted, end = self.source.query("SELECT count(*) FROM t", "shop"), time.monotonic() + WAIT
        while time.monotonic() < end:
            if self.ids() == wanted[0][0]:
                return
            time.sleep(0.05)
        raise AssertionError(self.replica.query("SHOW SLAVE STATUS"))

    def ids(self) -> int:
        there = self.replica.query("SELECT 1 FROM information_schema.tables WHERE table_schema = 'shop'")
        return int(self.replica.query("SELECT count(*) FROM t", "shop")[0][0]) if there else -1

    def asked(
        self,
        cursor: str = "at",
        lag: timedelta | None = None,
        user: str = "penstock",
        server: MysqlServer | None = None,
        **more: Any,
    ) -> tuple[Window, tuple[str, ...]]:
        """Return the window of a cursor, and its risks."""
        server = server or self.replica
        settings = parse_connection("shop", server.connection("shop", user=user))
        with closing(MysqlConnector.source(Place("items", "shop", settings, "t", server.home))) as source:
            table = source.describe()
            column = table.column(cursor)
            assert column
            rule = CursorRule(lag, **more) if lag else CursorRule(**more)
            return source.window(table, column, None, rule), source.risks(table, column, rule)

    def window(self, *args: Any, **more: Any) -> Window:
        return self.asked(*args, **more)[0]


def started(number: int, *more: str) -> MysqlServer:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = MysqlServer(short_folder(), port, program())
    server.make()
    server.start(f"--server-id={number}", "--log-bin=bin", *more)
    (server.home / "secret").write_text(SECRET)
    return server


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    pair = Pair(started(1), started(2))
    try:
        pair.source.query(f"CREATE USER repl@'%' IDENTIFIED BY '{SECRET}'")
        pair.source.query("GRANT REPLICATION SLAVE ON *.* TO repl@'%'")
        pair.source.query(f"CREATE USER penstock@'%' IDENTIFIED BY '{SECRET}'")
        pair.source.query("GRANT ALL ON *.* TO penstock@'%'")
        pair.source.query(f"CREATE USER reader@'%' IDENTIFIED BY '{SECRET}'")
        pair.source.query("GRANT SELECT, LOCK TABLES, PROCESS ON *.* TO reader@'%'")
        pair.source.query("CREATE DATABASE shop")
        pair.source.query(
            "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6) NOT NULL DEFAULT now(6))"
        )
        pair.write("INSERT INTO t (at) VALUES (now(6) - INTERVAL 1 HOUR), (now(6) - INTERVAL 50 MINUTE)")
        pair.follow()
        pair.caught_up()
        pair.forget()
        yield pair
    finally:
        for server in (pair.source, pair.replica):
            server.stop()
            shutil.rmtree(server.home)


@pytest.fixture
def pair(servers: Pair) -> Iterator[Pair]:
    yield servers
    servers.forget()


def reached(window: Window) -> datetime:
    assert window.upper is not None
    return datetime.fromisoformat(window.upper)


def written(pair: Pair) -> list[datetime]:
    return [row[0] for row in pair.source.query("SELECT at FROM t ORDER BY id", "shop")]


@pytest.mark.parametrize("name", ["", "other"])
def test_a_replica_needs_a_lag(pair: Pair, name: str) -> None:
    pair.follow(name)
    pair.write("INSERT INTO t VALUES ()")
    pair.caught_up()
    for cursor, rule in (("at", {}), ("at", {"idempotent": True}), ("id", {"ordered": True})):
        with pytest.raises(Refused, match="the server is a replica"):
            pair.window(cursor, **rule)
    time.sleep(1.2)
    assert reached(pair.window(lag=SECOND)) == written(pair)[-1]
    for lag, notes in ((SECOND, 1), (timedelta(minutes=2), 0)):
        assert sum("slave_net_timeout" in one for one in pair.asked(lag=lag)[1]) == notes
        assert not any("slave_net_timeout" in one for one in pair.asked(lag=lag, server=pair.source)[1])


@pytest.mark.parametrize(
    ("connection", "applying", "seconds"),
    [("Connecting", "Yes", 3), ("No", "Yes", 3), ("Yes", "No", 3), ("Yes", "Yes", None)],
)
def test_a_replication_that_is_not_running_is_refused_whatever_it_reports(
    connection: str, applying: str, seconds: int | None
) -> None:
    for name, of in (("Replica", "Source"), ("Slave", "Master")):
        status = {f"{name}_IO_Running": connection, f"{name}_SQL_Running": applying, f"Seconds_Behind_{of}": seconds}
        with pytest.raises(Unavailable, match="does not follow its source"):
            late(status, "here")
        running = {f"{name}_IO_Running": "Yes", f"{name}_SQL_Running": "Yes", f"Seconds_Behind_{of}": 3}
        assert late(running, "here") == timedelta(seconds=3)


@pytest.mark.parametrize("stopped", ["SLAVE", "SLAVE SQL_THREAD", "SLAVE IO_THREAD"])
def test_a_replica_that_does_not_follow_is_refused(pair: Pair, stopped: str) -> None:
    pair.follow()
    pair.caught_up()
    pair.replica.query(f"STOP {stopped}")
    with pytest.raises(Unavailable, match="does not follow its source"):
        pair.window(lag=SECOND)
    with pytest.raises(Refused, match="the server is a replica"):
        pair.window()
    pair.replica.query("START SLAVE")
    pair.caught_up()
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        try:
            assert pair.window(lag=SECOND).upper
            return
        except Unavailable:
            time.sleep(0.1)
    raise AssertionError(pair.replica.query("SHOW SLAVE STATUS"))


def refused_in_time(pair: Pair) -> bool:
    """Return True as soon as the replica counts as one that does not follow its source."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        try:
            pair.window(lag=SECOND)
        except Unavailable as error:
            return "does not follow its source" in error.what
        time.sleep(0.1)
    return False


def test_a_replica_whose_source_is_gone_is_refused(pair: Pair) -> None:
    pair.follow()
    pair.caught_up()
    pair.source.stop()
    try:
        assert refused_in_time(pair)
    finally:
        pair.source.start("--server-id=1", "--log-bin=bin")


def test_one_of_several_sources_that_is_behind_counts(pair: Pair) -> None:
    pair.follow()
    pair.follow("other", start=False, MASTER_HOST="'localhost'")
    with pytest.raises(Unavailable, match="does not follow its source"):
        pair.window(lag=SECOND)


def test_a_lag_counts_from_what_was_replicated(pair: Pair) -> None:
    """Rows that have not arrived yet are in a later window, however short the lag is."""
    pair.follow(MASTER_DELAY="4")
    pair.caught_up()
    for _ in range(3):
        pair.write("INSERT INTO t VALUES ()")
        time.sleep(0.9)
    missing = written(pair)[pair.ids() :]
    assert len(missing) >= 2, "the replica is delayed by 4 seconds"
    first = pair.window(lag=SECOND)
    assert reached(first) < min(missing)
    pair.caught_up()
    time.sleep(1.2)
    assert reached(pair.window(lag=SECOND)) == written(pair)[-1]


@pytest.mark.parametrize("lag", [None, SECOND])
def test_a_user_who_may_not_see_the_replication_is_told_which_right_is_missing(
    pair: Pair, lag: timedelta | None
) -> None:
    pair.follow()
    pair.caught_up()
    with pytest.raises(Refused, match="REPLICA MONITOR"):
        pair.window(lag=lag, user="reader")
    assert pair.window(lag=lag, user="reader", server=pair.source).upper


def test_a_pipeline_reads_each_row_of_a_replica_once(pair: Pair, tmp_path: Path, launchers: Launchers) -> None:
    pair.follow()
    pair.caught_up()
    uid = f"00000000-0000-4000-b000-{next(_numbers):012d}"
    connections = {
        "shop": pair.replica.connection("shop"), "lake": {"type": "sqlite", "path": str(tmp_path / "lake.db")},
    }  # fmt: skip

    def run(name: str, **cursor: Any) -> dict[str, Any]:
        spec = {
            "source": {"connection": "shop", "object": "t", "cursor": {"field": "at", **cursor}},
            "sink": {"connection": "lake", "object": "t", "write": "append"},
        }
        more = {"secrets": str(pair.replica.home)}
        return launchers.run(task_of(name, uid, connections, spec, tmp_path, **more))

    error = run("r0")["error"]
    assert (error["code"], "the server is a replica" in error["what"]) == ("refused", True), error
    seen = 0
    for number in range(1, 4):
        done = run(f"r{number}", lag="1s")
        assert done["status"] == "completed", done["error"]
        seen += done["counters"]["rows_out"]
        pair.write("INSERT INTO t VALUES ()")
        time.sleep(1.2)
    pair.caught_up()
    time.sleep(1.2)
    seen += run("r9", lag="1s")["counters"]["rows_out"]
    assert seen == len(written(pair))
