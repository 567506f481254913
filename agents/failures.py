"""The state of the agent for errors, as each record changes it; all of it is bounded by what is open now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from agents import breakers
from agents.components import component_of
from agents.protocol import State
from agents.ready import connections_in, is_attempt
from agents.rooms import put, without
from agents.strategies import learned
from agents.workload import HELD_KINDS

__all__ = ["CHANGES", "RESOLVED", "SETTLES", "labels_of"]

RESOLVED: Final = frozenset({"pipeline"})
"""Kinds of tasks for which a strategy is chosen; others are tried again by the orchestrator's own rules."""
SETTLES: Final = "settled "
"""Prefix of the subject of the timer after which a stream counts as resolved; the task's id follows."""
TRIED: Final = frozenset({"adjust_config", "skip_record"})
"""Strategies whose outcome the next run of the pipeline shows."""
Payload = dict[str, Any]


def labels_of(pipeline: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the labels that select the policy of a pipeline."""
    return tuple(sorted(pipeline.get("labels", {}).items()))


def _task(state: State, key: str, **values: Any) -> State:
    before = state["tasks"].get(key)
    return state if before is None else put(state, "tasks", key, {**before, **values})


def _connection(state: State, p: Payload) -> State:
    return put(state, "connections", p["name"], p["connection"].get("type"))


def _pipeline(state: State, p: Payload) -> State:
    document = p["pipeline"]
    spec = document["spec"]
    kept = {
        "labels": document["metadata"].get("labels", {}),
        "connections": sorted(connections_in(spec)),
        "source": spec["source"]["connection"],
        "sink": spec["sink"]["connection"],
        "target": f"{spec['sink']['connection']}:{spec['sink'].get('object')}",
        "stream": spec.get("mode") == "stream",
        "spec": {name: spec[name] for name in ("errors", "limits") if name in spec},
    }
    return put(state, "pipelines", p["name"], kept)


def _deleted(state: State, p: Payload) -> State:
    return without(without(state, "pipelines", p["name"]), "trials", p["name"])


def _queued(state: State, p: Payload) -> State:
    task = p["task"]
    pipeline = state["pipelines"].get(task.get("pipeline"))
    if pipeline is None or task["kind"] not in HELD_KINDS:
        return state
    kept = {"pipeline": task["pipeline"], "kind": task["kind"], "diagnosed": [], "strategy": None, "settles": None}
    kept |= {"attempt": 0, "worker": None}
    kept |= {"failures": 0, "rows": 0, "due": None, "stream": pipeline["stream"] and task["kind"] == "pipeline"}
    kept["retry"] = (pipeline["spec"].get("errors") or {}).get("retry") or {}
    return put(state, "tasks", task["id"], kept)


def _requested(state: State, p: Payload) -> State:
    failure = p["failure"]
    before = state["tasks"].get(failure["task"])
    seen = before["diagnosed"] if before else []
    return _task(state, failure["task"], diagnosed=[*seen, failure["classified"]["fingerprint"]])


def _assigned(state: State, p: Payload) -> State:
    return _task(state, p["task"], attempt=p["attempt"], worker=p["worker"])


def _taken_away(state: State, p: Payload) -> State:
    return _task(state, p["task"], worker=None) if is_attempt(state["tasks"].get(p["task"]), p) else state


def _worker_lost(state: State, p: Payload) -> State:
    for id_ in [id_ for id_, task in state["tasks"].items() if task["worker"] == p["worker"]]:
        state = _task(state, id_, worker=None)
    return state


def _failed(state: State, p: Payload) -> State:
    if not is_attempt(state["tasks"].get(p["task"]), p):
        return state
    return _task(breakers.evolved(state, "task.failed", p), p["task"], settles=None)


def _completed(state: State, p: Payload) -> State:
    task = state["tasks"].get(p["task"])
    if task is None or task["kind"] not in RESOLVED:
        return state
    return breakers.used(state, _used(state, task))


def _chosen(state: State, p: Payload) -> State:
    tried = {"fingerprint": p["fingerprint"], "action": p["action"]}
    kept = {"failures": p.get("failures", 0), "due": p.get("due"), "rows": p.get("rows") or 0}
    state = _task(state, p["task"], **kept, strategy=tried if p["action"] == "retry" else None)
    if p["action"] in TRIED:
        state = put(state, "trials", p["pipeline"], tried)
    incident = state["incidents"].get(p.get("incident"))
    if incident is None:
        return state
    return put(state, "incidents", p["incident"], {**incident, "repeats": incident["repeats"] + 1})


def _ended(state: State, p: Payload) -> State:
    resolved = p["outcome"] == "resolved"
    known = learned(state["learned"], p["fingerprint"], p["action"], resolved=resolved)
    state = {**state, "learned": known}
    if p["action"] in TRIED:
        return without(state, "trials", p["pipeline"])
    for id_, task in state["tasks"].items():
        if task["pipeline"] == p["pipeline"] and task["strategy"]:
            return _task(state, id_, strategy=None)
    return state


def _opened(state: State, p: Payload) -> State:
    kept = {"fingerprint": p["fingerprint"], "pipeline": p.get("pipeline"), "connection": p.get("connection")}
    kept |= {"component": component_of(p["facts"])} if p.get("component") else {}
    return put(state, "incidents", p["id"], {**kept, "repeats": 0})


def _number(timer: str) -> int:
    """Return the failures of a run so far, which the name of its retry's timer ends with."""
    number = timer.rpartition(":")[2]
    return int(number) if number.isdigit() else 0


def _fired(state: State, p: Payload) -> State:
    """Forget the failures of the connections of a stream that counts as resolved."""
    for task in state["tasks"].values():
        if task["settles"] == p["timer"]:
            return breakers.used(state, _used(state, task))
    return state


def _used(state: State, task: Mapping[str, Any]) -> set[str]:
    return set(state["pipelines"].get(task["pipeline"], {}).get("connections", ()))


def _timer(state: State, p: Payload) -> State:
    if p["subject"].startswith(SETTLES):
        return _task(state, p["subject"].removeprefix(SETTLES), settles=p["timer"])
    if p["subject"] in state["tasks"]:
        known = p.get("failures") or _number(p["timer"])
        return _task(state, p["subject"], worker=None, failures=known, due=p["due"], rows=p.get("rows") or 0)
    return breakers.evolved(state, "timer.requested", p)


CHANGES: Final[dict[str, Callable[[State, Payload], State]]] = {
    "connection.changed": _connection,
    "connection.deleted": lambda s, p: without(without(s, "connections", p["name"]), "breakers", p["name"]),
    "pipeline.created": _pipeline,
    "pipeline.updated": _pipeline,
    "pipeline.deleted": _deleted,
    "task.queued": _queued,
    "task.closed": lambda s, p: without(s, "tasks", p["task"]),
    "task.assigned": _assigned,
    "task.cancelled": _taken_away,
    "task.returned": _taken_away,
    "worker.lost": _worker_lost,
    "task.failed": _failed,
    "task.completed": _completed,
    "diagnosis.requested": _requested,
    "strategy.chosen": _chosen,
    "strategy.ended": _ended,
    "incident.opened": _opened,
    "incident.closed": lambda s, p: without(s, "incidents", p["id"]),
    "breaker.changed": lambda s, p: breakers.evolved(s, "breaker.changed", p),
    "timer.requested": _timer,
    "timer.fired": _fired,
}
