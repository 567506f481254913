"""A control log of any length, as an installation leaves it: real agents answer simulated users, workers and timers.

The simulation is pipelines with schedules, a program that starts runs by command, people who pause, change and ask for
what is refused, policies that change, workers that complete, fail and are lost, and control processes that start again.
Nothing is drawn but by a seed, so that the same length is the same log.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import Any, Final

from agents.fold import Fold, look_ahead
from agents.protocol import Agent
from penstock.ids import named_id
from penstock.records import Reading, Record, decode, encode
from penstock.topics.log import Message

__all__ = ["MIX", "ControlLog"]

MIX: Final = (
    "about 100 pipelines, most of them with schedules: runs, retries, pauses, new versions, refused commands, "
    "discoveries, changed policies, lost workers"
)
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
PIPELINES: Final = 100
UNREACHABLE: Final = {"code": "unavailable.unreachable", "what": "nothing answers", "transient": True}
MISSING: Final = {"code": "schema.missing_table", "what": "the table does not exist", "transient": False}
COMMANDS: Final = {"connection.put", "pipeline.apply", "pipeline.pause", "pipeline.resume", "policy.publish",
                   "run.start", "discovery.start"}  # fmt: skip


class ControlLog:
    """Makes records one after another; `messages` yields them encoded, in order."""

    def __init__(self, agents: Sequence[Agent], seed: int = 1) -> None:
        self._agents, self._random = agents, random.Random(seed)
        self._now, self._turn, self._next = START, 0, 0
        self._simulation: list[tuple[datetime, int, Record]] = []
        self._out: list[Message] = []
        self._pending: list[Record] = []
        self._started: set[str] = set()
        self._brain: dict[str, Fold] = {}
        self._begin()

    def messages(self, count: int) -> Iterator[Message]:
        """Yield `count` messages, or a few more so that the last decision is whole."""
        made = 0
        while made < count:
            yield from self._out
            made += len(self._out)
            self._out = []
            self._step()
        yield from self._out

    def snapshots(self) -> list[Any]:
        """Return the state of each agent, as it would be stored now."""
        taken = [fold.snapshot() for fold in self._brain.values()]
        return [one.state for one in taken if one is not None]

    def _begin(self) -> None:
        self._append(self._started_brain())
        for name in ("shop", "house"):
            connection = {"type": "postgres", "dsn": f"postgresql://me@db.example.com/{name}"}
            self._say("connection.put", name, {"name": name, "connection": connection})
        self._say("policy.publish", "default", {"policy": _policy(8)})
        for number in range(PIPELINES):
            self._say("pipeline.apply", f"p{number}", {"pipeline": _pipeline(number, 0)}, after=number)
        self._join("w0", 1)
        self._later("daily", timedelta(minutes=10))
        self._later("program", timedelta(minutes=1))

    def _step(self) -> None:
        self._now, _, record = heappop(self._simulation)
        if record.type.startswith("simulation."):
            self._happen(record)
            return
        self._append(record)

    def _happen(self, record: Record) -> None:
        if record.type == "simulation.program":  # starts runs by command, and asks for some that cannot start
            self._later("program", timedelta(seconds=30))
            self._say("run.start", "", {"pipeline": f"p{self._random.randrange(PIPELINES + 2)}"})
            return
        self._later("daily", timedelta(minutes=10))
        name, number = f"p{(chosen := self._random.randrange(PIPELINES))}", self._random.randrange(144)
        match number:
            case 0:
                self._append(self._started_brain())
            case 1:
                self._tell("worker.lost", "w0", {"worker": "w0", "reason": "its lock is free"})
                self._join("w0", 2)
            case 2:
                self._say("policy.publish", "default", {"policy": _policy(4 + self._turn % 8)})
            case 3:
                self._say("discovery.start", "shop", {"connection": "shop"})
            case 4 | 5 | 6 | 7 | 8 | 9:
                self._say("pipeline.apply", name, {"pipeline": _pipeline(chosen, self._turn)})
            case number if number < 30:
                self._say("pipeline.pause", name, {"name": name})
                self._say("pipeline.resume", name, {"name": name}, after=1200)

    def _started_brain(self) -> Record:
        rules = {agent.name: agent.rules for agent in self._agents}
        return Record(id=self._id(), type="brain.started", key="brain", at=self._now, actor="control",
                      payload={"agents": rules, "release": "0"})  # fmt: skip

    def _append(self, record: Record) -> None:
        """Append a record, and what the agents decide about it and about their decisions."""
        self._pending.append(record)
        while self._pending:
            self._append_one(self._pending.pop(0))

    def _append_one(self, record: Record) -> None:
        offset = self._next
        self._next += 1
        message = encode(record)
        self._out.append(message)
        record = decode(message)
        if record.type == "brain.started":
            self._start_folds(offset)
        for fold in self._brain.values():
            self._pending += fold.step(offset, record)
        self._answer(record)

    def _start_folds(self, offset: int) -> None:
        if not self._brain:
            recorded = look_ahead([(offset, self._started_brain())], Reading())
            self._brain = {one.name: Fold(one, offset, recorded[one.name]) for one in self._agents}
        for fold in self._brain.values():
            fold.brain = offset

    def _answer(self, record: Record) -> None:
        """React as workers and timers would: do what is assigned, and fire timers when they are due."""
        payload = record.payload
        if record.type == "timer.requested":
            due = max(datetime.fromisoformat(payload["due"]), self._now)
            self._tell("timer.fired", record.key, {"timer": record.key, "due": payload["due"]}, kind="timer", at=due)
        if record.type != "task.assigned":
            return
        attempt = {"task": payload["task"], "attempt": payload["attempt"], "worker": payload["worker"]}
        attempt |= {"run": payload["run"]} if payload.get("run") else {}
        self._tell("task.started", payload["task"], {**attempt, "pid": 4711}, after=0.01)
        took, luck = self._random.uniform(0.5, 30), self._random.random()
        name = str(payload.get("pipeline", ""))
        if name and name not in self._started:
            self._started.add(name)
            self._tell("schema.observed", name, _schema(name), after=took)
        if luck < 0.05 and payload["kind"] == "pipeline":
            error = MISSING if luck < 0.005 else UNREACHABLE
            raised = {"source": "worker", "pipeline": name, "run": payload["run"], "task": payload["task"]}
            self._tell("error.raised", name, {**raised, "error": error}, after=took)
            self._tell("task.failed", payload["task"], {**attempt, "error": error}, after=took)
            return
        rows = self._random.randrange(100_000)
        counters = {"rows_in": rows, "rows_out": rows, "bytes": 90 * rows} if name else {}
        more = {} if name else {"discovery": payload["discovery"]["id"], "found": {"objects": 40}}
        seconds = {"prepare": 0.1, "flow": round(took, 2), "publish": 0.05}
        done = {**attempt, "counters": counters, "seconds": seconds, **more}
        self._tell("task.completed", payload["task"], done, after=took)

    def _join(self, worker: str, after: float) -> None:
        kinds = ["pipeline", "cleanup", "discover"]
        self._tell("worker.joined", worker, {"worker": worker, "kinds": kinds, "slots": 6}, after=after)

    def _say(self, type_: str, key: str, payload: dict[str, Any], after: float = 0) -> None:
        self._tell(type_, key, payload, after=after, kind="command", actor="user:ann")

    def _later(self, what: str, span: timedelta) -> None:
        self._tell(f"simulation.{what}", "", {}, at=self._now + span)

    def _tell(
        self, type_: str, key: str, payload: dict[str, Any], *, after: float = 0, at: datetime | None = None,
        kind: Any = "event", actor: str = "worker:w0",
    ) -> None:  # fmt: skip
        at = at or self._now + timedelta(seconds=after)
        record = Record(id=self._id(), kind=kind, type=type_, key=key, at=at, actor=actor, payload=payload)
        heappush(self._simulation, (at, self._turn, record))

    def _id(self) -> str:
        self._turn += 1
        return named_id("bench", self._turn)


def _policy(running: int) -> dict[str, Any]:
    limits = {"max_running": running, "per_connection": running, "priorities": {"gold": 10}}
    return {"metadata": {"name": "default"}, "spec": {"orchestrator": limits}}


def _pipeline(number: int, version: int) -> dict[str, Any]:
    fields = [{"target": f"t{n}", "from": f"c{n}"} for n in range(5)]
    labels = {"tier": ("gold", "silver", "tin")[number % 3]}
    spec: dict[str, Any] = {
        "source": {"connection": "shop", "object": f"public.t{number}"},
        "mapping": {"fields": [*fields, {"target": "e", "sql": f"c1 * 2 + {version}"}]},
        "sink": {"connection": "house", "object": f"raw.t{number}", "write": "replace"},
    }
    if number % 5:
        spec["schedule"] = {"cron": f"{number % 15}/15 * * * *", "timezone": "Europe/Berlin"}
    return {"metadata": {"name": f"p{number}", "owner": "data-team", "labels": labels}, "spec": spec}


def _schema(name: str) -> dict[str, Any]:
    fields = [{"name": f"c{n}", "type": "bigint", "nullable": n > 0} for n in range(8)]
    return {"dataset": {"connection": "shop", "object": f"public.{name}"}, "schema": {"fields": fields, "key": ["c0"]}}
