"""A process killed midway: as soon as the first of its rows are committed, and long before the last are."""

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
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import CONTROL

__all__ = ["Crash", "process_of"]

LOOK: Final = 0.005
"""Seconds between two looks: a commit takes longer, so that no second one goes unseen after the first."""
READ: Final = 1000


class Crash:
    """Kills the process of a run with SIGKILL while entered, once, when the run's first rows are at its target.

    It looks at the target itself and not at the run's progress, which is told too seldom for a fast machine. `told`
    gets the rows that were there. An error of the watching is raised at the end.
    """

    def __init__(self, site: Site, run: str, dsn: str, count: str, told: Callable[[int], None]) -> None:
        self.rows: int | None = None
        """The rows that were committed when it was killed; None before."""
        self._site, self._run, self._dsn, self._count, self._told = site, run, dsn, count, told
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="crash", daemon=True)

    def _watch(self) -> None:
        try:
            with self._site.open_log("demo") as log, closing(postgres.connect(self._dsn, "penstock:demo")) as target:
                while not self._over.wait(LOOK):
                    found = target.execute(self._count.encode()).fetchone()
                    if found and found[0] and self._kill(log):
                        self.rows = int(found[0])
                        self._told(self.rows)
                        return
        except BaseException as error:  # noqa: BLE001 - raised where it is entered
            self._error = error

    def _kill(self, log: PostgresLog) -> bool:
        """Whether there was a process to kill: one that just ended is none, and the next attempt's is looked for."""
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


def process_of(log: PostgresLog, run: str) -> int | None:
    """The process of the run's last attempt, as its worker told; None before the first."""
    at, tasks, pid = 0, set(), None
    while stored := log.read(CONTROL, 0, at, READ):
        at = stored[-1].offset + 1
        for _, record in records_of(stored):
            if record.type == "task.assigned" and record.payload.get("run") == run:
                tasks.add(record.payload["task"])
            elif record.type == "task.started" and record.payload["task"] in tasks:
                pid = int(record.payload["pid"])
    return pid
