"""Ageing: what waits for long gains priority, so that no task starves behind more urgent ones.

As long as tasks wait that are less urgent than the policy's most urgent ones, a timer is pending. When it fires,
those that were in the queue when it was requested, and still wait, gain a step; they never become more urgent than the
most urgent of the policy. One record has all of them. Without priorities in the policy, nothing ages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.runs import NOTHING, Outcome
from agents.workload import AGEING
from penstock.models.base import duration_text
from penstock.models.policy import OrchestratorPolicy

__all__ = ["age", "requested"]

MOST: Final = 500
"""Tasks of one record, at most; others age with the next."""


def requested(state: State, limits: OrchestratorPolicy, cause: Cause) -> tuple[Draft, ...]:
    """Request the timer, if a task waits that may age and no timer is pending."""
    if state["ageing"] or not limits.ageing.step or next(_young(state, limits), None) is None:
        return ()
    timer = f"{AGEING}:{cause.offset}"
    due = (cause.at + limits.ageing.every).isoformat()
    return (Draft("timer.requested", timer, {"timer": timer, "due": due, "subject": AGEING}),)


def age(state: State, cause: Cause, policies: Policies) -> Outcome:
    """React to the timer: the tasks that have waited since it was requested gain a step."""
    limits = policies.for_labels({}).spec.orchestrator
    upto, highest = state["ageing"]["upto"], max(limits.priorities.values(), default=0)
    waiting = sorted((task for task in _young(state, limits) if task["order"] < upto), key=lambda task: task["order"])
    tasks = {task["id"]: min(highest, task["priority"] + limits.ageing.step) for task in waiting[:MOST]}
    if not tasks or not limits.ageing.step:
        return NOTHING
    reason = f"tasks that have waited for {duration_text(limits.ageing.every)} or longer: {len(tasks)}"
    return (Draft("tasks.aged", AGEING, {"tasks": tasks}),), "age", reason


def _young(state: State, limits: OrchestratorPolicy) -> Iterator[dict[str, Any]]:
    """Yield the tasks that are ready and less urgent than the policy's most urgent ones."""
    highest = max(limits.priorities.values(), default=0)
    for group in state["ready"].values():
        for lowered, _, id_ in reversed(group):  # the least urgent first
            if -lowered >= highest:
                break
            yield state["tasks"][id_]
