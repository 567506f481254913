"""Progress of a run: counted by its threads, written as JSON lines four times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from dataflows.data.counters import Counters
from dataflows.data.movement import Movement, eased
from dataflows.data.nulls import Nulls
from dataflows.pipeline import FirstError
from dataflows.process.reports import write_line
from dataflows.runs.gauges import Gauges

__all__ = ["DONE", "Progress", "reported", "telling"]

EVERY: Final = 0.25
DONE: Final = "done"
"""Phase of a run that has completed."""
QUIET_SECONDS: Final = 5.0
"""Seconds between two looks at a run in which nothing moves."""
NULLS_SECONDS: Final = 10.0
"""Seconds between two reports of the NULLs of a stream; a batch reports them once, at its end."""
IDLE_SECONDS: Final = 10
"""Seconds without movement after which, and in steps of which, they are reported."""


@dataclass(slots=True)
class Progress:
    """Rows committed, splits done, and the phase; thread-safe."""

    phase: str = "prepare"
    counters: Counters = field(default_factory=Counters)
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each phase that has ended."""
    lag: float | None = None
    """Age in seconds of the newest row, if the cursor is a time."""
    splits_done: int = 0
    splits_planned: int = 0
    rows_estimated: int = 0
    schemas: dict[str, Any] | None = None
    """Columns of both sides, if they have to be known before the run ends, which a stream never does."""
    gauges: Gauges | None = None
    """What a stream shows besides."""
    released: bool = False
    """True if the snapshot was released before everything was read."""
    movement: Movement = field(default_factory=Movement)
    nulls: Nulls = field(default_factory=Nulls)
    _nulls: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))
    """When the NULLs of a stream were last reported, and of how many rows."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def committed(self, counted: Counters) -> None:
        """Count a split that was committed."""
        with self._lock:
            self.counters += counted
            self.splits_done += 1
        self.movement.moved()

    def release(self) -> None:
        """Record that the snapshot was released: later splits are read at points in time of their own."""
        self.released = True

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of a line."""
        with self._lock:
            nulls = self._due_nulls()
            return {
                "phase": self.phase,
                **self.counters.as_dict(),
                "seconds": dict(self.seconds),
                "lag": self.lag,
                "splits_done": self.splits_done,
                "splits_planned": self.splits_planned,
                "rows_estimated": self.rows_estimated,
                "idle": self._idle,
                "stream": self.gauges.as_dict() if self.gauges is not None else None,
                **({"schemas": self.schemas} if self.schemas is not None else {}),
                **({"nulls": nulls} if nulls is not None else {}),
            }

    def _due_nulls(self) -> dict[str, Any] | None:
        """Return the NULLs if it is time to report them; None otherwise, and if there are no more rows than before."""
        (at, rows), moment = self._nulls, time.monotonic()
        if self.phase == DONE:
            return self.nulls.as_dict()
        if self.gauges is None or moment - at < NULLS_SECONDS or self.nulls.rows == rows:
            return None
        self._nulls = (moment, self.nulls.rows)
        return self.nulls.as_dict()

    @property
    def _idle(self) -> int | None:
        """Whole steps of `IDLE_SECONDS` for which nothing has moved; None while something moves."""
        return int(self.movement.idle) // IDLE_SECONDS * IDLE_SECONDS or None


def telling(progress: Progress, first: FirstError) -> Callable[[int], None]:
    """Return what a comparison calls as it reads: it ends with the first error, and moves the progress on."""

    def told(_: int) -> None:
        first.check()
        progress.movement.moved()

    return told


@contextmanager
def reported(progress: Progress) -> Iterator[None]:
    """Write a line whenever something has changed, at most four times a second, and one at the end."""
    over = threading.Event()
    thread = threading.Thread(target=_report, args=(progress, over), daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        progress.movement.wake()
        thread.join()


def _report(progress: Progress, over: threading.Event) -> None:
    last: dict[str, Any] | None = None
    movement, ended = progress.movement, False
    changed, seen = time.monotonic(), movement.number
    while not ended:
        ended = movement.rest(over, seen, EVERY, eased(EVERY, QUIET_SECONDS, time.monotonic() - changed))
        seen = movement.number
        if (line := progress.as_dict()) != last:
            write_line(line)
            last, changed = line, time.monotonic()
