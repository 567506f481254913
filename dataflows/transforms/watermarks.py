"""Watermark of a stream: the event time before which no more rows are waited for.

It is the newest event time of the partition that is furthest behind, less the allowed lateness, and never goes back. It
moves at the end of each chunk, so that rows of one chunk are never late for one another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Watermark"]


def _nothing() -> Mapping[str, int]:
    return {}


@dataclass(slots=True)
class Watermark:
    """Times are in microseconds of Unix time; `at` is None until each partition has had a row, or is idle.

    A partition is idle once it had no row for `idle` seconds, and has nothing left to read as far as `behind` knows, or
    was read all that time, and no row of it came here: a stream that catches up reads partitions one after the other.
    """

    lateness: int
    idle: float
    at: int | None = None
    newest: dict[str, int | None] = field(default_factory=dict)
    """The newest event time of each partition; None if it had none yet."""
    behind: Callable[[], Mapping[str, int]] = _nothing
    clock: Callable[[], float] = time.monotonic
    _active: dict[str, float] = field(default_factory=dict)
    _read: dict[str, tuple[float, float]] = field(default_factory=dict)
    """When each partition was read for the first and the last time since its last row came here."""

    def begin(self, partitions: Iterable[str]) -> None:
        """Wait for these partitions too."""
        for name in partitions:
            self.newest.setdefault(name, None)
            self._active.setdefault(name, self.clock())

    def only(self, partitions: Collection[str]) -> None:
        """Wait for no others: a topic may have been left out."""
        self.newest = {name: at for name, at in self.newest.items() if name in partitions}

    def read(self, partitions: Iterable[str]) -> None:
        """Learn that rows of these partitions were read, whether or not earlier steps drop them."""
        now = self.clock()
        for name in partitions:
            first, last = self._read.get(name, (now, now))
            self._read[name] = first if now - last < self.idle / 2 else now, now

    def advance(self, newest: Mapping[str, int]) -> None:
        """Move on after a chunk with rows of these partitions, each with its newest event time."""
        now = self.clock()
        for name, at in newest.items():
            before = self.newest.get(name)
            self.newest[name] = at if before is None else max(at, before)
            self._active[name] = now
            self._read.pop(name, None)
        behind = self.behind()
        waited = [at for name, at in list(self.newest.items()) if not self._is_idle(name, now, behind)]
        known = [at for at in waited if at is not None]
        if len(known) < len(waited) or not known:
            return
        at = min(known) - self.lateness
        self.at = at if self.at is None else max(at, self.at)

    def _is_idle(self, name: str, now: float, behind: Mapping[str, int]) -> bool:
        if now - self._active.setdefault(name, now) < self.idle:
            return False
        first, last = self._read.get(name, (now, now))
        return not behind.get(name, 0) or (now - first >= self.idle and now - last < self.idle / 2)
