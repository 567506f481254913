"""The worker flow: it runs each task assigned to this worker in a process, and reports the outcome as records.

A worker is alive as long as it holds the lock of its name, on the connection that it appends with. It decides nothing:
it reports crashes and failures, and the orchestrator decides what follows.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic

from catalog.database import engine
from catalog.projection import Projector
from catalog.store import MetadataStore
from dataflows.process.guarded import Guarded
from dataflows.process.pulse import Pulse
from dataflows.process.site import Site
from dataflows.scheduler import worker_lock, worker_lost
from dataflows.work.outcomes import Outcomes, crashed, not_started
from dataflows.work.processes import Ended, Processes
from dataflows.work.watches import STUCK, WATCH, Watches
from penstock import telemetry
from penstock.clock import now
from penstock.errors import Fenced
from penstock.ids import new_id
from penstock.records import Reading, Record, encode, records_of
from penstock.topics.log import Message, Stored
from penstock.topics.operators import TopicSink, TopicSource, Wakeup
from penstock.topics.table import CONTROL, METRICS

__all__ = ["add_worker"]

KINDS: Final = ("pipeline", "cleanup", "discover", "list", "check", "deletes", "letters", "diagnose", "notify", WATCH)
SILENT: Final = ("discover", "diagnose", "notify", WATCH)
"""Kinds of tasks that report no progress."""
LINGER: Final = 0.005
"""Seconds between two reads of the log."""
RETURN_SECONDS: Final = 2.0
"""Longest wait of a task for the end of the one that it was assigned behind."""
POLL_SECONDS: Final = 0.1
"""Seconds between two checks of silent processes."""


def add_worker(flow: Dataflow, site: Site, stop: threading.Event, wakeup: Wakeup) -> None:
    """Add a worker with a name of its own to `flow`.

    Raises:
        Fenced: while it runs, if the log says that it is lost; its processes are ended, and it must be restarted.
    """
    name = f"{socket.gethostname().lower()[:32]}-{os.getpid()}-{new_id()[:8]}"
    log = site.open_log(f"worker-{name}")
    log.lock(worker_lock(name), wait=True)
    with Projector(site.catalog_dsn) as projector:
        start, reading = projector.position()
    joined = Record(
        type="worker.joined",
        key=name,
        at=now(),
        actor=f"worker:{name}",
        payload={"worker": name, "kinds": list(KINDS), "slots": site.settings.parallel},
    )
    log.append(CONTROL, [encode(joined)])
    tail = TopicSource(
        lambda: site.open_log(f"worker-tail-{name}"), CONTROL, start, stop=stop, wakeup=wakeup, linger=LINGER
    )
    batches = op.flat_map_batch("worker_batches", op.input("worker_in", flow, tail), lambda stored: [(name, stored)])
    pulse = Pulse[tuple[str, list[Stored]]]((name, []), POLL_SECONDS, stop, wakeup)
    beats = op.input("worker_ended", flow, pulse)
    store = MetadataStore(engine(site.catalog_dsn, pool_size=1))
    processes = Processes(site.settings, site.catalog_dsn, pulse.beat)
    logic = _Logic(name, wakeup, reading, processes, Outcomes(f"worker:{name}", store))
    reports = op.stateful_batch("work", op.merge("worker_all", beats, batches), lambda _: Guarded(logic, wakeup))
    kinds = op.branch("measured", reports, lambda item: item[1][0])
    for step, topic, items in (("measure", METRICS, kinds.trues), ("outcomes", CONTROL, kinds.falses)):
        messages = op.map(f"{step}_messages", items, lambda item: _keyed(item[1][1]))
        op.output(step, messages, TopicSink(lambda: log, topic, wakeup))


def _keyed(messages: list[Message]) -> tuple[str, list[Message]]:
    """Return messages of one key with that key, which determines their partition."""
    return (messages[0].key or b"").decode(), messages


Output = tuple[bool, list[Message]]
"""True for measurements (which go to the metrics), and the messages of one append."""


class _Logic(StatefulBatchLogic[list[Stored], Output, None]):
    """Starts and ends processes as the log orders, and watches them."""

    def __init__(self, name: str, wakeup: Wakeup, reading: Reading, processes: Processes, outcomes: Outcomes) -> None:
        self._wakeup = wakeup
        self._name, self._reading, self._processes, self._outcomes = name, reading, processes, outcomes
        self._assigned: dict[str, tuple[int, Record]] = {}
        self._halting: dict[tuple[str, int], tuple[int, Record]] = {}
        self._behind: dict[str, tuple[float, int, Record]] = {}
        self._watches = Watches()

    def on_batch(self, values: list[list[Stored]]) -> tuple[Iterable[Output], bool]:
        out: list[Output] = []
        for offset, record in records_of(one for batch in values for one in batch):
            if self._reading.keep(offset, record):
                out += self._follow(offset, record)
        return self._emitted(out + self._reports()), StatefulBatchLogic.RETAIN

    def _emitted(self, out: list[Output]) -> list[Output]:
        """Return `out`, and keep the flow awake so that it is appended to the log at once."""
        if out:
            self._wakeup.wake()
        return out

    def _follow(self, offset: int, record: Record) -> list[Output]:
        payload = record.payload
        if record.type == "worker.lost" and payload["worker"] == self._name:
            self._processes.end_all()
            raise Fenced("the log says that this worker is lost", where=f"worker {self._name}")
        if record.type == "task.assigned" and payload["worker"] == self._name:
            if payload.get("after") in self._assigned:
                self._behind[payload["after"]] = (time.monotonic(), offset, record)
                return []
            return self._begin(offset, record)
        if record.type == "pipeline.status_changed" and payload["status"] == "draining":
            for task, (_, assigned) in self._assigned.items():
                if assigned.payload.get("pipeline") == payload["name"]:
                    self._processes.drain(task)
        if record.type == "schema.observed":
            self._outcomes.note_schema(record)
        if record.type in {"task.cancelled", "task.closed"}:
            return self._end(payload["task"], payload["attempt"])
        return []

    def _begin(self, offset: int, record: Record) -> list[Output]:
        """Begin an assigned task."""
        task = record.payload["task"]
        self._assigned[task] = (offset, record)
        if record.payload["kind"] == WATCH:
            self._watches.add(record.payload)
            return []
        try:
            pid = self._processes.begin(record.payload, record.traceparent)
            telemetry.record("begin task", record.traceparent, int(record.at.timestamp() * 1e9), task=task, pid=pid)
        except OSError as error:
            self._assigned.pop(task)
            failed = self._outcomes.not_started(offset, record, error)
            return [(False, [encode(one) for one in failed]), *self._follow_on(task)]
        return [(False, [encode(self._outcomes.started(offset, record, pid))])]

    def _follow_on(self, ended: str) -> list[Output]:
        """Begin the task that waits for the end of this one, if there is any."""
        waiting = self._behind.pop(ended, None)
        return self._begin(*waiting[1:]) if waiting is not None else []

    def _end(self, task: str, attempt: int) -> list[Output]:
        """End an attempt, or forget it if it has not begun."""
        for before, (_, _, record) in list(self._behind.items()):
            if (record.payload["task"], record.payload["attempt"]) == (task, attempt):
                del self._behind[before]
        if not self._is_open(task, attempt):
            return []
        assigned = self._assigned.pop(task)
        if assigned[1].payload["kind"] == WATCH:
            self._watches.drop(task)
        else:
            self._halting[task, attempt] = assigned
        self._processes.end(task)
        return self._follow_on(task)

    def _returned(self) -> list[Output]:
        """Give back the tasks that have waited for long: another worker, or this one, may have room for them."""
        at, out = time.monotonic(), list[Output]()
        for before, (since, offset, record) in list(self._behind.items()):
            if at - since >= RETURN_SECONDS:
                del self._behind[before]
                out.append((False, [encode(self._outcomes.returned(offset, record))]))
        return out

    def _is_open(self, task: str, attempt: int) -> bool:
        return task in self._assigned and self._assigned[task][1].payload["attempt"] == attempt

    def _reports(self) -> list[Output]:
        """Return records of what the processes have done since the last call."""
        out: list[Output] = self._look()
        for task, page in self._processes.found():
            if task in self._assigned and (records := self._outcomes.found(*self._assigned[task], page)):
                out.append((False, [encode(record) for record in records]))
        for ended in self._processes.ended():
            out += self._ended(ended)
        for task, line in self._processes.progress():
            if task in self._assigned and self._assigned[task][1].payload["kind"] not in SILENT:
                out.append((True, [encode(self._outcomes.progress(*self._assigned[task], line))]))
                if observed := self._outcomes.observed(*self._assigned[task], line):
                    out.append((False, [encode(record) for record in observed]))
        for ended in self._processes.halted():
            assigned = self._halting.pop((ended.task, ended.attempt), None)
            if assigned and (records := self._outcomes.halted(*assigned, ended)):
                out.append((False, [encode(record) for record in records]))
        self._processes.maintain()
        return out + self._returned()

    def _look(self) -> list[Output]:
        """Begin the looks for files that are due, and end those that hang."""
        out: list[Output] = []
        for task in self._watches.stuck():
            self._processes.end(task)
            out += self._looked(task, {"error": STUCK.to_dict()})
        for due in self._watches.begin():
            try:
                self._processes.begin(due, self._assigned[due["task"]][1].traceparent)
            except OSError as error:
                out += self._looked(due["task"], {"error": not_started(error).to_dict()})
        return out

    def _looked(self, task: str, result: Mapping[str, Any]) -> list[Output]:
        """Return the records of a look for files."""
        found = self._watches.looked(task, result)
        records = self._outcomes.arrived(*self._assigned[task], found) if found else []
        return [(False, [encode(record) for record in records])] if records else []

    def _ended(self, ended: Ended) -> list[Output]:
        if not self._is_open(ended.task, ended.attempt):
            return []
        assigned = self._assigned[ended.task]
        if assigned[1].payload["kind"] == WATCH:
            return self._looked(ended.task, ended.result or {"error": crashed(ended, assigned[1]).to_dict()})
        del self._assigned[ended.task]
        shown = ended.line if assigned[1].payload["kind"] not in SILENT else None
        last = [(True, [encode(self._outcomes.progress(*assigned, shown))])] if shown else []
        records = self._outcomes.of(*assigned, ended)
        return [*last, (False, [encode(record) for record in records]), *self._follow_on(ended.task)]

    def on_eof(self) -> tuple[Iterable[Output], bool]:
        """End the processes and report this worker as lost, so that others take over at once."""
        self._processes.end_all()
        return [(False, [encode(worker_lost(self._name, "it was stopped", now()))])], StatefulBatchLogic.RETAIN

    def snapshot(self) -> Any:
        """Return None: tasks come from the log."""
