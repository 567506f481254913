"""Progress of a run: counted by its threads, written as JSON lines four times a second."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from dataflows.data.counters import Counters
from dataflows.data.movement import Movement
from penstock.errors import PenstockError

__all__ = ["Progress", "error_of", "reported"]

EVERY: Final = 0.25
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
    released: bool = False
    """True if the snapshot was released before everything was read."""
    movement: Movement = field(default_factory=Movement)
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
            return {
                "phase": self.phase,
                **self.counters.as_dict(),
                "seconds": dict(self.seconds),
                "lag": self.lag,
                "splits_done": self.splits_done,
                "splits_planned": self.splits_planned,
                "rows_estimated": self.rows_estimated,
                "idle": self._idle,
            }

    @property
    def _idle(self) -> int | None:
        """Whole steps of `IDLE_SECONDS` for which nothing has moved; None while something moves."""
        return int(self.movement.idle) // IDLE_SECONDS * IDLE_SECONDS or None


@contextmanager
def reported(progress: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Write a line whenever something has changed, at most four times a second, and one at the end."""
    over = threading.Event()
    thread = threading.Thread(target=_report, args=(progress, over), daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _report(progress: Callable[[], dict[str, Any]], over: threading.Event) -> None:
    last: dict[str, Any] | None = None
    while True:
        ended = over.wait(EVERY)
        if (now := progress()) != last:
            write_line(now)
            last = now
        if ended:
            return


def write_line(data: dict[str, Any]) -> None:
    """Write a JSON line to stdout; a reader that has closed it does not stop the run."""
    try:
        sys.stdout.write(json.dumps(data, separators=(",", ":")) + "\n")
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        pass


def error_of(error: BaseException) -> dict[str, Any]:
    """Return an error as it is stored: codes, templates and object names, never values of rows."""
    if not isinstance(error, PenstockError):
        what = f"a defect in the run: {type(error).__name__}"
        return {"code": "defect", "what": what, "where": None, "hint": "report it", "transient": False}
    value = "" if error.value is None else f", got {error.value!r}"
    return {
        "code": error.code,
        "what": f"{error.what}{value}",
        "where": error.where,
        "hint": error.hint,
        "transient": error.transient,
    }
