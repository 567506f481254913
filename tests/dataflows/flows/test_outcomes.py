"""Reports of a worker on tasks that never began, or that left an invalid result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog.database import engine
from catalog.store import MetadataStore
from dataflows.work.outcomes import Outcomes
from dataflows.work.processes import Ended, Processes
from penstock.clock import now
from penstock.records import Record
from penstock.records.families import body
from penstock.settings import Settings
from tests.agents.control_plane import pipeline

ASSIGNED: dict[str, Any] = {
    "task": "t", "worker": "w", "attempt": 1, "kind": "pipeline", "pipeline": "orders", "uid": "u", "run": "r",
    "version": 1, "spec": pipeline("orders"), "connections": {},
}  # fmt: skip


@pytest.fixture
def outcomes(catalog: str) -> Outcomes:
    return Outcomes("worker:w", MetadataStore(engine(catalog)))


def assigned() -> Record:
    return Record(type="task.assigned", key="t", at=now(), actor="agent:orchestrator", payload=ASSIGNED)


def test_a_process_that_cannot_be_started_is_a_temporary_failure(outcomes: Outcomes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("no folder")
    with pytest.raises(OSError, match="Not a directory") as caught:
        Processes(Settings(project=tmp_path, home=home)).begin(ASSIGNED, None)
    raised, failed = outcomes.not_started(7, assigned(), caught.value)
    assert (raised.type, failed.type) == ("error.raised", "task.failed")
    assert failed.payload["error"]["transient"]
    assert "Not a directory" in failed.payload["error"]["what"]
    assert failed.cause == (7, 0)
    body(raised)
    body(failed)


@pytest.mark.parametrize(
    ("counters", "rows"),
    [({"rows_in": 5, "rows_out": 5, "bytes": 9}, 5), ({"rows_in": 5, "rows_out": 4}, 0), ({}, 0), (None, 0)],
)
def test_a_failed_run_reports_its_committed_rows(
    outcomes: Outcomes, counters: dict[str, int] | None, rows: int
) -> None:
    error = {"code": "data.bad", "what": "bad", "where": None, "hint": None, "transient": False}
    ended = Ended("t", 1, 1, {"status": "failed", "counters": counters, "error": error})
    _, failed = outcomes.of(7, assigned(), ended)
    assert failed.payload["counters"]["rows_out"] == rows
    body(failed)


def test_a_process_that_dies_without_a_result_has_crashed(outcomes: Outcomes) -> None:
    _, failed = outcomes.of(7, assigned(), Ended("t", 1, -9, None))
    assert failed.payload["error"]["code"] == "run.crashed"
    assert "SIGKILL" in failed.payload["error"]["what"]


def test_a_completed_run_reports_its_notes(outcomes: Outcomes) -> None:
    note = "12 rows have a cursor later than now (`at`)"
    order = assigned()
    order.payload["spec"] = {"spec": {"source": {}, "sink": {}}}
    *_, completed = outcomes.of(7, order, Ended("t", 1, 0, {"status": "completed", "notes": [note]}))
    assert (completed.type, completed.payload["notes"]) == ("task.completed", [note])
    body(completed)
