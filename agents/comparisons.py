"""Comparisons of both sides, by schedule or on command: when they are due, and what becomes of their results.

The due times of a comparison are a fixed time apart. Those that passed while nothing ran are made up for by one; one
that is due while the one before it is open is left out. One that was asked for is done at once or not at all: what was
approved for it counts for the data of that time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from shlex import quote
from typing import Any, Final

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import COMPARING, open_tasks
from agents.runs import NOTHING, Outcome, task_closed, task_queued
from agents.sets import is_set
from agents.workload import changed, single
from penstock.errors import Conflict, Refused
from penstock.models.upkeep import Check
from penstock.records.commands import CheckStart, DeletesStart
from penstock.records.families import body

__all__ = [
    "abandoned",
    "asked",
    "cancelled",
    "due_again",
    "expired",
    "renewed",
    "requested",
    "result_of",
    "started",
    "timer_of",
]

EXPIRES: Final = timedelta(days=1)
"""Time in which a comparison that was asked for has to begin, if work was interrupted."""


def requested(state: State, cause: Cause) -> tuple[Draft, ...]:
    """Request the timers that an active pipeline lacks: it is new, has changed, or was resumed."""
    name = cause.payload["name"]
    before = state["pipelines"].get(name, {}).get("pipeline")
    pipeline = changed(state, cause.type, cause.payload)["pipelines"].get(name)
    if pipeline is None or pipeline["status"] != "active":
        return ()
    effects = []
    for kind in sorted(COMPARING):
        every = _every(pipeline["pipeline"], kind)
        same = kind in pipeline.get("comparing", {}) and before is not None and _every(before, kind) == every
        if every is not None and not same:
            effects.append(_timer(name, pipeline, kind, cause.at + every))
    return tuple(effects)


def timer_of(state: State, timer: str) -> tuple[str, str] | None:
    """Return kind and pipeline of the comparison that waits for this timer."""
    for name, pipeline in state["pipelines"].items():
        for kind, one in (pipeline.get("comparing") or {}).items():
            if one["timer"] == timer:
                return kind, name
    return None


def started(state: State, kind: str, name: str, policies: Policies, cause: Cause) -> Outcome:
    """React to a comparison that is due: queue its task, unless the one before it is open, and request the next."""
    pipeline = state["pipelines"][name]
    every = _every(pipeline["pipeline"], kind)
    if every is None or pipeline["status"] != "active":
        return NOTHING
    due = datetime.fromisoformat(pipeline["comparing"][kind]["due"])
    passed = max(1, (cause.at - due) // every + 1)
    reason = f"due at {due.isoformat()}" + (f", and {passed - 1} times since" if passed > 1 else "")
    following = _timer(name, pipeline, kind, due + every * passed)
    if any(task["kind"] == kind for task in open_tasks(state, name)):
        return (following,), kind, f"{reason}; skipped, since the one before is not done"
    return (task_queued(state, kind, name, policies, run=None, cause=cause), following), kind, reason


def asked(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Queue the comparison that was asked for: a check, or one of keys.

    Raises:
        NotFound, Refused: there is no such pipeline, it has a comparison of the kind open, or its file or status does
            not allow one.
    """
    command, kind = body(cause.record), cause.type.partition(".")[0]
    assert isinstance(command, CheckStart | DeletesStart)  # noqa: S101 - the table of types says so
    name = command.name
    pipeline, where = single(state, name), f"pipeline {name}"
    if kind == "deletes" and not pipeline["pipeline"]["spec"].get("deletes"):
        hint = "write deletes: {compare: keys, mark: deleted_at} in its file, then `penstock apply`"
        raise Refused("does not compare keys", where=where, hint=hint)
    if pipeline["status"] == "deleting" or (kind == "deletes" and pipeline["status"] != "active"):
        raise Refused(f"is {pipeline['status']}", where=where, hint=f"`penstock resume {quote(name)}` makes it active")
    if open_ := [task["id"] for task in open_tasks(state, name) if task["kind"] == kind]:
        hint = f"`penstock status {quote(name)}` shows its result"
        raise Conflict(
            "one_comparison_at_a_time",
            open_[0],
            f"is being compared already, by task {open_[0]}",
            where=where,
            hint=hint,
        )
    more = {key: value for key, value in command.to_dict().items() if key != "name"}
    more |= {"asked": True, "asked_at": cause.at.isoformat()}
    return (task_queued(state, kind, name, policies, run=None, cause=cause, more=more),), kind, "it was asked for"


