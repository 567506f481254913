"""How far a run is: counted by its threads, written as JSON lines four times a second."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from dataflows.sinks.state import Counters

__all__ = ["Progress", "reported"]

EVERY: Final = 0.25


@dataclass(slots=True)
class Progress:
    """Rows committed so far, splits done, and the phase; safe to change from several threads."""

    phase: str = "prepare"
    rows_in: int = 0
    rows_out: int = 0
    splits_done: int = 0
    splits_planned: int = 0
    rows_estimated: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def committed(self, counted: Counters) -> None:
        """Count a split that was committed."""
        self.add(counted.rows_in, counted.rows_out, 1)

    def add(self, rows_in: int, rows_out: int, splits: int) -> None:
        """Count rows and splits."""
        with self._lock:
            self.rows_in += rows_in
            self.rows_out += rows_out
            self.splits_done += splits

    def counted(self) -> Counters:
        """The rows counted here, all of them accounted for; their bytes are not known here."""
        with self._lock:
            return Counters(self.rows_in, self.rows_out, self.rows_in - self.rows_out)

    def as_dict(self) -> dict[str, Any]:
        """What a line holds."""
        with self._lock:
            return {name: getattr(self, name) for name in _SHOWN}


_SHOWN: Final = ("phase", "rows_in", "rows_out", "splits_done", "splits_planned", "rows_estimated")


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
