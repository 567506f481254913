"""Watchdog of a run: ends an attempt in which nothing moves, even if its threads hang in a socket.

A peer that is silent but acknowledges every packet keeps a connection alive for ever, so no time-out of the system
ends the wait. What counts is that rows move: each chunk read or written, each commit, each phase.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from dataflows.data.movement import NO_STEP, SINK, SOURCE, Movement
from dataflows.pipeline import FirstError
from dataflows.runs.job import Job
from penstock.errors import PenstockError, Stalled
from penstock.models.base import duration_text

__all__ = ["GRACE_SECONDS", "watched"]

GRACE_SECONDS: Final = 5.0
"""Longest wait for an attempt that is told to end; after that its process ends."""
TICK_SECONDS: Final = 1.0
TICKS: Final = 60
"""Looks at a run within `limits.stalled`, if that is a minute or more."""


@dataclass(slots=True)
class _Watchdog:
    job: Job
    movement: Movement
    first: FirstError
    give_up: Callable[[BaseException], None]
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        limit = self.job.spec.limits.stalled.total_seconds()
        while not self.over.wait(min(limit / 4, max(TICK_SECONDS, limit / TICKS))):
            if (what := self.movement.stalled(limit)) is not None:
                self.first.put(self._error(what))
                self._end()
            elif self.first.error is not None and self.movement.idle >= limit:  # a thread of a failed attempt hangs
                self._end()

    def _end(self) -> None:
        """Wait for the end of the attempt, or give it up."""
        if self.over.wait(GRACE_SECONDS):
            return
        with self.lock:
            if not self.over.is_set() and self.first.error is not None:
                self.give_up(self.first.error)

    def _error(self, what: str) -> PenstockError:
        steps = f"{self.job.pipeline}: spec.transforms" if self.job.spec.transforms else self.job.pipeline
        places = {SOURCE: self.job.at_source, SINK: self.job.at_sink, NO_STEP: steps}
        where = places.get(what, self.job.pipeline)
        limit = duration_text(self.job.spec.limits.stalled)
        idle = duration_text(timedelta(seconds=max(1, int(self.movement.idle))))
        ask = "does a function of it hang?" if what == NO_STEP else "is its server alive?"
        hint = f"{ask} if it only takes long, raise `limits: {{stalled: {limit}}}` of the pipeline"
        return Stalled(f"{what} for {idle}", where=where, hint=hint)


@contextmanager
def watched(
    job: Job, movement: Movement, first: FirstError, give_up: Callable[[BaseException], None]
) -> Iterator[None]:
    """Put an error into `first` when nothing has moved for the pipeline's `limits.stalled`.

    If the context is still open some seconds later, `give_up` is called with the first error, from another thread; it
    must end the process.
    """
    movement.moved()
    watchdog = _Watchdog(job, movement, first, give_up)
    threading.Thread(target=watchdog.run, daemon=True, name="watchdog").start()
    try:
        yield
    finally:
        with watchdog.lock:
            watchdog.over.set()