def due_again(state: State, cause: Cause) -> tuple[Draft, ...]:
    """Request new timers in place of those that are further ahead than their time, since the clock was set back."""
    effects = []
    for name, pipeline in state["pipelines"].items():
        for kind, one in sorted((pipeline.get("comparing") or {}).items()):
            every = _every(pipeline["pipeline"], kind)
            if every is not None and datetime.fromisoformat(one["due"]) > cause.at + every:
                effects.append(_timer(name, pipeline, kind, cause.at + every))
    return tuple(effects)


def cancelled(state: State, name: str, status: str) -> tuple[Draft, ...]:
    """Close the comparisons of a pipeline that is not active any more."""
    tasks = [task for task in open_tasks(state, name) if task["kind"] in COMPARING and status != "active"]
    return tuple(task_closed(task, "cancelled", f"the pipeline is {status}") for task in tasks)


def renewed(state: State, cause: Cause, policies: Policies) -> tuple[Draft, ...]:
    """Close the comparisons that were queued for an older version; queue scheduled ones again for this one.

    A comparison of keys by older filters would delete rows that the new version has loaded.
    """
    name = cause.payload["name"]
    tasks = [task for task in open_tasks(state, name) if task["kind"] in COMPARING]
    if not tasks:
        return ()
    after = changed(state, cause.type, cause.payload)
    pipeline = after["pipelines"][name]
    closed = [task_closed(task, "cancelled", f"version {cause.payload['version']} takes over") for task in tasks]
    due = [task["kind"] for task in tasks if not task.get("asked") and pipeline["status"] == "active"]
    kinds = [kind for kind in due if _every(pipeline["pipeline"], kind) is not None]
    return (*closed, *(task_queued(after, kind, name, policies, run=None, cause=cause) for kind in kinds))


def abandoned(state: State, worker: str) -> tuple[Draft, ...]:
    """Close what was asked for and was at a worker that is lost, or can be done by none that is left."""
    left = {kind for name, one in state["workers"].items() if name != worker for kind in one["kinds"]}
    tasks = [
        task for task in _asked(state) if task["worker"] == worker or (not task["worker"] and task["kind"] not in left)
    ]
    return tuple(task_closed(task, "cancelled", "its worker was lost") for task in tasks)


def expired(state: State, cause: Cause) -> tuple[Draft, ...]:
    """Close what was asked for too long ago and has not begun, when work goes on after an interruption."""
    tasks = [
        task
        for task in _asked(state)
        if not task["worker"] and "asked_at" in task and cause.at - datetime.fromisoformat(task["asked_at"]) > EXPIRES
    ]
    return tuple(task_closed(task, "cancelled", f"it has not begun within {EXPIRES.days} day") for task in tasks)


def _asked(state: State) -> list[dict[str, Any]]:
    return [task for task in state["tasks"].values() if task.get("asked")]


def result_of(state: State, task: dict[str, Any], cause: Cause) -> tuple[Draft, ...]:
    """Record what a comparison that has ended has found, or why it could not compare; before its task is closed."""
    pipeline = state["pipelines"].get(task["pipeline"])
    if task["kind"] not in COMPARING or pipeline is None:
        return ()
    name, found = task["pipeline"], cause.payload.get("checked")
    if task["kind"] == "deletes":
        payload = {"name": name, "uid": pipeline["uid"], "task": task["id"], "by": cause.record.actor}
        payload |= {"found": cause.payload.get("deletes"), "error": cause.payload.get("error")}
        kept = {key: value for key, value in payload.items() if value is not None}
        return (Draft("deletes.recorded", name, kept),)
    if found is None and task.get("asked"):
        return ()  # whoever waits for it gets the error
    if found is None:
        error = cause.payload.get("error")
        found = {"name": name, "source_rows": 0, "target_rows": 0, "agree": False} | ({"error": error} if error else {})
    by = {"uid": pipeline["uid"], "task": task["id"], "by": cause.record.actor}
    return (Draft("check.recorded", name, {**found, **by}),)


def _every(document: dict[str, Any], kind: str) -> timedelta | None:
    """Return how often both sides are compared; None if the file does not say so, or is that of a set."""
    said = None if is_set(document) else document["spec"].get(kind)
    return Check.parse({"every": said["every"]}).every if said and said.get("every") else None


def _timer(name: str, pipeline: dict[str, Any], kind: str, at: datetime) -> Draft:
    timer = f"{kind}:{pipeline['uid']}:{at.isoformat()}"
    return Draft("timer.requested", timer, {"timer": timer, "due": at.isoformat(), "subject": f"{kind} {name}"})
