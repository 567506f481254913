"""The lineage flow: sends the start and the end of each run to a receiver of OpenLineage, in the order of the log.

Each event is sent at least once: the position is stored after the receiver has taken it. A receiver that cannot be
reached, or does not let the flow in, is tried again until it takes events; an event that it calls invalid is logged,
and left out. What happened before the flow ran for the first time is not sent.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import httpx
import orjson
from bytewax import operators as op
from bytewax.dataflow import Dataflow

from catalog.database import engine
from catalog.near import run_lineage
from catalog.openlineage import event
from dataflows.process.condition import Report
from dataflows.process.leader import Leader
from dataflows.process.one_part import OnePart
from dataflows.process.site import Site
from penstock import postgres
from penstock.errors import SettingsError, Unavailable, Unreachable
from penstock.models.domain import RunStatus
from penstock.models.secrets import resolve
from penstock.records import Reading, Record, records_of
from penstock.topics.log import Stored, TopicLog
from penstock.topics.operators import TopicSource, Wakeup
from penstock.topics.table import CONTROL

__all__ = ["add_openlineage"]

NAME: Final = "openlineage"
SETTING: Final = "PENSTOCK_OPENLINEAGE"
SECONDS: Final = 10.0
"""Longest wait for an answer."""
INVALID: Final = {400, 413, 422}
"""Status codes of an event that will never be taken; others are the fault of receiver, address or token, and pass."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds between two attempts to send an event."""
CATALOG_SECONDS: Final = 0.05
"""Seconds between two looks at how far the catalog is."""

_log = logging.getLogger(__name__)


def add_openlineage(
    flow: Dataflow, site: Site, stop: threading.Event, wakeup: Wakeup, condition: Callable[[str], Report]
) -> None:
    """Add the lineage flow to `flow`; it stands by while another one is active.

    Raises:
        SettingsError: no receiver is set.
    """
    if not site.settings.openlineage:
        hint = "set it to the URL of a receiver"
        raise SettingsError("no receiver of lineage is set", where=SETTING, hint=hint)
    log = site.open_log(NAME)
    work = _Sender(site, log, stop, condition(NAME))

    def begin() -> TopicSource:
        return TopicSource(lambda: site.open_log(f"{NAME}-tail"), CONTROL, work.begin(), stop=stop, wakeup=wakeup)

    source = op.input("openlineage_in", flow, Leader(log, NAME, begin, stop, wakeup))
    batches = op.flat_map_batch("openlineage_batches", source, lambda stored: [(NAME, stored)])

    def send(found: list[list[Stored]]) -> None:
        for stored in found:
            wakeup.guarded(partial(work.take, stored), None)

    op.output("openlineage_out", batches, OnePart(send, work.close))


class _Sender:
    """Sends the events of records once the catalog is as far; `log` has the lock of the active flow."""

    def __init__(self, site: Site, log: TopicLog, stop: threading.Event, report: Report) -> None:
        settings = site.settings
        self._log, self._stop, self._url, self._report = log, stop, settings.openlineage, report
        headers = {"content-type": "application/json"}
        if settings.openlineage_key:
            key = resolve(settings.openlineage_key, where="openlineage_key", secrets=settings.secrets)
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx.Client(timeout=SECONDS, headers=headers)
        self._session = postgres.connect(site.catalog_dsn, "penstock:openlineage", autocommit=True)
        self._catalog = engine(site.catalog_dsn, pool_size=1)
        self._reading = Reading()

    def begin(self) -> int:
        """Return the offset to go on from: the end of the log the first time, when the catalog is as far."""
        end = self._log.end(CONTROL, 0)
        while (found := self._session.execute(_POSITION, [NAME]).fetchone()) is None:
            if self._projected() >= end:
                self._session.execute(_FIRST, [NAME])
            elif self._stop.wait(CATALOG_SECONDS):
                return end
        at, reading = found
        self._reading = Reading.from_dict(reading)
        return int(at)

    def take(self, stored: list[Stored]) -> None:
        """Send the events of these messages, and store the position; return early, without it, once the flow ends."""
        for offset, record in records_of(stored):
            kept = self._reading.keep(offset, record)
            if kept and not self._sent(offset, record):
                return
        if self._stop.is_set():  # a batch before this one may not have been sent
            return
        position = {"next": stored[-1].offset + 1, "reading": self._reading.to_dict()}
        self._session.execute(_MOVE, [orjson.dumps(position).decode(), NAME])

    def _sent(self, offset: int, record: Record) -> bool:
        """Send the event of a record, if there is one; return False if the flow ended before."""
        if (found := _about(record)) is None:
            return True
        while self._projected() <= offset:
            if self._stop.wait(CATALOG_SECONDS):
                return False
        run, status = found
        with self._catalog.connect() as connection:
            about = run_lineage(connection, run)
        if about is None or (status == "running" and about.run.started_at != record.at):  # a later attempt
            return not self._stop.is_set()
        return not self._stop.is_set() and self._send(run, event(about, status, record.at))

    def _projected(self) -> int:
        found = self._session.execute("SELECT next FROM catalog.position WHERE id = 'control'").fetchone()
        return 0 if found is None else int(found[0])

    def _send(self, run: str, document: dict[str, Any]) -> bool:
        """Send an event until the receiver takes or refuses it; return False if the flow ended before."""
        content, wait = orjson.dumps(document), FIRST_WAIT
        while True:
            try:
                answer = self._client.post(self._url, content=content)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                problem: Unavailable = Unreachable(reason, where=SETTING, hint="is its URL right, and does it run?")
            else:
                if answer.is_success:
                    self._report(None)
                    return True
                reason = f"{answer.status_code} {answer.reason_phrase}"
                if answer.status_code in INVALID:
                    _log.error("the receiver of lineage does not take the event of run %s: %s", run, reason)
                    return True
                said = f"its receiver answers ({answer.status_code}) {answer.reason_phrase}"
                problem = Unavailable(said, where=SETTING, hint="is its URL right, and PENSTOCK_OPENLINEAGE_KEY?")
            _log.warning("the receiver of lineage at %s does not take events: %s", self._url, reason)
            self._report(problem)
            if self._stop.wait(wait):
                return False
            wait = min(wait * 2, LONGEST_WAIT)

    def close(self) -> None:
        """Close the sessions, that of the lock last."""
        self._client.close()
        self._catalog.dispose()
        self._session.close()
        self._log.close()


def _about(record: Record) -> tuple[str, RunStatus] | None:
    """Return the run that a record is about, and its status by then; None if there is nothing to send."""
    match record.type:
        case "task.started" if record.payload.get("run") is not None:
            return record.payload["run"], "running"
        case "run.finished":
            run = record.payload["run"]
            return run["id"], run["status"]
    return None


_FIRST: Final = """
    INSERT INTO ops.settings (name, value)
    SELECT %s, jsonb_build_object('next', next, 'reading', reading) FROM catalog.position WHERE id = 'control'
    ON CONFLICT (name) DO NOTHING
"""
_POSITION: Final = "SELECT value ->> 'next', value -> 'reading' FROM ops.settings WHERE name = %s"
_MOVE: Final = "UPDATE ops.settings SET value = %s::jsonb WHERE name = %s"
