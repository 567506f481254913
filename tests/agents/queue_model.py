"""The queues as a plain model, derived from the log by code other than the orchestrator's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from penstock.records import Record
from tests.agents.control_plane import pipeline

TIERS = {"gold": 10, "silver": 5, "tin": 0}
STEP = 4
AFTER: dict[str, dict[str, Any]] = {"f": {"pipelines": ["a"]}, "g": {"pipelines": ["b", "c"], "on": "end"}}
"""Pipelines that run after others: after a success of one, or after an end of both."""


def _document(number: int, name: str) -> dict[str, Any]:
    tier = ("gold", "silver", "tin", "tin")[number % 4]
    document = pipeline(name, source=f"c{number % 3}", sink=f"c{3 + number % 2}", tier=tier)
    document["spec"] |= {"after": AFTER[name]} if name in AFTER else {}
    return document


PIPELINES = {name: _document(number, name) for number, name in enumerate("abcdefg")}


class Queues:
    """What waits, runs and sleeps, whose attempts are over, and which runs have to follow others."""

    def __init__(self, max_running: int, per_connection: int) -> None:
        self.max_running, self.per_connection = max_running, per_connection
        self.waiting: dict[str, dict[str, Any]] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self.timers: dict[str, str] = {}
        self.sleeping: dict[str, dict[str, Any]] = {}
        self.workers: dict[str, dict[str, Any]] = {}
        self.inactive: set[str] = set()
        self.places = 0
        self.attempts: dict[str, int] = {}
        self.over: list[dict[str, Any]] = []
        """Attempts that were taken from their workers, as a worker would name them."""
        self.closed: set[str] = set()
        self.runs: dict[str, str] = {}
        """Open runs, and their pipelines."""
        self.ended: dict[str, set[str]] = {name: set() for name in AFTER}
        """Of what runs after others, those that have ended since its own last run was created."""

    def follow(self, records: Iterable[tuple[int, Record]]) -> None:
        """Follow records in the orchestrator's order: its own decision right after its cause."""
        for _, record in sorted(records, key=lambda item: _seen(*item)):
            getattr(self, record.type.replace(".", "_"), lambda _: None)(record.payload)

    def task_queued(self, payload: dict[str, Any]) -> None:
        task = {"priority": 0, **payload["task"], "place": self.places}
        assert task["id"] not in self.attempts, "a task is queued once"
        self.waiting[task["id"]], self.places = task, self.places + 1
        self.attempts[task["id"]] = 0

    def task_assigned(self, payload: dict[str, Any]) -> None:
        assert payload["task"] in self.waiting, "nobody else has it"
        task = self.waiting[payload["task"]]
        self.attempts[task["id"]] += 1
        assert payload["attempt"] == self.attempts[task["id"]], "each attempt has a number of its own"
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
        attempt = {"worker": payload["worker"], "attempt": payload["attempt"]}
        self.running[task["id"]] = {**self.waiting.pop(task["id"]), **attempt}

    def task_closed(self, payload: dict[str, Any]) -> None:
        assert payload["task"] not in self.closed, "a task ends once"
        self.closed.add(payload["task"])
        if task := self.running.get(payload["task"]):
            self.taken(task)
        for room in (self.waiting, self.running, self.sleeping):
            room.pop(payload["task"], None)

    def task_cancelled(self, payload: dict[str, Any]) -> None:
        self.taken(self.running[payload["task"]])
        self.waiting[payload["task"]] = self.running.pop(payload["task"])

    def taken(self, task: dict[str, Any]) -> None:
        """Note an attempt of which no report may count any more."""
        self.over.append({"id": task["id"], "worker": task["worker"], "attempt": task["attempt"]})

    def timer_requested(self, payload: dict[str, Any]) -> None:
        if payload["subject"] in self.running:
            self.taken(self.running[payload["subject"]])
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
            self.taken(task)
            self.waiting[task["id"]] = self.running.pop(task["id"])

    def pipeline_created(self, payload: dict[str, Any]) -> None:
        self.inactive.discard(payload["name"])

    def pipeline_deleted(self, payload: dict[str, Any]) -> None:
        for id_, task in list(self.waiting.items()):
            if task["pipeline"] == payload["name"]:
                assert task["kind"] == "diagnose", "its clean-up is the last of its tasks that counts"
                del self.waiting[id_]
        self.ended |= {payload["name"]: set()} if payload["name"] in AFTER else {}

    def pipeline_status_changed(self, payload: dict[str, Any]) -> None:
        (self.inactive.discard if payload["status"] == "active" else self.inactive.add)(payload["name"])

    def run_created(self, payload: dict[str, Any]) -> None:
        run = payload["run"]
        assert run["pipeline"] not in self.runs.values(), "a pipeline has one run at a time"
        self.runs[run["id"]] = run["pipeline"]
        self.ended |= {run["pipeline"]: set()} if run["pipeline"] in AFTER else {}

    def run_finished(self, payload: dict[str, Any]) -> None:
        run = payload["run"]
        assert self.runs.pop(run["id"]) == run["pipeline"], "a run ends once"
        for name, after in AFTER.items():
            if run["pipeline"] in after["pipelines"] and (run["status"] == "completed" or after.get("on") == "end"):
                self.ended[name].add(run["pipeline"])

    def due(self) -> list[str]:
        """Return the pipelines that should have a run, since all that they run after have ended, but have none."""
        found = [name for name, after in AFTER.items() if self.ended[name] >= {*after["pipelines"]}]
        return [name for name in found if name not in self.inactive and name not in self.runs.values()]

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


def assert_shares(state: dict[str, Any]) -> None:
    """Check that what each worker has at work is counted, by groups; what waits behind another task is not."""
    counted: dict[str, Counter[str]] = {}
    for task in state["tasks"].values():
        if task["status"] == "assigned" and not task["after"]:
            counted.setdefault(task["worker"], Counter())[task["group"]] += 1
    assert state["shares"] == counted


def assert_indexed(state: dict[str, Any]) -> None:
    """Check that the index of the tasks says what the tasks say."""
    assert_shares(state)
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
