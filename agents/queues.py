"""Assignment of tasks to workers: by priority, then by place in the queue; a task is skipped only if it cannot run.

There is one queue for each kind of task. A worker takes the kinds that it named when it joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from agents.protocol import Draft, State
from agents.streams import is_stream
from agents.workload import DISCOVER
from penstock.models.policy import OrchestratorPolicy
from penstock.models.sets import set_of

__all__ = ["assignments", "free_slots", "waiting"]

SHORT = frozenset({"cleanup", "list"})
"""Kinds of tasks that do not count for the limits of a connection."""
STREAMS = 100
"""The most streams of one worker; they take no slots, which are for what uses a core and ends."""


def waiting(state: State) -> list[dict[str, Any]]:
    """Return the tasks that wait for a worker, in the order of assignment: listings, which are short, come first."""
    first = _first_runs(state)
    ready = [
        task
        for task in state["tasks"].values()
        if task["status"] == "queued" and not _is_paused(state, task) and _is_next(task, first)
    ]
    return sorted(ready, key=lambda task: (task["kind"] != "list", -task["priority"], task["order"]))


def _first_runs(state: State) -> dict[str, str]:
    """Return the first open run of each pipeline: later ones wait until it is done."""
    runs = sorted((t for t in state["tasks"].values() if t["kind"] == "pipeline"), key=lambda task: -task["order"])
    return {task["pipeline"]: task["id"] for task in runs}


def _is_next(task: dict[str, Any], first: dict[str, str]) -> bool:
    return bool(task["kind"] != "pipeline" or first[task["pipeline"]] == task["id"])


def free_slots(state: State) -> dict[str, int]:
    """Return how many more tasks each worker takes."""
    busy = Counter(
        task["worker"]
        for task in state["tasks"].values()
        if task["status"] == "assigned" and not is_stream(task["spec"])
    )
    return {name: worker["slots"] - busy[name] for name, worker in state["workers"].items()}


def assignments(state: State, limits: OrchestratorPolicy) -> tuple[Draft, ...]:
    """Assign each waiting task that may run to the worker with most free slots (the first by name among equals)."""
    free = free_slots(state)
    assigned = [task for task in state["tasks"].values() if task["status"] == "assigned" and task["kind"] not in SHORT]
    running = [task for task in assigned if not is_stream(task["spec"])]
    streams = Counter(task["worker"] for task in assigned if is_stream(task["spec"]))
    sets = {set_of(task["pipeline"]): task["worker"] for task in assigned if is_stream(task["spec"])}
    used = Counter(connection for task in running for connection in connections_of(task))
    count, out = sum(task["kind"] == "pipeline" for task in running), []
    for task in waiting(state):
        if task["kind"] == "pipeline" and is_stream(task["spec"]):
            if (worker := _of_set(state, task, sets, streams) or _with_fewest(state, streams)) is not None:
                streams[worker] += 1
                sets[set_of(task["pipeline"])] = worker
                out.append(_assigned(state, task, worker))
            continue
        mine = connections_of(task)
        is_run, is_short = task["kind"] == "pipeline", task["kind"] in SHORT
        if is_run and count >= limits.max_running:
            continue
        if not is_short and any(used[name] >= limits.per_connection for name in mine):
            continue
        able = [name for name, slots in free.items() if slots > 0 and task["kind"] in state["workers"][name]["kinds"]]
        if not able:
            continue
        worker = min(able, key=lambda name: (-free[name], name))
        free[worker] -= 1
        count += is_run
        if not is_short:
            used += Counter(mine)
        out.append(_assigned(state, task, worker))
    return tuple(out)


def _of_set(state: State, task: dict[str, Any], sets: Mapping[str | None, str], streams: Counter[str]) -> str | None:
    """Return the worker that has other members of the stream's set, if they can share one reader of their source."""
    source = state["connections"].get(task["spec"]["spec"]["source"]["connection"], {})
    worker = sets.get(set_of(task["pipeline"])) if source.get("type") == "postgres" else None
    if worker is None or set_of(task["pipeline"]) is None or worker not in state["workers"]:
        return None
    return worker if streams[worker] < STREAMS else None


def _with_fewest(state: State, streams: Counter[str]) -> str | None:
    """Return the worker with the fewest streams; None if each has as many as it may."""
    able = [name for name, worker in state["workers"].items() if "pipeline" in worker["kinds"]]
    return (
        min(able, key=lambda name: (streams[name], name)) if able and min(streams[n] for n in able) < STREAMS else None
    )


def connections_of(task: dict[str, Any]) -> set[str]:
    """Return the connections that a task uses."""
    if task["kind"] == DISCOVER:
        return {task["discovery"]["connection"]}
    spec = task["spec"]["spec"]
    looked_up = {step["lookup"]["connection"] for step in spec.get("transforms", ()) if step.get("lookup")}
    return {spec["source"]["connection"], spec["sink"]["connection"], *looked_up}


def _is_paused(state: State, task: dict[str, Any]) -> bool:
    """True if the task's pipeline takes no work now; a member's set is paused first, so that no other member begins."""
    if task["kind"] != "pipeline":
        return False
    names = (task["pipeline"], set_of(task["pipeline"]))
    return any(name in state["pipelines"] and not _works(state["pipelines"][name]) for name in names)


def _works(pipeline: dict[str, Any]) -> bool:
    return pipeline["status"] in {"active", "draining"}


def _assigned(state: State, task: dict[str, Any], worker: str) -> Draft:
    payload = {"task": task["id"], "worker": worker, "attempt": task["attempt"] + 1, "kind": task["kind"]}
    payload |= {"discovery": task["discovery"]} if task["kind"] == DISCOVER else _of_pipeline(state, task)
    payload["connections"] = {name: state["connections"].get(name, {}) for name in sorted(connections_of(task))}
    return Draft("task.assigned", task["id"], {key: value for key, value in payload.items() if value is not None})


def _set_id(state: State, task: dict[str, Any]) -> str | None:
    """Return the id of the set of a stream, whose members may share what they make at their source."""
    whole = state["pipelines"].get(set_of(task["pipeline"])) if is_stream(task["spec"]) else None
    return whole["uid"] if whole else None


def _of_pipeline(state: State, task: dict[str, Any]) -> dict[str, Any]:
    """Return what the assignment of a pipeline's task contains."""
    pipeline = state["pipelines"][task["pipeline"]]
    return {
        "pipeline": task["pipeline"],
        "uid": pipeline["uid"],
        "set_id": _set_id(state, task),
        "run": task["run"],
        "version": task["version"],
        "drop_table": pipeline.get("drop_table", False),
        "drain": (pipeline["status"] == "draining" and is_stream(task["spec"])) or None,
        "spec": task["spec"],
        "reload": state["runs"].get(task["run"], {}).get("reload"),
        "begin": state["runs"].get(task["run"], {}).get("begin"),
    }
