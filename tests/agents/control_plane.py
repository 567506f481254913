"""The control plane in memory: a list is the log, and a fold of each agent follows it to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from hypothesis import strategies as st

from agents.discovery import DataDiscoveryAgent
from agents.fold import Fold, look_ahead
from agents.lifecycle import Lifecycle
from agents.monitor import MonitoringAgent
from agents.orchestrator import Orchestrator
from agents.protocol import Agent
from agents.resolution import ErrorResolutionAgent
from catalog.entries import Snapshot
from penstock.records import Reading, Record, decode, encode
from penstock.records.families import COMMANDS

START = datetime(2026, 1, 1, tzinfo=UTC)
ERROR = {"code": "unavailable.unreachable", "what": "nothing answers", "transient": True}
FATAL = {"code": "schema.missing_table", "what": "the table does not exist", "transient": False}


def classified_as(kind: str, fingerprint: str = "f1", **more: Any) -> dict[str, Any]:
    """Return how a worker classifies an error of the sink's connection."""
    found = {"kind": kind, "confidence": 0.95, "origin": "sink", "connection": "house", "fingerprint": fingerprint}
    return found | {"template": "nothing answers"} | more


def postgres(database: str) -> dict[str, Any]:
    return {"type": "postgres", "dsn": f"postgresql://me@localhost/{database}"}


def pipeline(name: str, *, source: str = "shop", sink: str = "house", **labels: str) -> dict[str, Any]:
    """Return a pipeline as a user writes it."""
    metadata: dict[str, Any] = {"name": name} | ({"labels": labels} if labels else {})
    origin = {"connection": source, "object": f"public.{name}"}
    target = {"connection": sink, "object": f"sales.{name}"}
    return {
        "apiVersion": "penstock/v1",
        "kind": "Pipeline",
        "metadata": metadata,
        "spec": {"source": origin, "sink": target},
    }


def pipeline_set(name: str, *objects: str, **spec: Any) -> dict[str, Any]:
    """Return a set as a user writes it; keys of its source and sink come as `source` and `sink`."""
    document = pipeline(name)
    source = {"connection": "shop", "objects": list(objects or ["public.*"]), **spec.pop("source", {})}
    sink = {"connection": "house", "object": "raw_{schema}.{table}", **spec.pop("sink", {})}
    return document | {"spec": {"source": source, "sink": sink, **spec}}


def listed(object_: str, *key: str) -> dict[str, Any]:
    """Return an object as a listing reports it."""
    schema, _, table = object_.partition(".")
    return {"object": object_, "schema": schema, "table": table, "key": list(key or ["id"])}


