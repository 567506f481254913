"""Work that is no run: listings of sets, comparisons of both sides and discoveries. An incident until it works again.

What somebody has asked for, and waits for, opens none, since its error is the answer; but it closes one if it works,
unless it has compared only a part. State: ``chores`` has the open tasks of this kind by id, each with its last failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any, Final

from agents.discovery import is_scheduled
from agents.incidents import closing, is_open, of_component
from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import COMPARING, is_attempt
from agents.rooms import put, without
from agents.workload import DISCOVER
from penstock.ids import named_id
from penstock.records import Record

__all__ = ["compared", "dropped", "ended", "evolved", "unscheduled"]

NAMES: Final = {"list": "listing", "check": "check", "deletes": "deletes", DISCOVER: "discovery"}
"""What people call each kind of task."""


def ended(state: State, cause: Cause) -> Iterator[Draft]:
    """Open the incident of a task that was given up, or close that of one which has worked."""
    task = state["chores"].get(cause.payload["task"])
    if task is None or task["differs"]:
        return
    if cause.payload["status"] == "completed" and not task["partial"]:
        yield from closing(state, of_component(task["key"]), f"{task['key']} works again")
    elif cause.payload["status"] == "failed" and task["failed"] and not is_open(state, of_component(task["key"])):
        yield from _opened(state, task, cause, task["failed"])


def compared(state: State, cause: Cause) -> Iterator[Draft]:
    """Open the incident of a check that has found differences, in place of one that says why it could not compare."""
    task = state["chores"].get(cause.payload["task"])
    if task is None or task["asked"] or not _differs(state, cause.payload):
        return
    print_, is_ours = named_id("check.differs", task["pipeline"]), of_component(task["key"])
    if is_open(state, lambda one: is_ours(one) and one["fingerprint"] == print_):
        return
    found = cause.payload["checked"]
    numbers = ", ".join(f"{found[name]:,} {name}" for name in ("missing", "extra", "changed") if found.get(name))
    failed = {
        "fingerprint": print_,
        "kind": "data",
        "what": f"both sides differ: {'at least ' if found.get('partly') else ''}{numbers} rows",
        "hint": f"penstock check {quote(task['pipeline'])} --last",
    }
    yield from closing(state, is_ours, f"{task['key']} compares again")
    yield from _opened(state, task, cause, failed)


def dropped(state: State, cause: Cause) -> Iterator[Draft]:
    """Close the incidents of comparisons that a pipeline's file no longer asks for."""
    name, spec = cause.payload["name"], cause.payload["pipeline"]["spec"]
    over = {f"{NAMES[kind]} {name}" for kind in COMPARING if not (spec.get(kind) or {}).get("every")}
    yield from closing(state, lambda one: one.get("component") in over, "its pipeline no longer asks for it")


def unscheduled(state: State, policies: Policies) -> Iterator[Draft]:
    """Close the incidents of discoveries if the policy no longer asks for any."""
    if not is_scheduled(policies):
        found = f"{NAMES[DISCOVER]} "
        yield from closing(state, lambda one: one.get("component", "").startswith(found), "it is no longer scheduled")


def _opened(state: State, task: Mapping[str, Any], cause: Cause, failed: Mapping[str, Any]) -> Iterator[Draft]:
    """Open an incident, unless somebody waits for the task, or what it is about was deleted in the meantime."""
    room, name = ("pipelines", task["pipeline"]) if task["pipeline"] else ("connections", task["connection"])
    if task["asked"] or name not in state[room]:
        return
    id_ = named_id("incident", task["key"], cause.record.id)
    component, _, subject = task["key"].partition(" ")
    about = {name: task[name] for name in ("pipeline", "connection") if task[name]}
    facts = {"component": component, "subject": subject}
    yield Draft("incident.opened", id_, {"id": id_, "component": component, **about, "facts": facts, **failed})


def _differs(state: State, payload: Mapping[str, Any]) -> bool:
    """True if the attempt at work has found differences; what one that was taken from its worker found is of before."""
    differs = not (payload.get("checked") or {"agree": True})["agree"]
    return differs and is_attempt(state["tasks"].get(payload["task"]), payload)


def evolved(state: State, record: Record) -> State:
    """Return the state after a record, by what it says of such tasks."""
    payload = record.payload
    if record.type == "task.queued":
        return _queued(state, payload["task"])
    if (task := state["chores"].get(payload.get("task"))) is None:
        return state
    match record.type:
        case "task.failed" if payload.get("classified"):
            return put(state, "chores", payload["task"], {**task, "failed": _failure(payload)})
        case "task.completed":
            return put(state, "chores", payload["task"], {**task, "differs": _differs(state, payload)})
        case "task.closed":
            return without(state, "chores", payload["task"])
    return state


def _queued(state: State, task: Mapping[str, Any]) -> State:
    if task["kind"] not in NAMES:
        return state
    discovery = task.get("discovery") or {}
    pipeline, connection = task.get("pipeline"), discovery.get("connection")
    key = f"{NAMES[task['kind']]} {pipeline or connection}"
    asked = bool(task.get("asked") or discovery.get("asked"))
    kept = {"key": key, "pipeline": pipeline, "connection": connection, "asked": asked}
    kept["partial"] = "since" in task
    return put(state, "chores", task["id"], {**kept, "failed": None, "differs": False})


def _failure(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an incident says of a failure."""
    found, error = payload["classified"], payload["error"]
    failure = {"fingerprint": found["fingerprint"], "kind": found["kind"], "what": error["what"]}
    failure |= {"hint": error["hint"]} if error.get("hint") else {}
    return failure | ({"raised": payload["raised"]} if payload.get("raised") else {})
