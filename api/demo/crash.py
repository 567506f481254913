"""Kill the process of a run midway: after its first commit, long before its last."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from types import TracebackType
from typing import Final, Self

from dataflows.process.site import Site
from penstock import postgres
from penstock.records import records_of
from penstock.topics.log import TopicLog
from penstock.topics.table import CONTROL

__all__ = ["Crash", "process_of"]

POLL_SECONDS: Final = 0.005
"""Seconds between two polls: less than a commit takes, so the process dies before its second one."""
READ: Final = 1000


class Crash:
    """Sends one SIGKILL to the process of a run, while entered, as soon as the target has the run's first rows.

    Looks at the target itself: progress is reported too rarely for a fast machine. `report` gets the number of rows
    that were there. An error of the watching thread is raised at the end.
    """

    def __init__(self, site: Site, run: str, dsn: str, count: str, report: Callable[[int], None]) -> None:
        self.rows: int | None = None
        """Rows that were committed at the kill; None before it."""
        self._site, self._run, self._dsn, self._count, self._report = site, run, dsn, count, report
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="crash", daemon=True)

    def _watch(self) -> None:
        try:
            with self._site.open_log("demo") as log, closing(postgres.connect(self._dsn, "penstock:demo")) as target:
                while not self._over.wait(POLL_SECONDS):
                    found = target.execute(self._count.encode()).fetchone()
                    if found and found[0] and self._kill(log):
                        self.rows = int(found[0])
                        self._report(self.rows)
                        return
        except BaseException as error:  # noqa: BLE001 - raised by `__exit__`
            self._error = error

    def _kill(self, log: TopicLog) -> bool:
        """Kill the process of the current attempt; False if it has just ended, so that the next look tries again."""
        pid = process_of(log, self._run)
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error


def process_of(log: TopicLog, run: str) -> int | None:
    """Return the process id of the run's latest attempt, as its worker reported it; None before the first."""
    at, tasks, pid = 0, set(), None
    while stored := log.read(CONTROL, 0, at, READ):
        at = stored[-1].offset + 1
        for _, record in records_of(stored):
            if record.type == "task.assigned" and record.payload.get("run") == run:
                tasks.add(record.payload["task"])
            elif record.type == "task.started" and record.payload["task"] in tasks:
                pid = record.payload.get("pid", pid)
    return pid
