"""The worker reports only the attempt that is open."""

from __future__ import annotations

from typing import Any, cast

from dataflows.work.processes import Ended
from dataflows.worker import _Logic
from penstock.clock import now
from penstock.records import Reading, Record
from penstock.topics.operators import Wakeup


def test_the_end_of_an_older_attempt_is_not_reported() -> None:
    logic = _Logic("w", Wakeup(), Reading(), cast("Any", None), cast("Any", None))
    payload = {"task": "t", "attempt": 2, "worker": "w"}
    logic._assigned["t"] = (
        7,
        Record(type="task.assigned", key="t", at=now(), actor="agent:orchestrator", payload=payload),
    )
    assert logic._ended(Ended("t", 1, 0, {"status": "completed"})) == []
    assert "t" in logic._assigned
