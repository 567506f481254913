"""Assignment of tasks to workers: by priority, then by place in the queue; a task is skipped only if it cannot run.

There is one queue for each kind of task. A worker takes the kinds that it named when it joined; of comparisons of both
sides, a connection has one at a time, and of batches that write one table, one pipeline is at work at a time. Behind a
run of a set's member, the worker may get the next one in advance: it begins that as soon as the run has ended, in the
same process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agents.protocol import Draft, State, Thread
from agents.ready import COMPARING, NOTIFY, Group, connections_of, group_in, rivals, works
from agents.streams import is_stream
from agents.triggers import WATCH
from agents.workload import DISCOVER, HELD_KINDS
from penstock.models.policy import OrchestratorPolicy
from penstock.models.sets import is_member, set_of

__all__ = ["assignments"]

SHORT = frozenset({"cleanup", "list", "diagnose", WATCH, NOTIFY})
"""Kinds of tasks that do not count for the limits of a connection."""
NOTICES = 4
"""The most notices that a worker sends at once, each to another route; they take no slots, so no run delays them."""
STREAMS = 100
"""The most streams of one worker; they take no slots, which are for what uses a core and ends."""


def assignments(state: State, limits: OrchestratorPolicy) -> tuple[tuple[Draft, ...], dict[str, int]]:
    """Assign each waiting task that may run to the worker with most free slots (the first by name among equals).

    Also return how many more tasks each worker would have taken before.
    """
    room, queue, out = _Room.of(state, limits), _Queue(state), list[Draft]()
    free = dict(room.free)
    while (found := queue.first(room)) is not None:
        task, worker = found
        queue.take(task)
        room.take(group_in(task["group"]), worker)
        out.append(_assigned(state, task, worker))
    return (*out, *_in_advance(state, room, queue, out)), free


def _in_advance(state: State, room: _Room, queue: _Queue, drafts: list[Draft]) -> Iterator[Draft]:
    """Assign behind each member's run what would be assigned if it ended now, if that is a run of the same set."""
    if not queue.has_members():
        return
    tasks = state["tasks"]
    running = {id_: tasks[id_]["worker"] for id_ in state["assigned"]}
    running |= {draft.payload["task"]: draft.payload["worker"] for draft in drafts}
    followed = {tasks[id_].get("after") for id_ in state["assigned"]}
    for id_, worker in running.items():
        task = tasks[id_]
        if id_ in followed or task.get("after") or task.get("slow") or not _may_be_followed(task):
            continue
        found = queue.first(room.without(group_in(task["group"]), worker))
        if found is not None and found[1] == worker and found[0]["group"] == task["group"]:
            queue.take(found[0])
            yield _assigned(state, found[0], worker, after=id_)


def _may_be_followed(task: dict[str, Any]) -> bool:
    return task["kind"] == "pipeline" and not is_stream(task["spec"]) and is_member(task["pipeline"])


def _turn(task: dict[str, Any]) -> tuple[bool, bool, int, int]:
    """Return what tasks are sorted by: listings come first, comparisons of both sides last until they have aged."""
    return task["kind"] != "list", task["kind"] in COMPARING and not task.get("aged"), -task["priority"], task["order"]


