"""The orchestrator's state: pipelines, connections, workers, runs and open tasks, as each record changes them.

A record about a pipeline or task that is not there changes nothing: half an entry would fail every later decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from shlex import quote
from typing import Any, Final

from agents import followers, parents
from agents.protocol import Draft, State
from agents.ready import (
    COMPARING,
    NOTIFY,
    WRITING,
    connections_of,
    drop_pipeline,
    drop_task,
    group_of,
    is_attempt,
    put_pipeline,
    put_task,
)
from agents.rooms import without
from agents.sets import is_set
from penstock.errors import NotFound, Refused, did_you_mean
from penstock.models.targets import target_of

__all__ = [
    "AGEING",
    "CHANGES",
    "DISCOVER",
    "EMPTY",
    "HELD_KINDS",
    "TICK_OF",
    "changed",
    "comparison_of",
    "has_schedule",
    "named",
    "running_pipelines",
    "single",
    "with_drafts",
]

TICK_OF: Final = "pipeline "
"""Prefix of the subject of a tick's timer; the pipeline's name follows, which contains no blank."""

AGEING: Final = "ageing"
"""Subject of the timer at which tasks gain priority."""

DISCOVER: Final = "discover"
"""Kind of the tasks that belong to a connection, not to a pipeline."""

HELD_KINDS: Final = frozenset({"pipeline", "list", "check", "deletes"})
"""Kinds of tasks whose failures are diagnosed and may hold a connection back, and that do not begin while it is."""

EMPTY: Final[State] = {
    "pipelines": {},
    "connections": {},
    "workers": {},
    "tasks": {},
    "runs": {},
    "order": 0,
    "open": {},
    "targets": {},
    "assigned": [],
    "shares": {},
    "queued": 0,
    "ready": {},
    "needed": {},
    "followers": {},
    "fired": {},
    "ageing": None,
    "held": {},
}
"""The state before the first record."""


def changed(state: State, type_: str, payload: dict[str, Any]) -> State:
    """Return the state after a record of type `type_`; a type without an entry in `CHANGES` changes nothing."""
    change = CHANGES.get(type_)
    return change(state, payload) if change else state


def named(state: State, name: str) -> dict[str, Any]:
    """Return the pipeline that a command names. Raises NotFound, with the most similar name."""
    found: dict[str, Any] | None = state["pipelines"].get(name)
    if found is None:
        hint = did_you_mean(name, state["pipelines"]) or "`penstock list` shows what there is"
        raise NotFound(f"there is no pipeline {name!r}", hint=hint)
    return found


def single(state: State, name: str) -> dict[str, Any]:
    """Return the pipeline that a command names, which must not be a set. Raises NotFound, Refused."""
    found = named(state, name)
    if is_set(found["pipeline"]):
        hint = f"`penstock status {quote(name)}` shows them"
        raise Refused("is a set: name its members", where=f"pipeline {name}", hint=hint)
    return found


def with_drafts(state: State, drafts: Iterable[Draft]) -> State:
    """Return the state after the records that these drafts become."""
    for draft in drafts:
        state = changed(state, draft.type, draft.payload)
    return state


def running_pipelines(state: State) -> set[str]:
    """Return the pipelines that have an open run."""
    return {run["pipeline"] for run in state["runs"].values()}


def _put(state: State, room: str, key: str, **values: Any) -> State:
    return {**state, room: {**state[room], key: {**state[room].get(key, {}), **values}}}


def _pipeline_changed(state: State, p: dict[str, Any]) -> State:
    before = state["pipelines"].get(p["name"], {})
    status = before.get("status", "active")
    values = {"uid": p["uid"], "version": p["version"], "pipeline": p["pipeline"], "status": status}
    values |= {"tick": None, "due": None} if has_schedule(values) else {}
    values |= _still_compared(before, p["pipeline"]["spec"]) | parents.retargeted(before, p)
    after = put_pipeline(state, p["name"], **values)
    after = after if p["pipeline"]["spec"].get("triggers") else followers.unfired(after, p["name"])
    return followers.linked(after, p["name"], before.get("pipeline"), p["pipeline"])


def _status_changed(state: State, p: dict[str, Any]) -> State:
    if p["name"] not in state["pipelines"]:
        return state
    values: dict[str, Any] = {"status": p["status"], "drop_table": p.get("drop_table", False)}
    if p["status"] != "active" and state["pipelines"][p["name"]].get("start"):
        values["start"] = None  # its listing may be over already, and unanswered
    if p["status"] != "active" and state["pipelines"][p["name"]].get("held"):
        values["held"] = None
    if p["status"] != "active" and state["pipelines"][p["name"]].get("comparing"):
        values["comparing"] = {}
    state = followers.unfired(state, p["name"]) if p["status"] in {"stopped", "deleting"} else state
    return put_pipeline(state, p["name"], **values, tick=None, due=None)


def _found(state: State, p: dict[str, Any]) -> State:
    """Note the last round of reports of files that have arrived."""
    pipeline = state["pipelines"].get(p["name"])
    if pipeline is None or pipeline["uid"] != p["uid"] or p["round"] <= pipeline.get("round", 0):
        return state
    return put_pipeline(state, p["name"], round=p["round"])


def _deleted(state: State, p: dict[str, Any]) -> State:
    before = state["pipelines"].get(p["name"], {}).get("pipeline")
    state = followers.unfired(drop_pipeline(followers.linked(state, p["name"], before, None), p["name"]), p["name"])
    return parents.released(state, p["name"])


def _queued(state: State, p: dict[str, Any]) -> State:
    pipeline = state["pipelines"].get(p["task"].get("pipeline"))
    if pipeline is None and p["task"]["kind"] not in {DISCOVER, NOTIFY}:
        return state
    task = {"pipeline": None, "run": None, "priority": 0, **p["task"], "status": "queued", "order": state["order"]}
    task |= {"attempt": 0, "failures": 0, "worker": None}
    task |= {"version": pipeline["version"], "spec": pipeline["pipeline"]} if pipeline else {"version": 0, "spec": None}
    if start := task.pop("start", None):
        state = put_pipeline(state, task["pipeline"], start={**start, "task": task["id"]})
        state = followers.begun(state, task["pipeline"])
    task["group"] = group_of(task)
    if pipeline and task["kind"] in WRITING and pipeline["pipeline"]["spec"].get("mode") != "stream":
        task["target"] = target_of(task["spec"]["spec"], state["connections"])
    return {**put_task(state, task["id"], **task), "order": state["order"] + 1}


def comparison_of(subject: str) -> tuple[str, str] | None:
    """Return kind and pipeline of the comparison that a timer's subject names; None if it is about something else."""
    kind, _, name = subject.partition(" ")
    return (kind, name) if kind in COMPARING and name else None


