"""Asking the installation for something: a command onto the log, and its answer out of the catalog."""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Final

from api.vigil import Vigil, Waiting
from catalog.database import engine
from catalog.entries import Command, RunEntry
from catalog.store import MetadataStore
from dataflows.process.site import ACTIVE_CONTROL, Site
from dataflows.runtime.supervisor import BRAIN, WORKER, Supervisor
from penstock.clock import now
from penstock.errors import NotFound, Unavailable, retold
from penstock.ids import command_id, new_id
from penstock.records import Record, encode, records_of
from penstock.records.execution import RunProgress, TaskFailed
from penstock.settings import Settings
from penstock.telemetry import span
from penstock.topics.partitioner import partition_of
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import CONTROL, METRICS

__all__ = ["UP", "Client", "connected"]

UP: Final = "up"
"""The name of the lock that ``penstock up`` holds: then everything runs, and a command starts nothing of its own."""

ANSWER_SECONDS: Final = 60.0
LOOK: Final = 0.25
PATIENCE: Final = 2.0
"""Seconds of waiting for an answer, after which the client looks after what it started."""

LATE: Final = timedelta(minutes=1)
"""How long after a run's end something that it told may still come."""

_log = logging.getLogger(__name__)


class Client:
    """One user of an installation. For one thread."""

    def __init__(
        self, site: Site, log: PostgresLog, store: MetadataStore, supervisor: Supervisor | None = None
    ) -> None:
        self.site, self.log, self.store, self._supervisor = site, log, store, supervisor
        self.actor = f"user:{getpass.getuser()}"

    def ask(self, type_: str, key: str, payload: Mapping[str, Any], *, idempotency_key: str | None = None) -> Command:
        """Send a command and wait until it is applied.

        Raises:
            PenstockError: of the kind that refused it, with its exit code.
            Unavailable: no answer came in time; the command stays on the log.
        """
        with span(type_, subject=key) as current:
            id_ = command_id(self.actor, idempotency_key) if idempotency_key else new_id()
            record = Record(
                id=id_,
                kind="command",
                type=type_,
                key=key,
                at=now(),
                actor=self.actor,
                payload=dict(payload),
                traceparent=current.traceparent,
            )
            self.log.append(CONTROL, [encode(record)])
            answered = self._answer(id_)
        if answered.status == "refused":
            raise retold(answered.refusal or {"code": "refused", "what": "refused"})
        return answered

    def _answer(self, id_: str) -> Command:
        """The answered command; what this client started and has died meanwhile is started again."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                return self.store.wait_command(id_, PATIENCE)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            self.look_after()

    def look_after(self) -> None:
        """Start again what this client started and has died."""
        for line in self._supervisor.check() if self._supervisor else ():
            _log.warning("%s", line)

    def watch(self, run: str) -> Iterator[RunProgress | TaskFailed | Waiting | RunEntry]:
        """Follow a run: its progress and failed attempts as they come, and the entry of the run once it has ended.

        Raises:
            Refused: its pipeline was paused, stopped or deleted meanwhile, so that it does not go on.
            Unavailable: nobody decides any more what happens to it.
        """
        vigil = Vigil(self)
        part = partition_of(run.encode(), METRICS.partitions)
        control = self.log.end(CONTROL, 0)
        at = self.log.begin(METRICS, part)
        while True:
            entry = self._run(run)
            stored = self.log.read(METRICS, part, at, 1000)
            at = stored[-1].offset + 1 if stored else at
            lines = [record for _, record in records_of(stored) if record.key == run and record.type == "run.progress"]
            if lines:
                yield RunProgress.parse(lines[-1].payload)
            told = self.log.read(CONTROL, 0, control, 1000)
            control = told[-1].offset + 1 if told else control
            failed = [one for _, one in records_of(told) if one.type == "task.failed" and one.payload.get("run") == run]
            yield from (TaskFailed.parse(one.payload) for one in failed)
            if entry is not None and entry.status not in {"queued", "running"}:
                yield entry
                return
            self.look_after()
            yield from vigil.look(entry)
            self.log.wait(METRICS, part, at, LOOK)

    def measured(self, run: RunEntry) -> list[tuple[datetime, RunProgress]]:
        """What was measured of a run while it ran, in order, as far as the topic still has it."""
        part = partition_of(run.id.encode(), METRICS.partitions)
        at = self.log.seek_time(METRICS, part, run.requested_at)
        found: list[tuple[datetime, RunProgress]] = []
        while stored := self.log.read(METRICS, part, at, 1000):
            at = stored[-1].offset + 1
            records = [record for _, record in records_of(stored)]
            lines = [one for one in records if one.key == run.id and one.type == "run.progress"]
            found += [(one.at, RunProgress.parse(one.payload)) for one in lines]
            if run.finished_at is not None and records and records[-1].at > run.finished_at + LATE:
                break
        return found

    def _run(self, run: str) -> RunEntry | None:
        with suppress(NotFound):
            return self.store.run(run)
        return None


@contextmanager
def connected(settings: Settings, *, worker: bool = False, runs: bool = True) -> Iterator[Client]:
    """A client of the installation; what has to run for it is started, and stopped again, unless ``penstock up`` runs.

    With `runs` false nothing is started: for those who only read.
    """
    with Site(settings) as site, site.open_log("client") as log, MetadataStore(engine(site.catalog_dsn)) as store:
        supervisor = Supervisor(settings, (BRAIN, WORKER) if worker else (BRAIN,))
        own = runs and not log.holder(UP)
        try:
            if own:
                supervisor.start()
                _wait_for_brain(log, supervisor, settings)
            yield Client(site, log, store, supervisor if own else None)
        finally:
            if own:
                supervisor.stop()


def _wait_for_brain(log: PostgresLog, supervisor: Supervisor, settings: Settings) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while not log.holder(ACTIVE_CONTROL):
        deaths = supervisor.check()
        if time.monotonic() > deadline or (deaths and not supervisor.pids()):
            hint = f"see {settings.home / 'logs' / 'control.log'}"
            raise Unavailable("the control process does not start", hint=hint)
        time.sleep(LOOK / 10)
