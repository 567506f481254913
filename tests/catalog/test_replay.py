"""The catalog is a projection: dropped and folded again it is identical, for any batches."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from catalog.compare import digest
from catalog.database import reset
from catalog.entries import Snapshot
from catalog.projection import LARGE, Projector, without_collection
from catalog.tables import CATALOG, metadata
from catalog.waiting import listen
from penstock.errors import Fenced, Unavailable
from penstock.postgres import connect
from penstock.records import Reading, Record
from penstock.records.families import TYPES
from tests.agents.control_plane import pipeline
from tests.catalog.conftest import START, Fact, folded
from tests.strategies import logs, records

TABLES = [f"{CATALOG}.{table.name}" for table in metadata.sorted_tables if table.schema == CATALOG]

REFUSED = {
    "name": "default",
    "hash": "".join(sha256(bytes([n])).hexdigest() for n in range(200)),
    "origin": "file",
    "policy": {"apiVersion": "penstock/v1", "kind": "AgentPolicy", "metadata": {"name": "default"}, "spec": {}},
}
"""A hash that is too long for PostgreSQL's index of hashes, which only the database knows."""


@pytest.fixture(scope="module")
def kept(new_catalog: Callable[[], str]) -> str:
    """A catalog for many examples."""
    return new_catalog()


def emptied(dsn: str) -> None:
    """Delete all rows; TRUNCATE would make new files for each table and index, ten times as slow."""
    with closing(connect(dsn, "tests")) as session:
        session.execute("; ".join(f"DELETE FROM {table}" for table in TABLES))


def rows(dsn: str) -> dict[str, list[Any]]:
    """Return every row of every table."""
    with closing(connect(dsn, "tests")) as session:
        found = [table for table in metadata.sorted_tables if table.schema == CATALOG]
        return {t.name: session.execute(f"SELECT t::text FROM {t} t ORDER BY 1").fetchall() for t in found}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(log=logs(), data=st.data())
def test_a_replay_reproduces_every_row_for_any_batches(kept: str, log: list[Record], data: st.DataObject) -> None:
    cuts = st.lists(st.integers(0, len(log)), max_size=6).map(sorted)
    emptied(kept)
    folded(kept, log, data.draw(cuts))
    first, shown = rows(kept), digest(kept)
    emptied(kept)
    folded(kept, log, data.draw(cuts))
    assert rows(kept) == first
    assert digest(kept) == shown
    assert not [row for row in first["errors"] if "cannot store" in row[0]]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(log=logs(15), bad=st.lists(st.integers(0, 14), max_size=3), data=st.data())
def test_records_that_the_database_refuses_are_reported_and_skipped_for_any_batches(
    kept: str, log: list[Record], bad: list[int], data: st.DataObject
) -> None:
    log = [record for record in log if record.type != "record.unreadable"]
    for place in sorted(index for index in set(bad) if index < len(log)):
        log[place] = log[place].replaced(type="policy.accepted", kind="policy", payload=REFUSED, brain=None)
    cuts = st.lists(st.integers(0, len(log)), max_size=3).map(sorted)
    emptied(kept)
    folded(kept, log, data.draw(cuts))
    first = rows(kept)
    emptied(kept)
    folded(kept, log, data.draw(cuts))
    assert rows(kept) == first
    told = [row for row in first["errors"] if "cannot store" in row[0]]
    assert len(told) == len({index for index in bad if index < len(log)})


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        ("policy.accepted", REFUSED),
        ("connection.deleted", {"name": "shop"}),
    ],
    ids=["a record that the database refuses", "a row that is dropped"],
)
def test_rows_changed_in_parts_of_a_batch_are_not_cached_stale(
    kept: str, fact: Fact, type_: str, payload: dict[str, Any]
) -> None:
    """The projector's cached rows equal those of the tables, also after a batch that is written in parts."""
    run = {"id": "r1", "pipeline": "orders", "version": 3, "status": "queued", "requested_at": START.isoformat()}
    task = {"task": "t1", "worker": "w", "run": "r1"}
    assigned = task | {
        "kind": "pipeline",
        "pipeline": "orders",
        "uid": "u",
        "version": 3,
        "spec": pipeline("orders"),
        "connections": {},
    }
    log = [
        fact("run.created", {"run": run}),
        fact("task.queued", {"task": {"id": "t1", "kind": "pipeline", "pipeline": "orders", "run": "r1"}}),
        fact("task.assigned", assigned | {"attempt": 1}, minute=1),
        fact("task.assigned", assigned | {"attempt": 2}, minute=2),
        fact(type_, payload),
        fact("task.started", task | {"attempt": 2}, minute=3),
    ]
    emptied(kept)
    with closing(connect(kept, "tests", autocommit=True)) as session:
        listen(session)
        folded(kept, log, [3, 5])
        assert [one.payload for one in session.notifies(timeout=5, stop_after=3)] == ["3", "5", "6"]
    first = rows(kept)
    emptied(kept)
    folded(kept, log, [])
    assert rows(kept) == first


