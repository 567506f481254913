"""The scheduler flow: it reports timers that are due and workers that are lost, and deletes what is kept for a time.

It learns what to watch from the catalog, and from the log after the catalog's position. Repeated reports are harmless:
the orchestrator ignores a timer that is no longer pending and a worker that it does not know.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from datetime import datetime, timedelta
from math import inf
from typing import Final

from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic

from catalog.differences import Differences
from catalog.projection import Projector
from catalog.watch import watched
from dataflows.process.guarded import Guarded
from dataflows.process.leader import Leader
from dataflows.process.pulse import Pulse
from dataflows.process.site import Site
from penstock.clock import now
from penstock.errors import Unavailable
from penstock.ids import named_id
from penstock.records import Reading, Record, encode, records_of
from penstock.telemetry import current_traceparent
from penstock.topics.log import Message, Stored, TopicLog
from penstock.topics.opening import topics_of
from penstock.topics.operators import TopicSink, TopicSource, Wakeup
from penstock.topics.table import CONTROL

__all__ = ["LOCK", "Watch", "add_scheduler", "worker_lock", "worker_lost"]

LOCK: Final = "scheduler"
ACTOR: Final = "scheduler"
LINGER: Final = 0.02
"""Seconds between two reads of the log; latency does not matter here."""
BEAT: Final = 0.1
"""Seconds between two polls at the timers."""
POLL_SECONDS: Final = 1.0
"""Seconds between two checks of the workers' locks."""
TRIM: Final = 60.0
"""Seconds between two trims of topics, and of keys that differ."""
TICK: Final = "tick:"
"""Prefix of the timers of schedules; others wait for a span of time."""
STEP: Final = timedelta(seconds=1)
"""A clock that is set back by less is not reported."""


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
    beats = op.input("scheduler_beats", flow, Pulse[tuple[str, list[Stored]]]((ACTOR, []), BEAT, stop, wakeup))
    reports = op.stateful_batch("watch", op.merge("scheduler_all", beats, batches), lambda _: Guarded(logic, wakeup))
    op.output("report", reports, TopicSink(lambda: log, CONTROL, wakeup))


class Watch:
    """The pending timers by id with their times, and the names of live workers.

    A timer that waits for a span of time, as a retry does, is due after that span whatever the wall clock says
    meanwhile; the tick of a schedule is due at its time of the wall clock.
    """

    def __init__(self, timers: Mapping[str, tuple[datetime, datetime, int]], workers: set[str]) -> None:
        """Begin with `timers` (when each is due, when it was requested, and at which offset) and `workers`."""
        self.timers, self.workers = {timer: due for timer, (due, _, _) in timers.items()}, workers
        self.requests = {timer: offset for timer, (_, _, offset) in timers.items()}
        """Offsets of the records that have requested the timers."""
        self._over: dict[str, float] = {}
        for timer, (due, requested, _) in timers.items():
            self._wait(timer, due - requested)

    def _wait(self, timer: str, span: timedelta) -> None:
        if not timer.startswith(TICK):
            self._over[timer] = time.monotonic() + span.total_seconds()

    def follow(self, offset: int, record: Record) -> None:
        """Update by a record that has passed the door."""
        payload = record.payload
        match record.type:
            case "timer.requested":
                timer, due = payload["timer"], datetime.fromisoformat(payload["due"])
                self.timers[timer], self.requests[timer] = due, offset
                self._wait(timer, due - record.at)
            case "timer.fired":
                self.timers.pop(payload["timer"], None)
                self.requests.pop(payload["timer"], None)
                self._over.pop(payload["timer"], None)
            case "worker.joined":
                self.workers.add(payload["worker"])
            case "worker.lost":
                self.workers.discard(payload["worker"])

    def due(self, at: datetime) -> list[str]:
        """Return the timers that are due, earliest first."""
        passed = time.monotonic()
        due = [timer for timer, one in self.timers.items() if one <= at or self._over.get(timer, inf) <= passed]
        return sorted(due, key=lambda timer: (self.timers[timer], timer))

    def reported(self, records: Iterable[Record]) -> None:
        """Update by reports of this scheduler, before they are read back from the log."""
        for record in records:
            self.follow(-1, record)