def policy(name: str, *, applies: Mapping[str, str] | None = None, **rooms: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy as a user writes it."""
    spec = {"applies": dict(applies or {}), **rooms}
    return {"apiVersion": "penstock/v1", "kind": "AgentPolicy", "metadata": {"name": name}, "spec": spec}


def started(agents: Sequence[Agent], at: datetime = START) -> Record:
    payload = {"agents": {agent.name: agent.rules for agent in agents}, "release": "0"}
    return Record(id=f"brain {at}", type="brain.started", key="brain", at=at, actor="control", payload=payload)


def refold(
    log: Sequence[Record], agents: Sequence[Agent], snapshots: Mapping[str, Snapshot] | None = None
) -> tuple[list[Fold], int]:
    """Return folds for the last brain of `log`, and the offset to read from, as a control process does at its start."""
    brain = max(offset for offset, record in enumerate(log) if record.type == "brain.started")
    rules = {agent.name: agent.rules for agent in agents}
    valid = {name: one for name, one in (snapshots or {}).items() if rules.get(name) == one.rules}
    start = min(valid[name].offset if name in valid else 0 for name in rules)
    earliest = next((one for one in valid.values() if one.offset == start), None)
    reading = Reading.from_dict(earliest.state["reading"]) if earliest else Reading()
    recorded = look_ahead(((o, log[o]) for o in range(start, brain + 1)), reading)
    return [Fold(agent, brain, recorded.get(agent.name), valid.get(agent.name)) for agent in agents], start


def decisions(log: Sequence[Record], upto: int | None = None) -> dict[tuple[str, tuple[int, int]], bytes]:
    """Return the decisions that count for readers: (agent, cause) -> the record, without its brain."""
    reading, found = Reading(), {}
    for offset, record in enumerate(log):
        kept = reading.keep(offset, record)
        if kept and record.agent and record.cause and (upto is None or record.cause[0] < upto):
            found[record.agent, record.cause] = encode(record.replaced(brain=0)).value
    return found


def judged(log: Sequence[Record], agents: Sequence[Agent]) -> dict[tuple[str, tuple[int, int]], bytes]:
    """Return what `agents` decide on the whole log if they ignore the recorded decisions."""
    found = {}
    for agent in agents:
        fold = Fold(agent, 0)
        for offset, record in enumerate(log):
            for one in fold.step(offset, record):
                assert one.cause is not None
                found[agent.name, one.cause] = encode(decode(encode(one))).value
    return found


class ControlPlane:
    """Every agent of the release (or those given) over one log; each record goes through its bytes."""

    def __init__(
        self,
        *agents: Agent,
        log: Sequence[Record] = (),
        snapshots: Mapping[str, Snapshot] | None = None,
        batch: int = 1,
    ) -> None:
        self.agents: tuple[Agent, ...] = agents or (
            Lifecycle(),
            Orchestrator(),
            DataDiscoveryAgent(),
            ErrorResolutionAgent(),
            MonitoringAgent(),
        )
        self.log: list[Record] = list(log)
        self.batch = batch
        self.now = self.log[-1].at if self.log else START
        self.cuts: list[int] = []
        self._stored: list[dict[str, tuple[Snapshot, bytes]]] = []
        self.restart(snapshots)

    def restart(self, snapshots: Mapping[str, Snapshot] | None = None) -> None:
        """Start a new brain from the log alone (and the given snapshots)."""
        self.log.append(started(self.agents, self.tick()))
        self.folds, self.next = refold(self.log, self.agents, snapshots)
        self.settle()

    def tick(self, seconds: float = 0.001) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def settle(self) -> None:
        """Let every fold read to the end, `batch` records at once, and append its decisions."""
        while self.next < len(self.log):
            begin, self.next = self.next, min(self.next + self.batch, len(self.log))
            self._note(self.folds)
            for fold in self.folds:
                for at in range(begin, self.next):
                    self.log += [decode(encode(record)) for record in fold.step(at, self.log[at])]
                    self._note([fold])

    def _note(self, changed: Sequence[Fold]) -> None:
        """Note an offset at which the log may end when a process dies, with the last snapshot of each agent then."""
        if not self.cuts or self.cuts[-1] != len(self.log):
            self.cuts.append(len(self.log))
            self._stored.append(dict(self._stored[-1]) if self._stored else {})
        for fold in changed:
            if snapshot := fold.snapshot():
                self._stored[-1][snapshot.agent] = replace(snapshot, state={}), orjson.dumps(snapshot.state)

    def snapshots(self, cut: int = -1) -> dict[str, Snapshot]:
        """Return the last snapshot of each agent at a cut, as a database returns it."""
        return {name: replace(one, state=orjson.loads(state)) for name, (one, state) in self._stored[cut].items()}

    def put(self, *records: Record) -> list[Record]:
        """Append `records` one after another, and return the records that follow from them."""
        before = len(self.log)
        self.log += [decode(encode(record)) for record in records]
        self.settle()
        return self.log[before + len(records) :]

    def record(self, type_: str, key: str, payload: Mapping[str, Any], **values: Any) -> Record:
        given: dict[str, Any] = {
            "at": self.tick(),
            "actor": "tests",
            "kind": "command" if type_ in COMMANDS else "event",
        } | values
        return Record(type=type_, key=key, payload=dict(payload), **given)

    def command(self, type_: str, /, **payload: Any) -> Record:
        """Send a command; return the answer."""
        command = self.record(
            type_, payload.get("name") or payload.get("pipeline_name") or type_, payload, kind="command"
        )
        answers = [one for one in self.put(command) if one.type.startswith("command.") and one.key == command.id]
        assert len(answers) == 1, "each command is answered once"
        return answers[0]

    def done(self, type_: str, /, **payload: Any) -> dict[str, Any]:
        """Send a command that must be applied; return its result."""
        answer = self.command(type_, **payload)
        assert answer.type == "command.applied", answer.payload
        result: dict[str, Any] = answer.payload["result"]
        return result

    def refused(self, type_: str, /, **payload: Any) -> dict[str, Any]:
        """Send a command that must be refused without other effects; return the refusal."""
        before = self.states()
        answer = self.command(type_, **payload)
        assert answer.type == "command.refused", answer.payload
        assert self.states() == before, "what is refused changes nothing"
        return answer.payload

    def tell(self, type_: str, key: str, /, **payload: Any) -> list[Record]:
        """Append an event; return the records that follow from it."""
        kind = "timer" if type_ == "timer.fired" else "event"
        return self.put(self.record(type_, key, payload, kind=kind))

    def states(self) -> list[Any]:
        return [fold.state for fold in self.folds]

    def state(self, agent: str) -> dict[str, Any]:
        return next(fold.state for fold in self.folds if fold.agent.name == agent)

    def of(self, type_: str) -> list[Record]:
        return [record for record in self.log if record.type == type_]

    # --- what most tests need

    def connect(self, *names: str) -> None:
        for name in names:
            self.done("connection.put", name=name, connection=postgres(name))

    def apply(self, document: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return self.done("pipeline.apply", pipeline=dict(document), **more)

    def join(
        self, worker: str, *, slots: int = 1, kinds: Sequence[str] = ("pipeline", "cleanup", "discover")
    ) -> list[Record]:
        return self.tell("worker.joined", worker, worker=worker, kinds=list(kinds), slots=slots)

    def lose(self, worker: str) -> list[Record]:
        return self.tell("worker.lost", worker, worker=worker, reason="its lock is free")

    def run(self, name: str) -> str:
        """Start a run; return its id."""
        return str(self.done("run.start", pipeline=name)["run"])

    def task_of(self, name: str) -> dict[str, Any]:
        """Return the only open task of a pipeline."""
        (task,) = [task for task in self.state("orchestrator")["tasks"].values() if task["pipeline"] == name]
        return dict(task)

    def end(self, task: Mapping[str, Any], error: Mapping[str, Any] | None = None) -> list[Record]:
        """Report the outcome of the open attempt of `task`."""
        attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
        if error is None:
            return self.tell("task.completed", task["id"], **attempt, counters={"rows_in": 3, "rows_out": 3})
        return self.tell("task.failed", task["id"], **attempt, error=dict(error))

    def fail(
        self,
        task: Mapping[str, Any],
        error: Mapping[str, Any],
        *,
        counters: Mapping[str, int] | None = None,
        **found: Any,
    ) -> list[Record]:
        """Report that the open attempt of `task` failed, as a worker does that has classified the error."""
        attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"], "run": task["run"]}
        classified = {**classified_as("transient" if error["transient"] else "schema"), **found}
        raised = {"source": "tests", "pipeline": task["pipeline"], "task": task["id"], "error": dict(error)}
        number = len(self.log)  # the decision shows the ids, which have to be the same in each run of a test
        first = self.record("error.raised", task["id"], raised | {"classified": classified}, id=f"raised {number}")
        payload = {**attempt, "error": dict(error), "raised": first.id, "classified": classified}
        payload |= {"counters": dict(counters)} if counters else {}
        payload = {key: value for key, value in payload.items() if value is not None}
        return self.put(first, self.record("task.failed", task["id"], payload, id=f"failed {number}"))

    def find(
        self,
        name: str,
        *objects: str | dict[str, Any],
        page: int = 500,
        after: Mapping[str, Sequence[str]] | None = None,
    ) -> list[Record]:
        """Report what the open listing of a set found, by names with a key or as records have them.

        `after` are the references between targets, if the sink could be asked.
        """
        (task,) = [
            one
            for one in self.state("orchestrator")["tasks"].values()
            if (one["pipeline"], one["kind"], one["status"]) == (name, "list", "assigned")
        ]
        found = [one if isinstance(one, dict) else listed(one) for one in objects]
        pages = [found[at : at + page] for at in range(0, len(found), page)] or [[]]
        uid = self.state("orchestrator")["pipelines"][name]["uid"]
        head = {"name": name, "uid": uid, "version": task["version"], "task": task["id"]}
        records = []
        for at, one in enumerate(pages):
            payload = {**head, "page": at, "last": at == len(pages) - 1, "objects": one}
            if after is not None:
                payload["after"] = {each["object"]: [*after.get(each["object"], ())] for each in one}
            records.append(self.record("objects.found", name, payload))
        attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
        return self.put(*records, self.record("task.completed", task["id"], attempt))

    def fire(self, timer: str) -> list[Record]:
        return self.tell("timer.fired", timer, timer=timer, due=self.now.isoformat())

    def running(self) -> dict[str, str]:
        """Return the pipelines with an open attempt that may have begun, and its worker."""
        return {task["pipeline"]: task["worker"] for task in self._assigned() if not task["after"]}

    def following(self) -> dict[str, str]:
        """Return the pipelines that are assigned behind others, and those."""
        tasks = self.state("orchestrator")["tasks"]
        return {one["pipeline"]: tasks[one["after"]]["pipeline"] for one in self._assigned() if one["after"]}

    def _assigned(self) -> list[dict[str, Any]]:
        tasks = self.state("orchestrator")["tasks"].values()
        return [task for task in tasks if task["status"] == "assigned"]

    def _end(self, task: Mapping[str, Any], error: Mapping[str, Any] | None) -> None:
        """End an attempt; every second failure is one that a worker has classified."""
        if error is not None and task["kind"] == "pipeline" and len(self.log) % 2:
            self.fail(task, error)
        else:
            self.end(task, error)

    def take(self, step: str, number: int) -> None:
        """Do one step of a random history; nothing if it does not apply."""
        running = [task for task in self.state("orchestrator")["tasks"].values() if task["status"] == "assigned"]
        name = "abcdefg"[number]
        match step:
            case "run":
                self.command("run.start", pipeline=name)
            case "pause" | "resume" | "stop" | "delete":
                self.command(f"pipeline.{step}", name=name)
            case "complete" | "fail" | "give up" if running:
                error = {"complete": None, "fail": ERROR, "give up": FATAL}[step]
                task = running[number % len(running)]
                self._end(task, error)
            case "fire" if timers := self.of("timer.requested"):
                self.fire(timers[number % len(timers)].key)
            case "join":
                kinds = [["pipeline", "cleanup"], ["pipeline"], ["cleanup"]][number % 3]
                self.join(f"w{number % 4}.{len(self.log)}", slots=1 + number % 2, kinds=kinds)
            case "lose" if workers := sorted(self.state("orchestrator")["workers"]):
                self.lose(workers[number % len(workers)])
            case "apply":
                document = pipeline(name, tier=["gold", "tin"][len(self.log) % 2])
                document["spec"] |= {"mode": "stream"} if name in "fg" else {}
                self.command("pipeline.apply", pipeline=document)
            case "policy":
                limits = {"max_running": 1 + number, "priorities": {"gold": number}}
                self.command(
                    "policy.publish", policy=policy("p", orchestrator=limits, constraints={"never": NEVER[number % 2]})
                )
            case "repeat" if commands := [record for record in self.log if record.kind == "command"]:
                self.put(commands[number % len(commands)])


NEVER: tuple[list[str], ...] = ([], ["drop_table"])
RUNNING = [
    "run",
    "run",
    "run",
    "complete",
    "fail",
    "give up",
    "fire",
    "join",
    "lose",
    "pause",
    "resume",
    "stop",
    "delete",
]
CHANGING = ["apply", "apply", "apply", "policy", "repeat"]


def steps(*, changing: bool = False) -> st.SearchStrategy[tuple[str, int]]:
    """Return a strategy for steps of a history: of running pipelines, or of changing them too."""
    return st.tuples(st.sampled_from(RUNNING + CHANGING if changing else RUNNING), st.integers(0, 6))