def test_a_row_that_is_dropped_is_gone_and_may_come_back(kept: str, fact: Fact) -> None:
    def changed(version: int) -> Record:
        return fact("connection.changed", {"name": "shop", "version": version, "connection": {"type": "postgres"}})

    deleted = fact("connection.deleted", {"name": "shop"})
    for log, versions in (([changed(1), deleted], []), ([changed(1), deleted, changed(2)], [2])):
        emptied(kept)
        folded(kept, log, [1])
        with closing(connect(kept, "tests")) as session:
            assert session.execute("SELECT version FROM catalog.connections").fetchall() == [(one,) for one in versions]


def test_a_projector_that_asks_for_its_position_again_relies_on_no_row_of_before(kept: str, fact: Fact) -> None:
    command = fact("run.start", {"pipeline": "orders"}, id="c1")
    answered = fact("command.applied", {"command": "c1", "result": {}}, key="c1")
    emptied(kept)
    with Projector(kept) as projector:
        projector.apply([(0, command)], 1, Reading())
        emptied(kept)
        assert projector.position()[0] == 0
        projector.apply([(0, answered)], 1, Reading())
    found = rows(kept)
    emptied(kept)
    folded(kept, [answered], [])
    assert found["commands"] == rows(kept)["commands"]


def test_a_projector_whose_session_is_lost_says_so(kept: str) -> None:
    emptied(kept)
    with Projector(kept) as projector, closing(connect(kept, "tests", autocommit=True)) as session:
        projector.apply([], 1, Reading())
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'penstock:projector'"
        )
        with pytest.raises(Unavailable):
            projector.apply([], 2, Reading())
        with pytest.raises(Unavailable):
            projector.position()


