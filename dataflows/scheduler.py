"""The scheduler flow: it reports timers that are due and workers that are lost, and trims topics.

It learns what to watch from the catalog, and from the log after the catalog's position. Repeated reports are harmless:
the orchestrator ignores a timer that is no longer pending and a worker that it does not know.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic

from catalog.projection import Projector
from catalog.watch import watched
from dataflows.process.leader import Leader
from dataflows.process.once import Once
from dataflows.process.site import Site
from penstock.clock import now
from penstock.ids import named_id
from penstock.records import Reading, Record, encode, records_of
from penstock.topics.log import Message, Stored
from penstock.topics.operators import TopicSink, TopicSource, Wakeup
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import CONTROL, TOPICS

__all__ = ["LOCK", "Watch", "add_scheduler", "worker_lock", "worker_lost"]

LOCK: Final = "scheduler"
ACTOR: Final = "scheduler"
LINGER: Final = 0.02
"""Seconds between two reads of the log; latency does not matter here."""
LOOK: Final = timedelta(seconds=1)
"""Time between two checks of the workers' locks."""
TRIM: Final = timedelta(minutes=1)
"""Time between two trims of topics."""


def worker_lock(worker: str) -> str:
    """Return the name of the lock that a live worker holds."""
    return f"worker:{worker}"


def add_scheduler(flow: Dataflow, site: Site, stop: threading.Event, wakeup: Wakeup) -> None:
    """Add the scheduler to `flow`; it stands by while another one is active, and takes over when that one ends."""
    log = site.open_log(LOCK)
    logic = _Logic(log)

    def begin() -> TopicSource:
        start = logic.begin(site.catalog_dsn)
        open_log = lambda: site.open_log("scheduler-tail")  # noqa: E731 - one for each partition
        return TopicSource(open_log, CONTROL, start, stop=stop, wakeup=wakeup, linger=LINGER)

    source = op.input("scheduler_in", flow, Leader(log, LOCK, begin, stop, wakeup))
    batches = op.flat_map_batch("scheduler_batches", source, lambda stored: [(ACTOR, stored)])
    first = op.input("scheduler_begin", flow, Once[tuple[str, list[Stored]]]((ACTOR, [])))
    reports = op.stateful_batch("watch", op.merge("scheduler_all", first, batches), lambda _: logic)
    op.output("report", reports, TopicSink(lambda: log, CONTROL, wakeup))


class Watch:
    """The pending timers by id with their times, and the names of live workers."""

    def __init__(self, timers: dict[str, datetime], workers: set[str]) -> None:
        self.timers, self.workers = timers, workers

    def follow(self, record: Record) -> None:
        """Update by a record."""
        payload = record.payload
        match record.type:
            case "timer.requested":
                self.timers[payload["timer"]] = datetime.fromisoformat(payload["due"])
            case "timer.fired":
                self.timers.pop(payload["timer"], None)
            case "worker.joined":
                self.workers.add(payload["worker"])
            case "worker.lost":
                self.workers.discard(payload["worker"])

    def due(self, at: datetime) -> list[str]:
        """Return the timers that are due, earliest first."""
        return sorted((t for t, due in self.timers.items() if due <= at), key=lambda t: (self.timers[t], t))

    def reported(self, records: Iterable[Record]) -> None:
        """Update by reports of this scheduler, before they are read back from the log."""
        for record in records:
            self.follow(record)


class _Logic(StatefulBatchLogic[list[Stored], list[Message], None]):
    """Follows the log, and reports what is due at once. A check of a worker's lock is one short query."""

    def __init__(self, log: PostgresLog) -> None:
        self._log, self._active = log, False
        self._watch, self._reading = Watch({}, set()), Reading()
        self._look = self._trim = now() + LOOK

    def begin(self, catalog_dsn: str) -> int:
        """Become active: load what to watch from the catalog; return the offset to read from."""
        with Projector(catalog_dsn) as projector:
            start, self._reading = projector.position()
        self._watch = Watch(*watched(catalog_dsn))
        self._look = self._trim = now() + LOOK
        self._active = True
        return start

    def on_batch(self, values: list[list[Stored]]) -> tuple[Iterable[list[Message]], bool]:
        for offset, record in records_of(one for batch in values for one in batch):
            if self._reading.keep(offset, record):
                self._watch.follow(record)
        return (), StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[list[Message]], bool]:
        at = now()
        if not self._active:
            self._look = at + LOOK
            return (), StatefulBatchLogic.RETAIN
        records = [_fired(timer, self._watch.timers[timer], at) for timer in self._watch.due(at)]
        if at >= self._look:
            self._look = at + LOOK
            lost = [worker for worker in sorted(self._watch.workers) if not self._log.holder(worker_lock(worker))]
            records += [worker_lost(worker, "its lock is free", at) for worker in lost]
        if at >= self._trim:
            self._trim = at + TRIM
            for topic in TOPICS.values():
                self._log.trim(topic, at)
        self._watch.reported(records)
        return ([[encode(record) for record in records]] if records else []), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime:
        return min([self._look, *self._watch.timers.values()])

    def snapshot(self) -> None:
        """Return None: the catalog and the log contain what is pending."""


def _fired(timer: str, due: datetime, at: datetime) -> Record:
    payload = {"timer": timer, "due": due.isoformat()}
    return Record(
        id=named_id("timer.fired", timer),
        kind="timer",
        type="timer.fired",
        key=timer,
        at=at,
        actor=ACTOR,
        payload=payload,
    )


def worker_lost(worker: str, reason: str, at: datetime) -> Record:
    """Return the record of a lost worker; repeated reports have the same id."""
    payload = {"worker": worker, "reason": reason}
    return Record(
        id=named_id("worker.lost", worker), type="worker.lost", key=worker, at=at, actor=ACTOR, payload=payload
    )
