"""Detecting: a thread that scores what pipelines have just done, and records what is unusual on the control topic.

It looks at what has been counted since its last look; nothing is done about a pipeline that is idle. What it records
are numbers: the monitoring agent compares them with the policy.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from typing import Final

from dataflows.detect.looking import Look, News
from penstock.clock import now
from penstock.errors import PenstockError
from penstock.records import Record, encode
from penstock.topics.log import TopicLog
from penstock.topics.table import CONTROL

__all__ = ["Detecting", "record", "until_projected"]

ACTOR: Final = "detecting"
FIRST_SECONDS: Final = 4.0
"""Seconds before the first look: a command's own processes are over by then, and leave it to the next ones."""
EVERY_SECONDS: Final = 3.0
"""Seconds between two looks, and after an error."""
REST: Final = 3.0
"""Times as long as a look takes, the thread leaves the process to what decides and projects."""

_log = logging.getLogger(__name__)


class Detecting:
    """Detects in the background until `close`; a failure is logged, and tried again later."""

    def __init__(
        self, open_log: Callable[[], TopicLog], catalog_dsn: str, report: Callable[[BaseException | None], None]
    ) -> None:
        self._open_log, self._dsn, self._report = open_log, catalog_dsn, report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="detecting", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wait = FIRST_SECONDS
        while not self._ended.wait(wait):
            wait = EVERY_SECONDS
            try:
                with closing(Look(self._dsn)) as look:
                    self._look(look)
            except Exception as error:  # noqa: BLE001 - what watches runs must not end with a defect
                why = error if isinstance(error, PenstockError | OSError) else f"a defect: {type(error).__name__}"
                _log.warning("nothing is detected: %s", why)
                self._report(error)

    def _look(self, look: Look) -> None:
        until_projected(self._open_log, look, lambda: self._ended.wait(EVERY_SECONDS))
        while not self._ended.is_set():
            begin = time.monotonic()
            record(self._open_log, look, now())
            self._report(None)
            if self._ended.wait(max(EVERY_SECONDS, (time.monotonic() - begin) * REST)):
                return

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()


def until_projected(open_log: Callable[[], TopicLog], look: Look, wait: Callable[[], bool]) -> None:
    """Wait until the catalog has what is on the log now: a score that it lacks would never be recorded as over.

    `wait` returns True to give up. Raises Unavailable.
    """
    with open_log() as log:
        end = log.end(CONTROL, 0)
    while look.projected() < end and not wait():
        pass


def record(open_log: Callable[[], TopicLog], look: Look, at: datetime) -> int:
    """Score what is new at a time, and record what is unusual; return how many records that took.

    Raises:
        Unavailable: log or catalog cannot be used.
    """
    found = look.news(at)
    if found:
        with open_log() as log:
            log.append(CONTROL, [encode(_record(one, at)) for one in found])
    look.recorded(found)
    return len(found)


def _record(one: News, at: datetime) -> Record:
    cause = None if one.cause is None else (one.cause, 0)
    payload = one.payload
    return Record(type="series.scored", key=payload["pipeline"], at=at, actor=ACTOR, payload=payload, cause=cause)
