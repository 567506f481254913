"""Movement of a run: when something last moved, and what its threads wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

__all__ = ["SINK", "SLOW", "SOURCE", "Movement"]

SOURCE: Final = "the source gave no rows"
SINK: Final = "the sink took no rows"
SLOW: Final = 12.0
"""How many times longer than a chunk a step may take in which a server works without showing it: a DDL, a merge."""
_NOTHING: Final = "a step of the pipeline gave no rows"


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
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def moved(self) -> None:
        """Record that something has moved."""
        with self._lock:
            self.at, self.number = time.monotonic(), self.number + 1

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
        longest = max(waits, key=lambda one: one.times, default=_Wait(_NOTHING, SLOW, 0.0))
        return longest.what if idle >= limit * longest.times + longest.extra else None
