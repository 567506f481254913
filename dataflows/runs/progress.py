"""How far a run is: counted by its threads, written as JSON lines four times a second."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from dataflows.data.counters import Counters
from penstock.errors import PenstockError

__all__ = ["Progress", "error_of", "reported"]

EVERY: Final = 0.25


@dataclass(slots=True)
class Progress:
    """What is committed so far, splits done, and the phase; safe to change from several threads."""

    phase: str = "prepare"
    counters: Counters = field(default_factory=Counters)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each phase took that is over."""
    lag: float | None = None
    """Seconds between the greatest value of a cursor that is a time and now."""
    splits_done: int = 0
    splits_planned: int = 0
    rows_estimated: int = 0
    released: bool = False
    """Whether the point in time that all was to be read at was let go."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def committed(self, counted: Counters) -> None:
        """Count a split that was committed."""
        with self._lock:
            self.counters += counted
            self.splits_done += 1

    def release(self) -> None:
        """Splits are read at points in time of their own from now on."""
        self.released = True

    def as_dict(self) -> dict[str, Any]:
        """What a line holds."""
        with self._lock:
            return {
                "phase": self.phase,
                **self.counters.as_dict(),
                "seconds": dict(self.seconds),
                "lag": self.lag,
                "splits_done": self.splits_done,
                "splits_planned": self.splits_planned,
                "rows_estimated": self.rows_estimated,
            }


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
    """One JSON line on stdout; a reader that has gone is no reason to stop the run."""
    try:
        sys.stdout.write(json.dumps(data, separators=(",", ":")) + "\n")
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        pass


def error_of(error: BaseException) -> dict[str, Any]:
    """An error as the result file and the log hold it: codes, templates and names of objects, never values of rows."""
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
