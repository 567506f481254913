"""Idle sessions that a process keeps from one run for the next, where it serves one run after another.

A new session costs its server a process with empty caches, which is more than the statements of a small run. Kept are
few, and for seconds only: what runs no more holds nothing open.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Final, Protocol

__all__ = ["IDLE_SESSIONS", "IdleSessions"]

MAX_SESSIONS: Final = 8
"""Sessions kept by one process."""
IDLE_SECONDS: Final = 3.0
"""How long they are kept after the end of a run."""


class _Session(Protocol):
    def close(self) -> None: ...


class IdleSessions:
    """Sessions by what they were opened with; the one that was used last is taken first. Safe between threads."""

    def __init__(self) -> None:
        self._idle: list[tuple[Hashable, _Session]] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self.wanted = False
        """True while a run may be followed by another one."""

    def take(self, key: Hashable) -> object | None:
        """A session that was opened with `key`, now the caller's."""
        with self._lock:
            found = next((one for one in reversed(self._idle) if one[0] == key), None)
            if found is not None:
                self._idle.remove(found)
        return found[1] if found is not None else None

    def put(self, key: Hashable, session: _Session) -> None:
        """Keep a session that nothing is left open in; the oldest makes way for it."""
        with self._lock:
            self._idle.append((key, session))
            gone = self._idle[:-MAX_SESSIONS]
            self._idle = self._idle[-MAX_SESSIONS:]
        _close(gone)

    def begin(self) -> None:
        """A run begins: what its process has kept is there for it."""
        self.wanted = True
        if self._timer is not None:
            self._timer.cancel()

    def close_after(self, seconds: float = IDLE_SECONDS) -> None:
        """A run has ended: close the sessions if none follows within `seconds`."""
        self._timer = threading.Timer(seconds, self.close)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            gone, self._idle = self._idle, []
        _close(gone)


def _close(gone: list[tuple[Hashable, _Session]]) -> None:
    for _, session in gone:
        session.close()


IDLE_SESSIONS: Final = IdleSessions()
"""Those of this process."""