class _Queue:
    """The tasks that are ready, without those taken so far."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._passed = Counter[str]()
        """Of each group, the tasks that were taken, or wait for another pipeline's."""
        self._taken: set[str] = set()

    def first(self, room: _Room) -> tuple[dict[str, Any], str] | None:
        """Return the first task for which there is room, and its worker; None if there is none."""
        heads = filter(None, map(self._head, self._state["ready"]))
        for task in sorted(heads, key=_turn):
            if not self._is_paused(task) and (worker := room.worker_for(task)) is not None:
                return task, worker
        return None

    def _head(self, group: str) -> dict[str, Any] | None:
        """Return the first task of a group that does not wait for another pipeline's; None if there is none."""
        places = self._state["ready"][group]
        while len(places) > self._passed[group]:
            task: dict[str, Any] = self._state["tasks"][places[self._passed[group]][2]]
            if not any(self._holds(one, task) for one in rivals(self._state, task)):
                return task
            self._passed[group] += 1
        return None

    def _holds(self, one: dict[str, Any], task: dict[str, Any]) -> bool:
        """True if a task has begun to write the table of another one, and can end."""
        if one["status"] == "assigned" or one["id"] in self._taken:
            return True
        if not one["attempt"] or not works(self._state["pipelines"].get(one["pipeline"])):
            return False
        is_first = not task["attempt"] or one["order"] < task["order"]
        return is_first and not self._state["held"].keys() & connections_of(one)

    def has_members(self) -> bool:
        """True if any task is left that belongs to a set."""
        ready = self._state["ready"].items()
        return any(group_in(group).whole for group, one in ready if len(one) > self._passed[group])

    def _is_paused(self, task: dict[str, Any]) -> bool:
        """True if the task's set takes no work now: it is paused before its members, so that no other one begins."""
        name = set_of(task["pipeline"] or "") if task["kind"] == "pipeline" else None
        return name is not None and not works(self._state["pipelines"].get(name))

    def take(self, task: dict[str, Any]) -> None:
        """Take the first task of its group."""
        self._passed[task["group"]] += 1
        self._taken.add(task["id"])


@dataclass(slots=True)
class _Room:
    """What the workers and the limits of the policy leave; what waits behind another task takes nothing."""

    state: State
    workers: Mapping[str, dict[str, Any]]
    limits: OrchestratorPolicy
    free: dict[str, int]
    streams: Counter[str]
    watches: Counter[str] = field(default_factory=Counter)
    """Tasks that look for files; they take no slots either."""
    notices: Counter[str] = field(default_factory=Counter)
    """Notices that are being sent, by worker and by route."""
    held: frozenset[str] = frozenset()
    """Connections that no task may use now."""
    tried: frozenset[str] = frozenset()
    """Connections that one task may use, to try them."""
    used: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    compared: Counter[str] = field(default_factory=Counter)
    """Comparisons of both sides by connection."""
    sets: dict[str, str] = field(default_factory=dict)
    """The worker that the last stream of each set was given by this decision."""

    @classmethod
    def of(cls, state: State, limits: OrchestratorPolicy) -> _Room:
        workers = state["workers"]
        free = {name: one["slots"] for name, one in workers.items()}
        room = cls(state, workers, limits, free, Counter())
        for worker, groups in state["shares"].items():
            for name, count in groups.items():
                room.count(group_in(name), worker, count)
        room.held, room.tried = _held(state)
        return room

    def take(self, group: Group, worker: str) -> None:
        """Give a task of a group its part."""
        if self.tried and group.kind in HELD_KINDS:
            self.held |= self.tried & group.connections
        if group.is_lasting:
            self.sets[group.whole] = worker
        self.count(group, worker, 1)

    def count(self, group: Group, worker: str, by: int) -> None:
        """Count so many more tasks of a group at a worker."""
        if group.kind == WATCH:
            self.watches[worker] += by
            return
        if group.kind == NOTIFY:
            self.notices[worker] += by
            for route in group.connections:
                self.notices[_route(route)] += by
            return
        if group.is_lasting:
            self.streams[worker] += by
            return
        if worker in self.free:
            self.free[worker] -= by
        self.runs += by * (group.kind == "pipeline")
        for name in () if group.kind in SHORT else group.connections:
            self.used[name] += by
            self.compared[name] += by * (group.kind in COMPARING)

    def without(self, group: Group, worker: str) -> _Room:
        """Return the room after a task of a group."""
        after = replace(self, free=dict(self.free), streams=self.streams.copy(), used=self.used.copy())
        after.compared = self.compared.copy()
        after.count(group, worker, -1)
        return after

    def worker_for(self, task: dict[str, Any]) -> str | None:
        """Return the worker that would take a task; None if there is no room for it."""
        group = group_in(task["group"])
        able = [name for name, worker in self.workers.items() if group.kind in worker["kinds"]]
        if self.held and group.kind in HELD_KINDS and self.held & group.connections:
            return None
        if group.kind in {WATCH, NOTIFY} or group.is_lasting:
            return self._lasting(task, group, able)
        if group.kind == "pipeline" and self.runs >= self.limits.max_running:
            return None
        if group.kind not in SHORT and any(self.used[name] >= self.limits.per_connection for name in group.connections):
            return None
        if group.kind in COMPARING and any(self.compared[name] for name in group.connections):
            return None
        able = [name for name in able if self.free[name] > 0]
        return min(able, key=lambda name: (-self.free[name], name), default=None)

    def _lasting(self, task: dict[str, Any], group: Group, able: list[str]) -> str | None:
        """Return the worker that would take a task which needs no slot: one without an end, or a notice."""
        if group.kind == NOTIFY:
            is_busy = any(self.notices[_route(route)] for route in group.connections)
            able = [] if is_busy else [name for name in able if self.notices[name] < NOTICES]
            return min(able, key=lambda name: (self.notices[name], name), default=None)
        if group.kind == WATCH:
            return min(able, key=lambda name: (self.watches[name], name), default=None)
        fewest = self._of_set(task, group) or min(able, key=lambda name: (self.streams[name], name), default=None)
        return fewest if fewest is not None and self.streams[fewest] < STREAMS else None

    def _of_set(self, task: dict[str, Any], group: Group) -> str | None:
        """Return the worker that has other members of a stream's set, if they can share one reader of their source."""
        source = self.state["connections"].get(task["spec"]["spec"]["source"]["connection"], {})
        if not group.whole or source.get("type") != "postgres":
            return None
        worker = self.sets.get(group.whole) or self._last_of(group.whole)
        if worker is None or worker not in self.workers:
            return None
        return worker if self.streams[worker] < STREAMS else None

    def _last_of(self, whole: str) -> str | None:
        """Return the worker of the stream of a set that was assigned last; None if none is at work."""
        for task in map(self.state["tasks"].__getitem__, reversed(self.state["assigned"])):
            group = group_in(task["group"])
            if group.is_lasting and group.whole == whole and not task.get("after"):
                worker: str = task["worker"]
                return worker
        return None


