"""Movement of a run: when something last moved, what its threads wait for, and how long they rest when nothing does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

__all__ = ["NO_STEP", "SINK", "SLOW", "SOURCE", "Movement", "eased"]

SOURCE: Final = "the source gave no rows"
SINK: Final = "the sink took no rows"
SLOW: Final = 12.0
"""How many times longer than a chunk a step may take in which a server works without showing it: a DDL, a merge."""
NO_STEP: Final = "a step of the pipeline gave no rows"
EASE: Final = 0.1
"""Share of the time for which nothing has happened that a loop may rest before it looks again."""


def eased(shortest: float, longest: float, quiet: float) -> float:
    """Return the seconds that a loop rests before it looks again: longer, the longer it was `quiet`.

    A thread that wakes up costs a quiet process about 0.1 ms; a hundred quiet streams share one machine.
    """
    return min(longest, max(shortest, quiet * EASE))


@dataclass(frozen=True, slots=True)
class _Wait:
    what: str
    times: float
    extra: float


@dataclass(slots=True)
class Movement:
    """Time of the last movement of a run, and the waits that are open; thread-safe."""

    at: float = field(default_factory=time.monotonic)
    number: int = 0
    """Number of movements so far."""
    _waits: dict[int, _Wait] = field(default_factory=dict)
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def moved(self) -> None:
        """Record that something has moved."""
        with self._lock:
            self.at, self.number = time.monotonic(), self.number + 1
            self._lock.notify_all()

    def answered(self) -> None:
        """Record that a peer has answered: no stall, though nothing has moved."""
        with self._lock:
            self.at = time.monotonic()

    def rest(self, over: threading.Event, seen: int, shortest: float, seconds: float) -> bool:
        """Wait so many seconds, or if something has moved since `number` was `seen`, the `shortest`; True if `over`.

        `wake` must follow where `over` is set.
        """
        if seconds <= shortest:
            return over.wait(seconds)
        with self._lock:
            moved = self._lock.wait_for(lambda: self.number != seen, seconds)
        return over.wait(shortest if moved else 0.0)

    def wake(self) -> None:
        """End every `rest`."""
        with self._lock:
            self.number += 1
            self._lock.notify_all()

    @contextmanager
    def wait(self, what: str, times: float = 1.0, extra: float = 0.0) -> Iterator[None]:
        """Wait inside of this context; its end is a movement.

        `what` says what would not have moved if it does not end. It may take `times` the limit, and `extra` seconds.
        """
        wait = _Wait(what, times, extra)
        with self._lock:
            self._waits[id(wait)] = wait
        try:
            yield
            self.moved()
        finally:
            with self._lock:
                del self._waits[id(wait)]

    def waiting(self) -> set[str]:
        """Return what the open waits are for."""
        with self._lock:
            return {one.what for one in self._waits.values()}

    @property
    def idle(self) -> float:
        """Seconds since the last movement."""
        return time.monotonic() - self.at

    def stalled(self, limit: float) -> str | None:
        """Say what has not moved for longer than `limit` seconds allow; None if all is well."""
        with self._lock:
            idle, waits = time.monotonic() - self.at, list(self._waits.values())
        if idle < limit:
            return None
        longest = max(waits, key=lambda one: one.times, default=_Wait(NO_STEP, SLOW, 0.0))
        return longest.what if idle >= limit * longest.times + longest.extra else None
