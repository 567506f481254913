"""Metering: a thread that counts what runs report into the metrics, and drops what the policy no longer keeps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from catalog.metering import Meter
from dataflows.process.condition import Report
from penstock.clock import now
from penstock.errors import Fenced, PenstockError
from penstock.topics.log import Stored, TopicLog
from penstock.topics.table import METRICS

__all__ = ["Metering", "collect"]

FIRST_SECONDS: Final = 2.0
"""Seconds before the first look: a command's own processes are over by then, and leave it to the next ones."""
EVERY_SECONDS: Final = 2.0
"""Seconds between two looks while there is something to count."""
QUIET_SECONDS: Final = 5.0
"""Seconds between two looks while there is nothing to count, and after an error."""
SWEEP_SECONDS: Final = 60.0
"""Seconds between two drops of what is too old."""
READ: Final = 500
"""Messages of a partition that are counted in one transaction."""
REST: Final = 3.0
"""Times as long as a transaction takes, the thread leaves the process to what decides and projects."""

_log = logging.getLogger(__name__)


class Metering:
    """Counts in the background until `close`; a failure is logged, and tried again later."""

    def __init__(self, open_log: Callable[[], TopicLog], catalog_dsn: str, report: Report) -> None:
        self._open_log, self._dsn, self._report = open_log, catalog_dsn, report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metering", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wait = FIRST_SECONDS
        while not self._ended.wait(wait):
            wait = QUIET_SECONDS
            try:
                with self._open_log() as log, closing(Meter(self._dsn)) as meter:
                    self._measure(log, meter)
            except Exception as error:  # noqa: BLE001 - what counts runs must not end with a defect
                why = error if isinstance(error, PenstockError | OSError) else f"a defect: {type(error).__name__}"
                _log.warning("metrics are not counted: %s", why)
                self._report(error)

    def _measure(self, log: TopicLog, meter: Meter) -> None:
        meter.begin()
        swept, wait, over = -SWEEP_SECONDS, EVERY_SECONDS, False
        while not over:
            over = self._ended.is_set()  # what was reported until then is counted, too
            try:
                wait = EVERY_SECONDS if collect(log, meter, self._rest) else min(wait * 2, QUIET_SECONDS)
            except Fenced:  # a command has counted
                meter.begin()
            if time.monotonic() - swept >= SWEEP_SECONDS:
                meter.sweep(now())
                swept = time.monotonic()
            self._report(None)
            if not over:
                self._ended.wait(wait)

    def _rest(self, seconds: float) -> None:
        self._ended.wait(seconds * REST)

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()


def collect(log: TopicLog, meter: Meter, rest: Callable[[float], object] = lambda _: None) -> bool:
    """Count all that is there; return True if there was anything. `meter` has begun.

    `rest` is called between two transactions, with the seconds that the last one took.

    Raises:
        Fenced: another process counts.
        Unavailable: log or catalog cannot be used.
    """
    upto, found = meter.projected(), False
    begin = time.monotonic()
    while stored := _unread(log, meter):
        meter.reported(stored, now())
        found = True
        rest(time.monotonic() - begin)
        begin = time.monotonic()
    while meter.ended(upto, now()):
        found = True
        rest(time.monotonic() - begin)
        begin = time.monotonic()
    return found


def _unread(log: TopicLog, meter: Meter) -> list[Stored]:
    """Return the next messages of every partition; those that were trimmed away are left out."""
    found: list[Stored] = []
    for part in range(METRICS.partitions):
        at, end = meter.positions.get(part, 0), log.end(METRICS, part)
        if at > end:  # a crash of its server has taken back what was appended last
            meter.positions[part] = at = end
        if at < end:
            found += log.read(METRICS, part, max(at, log.begin(METRICS, part)), READ)
    return found
