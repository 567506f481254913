"""Index of the tasks in the orchestrator's state, so that no decision has to look at all of them.

``open``: the tasks of each pipeline by id, in the order of the queue, and the notices of an alert to one route;
``assigned``: the assigned tasks, in the order of assignment; ``shares``: of each worker, how many of each group are at
work; ``queued``: the number of queued ones. ``ready``: the queued tasks that may be assigned, in groups that the
policy's limits treat alike; of each, what it is sorted by, and its id. Of the runs of a pipeline only the first is
ready, and only while the pipeline works and waits for no first load of another one; of the notices of an alert to one
route, only the first. A comparison of both sides of a batch waits for its runs, and they for it. ``targets``: the open
tasks of batches that write each table, by `penstock.models.targets`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from agents.protocol import State
from agents.rooms import without
from penstock.models.sets import is_member, set_of

__all__ = [
    "COMPARING",
    "NOTIFY",
    "WRITING",
    "Group",
    "connections_in",
    "connections_of",
    "drop_pipeline",
    "drop_task",
    "group_in",
    "group_of",
    "is_attempt",
    "open_tasks",
    "put_pipeline",
    "put_task",
    "rivals",
    "works",
]

COMPARING: Final = frozenset({"check", "deletes"})
"""Kinds of tasks that compare both sides of a pipeline."""
WRITING: Final = frozenset({"pipeline", "deletes", "letters"})
"""Kinds of tasks that write a pipeline's target."""

NOTIFY: Final = "notify"
"""Kind of the tasks that send notices; like discoveries, they are no pipeline's."""

Place = tuple[str, list[Any]]
"""A group, and the entry of a task in it."""


class Group(NamedTuple):
    """What the tasks of a group have in common."""

    kind: str
    mode: str
    whole: str
    """The set that their pipelines belong to; "" if to none."""
    connections: frozenset[str]

    @property
    def is_lasting(self) -> bool:
        """True for the runs of streams, which take no slots."""
        return self.kind == "pipeline" and self.mode == "stream"


def put_task(state: State, id_: str, **values: Any) -> State:
    """Change a task, or add it."""
    before = state["tasks"].get(id_)
    after = {**(before or {}), **values}
    return _indexed(state, {**state["tasks"], id_: after}, before, after)


def drop_task(state: State, id_: str) -> State:
    """Take a task out, if it is there."""
    if (before := state["tasks"].get(id_)) is None:
        return state
    tasks = dict(state["tasks"])
    del tasks[id_]
    return _indexed(state, tasks, before, None)


def put_pipeline(state: State, name: str, **values: Any) -> State:
    """Change a pipeline, or add it."""
    pipelines = {**state["pipelines"], name: {**state["pipelines"].get(name, {}), **values}}
    after = {**state, "pipelines": pipelines}
    return _linked(after, _place(state, name, lined=True), _place(after, name, lined=True))


def drop_pipeline(state: State, name: str) -> State:
    """Take a pipeline out, and its tasks."""
    for id_ in state["open"].get(name, ()):
        state = drop_task(state, id_)
    return without(state, "pipelines", name)


def open_tasks(state: State, name: str) -> list[dict[str, Any]]:
    """Return the open tasks of a pipeline, in the order of the queue."""
    return [state["tasks"][id_] for id_ in state["open"].get(name, ())]