def _route(name: str) -> str:
    return f"{NOTIFY} {name}"


def _held(state: State) -> tuple[frozenset[str], frozenset[str]]:
    """Return the connections that no task may use now, and those that one may try."""
    probes = {name: state["tasks"].get(one["probe"], {}) for name, one in state["held"].items()}
    busy = {name for name, task in probes.items() if task.get("status") == "assigned"}
    free = {name for name, one in state["held"].items() if one["status"] == "half_open"} - busy
    return frozenset(state["held"].keys() - free), frozenset(free)


def _assigned(state: State, task: dict[str, Any], worker: str, after: str | None = None) -> Draft:
    payload = {"task": task["id"], "worker": worker, "attempt": task["attempt"] + 1, "kind": task["kind"]}
    payload |= {"after": after}
    alone = {DISCOVER: "discovery", NOTIFY: "notice"}.get(task["kind"])
    payload |= {alone: task[alone]} if alone else _of_pipeline(state, task)
    payload["connections"] = {name: state["connections"].get(name, {}) for name in sorted(connections_of(task))}
    payload = {key: value for key, value in payload.items() if value is not None}
    thread = Thread(*task["thread"]) if task.get("thread") else None
    return Draft("task.assigned", task["id"], payload, thread)


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
        "limit": task.get("limit"),
        "since": task.get("since"),
        "letters": task.get("letters"),
        "failure": task.get("failure"),
        "round": pipeline.get("round") if task["kind"] == WATCH else None,
    }
