from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.records import Record
from tests.agents.control_plane import ControlPlane, pipeline, policy, steps

TIERS = {"gold": 10, "tin": 0}
PIPELINES = {
    name: pipeline(name, source=f"c{number % 3}", sink=f"c{3 + number % 2}", tier="gold" if number % 3 == 0 else "tin")
    for number, name in enumerate("abcdefg")
}


class Queues:
    """The queues, derived from the log by code other than the orchestrator's."""

    def __init__(self, max_running: int, per_connection: int) -> None:
        self.max_running, self.per_connection = max_running, per_connection
        self.waiting: dict[str, dict[str, Any]] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self.timers: dict[str, str] = {}
        self.sleeping: dict[str, dict[str, Any]] = {}
        self.workers: dict[str, dict[str, Any]] = {}
        self.inactive: set[str] = set()
        self.places = 0

    def follow(self, records: Iterable[tuple[int, Record]]) -> None:
        """Return records in the orchestrator's order: its own decision right after its cause."""
        for _, record in sorted(records, key=lambda item: _seen(*item)):
            getattr(self, record.type.replace(".", "_"), lambda _: None)(record.payload)

    def task_queued(self, payload: dict[str, Any]) -> None:
        task = {"priority": 0, **payload["task"], "place": self.places}
        self.waiting[task["id"]], self.places = task, self.places + 1

    def task_assigned(self, payload: dict[str, Any]) -> None:
        task = self.waiting[payload["task"]]
        assert self.could_run(task), "within the limits"
        earlier = [
            other
            for other in self.waiting.values()
            if other["kind"] == task["kind"]
            and (-other["priority"], other["place"]) < (-task["priority"], task["place"])
            and self.could_run(other)
        ]
        assert earlier == [], "it jumped the queue"
        worker = self.workers[payload["worker"]]
        assert task["kind"] in worker["kinds"]
        assert self.room(payload["worker"]) > 0
        self.running[task["id"]] = {**self.waiting.pop(task["id"]), "worker": payload["worker"]}

    def task_closed(self, payload: dict[str, Any]) -> None:
        for room in (self.waiting, self.running, self.sleeping):
            room.pop(payload["task"], None)

    def task_cancelled(self, payload: dict[str, Any]) -> None:
        self.waiting[payload["task"]] = self.running.pop(payload["task"])

    def timer_requested(self, payload: dict[str, Any]) -> None:
        if payload["subject"] in self.running:
            self.timers[payload["timer"]] = payload["subject"]
            self.sleeping[payload["subject"]] = self.running.pop(payload["subject"])

    def tasks_aged(self, payload: dict[str, Any]) -> None:
        for id_, priority in payload["tasks"].items():
            assert self.waiting[id_]["priority"] < priority <= max(TIERS.values()), "it was less urgent, and waited"
            self.waiting[id_]["priority"] = priority

    def timer_fired(self, payload: dict[str, Any]) -> None:
        task = self.sleeping.pop(self.timers.pop(payload["timer"], ""), None)
        if task:
            self.waiting[task["id"]] = task

    def worker_joined(self, payload: dict[str, Any]) -> None:
        self.workers[payload["worker"]] = payload

    def worker_lost(self, payload: dict[str, Any]) -> None:
        self.workers.pop(payload["worker"], None)
        for task in [task for task in self.running.values() if task["worker"] == payload["worker"]]:
            self.waiting[task["id"]] = self.running.pop(task["id"])

    def pipeline_status_changed(self, payload: dict[str, Any]) -> None:
        (self.inactive.discard if payload["status"] == "active" else self.inactive.add)(payload["name"])

    def room(self, worker: str) -> int:
        held = [task for task in self.running.values() if task["worker"] == worker]
        return int(self.workers[worker]["slots"]) - len(held)

    def could_run(self, task: dict[str, Any]) -> bool:
        able = any(task["kind"] in self.workers[name]["kinds"] and self.room(name) > 0 for name in self.workers)
        if task["kind"] == "cleanup" or not able:
            return able
        counted = [one for one in self.running.values() if one["kind"] != "cleanup"]
        used = [sum(name in _connections(one) for one in counted) for name in _connections(task)]
        if any(count >= self.per_connection for count in used):
            return False
        mine = [one for one in self.running.values() if one["pipeline"] == task["pipeline"]]
        if task["kind"] == "check":
            checks = [one for one in self.running.values() if one["kind"] == "check"]
            others = [*mine, *self.waiting.values(), *self.sleeping.values()]
            runs = [one for one in others if (one["kind"], one["pipeline"]) == ("pipeline", task["pipeline"])]
            alike = any(_connections(one) & _connections(task) for one in checks)
            return not alike and (not runs or task["pipeline"] in self.inactive)
        runs = [one for one in self.running.values() if one["kind"] == "pipeline"]
        compared = any(one["kind"] == "check" for one in mine)
        return len(runs) < self.max_running and task["pipeline"] not in self.inactive and not compared