class Clock:
    """Compares the wall clock with the monotonic one, to notice that it was set back."""

    def __init__(self) -> None:
        self._begin: datetime | None = None

    def set_back(self, at: datetime, passed: float) -> timedelta | None:
        """Return by how much it was set back since the last call, if by more than `STEP`.

        `at` is what it shows, `passed` what the monotonic clock shows, in seconds.
        """
        begin, self._begin = self._begin, at - timedelta(seconds=passed)
        return begin - self._begin if begin is not None and begin - self._begin > STEP else None


class _Logic(StatefulBatchLogic[list[Stored], list[Message], None]):
    """Follows the log, and reports what is due at once. A check of a worker's lock is one short query."""

    def __init__(self, log: TopicLog) -> None:
        self._log, self._active, self._catalog = log, False, ""
        self._watch, self._reading = Watch({}, set()), Reading()
        self._look = self._trim = time.monotonic() + POLL_SECONDS
        self._clock = Clock()

    def begin(self, catalog_dsn: str) -> int:
        """Become active: load what to watch from the catalog; return the offset to read from."""
        self._catalog = catalog_dsn
        with Projector(catalog_dsn) as projector:
            start, self._reading = projector.position()
        self._watch = Watch(*watched(catalog_dsn))
        self._look = self._trim = time.monotonic() + POLL_SECONDS
        self._active = True
        return start

    def on_batch(self, values: list[list[Stored]]) -> tuple[Iterable[list[Message]], bool]:
        for offset, record in records_of(one for batch in values for one in batch):
            if self._reading.keep(offset, record):
                self._watch.follow(offset, record)
        records = self._reports() if self._active else []
        self._watch.reported(records)
        return ([[encode(record) for record in records]] if records else []), StatefulBatchLogic.RETAIN

    def _reports(self) -> list[Record]:
        at, passed = now(), time.monotonic()
        records = [self._fired(timer, at) for timer in self._watch.due(at)]
        if back := self._clock.set_back(at, passed):
            records.append(_set_back(back, at))
        if passed >= self._look:
            self._look = passed + POLL_SECONDS
            lost = [worker for worker in sorted(self._watch.workers) if not self._log.holder(worker_lock(worker))]
            records += [worker_lost(worker, "its lock is free", at) for worker in lost]
        if passed >= self._trim:
            self._trim = passed + TRIM
            for topic in topics_of(self._log):
                self._log.trim(topic, at)
            with suppress(Unavailable), closing(Differences(self._catalog)) as kept:
                kept.expire()
        return records

    def _fired(self, timer: str, at: datetime) -> Record:
        offset = self._watch.requests[timer]
        found = [] if timer.startswith(TICK) else records_of(self._log.read(CONTROL, 0, offset, 1))
        asked = [one for one in found if one[1].type == "timer.requested" and one[1].key == timer]
        return _fired(timer, self._watch.timers[timer], at, asked[0] if asked else None)

    def snapshot(self) -> None:
        """Return None: the catalog and the log contain what is pending."""


def _fired(timer: str, due: datetime, at: datetime, request: tuple[int, Record] | None) -> Record:
    """Return the record of a timer that is due; what waited goes on in its trace, a tick begins one."""
    asked = None if request is None else request[1]
    return Record(
        id=named_id("timer.fired", timer),
        kind="timer",
        type="timer.fired",
        key=timer,
        at=at,
        actor=ACTOR,
        cause=None if request is None else (request[0], 0),
        correlation=None if asked is None else asked.correlation or asked.id,
        traceparent=(asked and asked.traceparent) or current_traceparent(),
        payload={"timer": timer, "due": due.isoformat()},
    )


def _set_back(by: timedelta, at: datetime) -> Record:
    payload = {"seconds": by.total_seconds()}
    return Record(type="clock.set_back", key="clock", at=at, actor=ACTOR, payload=payload)


def worker_lost(worker: str, reason: str, at: datetime) -> Record:
    """Return the record of a lost worker; repeated reports have the same id."""
    payload = {"worker": worker, "reason": reason}
    return Record(
        id=named_id("worker.lost", worker), type="worker.lost", key=worker, at=at, actor=ACTOR, payload=payload
    )
