"""Cache of idle sessions, for a process that serves one run after another.

A new session costs its server a process with empty caches, more than the statements of a small run. The cache is small
and lasts for seconds, so that an idle process soon has no open sessions.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

__all__ = ["IDLE_SESSIONS", "IdleSessions"]

MAX_SESSIONS: Final = 8
"""Size of the cache."""
IDLE_SECONDS: Final = 3.0
"""Time for which sessions are kept after the end of a run."""


class _Session(Protocol):
    def close(self) -> None: ...


class IdleSessions:
    """Idle sessions by key; the last used is taken first. Thread-safe."""

    def __init__(self) -> None:
        self._idle: list[tuple[Hashable, _Session]] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self.wanted = False
        """True if another run may follow, so that sessions are worth keeping."""

    def take(self, key: Hashable) -> object | None:
        """Remove and return a session with that key, if there is one; the caller owns it."""
        with self._lock:
            entry = next((one for one in reversed(self._idle) if one[0] == key), None)
            if entry is not None:
                self._idle.remove(entry)
        return entry[1] if entry is not None else None

    def put(self, key: Hashable, session: _Session) -> None:
        """Add a session without an open transaction; close the oldest if the cache is full."""
        with self._lock:
            self._idle.append((key, session))
            gone = self._idle[:-MAX_SESSIONS]
            self._idle = self._idle[-MAX_SESSIONS:]
        _close(gone)

    def begin(self, *, keep: bool = True) -> None:
        """Keep sessions for a run that begins: cancel the timer of `close_after`.

        A stream keeps none: it may never end, and a hundred of them would take all that a server allows.
        """
        self.wanted = keep
        if self._timer is not None:
            self._timer.cancel()
        if not keep:
            self.close()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep sessions for as long as the context lasts."""
        self.begin()
        try:
            yield
        finally:
            self.wanted = False
            self.close()

    def close_after(self, seconds: float = IDLE_SECONDS) -> None:
        """Close all sessions in `seconds`, unless another run begins before."""
        self._timer = threading.Timer(seconds, self.close)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        """Close all sessions."""
        with self._lock:
            gone, self._idle = self._idle, []
        _close(gone)


def _close(gone: list[tuple[Hashable, _Session]]) -> None:
    for _, session in gone:
        session.close()


IDLE_SESSIONS: Final = IdleSessions()
"""The cache of this process."""
