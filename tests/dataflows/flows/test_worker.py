"""Workers and schedulers as processes: whichever dies midway, the run continues elsewhere and its rows are exact."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from dataflows.scheduler import worker_lock
from penstock import postgres
from penstock.records import Record
from penstock.topics.postgres import PostgresLog
from tests.agents.control_plane import ERROR, pipeline
from tests.dataflows.flows.installation import Flow, Installation, take_lock_from, until

ROWS = 250_000
"""Rows of three splits."""


@dataclass
class Copy:
    """Pipeline that copies `public.items` to `sales.items` of one database, with control and projector running."""

    installation: Installation
    session: psycopg.Connection[Any]

    def run(self) -> str:
        return str(self.installation.done("run.start", pipeline="items")["run"])

    def hold(self) -> None:
        """Lock the sink against all writers."""
        self.session.execute("BEGIN; LOCK TABLE sales.items IN SHARE MODE")

    def let_go(self) -> None:
        self.session.execute("ROLLBACK")

    def waits(self) -> bool:
        """True if a run waits to write."""
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'sales.items'::regclass"
        return bool((self.session.execute(query).fetchone() or (0,))[0])

    def finished(self, status: str = "completed") -> dict[str, Any]:
        """Wait for the run's last record, and return it."""
        (record,) = until(lambda: self.installation.of("run.finished"), "the run to finish", 60)
        found: dict[str, Any] = record.payload
        assert found["run"]["status"] == status, found
        return found

    def check_rows(self) -> None:
        """Assert that the sink has each of the source's rows once."""
        missing = "SELECT count(*) FROM (TABLE public.items EXCEPT ALL TABLE sales.items) t"
        for query, count in (
            (missing, 0),
            *((f"SELECT count(*) FROM {one}.items", ROWS) for one in ("public", "sales")),
        ):
            assert self.session.execute(query).fetchone() == (count,)


@pytest.fixture
def copy(installation: Installation, fresh: Callable[..., str]) -> Iterator[Copy]:
    dsn = fresh()
    with postgres.connect(dsn, "tests") as session:
        session.execute(
            "CREATE TABLE public.items (id bigint PRIMARY KEY, name text); CREATE SCHEMA sales;"
            "CREATE TABLE sales.items (id bigint, name text)"
        )
        session.execute("INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, %s) n", [ROWS])
        session.execute("ANALYZE items")
        installation.start("control", "projector", "scheduler")
        for name in ("shop", "house"):
            installation.done("connection.put", name=name, connection={"type": "postgres", "dsn": dsn})
        document = pipeline("items")
        document["spec"]["source"]["cursor"] = {"field": "id", "ordered": True}
        installation.done("pipeline.apply", pipeline=document)
        yield Copy(installation, session)


def joined(installation: Installation, count: int) -> list[str]:
    """Wait for `count` workers; return their names."""
    return [record.key for record in installation.await_records("worker.joined", count)]