def _still_compared(before: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Return the timers that stay when a pipeline is changed: those of comparisons that its file still asks for."""
    timers = before.get("comparing")
    return {"comparing": {kind: one for kind, one in timers.items() if spec.get(kind)}} if timers else {}


def _waiting(state: State, p: dict[str, Any]) -> State:
    if p["subject"] == AGEING:
        return {**state, "ageing": {"timer": p["timer"], "upto": state["order"]}}
    name = p["subject"].removeprefix(TICK_OF)
    if name != p["subject"]:
        held = {"held": p["held"]} if "held" in p else {}
        return put_pipeline(state, name, tick=p["timer"], due=p["due"], **held) if name in state["pipelines"] else state
    if (found := comparison_of(p["subject"])) is not None:
        kind, name = found
        timers = state["pipelines"].get(name, {}).get("comparing", {})
        timers = {**timers, kind: {"timer": p["timer"], "due": p["due"]}}
        return put_pipeline(state, name, comparing=timers) if name in state["pipelines"] else state
    if p["subject"] not in state["tasks"]:
        return state
    failures = p.get("failures") or state["tasks"][p["subject"]]["failures"] + 1
    more = {"rows": p["rows"], "due": p["due"]} if "rows" in p else {}
    waits = {"status": "waiting", "worker": None, "after": None, "timer": p["timer"], "failures": failures}
    return put_task(state, p["subject"], **waits, **more)


def _aged(state: State, p: dict[str, Any]) -> State:
    for id_, priority in p["tasks"].items():
        if (task := state["tasks"].get(id_)) is not None:
            more = {"aged": True} if task["kind"] in COMPARING else {}
            state = put_task(state, id_, priority=priority, **more)
    return state


def _fired(state: State, p: dict[str, Any]) -> State:
    if state["ageing"] and state["ageing"]["timer"] == p["timer"]:
        return {**state, "ageing": None}
    for id_, task in state["tasks"].items():
        if task.get("timer") == p["timer"]:
            return put_task(state, id_, status="queued", timer=None)
    return state


def _failed(state: State, p: dict[str, Any]) -> State:
    """Keep what a failed attempt of a run has reported, until it is chosen what follows."""
    task = state["tasks"].get(p["task"])
    if "classified" not in p or not is_attempt(task, p) or task["kind"] != "pipeline":
        return state
    found = {"attempt": p["attempt"], "error": p["error"], "counters": p.get("counters", {})}
    return put_task(state, p["task"], failed=found)


def _held(state: State, p: dict[str, Any]) -> State:
    """Hold a connection back, let one run try it, or let it go."""
    others = {name: one for name, one in state["held"].items() if name != p["connection"]}
    held = {} if p["status"] == "closed" else {p["connection"]: {"status": p["status"], "probe": None}}
    return {**state, "held": {**others, **held}}


def _requeued(state: State, p: dict[str, Any]) -> State:
    if p["task"] not in state["tasks"]:
        return state
    return put_task(state, p["task"], status="queued", worker=None, after=None)


def _returned(state: State, p: dict[str, Any]) -> State:
    """Queue a task again that has waited for the end of another; behind that one none waits any more."""
    task = state["tasks"].get(p["task"])
    if not is_attempt(task, p):
        return state
    if task["after"] in state["tasks"]:
        state = put_task(state, task["after"], slow=True)
    return _requeued(state, p)


def _assigned(state: State, p: dict[str, Any]) -> State:
    if p["task"] not in state["tasks"]:
        return state
    if state["held"]:
        state = {**state, "held": _tried(state, p["task"])}
    return put_task(state, p["task"], status="assigned", worker=p["worker"], attempt=p["attempt"], after=p.get("after"))


def _tried(state: State, task: str) -> dict[str, Any]:
    """Return the connections that are held back, with this task as the one that tries those that are half open."""
    used = connections_of(state["tasks"][task]) if state["tasks"][task]["kind"] in HELD_KINDS else set()
    return {
        name: {**one, "probe": task} if name in used and one["status"] == "half_open" else one
        for name, one in state["held"].items()
    }


def _closed(state: State, p: dict[str, Any]) -> State:
    """Drop a task; with a listing that did not complete its start is over, too."""
    if p["kind"] == "list" and p["status"] != "completed" and "pipeline" in p:
        state = _start_over(state, p["pipeline"], p["task"])
    return drop_task(state, p["task"])


def _start_over(state: State, name: str, task: str) -> State:
    pipeline = state["pipelines"].get(name, {})
    if (pipeline.get("start") or {}).get("task") != task:
        return state
    return followers.start_failed(put_pipeline(state, name, start=None), name)


def _started(state: State, p: dict[str, Any]) -> State:
    pipeline = state["pipelines"].get(p["name"], {})
    is_over = p["last"] and (pipeline.get("start") or {}).get("group") == p["group"]
    if not is_over:
        return state
    return followers.rounds_ended(put_pipeline(state, p["name"], start=None), p["name"])


def _run_created(state: State, p: dict[str, Any]) -> State:
    return followers.begun(_put(state, "runs", p["run"]["id"], **p["run"]), p["run"]["pipeline"])


def _run_finished(state: State, p: dict[str, Any]) -> State:
    return followers.ended(without(parents.ended(state, p["run"]), "runs", p["run"]["id"]), p["run"])


def _worker_lost(state: State, p: dict[str, Any]) -> State:
    for id_ in [id_ for id_ in state["assigned"] if state["tasks"][id_]["worker"] == p["worker"]]:
        state = put_task(state, id_, status="queued", worker=None, after=None)
    return without(state, "workers", p["worker"])


def has_schedule(pipeline: dict[str, Any]) -> bool:
    """Return True if the pipeline file has a schedule."""
    return bool(pipeline["pipeline"]["spec"].get("schedule"))


CHANGES: dict[str, Callable[[State, dict[str, Any]], State]] = {
    "connection.changed": lambda s, p: {**s, "connections": {**s["connections"], p["name"]: p["connection"]}},
    "connection.deleted": lambda s, p: without(s, "connections", p["name"]),
    "pipeline.created": _pipeline_changed,
    "pipeline.updated": _pipeline_changed,
    "pipeline.status_changed": _status_changed,
    "pipeline.deleted": _deleted,
    "worker.joined": lambda s, p: _put(s, "workers", p["worker"], kinds=p["kinds"], slots=p["slots"]),
    "worker.lost": _worker_lost,
    "run.created": _run_created,
    "run.finished": _run_finished,
    "task.queued": _queued,
    "tasks.aged": _aged,
    "task.assigned": _assigned,
    "task.failed": _failed,
    "breaker.changed": _held,
    "task.cancelled": _requeued,
    "task.returned": _returned,
    "task.closed": _closed,
    "files.found": _found,
    "trigger.fired": followers.fired,
    "set.listed": parents.listed,
    "set.started": _started,
    "timer.requested": _waiting,
    "timer.fired": _fired,
}
