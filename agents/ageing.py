"""Ageing: what waits for long gains priority, so that no task starves behind more urgent ones.

As long as tasks wait that are less urgent than the policy's most urgent ones, a timer is pending. When it fires,
those that were in the queue when it was requested, and still wait, gain a step; they never become more urgent than the
most urgent of the policy. One record has all of them. A comparison, which comes after runs of its priority, takes its
turn among them once it has aged. Without priorities in the policy nothing else ages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import COMPARING, group_in
from agents.runs import NOTHING, Outcome
from agents.workload import AGEING
from penstock.models.base import duration_text
from penstock.models.policy import OrchestratorPolicy

__all__ = ["age", "may_age", "requested"]

MOST: Final = 500
"""Tasks of one record, at most; others age with the next."""


def may_age(state: State, limits: OrchestratorPolicy) -> bool:
    """True if there may be a task that ages, and no timer is pending; no task is looked at."""
    if state["ageing"] or not limits.ageing.step:
        return False
    return bool(limits.priorities) or any(group_in(group).kind in COMPARING for group in state["ready"])


def requested(state: State, limits: OrchestratorPolicy, cause: Cause) -> tuple[Draft, ...]:
    """Request the timer, if a task waits that may age and no timer is pending."""
    if next(_young(state, limits), None) is None:
        return ()
    timer = f"{AGEING}:{cause.offset}"
    due = (cause.at + limits.ageing.every).isoformat()
    return (Draft("timer.requested", timer, {"timer": timer, "due": due, "subject": AGEING}),)


def age(state: State, cause: Cause, policies: Policies) -> Outcome:
    """React to the timer: the tasks that have waited since it was requested gain a step."""
    limits = policies.for_labels({}).spec.orchestrator
    upto, highest = state["ageing"]["upto"], max(limits.priorities.values(), default=0)
    waiting = sorted((task for task in _young(state, limits) if task["order"] < upto), key=lambda task: task["order"])
    tasks = {task["id"]: _risen(task["priority"], limits.ageing.step, highest) for task in waiting[:MOST]}
    if not tasks or not limits.ageing.step:
        return NOTHING
    reason = f"tasks that have waited for {duration_text(limits.ageing.every)} or longer: {len(tasks)}"
    return (Draft("tasks.aged", AGEING, {"tasks": tasks}),), "age", reason


def _risen(priority: int, step: int, highest: int) -> int:
    return max(priority, min(highest, priority + step))


def _young(state: State, limits: OrchestratorPolicy) -> Iterator[dict[str, Any]]:
    """Yield the tasks that are ready and less urgent than the policy's most urgent ones, and young comparisons."""
    highest = max(limits.priorities.values(), default=0)
    for name, group in state["ready"].items():
        compares = group_in(name).kind in COMPARING
        for lowered, _, id_ in reversed(group):  # the least urgent first
            task = state["tasks"][id_]
            if -lowered < highest or (compares and not task.get("aged")):
                yield task
            elif not compares:
                break