def rivals(state: State, task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the open tasks of other pipelines that write the same table."""
    found = (state["tasks"][id_] for id_ in state["targets"].get(task.get("target"), ()))
    return [one for one in found if one["pipeline"] != task["pipeline"]]


def is_attempt(task: Mapping[str, Any] | None, reported: Mapping[str, Any]) -> bool:
    """True if a record is about the attempt of a task that is at work; False if that was taken from its worker."""
    if task is None or task["worker"] is None:
        return False
    return bool((task["attempt"], task["worker"]) == (reported["attempt"], reported.get("worker")))


def works(pipeline: dict[str, Any] | None) -> bool:
    """True if a pipeline takes work now; what does not exist holds up nothing."""
    return pipeline is None or pipeline["status"] in {"active", "draining"}


def group_of(task: dict[str, Any]) -> str:
    """Return the group of tasks that the limits of a policy, and the pause of a set, treat alike."""
    mode = "" if task["spec"] is None else task["spec"]["spec"].get("mode", "")
    return " ".join((task["kind"], mode, set_of(task["pipeline"] or "") or "", *sorted(connections_of(task))))


@lru_cache(maxsize=4096)
def group_in(name: str) -> Group:
    """Return what the name of a group, which `group_of` made, says of its tasks."""
    kind, mode, whole, *connections = name.split(" ")
    return Group(kind, mode, whole, frozenset(connections))


def connections_of(task: dict[str, Any]) -> set[str]:
    """Return the connections that a task uses."""
    if task["spec"] is not None:
        return connections_in(task["spec"]["spec"])
    return {task["notice"]["route"] if task["kind"] == NOTIFY else task["discovery"]["connection"]}


def connections_in(spec: dict[str, Any]) -> set[str]:
    """Return the connections that a pipeline uses."""
    used = {step["lookup"]["connection"] for step in spec.get("transforms", ()) if step.get("lookup")}
    if (watched := (spec.get("triggers") or {}).get("files")) and "connection" in watched:
        used.add(watched["connection"])
    return {spec["source"]["connection"], spec["sink"]["connection"], *used}


def _indexed(state: State, tasks: State, before: dict[str, Any] | None, task: dict[str, Any] | None) -> State:
    """Return the state with these new tasks, of which one was `before` and is `task` now."""
    one = task or before or {}
    after = {**state, "tasks": tasks}
    if before is None or task is None:
        if (line := _line(one)) is not None:
            after["open"] = _opened(state["open"], line, one["id"], added=before is None)
        if one.get("target"):
            after["targets"] = _opened(state["targets"], one["target"], one["id"], added=before is None)
    was, is_ = (None if found is None else found["status"] for found in (before, task))
    after["queued"] += (is_ == "queued") - (was == "queued")
    if was != "assigned" and is_ == "assigned":
        after["assigned"] = [*state["assigned"], one["id"]]
    elif was == "assigned" and is_ != "assigned":
        after["assigned"] = state["assigned"].copy()
        after["assigned"].remove(one["id"])
    if (share := _share(before)) != (now := _share(task)):
        after["shares"] = _shared(state["shares"], share, now)
    if was == "assigned" and is_ != "assigned" and is_member(one["pipeline"] or ""):
        _move_up(after, one["id"])
    name, lined = (_line(one) or "", True) if _is_lined(one) else (one["id"], False)
    return _linked(after, _place(state, name, lined=lined), _place(after, name, lined=lined))


def _opened(index: Mapping[str, list[str]], key: str, id_: str, *, added: bool) -> dict[str, list[str]]:
    """Return an index of open tasks, with this one under its key or without it."""
    found = dict(index)
    others = [one for one in found.pop(key, ()) if one != id_]
    if mine := [*others, id_] if added else others:
        found[key] = mine
    return found


Share = tuple[str, str]
"""A worker, and a group."""


def _share(task: Mapping[str, Any] | None) -> Share | None:
    """Return what a task takes a part of; None if it is not at work, or waits for the end of another."""
    if task is None or task["status"] != "assigned" or task.get("after"):
        return None
    return task["worker"], task["group"]


def _shared(shares: Mapping[str, Mapping[str, int]], left: Share | None, taken: Share | None) -> State:
    """Return the shares without one that was left, and with one that was taken."""
    found = dict(shares)
    for share, by in ((left, -1), (taken, 1)):
        if share is None:
            continue
        worker, group = share
        groups = dict(found.pop(worker, {}))
        if count := groups.pop(group, 0) + by:
            groups[group] = count
        if groups:
            found[worker] = groups
    return found


def _move_up(after: State, ended: str) -> None:
    """Give the place of a task that has left its worker to what came after it there; `after` is new, and changed.

    Only runs of a set's members come after another.
    """
    for id_ in after["assigned"]:
        task = after["tasks"][id_]
        if task.get("after") == ended:
            after["tasks"][id_] = now = {**task, "after": None}
            after["shares"] = _shared(after["shares"], None, _share(now))


def _line(task: dict[str, Any]) -> str | None:
    """Return what the open tasks are listed by that belong together: a pipeline, or an alert and its route.

    No pipeline has the latter's name, since it contains blanks.
    """
    if task["kind"] != NOTIFY:
        name: str | None = task["pipeline"]
        return name
    notice = task["notice"]
    return f"{NOTIFY} {notice['route']} {notice['alert'].get('alert', notice['id'])}"


def _is_lined(task: dict[str, Any]) -> bool:
    """True if the task begins only while none of its line is at work: a run, a comparison of a batch, a notice."""
    if task["kind"] in COMPARING:
        return bool(task["spec"]["spec"].get("mode") != "stream")
    return task["kind"] in {"pipeline", NOTIFY}


def _place(state: State, name: str, *, lined: bool) -> Place | None:
    """Return where the next task of a pipeline's line, or another task by its id, is among those that are ready.

    The one at work is the first of its line; runs come before comparisons.
    """
    if not lined:
        task = state["tasks"].get(name)
    else:
        pipeline = state["pipelines"].get(name)
        at_work, waits = works(pipeline), bool(pipeline and pipeline.get("waits"))
        line = [
            one
            for one in open_tasks(state, name)
            if _is_lined(one) and (one["kind"] in COMPARING or (at_work and (not waits or one["status"] == "assigned")))
        ]
        task = min(line, key=lambda one: (one["status"] != "assigned", one["kind"] != "pipeline"), default=None)
    if task is None or task["status"] != "queued":
        return None
    return task["group"], [-task["priority"], task["order"], task["id"]]


def _linked(state: State, before: Place | None, after: Place | None) -> State:
    """Return the state with a place among those that are ready in place of another."""
    if before == after:
        return state
    ready = dict(state["ready"])
    if before is not None:
        left = list(ready.pop(before[0]))
        del left[bisect_left(left, before[1])]
        ready |= {before[0]: left} if left else {}
    if after is not None:
        ready[after[0]] = list(ready.get(after[0], ()))
        insort(ready[after[0]], after[1])
    return {**state, "ready": ready}
