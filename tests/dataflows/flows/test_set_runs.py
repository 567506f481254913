"""Runs of a set by a worker: whichever member fails, waits or dies, the others load their tables, each row once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg
import pytest

from penstock import postgres
from tests.agents.control_plane import pipeline_set
from tests.dataflows.flows.installation import Installation, until

ROWS = 50
POINTS = ("prepare.planned", "commit.sent:0", "commit.done:0", "publish.moved", "result.before")


@dataclass
class Shop:
    """Set that replaces the tables of `public` in schema `sales` of one database, with all flows but the worker."""

    installation: Installation
    session: psycopg.Connection[Any]
    tables: str

    def started(self) -> dict[str, Any]:
        """Return the last process of each member by the name of its table."""
        tasks = {one.key: one.payload["pipeline"] for one in self.installation.of("task.assigned")}
        begun = ((tasks[one.payload["task"]], one.payload["pid"]) for one in self.installation.of("task.started"))
        return {name.rpartition(".")[2]: pid for name, pid in begun if "/" in name}

    def killed(self, name: str) -> bool:
        """Kill the last process of a member; return False if it has ended by itself."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.started()[name])
            if "dataflows" in " ".join(process.cmdline()):
                process.kill()
                return True
        return False

    def ends(self) -> dict[str, str]:
        """Return how the runs have ended, by the names of their tables."""
        runs = [one.payload["run"] for one in self.installation.of("run.finished")]
        return {run["pipeline"].rpartition(".")[2]: run["status"] for run in runs}

    def await_ends(self, tables: str, status: str = "completed") -> None:
        wanted = dict.fromkeys(tables, status)
        until(lambda: wanted.items() <= self.ends().items(), f"{tables} to be {status}", 90)

    def check_rows(self, tables: str) -> None:
        """Assert that each of these targets has each row of its source once."""
        for name in tables:
            for first, second in (("public", "sales"), ("sales", "public")):
                query = f"SELECT count(*) FROM (TABLE {first}.{name} EXCEPT ALL TABLE {second}.{name}) t"
                assert self.session.execute(query).fetchone() == (0,), name


@pytest.fixture
def shop(installation: Installation, fresh: Callable[[], str], request: pytest.FixtureRequest) -> Iterator[Shop]:
    dsn, tables = fresh(), request.param
    with postgres.connect(dsn, "tests") as session:
        session.execute("CREATE SCHEMA sales")
        for name in tables:
            session.execute(f"CREATE TABLE public.{name} (id bigint PRIMARY KEY, name text)")
            session.execute(f"INSERT INTO {name} SELECT n, 'row ' || n FROM generate_series(1, {ROWS}) n")
        installation.start("control", "projector", "scheduler")
        for name in ("shop", "house"):
            installation.done("connection.put", name=name, connection={"type": "postgres", "dsn": dsn})
        document = pipeline_set("shop", "public.*", sink={"object": "sales.{table}", "write": "replace"})
        installation.done("pipeline.apply", pipeline=document)
        yield Shop(installation, session, tables)


@pytest.mark.parametrize("shop", ["abcdef"], indirect=True)
def test_a_member_that_waits_fails_or_dies_takes_no_other_with_it(shop: Shop, fresh: Callable[[], str]) -> None:
    installation, session = shop.installation, shop.session
    session.execute("CREATE TABLE sales.b (id bigint CHECK (id <> 7), name text); CREATE VIEW sales.d AS SELECT 1 AS x")
    session.execute("BEGIN; LOCK TABLE public.a")
    installation.start("worker")
    installation.done("run.start", pipeline="shop")
    shop.await_ends("bd", "failed")
    shop.await_ends("cef")
    assert "a" not in shop.ends(), "its source is locked"
    returned = {one.payload["task"] for one in installation.of("task.returned")}
    behind = [one for one in installation.of("task.assigned") if "after" in one.payload]
    assert returned & {one.key for one in behind}, "what waited behind it went to the other process"
    until(lambda: shop.killed("a"), "a process of it to be killed: another attempt begins when it has waited for long")
    until(lambda: installation.of("task.failed"), "the report of its death")
    session.execute("ROLLBACK")
    shop.await_ends("a")
    shop.check_rows("acef")
    assert {one.payload["error"]["code"] for one in installation.of("run.finished") if "error" in one.payload} == {
        "data.too_many_refused",
        "refused",
    }
    installation.check_answers()
    installation.check_catalog(fresh())


@pytest.mark.chaos
@pytest.mark.parametrize("shop", ["abcdefghijklmnopqrst"], indirect=True)
@pytest.mark.parametrize("point", POINTS)
def test_each_process_of_a_set_is_killed_once_and_no_row_is_lost_or_doubled(shop: Shop, point: str) -> None:
    installation = shop.installation
    installation.start("worker", PENSTOCK_FAILPOINT=f"{point}=kill")
    installation.done("run.start", pipeline="shop")
    installation.await_records("task.failed", 8)
    (worker,) = (one for one in installation.started if one.names == ("worker",))
    worker.kill()
    installation.start("worker")
    shop.await_ends(shop.tables)
    shop.check_rows(shop.tables)
    installation.check_answers()