def _seen(offset: int, record: Record) -> tuple[int, int, int]:
    if record.agent == "orchestrator" and record.cause:
        return record.cause[0], 1, record.cause[1]
    return offset, 0, 0


def _connections(task: dict[str, Any]) -> set[str]:
    spec = PIPELINES[task["pipeline"]]["spec"]
    return {spec["source"]["connection"], spec["sink"]["connection"]}


def assert_indexed(state: dict[str, Any]) -> None:
    """Check that the index of the tasks says what the tasks say."""
    tasks, names = sorted(state["tasks"].values(), key=lambda task: task["order"]), {*state["open"]}
    mine = {name: [task for task in tasks if task["pipeline"] == name] for name in names}
    assert {task["pipeline"] for task in tasks} == names
    assert state["open"] == {name: [task["id"] for task in of] for name, of in mine.items()}
    assert sorted(state["assigned"]) == sorted(task["id"] for task in tasks if task["status"] == "assigned")
    assert state["queued"] == sum(task["status"] == "queued" for task in tasks)
    works = {name: state["pipelines"][name]["status"] in {"active", "draining"} for name in names}
    lines = {
        name: [task for task in of if task["kind"] == "check" or (task["kind"] == "pipeline" and works[name])]
        for name, of in mine.items()
    }
    first = {
        name: min(line, key=lambda task: (task["status"] != "assigned", task["kind"] == "check"))["id"]
        for name, line in lines.items()
        if line
    }
    ready = [
        [-task["priority"], task["order"], task["id"]]
        for task in tasks
        if task["status"] == "queued"
        and (task["kind"] not in {"pipeline", "check"} or first.get(task["pipeline"]) == task["id"])
    ]
    assert sorted(one for group in state["ready"].values() for one in group) == sorted(ready)
    assert all(group == sorted(group) for group in state["ready"].values())


MORE = st.tuples(st.sampled_from(["check", "check", "enter", "enter", "age", "age"]), st.integers(0, 6))


def take(plane: ControlPlane, step: str, number: int) -> None:
    """Do one step of a random history, in which both sides are compared and what waits ages, too."""
    match step:
        case "check":
            plane.command("check.start", name="abcdefg"[number])
        case "enter":
            kinds = [["pipeline", "cleanup", "check"], ["check"]][number % 2]
            plane.join(f"v{number % 4}.{len(plane.log)}", slots=1 + number % 2, kinds=kinds)
        case "age":
            if timer := plane.state("orchestrator")["ageing"]:
                plane.fire(timer["timer"])
        case _:
            plane.take(step, number)


@settings(max_examples=30, deadline=None)
@given(
    taken=st.lists(steps() | MORE, min_size=10, max_size=45),
    running=st.integers(1, 4),
    per_connection=st.integers(1, 3),
)
def test_property_03_assignment_keeps_queue_order(
    taken: list[tuple[str, int]], running: int, per_connection: int
) -> None:
    """Property 3: Task assignment preserves queue ordering.

    Whatever is queued, completed, failed, lost, paused and joined in whatever order: a task is never assigned while an
    earlier one of its kind and priority (or one of a higher priority) that could run waits; and none waits that could.
    What waits ages by records only, up to the priority of the most urgent.

    Validates: Requirements 6.4
    """
    plane = ControlPlane()
    plane.connect(*(f"c{number}" for number in range(5)))
    for document in PIPELINES.values():
        plane.apply(document)
    limits = {"max_running": running, "per_connection": per_connection, "priorities": TIERS, "ageing": {"step": 4}}
    plane.done("policy.publish", policy=policy("p", orchestrator=limits))
    queues = Queues(running, per_connection)
    for step, number in taken:
        before = len(plane.log)
        take(plane, step, number)
        queues.follow(list(enumerate(plane.log))[before:])
        assert [task for task in queues.waiting.values() if queues.could_run(task)] == [], "none waits that could run"
        assert_indexed(plane.state("orchestrator"))
    assert plane.of("agent.faulted") == []