def processes_of(installation: Installation) -> list[psutil.Process]:
    """Return the processes of the runs that have started."""
    return [psutil.Process(one.payload["pid"]) for one in installation.await_records("task.started", 1)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def lost(installation: Installation, worker: str) -> list[Record]:
    return [record for record in installation.of("worker.lost") if record.key == worker]


def writing(copy: Copy) -> tuple[Flow, str, list[psutil.Process]]:
    """Start a worker, and a run that waits to write; return the worker, its name, and its processes."""
    worker = copy.installation.start("worker")
    (name,) = joined(copy.installation, 1)
    copy.hold()
    copy.run()
    until(copy.waits, "the run to write")
    return worker, name, processes_of(copy.installation)


def test_a_run_of_a_killed_worker_ends_and_is_resumed_elsewhere(copy: Copy) -> None:
    installation = copy.installation
    worker, first, processes = writing(copy)
    worker.kill()
    until(lambda: gone(processes), "the run's processes to die with their worker", 5)
    installation.start("worker")
    until(lambda: lost(installation, first), "the scheduler to report that the worker is lost")
    installation.await_records("task.assigned", 2)
    copy.let_go()
    counters = copy.finished()["run"]["counters"]
    assert (counters["rows_in"], counters["rows_out"]) == (ROWS, ROWS)
    copy.check_rows()
    assert [r.payload["attempt"] for r in installation.of("task.assigned")] == [1, 2]
    assert len(lost(installation, first)) == 1
    installation.check_answers()


def test_a_workers_process_is_ready_for_the_next_run_and_ends_with_it(copy: Copy) -> None:
    installation = copy.installation
    worker = installation.spawn("worker")
    (ready,) = until(worker.children, "a process for the next task")
    copy.run()
    until(lambda: len(installation.of("run.finished")) == 1, "the run to finish", 60)
    copy.session.execute("INSERT INTO items VALUES (0, 'below'), (%s, 'above')", (ROWS + 1,))
    copy.run()
    until(lambda: len(installation.of("run.finished")) == 2, "another one", 60)
    assert [record.payload["pid"] for record in installation.await_records("task.started", 2)] == [ready.pid, ready.pid]
    assert copy.session.execute("SELECT count(*) FROM sales.items").fetchone() == (ROWS + 1,)
    ready.kill()
    copy.session.execute("INSERT INTO items VALUES (%s, 'and more')", (ROWS + 2,))
    copy.run()
    until(lambda: len(installation.of("run.finished")) == 3, "a run without it", 60)
    assert copy.session.execute("SELECT count(*) FROM sales.items").fetchone() == (ROWS + 2,)
    kept = until(worker.children, "another one")
    worker.kill()
    until(lambda: gone(kept), "it to die with its worker", 5)


def test_a_run_killed_midway_is_retried_without_lost_or_doubled_rows(copy: Copy, fresh: Callable[..., str]) -> None:
    installation = copy.installation
    installation.start("worker", PENSTOCK_FAILPOINT="commit.done:0=kill")
    run = copy.run()
    assert copy.finished()["run"]["counters"]["rows_out"] == ROWS
    copy.check_rows()
    (failed,) = installation.of("task.failed")
    assert failed.payload["error"]["code"] == "run.crashed"
    (requested,), (fired,) = installation.of("timer.requested"), installation.of("timer.fired")
    assert requested.payload["timer"] == fired.payload["timer"]
    (again,) = [one for one in installation.of("task.assigned") if one.payload["kind"] == "pipeline"][1:]
    assert 1.0 <= (again.at - failed.at).total_seconds() < 5.0, "after a second's wait"
    installation.projected()
    errors = installation.catalog("SELECT run, attempt, code FROM catalog.errors")
    assert errors == [(run, 1, "run.crashed")]
    installation.check_answers()
    installation.check_catalog(fresh(catalog=True))


def test_a_worker_that_lost_its_lock_stops_and_rows_are_exact(copy: Copy) -> None:
    installation = copy.installation
    zombie, first, processes = writing(copy)
    zombie.send(signal.SIGSTOP)
    take_lock_from(installation, first[:20])
    installation.start("worker")
    until(lambda: lost(installation, first), "the scheduler to report that the worker is lost")
    installation.await_records("task.started", 2)
    zombie.send(signal.SIGCONT)
    assert zombie.ended() == 1, zombie.said
    until(lambda: gone(processes), "the zombie's processes to end with it")
    copy.let_go()
    copy.finished()
    copy.check_rows()
    installation.check_answers()


def test_a_stopped_worker_reports_it_and_leaves_no_process(copy: Copy) -> None:
    installation = copy.installation
    worker, first, processes = writing(copy)
    worker.send(signal.SIGTERM)
    assert worker.ended(15) == 0, worker.said
    assert gone(processes)
    until(lambda: lost(installation, first), "its goodbye")
    assert lost(installation, first)[0].payload["reason"] == "it was stopped"
    copy.let_go()
    installation.start("worker")
    copy.finished()
    copy.check_rows()


def test_a_permanent_error_is_recorded_and_ends_the_run(copy: Copy) -> None:
    installation = copy.installation
    installation.start("worker")
    copy.session.execute("DROP TABLE public.items")
    run = copy.run()
    assert copy.finished("failed")["error"]["code"] == "schema.missing_table"
    (raised,) = installation.of("error.raised")
    assert (raised.payload["run"], raised.payload["pipeline"]) == (run, "items")
    assert {one.payload["kind"]: one.payload["attempt"] for one in installation.of("task.assigned")}["pipeline"] == 1
    installation.projected()
    assert installation.catalog("SELECT status FROM catalog.runs") == [("failed",)]
    assert installation.catalog("SELECT code FROM catalog.errors") == [("schema.missing_table",)]


def append(installation: Installation, type_: str, key: str, **payload: Any) -> None:
    from penstock.clock import now
    from penstock.records import encode
    from penstock.topics.table import CONTROL

    record = Record(type=type_, key=key, at=now(), actor="worker:tests", payload=payload)
    installation.log.append(CONTROL, [encode(record)])


def test_only_one_of_two_schedulers_reports_and_the_other_takes_over(busy: Installation) -> None:
    busy.start("control", "projector")
    schedulers = [busy.start("scheduler")]
    busy.all_answered()
    with PostgresLog(busy.log_dsn, name="worker") as alive:
        alive.lock(worker_lock("w"), wait=True)
        append(busy, "worker.joined", "w", worker="w", kinds=["pipeline"], slots=1)
        busy.done("run.start", pipeline="p0")
        for count in (1, 2):
            assigned = busy.await_records("task.assigned", count)[-1].payload
            attempt = {name: assigned[name] for name in ("task", "attempt", "worker")}
            append(busy, "task.failed", assigned["task"], **attempt, error=ERROR)
            busy.await_records("timer.fired", count)
            schedulers.append(busy.start("scheduler"))
            schedulers[-2].kill()
        assert lost(busy, "w") == []
    until(lambda: lost(busy, "w"), "the scheduler to see that the lock is free")
    fired = [record.payload["timer"] for record in busy.of("timer.fired")]
    assert fired == [record.payload["timer"] for record in busy.of("timer.requested")]
    for record, request in zip(busy.of("timer.fired"), busy.of("timer.requested"), strict=True):
        assert record.at.isoformat() >= request.payload["due"].replace("Z", "+00:00")
    assert len(lost(busy, "w")) == 1
    busy.check_answers()


def test_a_second_worker_joins_while_the_first_is_busy(copy: Copy, tmp_path: Path) -> None:
    installation = copy.installation
    installation.start("worker")
    installation.start("worker")
    names = joined(installation, 2)
    assert len(set(names)) == 2
    copy.run()
    copy.finished()
    copy.check_rows()
    assert {r.payload["worker"] for r in installation.of("task.assigned")} <= set(names)
    assert lost(installation, names[0]) == lost(installation, names[1]) == []