def test_only_a_large_batch_is_folded_without_collection_and_it_is_on_again_afterwards() -> None:
    for count, on in ((LARGE - 1, True), (LARGE, False)):
        with without_collection(count):
            assert gc.isenabled() == on
        assert gc.isenabled()
    gc.disable()
    try:
        with without_collection(LARGE):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@settings(max_examples=1, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_new_catalog_equals_a_migrated_one(catalog: str, data: st.DataObject) -> None:
    log = [data.draw(records(type_)).replaced(brain=None) for type_ in sorted(TYPES)]
    folded(catalog, log, [])
    shown = digest(catalog)
    assert shown["runs"][0]
    reset(catalog)
    folded(catalog, log, [])
    assert digest(catalog) == shown


@settings(max_examples=1, deadline=None, phases=[Phase.generate])  # it says which type; to shrink takes minutes
@given(data=st.data())
def test_every_type_is_folded_or_known_to_change_nothing(kept: str, data: st.DataObject) -> None:
    for type_ in sorted(TYPES):
        emptied(kept)
        folded(kept, [data.draw(records(type_)).replaced(brain=None)], [])
        changed = {name for name, found in digest(kept).items() if found[0]} - {"position"}
        assert changed or type_ in {
            "agent.halted",
            "agent.resumed",
            "change.answered",
            "brain.started",
            "clock.set_back",
            "log.sealed",
            "run.progress",
            "connection.deleted",
            "pipeline.drained",
            "objects.found",
            "task.halted",
            "files.found",
            "trigger.fired",
            "tasks.aged",
            "diagnosis.requested",
            "error.diagnosed",
            "strategy.chosen",
            "strategy.ended",
            "incident.closed",
            "component.recovered",
            "alert.changed",
            "alert.closed",
            "alert.snoozed",
            "alert.delivered",
        }, type_


def test_a_reset_drops_the_catalog_and_keeps_the_rest(store: Any, fold: Any, fact: Any, catalog: str) -> None:
    empty = digest(catalog)
    joined = fact("worker.joined", {"worker": "w", "kinds": ["pipeline"], "slots": 2})
    fold(joined)
    store.save_snapshots([Snapshot("orchestrator", 7, 1, {"tasks": {}})])
    full = digest(catalog)
    assert full["workers"][0] == 1
    reset(catalog)
    assert digest(catalog)["workers"] == empty["workers"]
    assert store.load_snapshots()["orchestrator"].offset == 7
    with Projector(catalog) as projector:
        assert projector.position()[0] == 0
    folded(catalog, [joined], [])
    assert digest(catalog) == full


def test_of_two_projectors_one_is_fenced_and_nothing_is_doubled(catalog: str, fact: Any) -> None:
    log = [fact("run.start", {"pipeline": "orders"}, id=f"c{index}") for index in range(4)]
    with Projector(catalog) as first, Projector(catalog) as second:
        first.position()
        second.position()
        reading = Reading()
        assert all(reading.keep(offset, record) for offset, record in enumerate(log))
        first.apply(list(enumerate(log[:2])), 2, Reading())
        with pytest.raises(Fenced):
            second.apply(list(enumerate(log[:3])), 3, Reading())
        first.apply([(2, log[2]), (3, log[3])], 4, reading)
        with pytest.raises(Fenced):
            second.apply([(2, log[2])], 3, Reading())
    shown = digest(catalog)
    reset(catalog)
    folded(catalog, log, [])
    assert digest(catalog) == shown


def test_a_projector_of_a_catalog_that_was_reset_is_fenced(
    catalog: str, projector: Projector, fold: Any, fact: Any
) -> None:
    fold(fact("run.start", {"pipeline": "orders"}))
    reset(catalog)
    with pytest.raises(Fenced):
        projector.apply([], 2, Reading())


PROGRAM = """
    import os, sys
    from catalog.projection import Projector
    from penstock.records import Record
    from tests.agents.control_plane import pipeline
    from tests.catalog.conftest import START

    def project(dsn):
        with Projector(dsn) as projector:
            start, reading = projector.position()
            for first in range(start, 900, 7):
                batch = []
                for offset in range(first, min(first + 7, 900)):
                    payload = {"task": f"t{offset % 50}", "worker": "w", "attempt": offset + 1, "kind": "pipeline",
                               "pipeline": "p", "uid": "u", "version": 1, "spec": pipeline("orders"), "connections": {}}
                    record = Record(type="task.assigned", key="t", at=START, actor="x", payload=payload)
                    batch.append((offset, record))
                projector.apply(batch, first + len(batch), reading)
                print(first, flush=True)

    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            print(os.getpid(), flush=True)
            project(line.strip())
            os._exit(0)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Projects the catalog that a line of its input names, in a process of its own; the start of Python takes long."""


def test_a_projector_killed_between_batches_resumes_at_its_position(new_catalog: Callable[[], str]) -> None:
    broken, whole = new_catalog(), new_catalog()
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        for batches in (3, 40, 7):
            assert _projected(program, broken, stop_after=batches) >= batches
        assert 0 < _projected(program, broken, stop_after=None) < _projected(program, whole, stop_after=None)
    assert digest(broken) == digest(whole)
    assert digest(whole)["tasks"][0] == 50


def _projected(program: subprocess.Popen[str], dsn: str, *, stop_after: int | None) -> int:
    """Project a catalog; kill the process when it has reported `stop_after` batches. Return how many it reported."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(f"{dsn}\n")
    program.stdin.flush()
    pid, told = int(program.stdout.readline()), 0
    while not (line := program.stdout.readline()).startswith("ended"):
        told += 1
        if told == stop_after:
            os.kill(pid, signal.SIGKILL)
    assert line.split()[1] == str(0 if stop_after is None else -signal.SIGKILL)
    return told


def test_objects_that_were_accepted_are_added_to_those_that_the_database_has(kept: str) -> None:
    """A row that is read again, since the rows kept in memory were let go, has documents that are not parsed."""
    at, dsn = datetime(2026, 1, 1, tzinfo=UTC), {"type": "postgres", "dsn": "postgresql://a@b/c"}
    payloads: list[tuple[str, dict[str, Any]]] = [
        ("connection.changed", {"name": "q", "version": 1, "connection": dsn}),
        ("objects.accepted", {"name": "b", "uid": "c", "objects": ["x"], "by": "z"}),
        ("connection.deleted", {"name": "q"}),
        ("objects.accepted", {"name": "b", "uid": "c", "objects": ["y"], "by": "z"}),
    ]
    log = [
        Record(id=f"id{number}", kind="event", type=type_, key="k", at=at, actor="user:ann", payload=payload)
        for number, (type_, payload) in enumerate(payloads)
    ]
    emptied(kept)
    folded(kept, log, [2])
    assert rows(kept)["errors"] == []
    assert '""x"", ""y""' in str(rows(kept)["pipelines"])
