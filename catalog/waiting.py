"""Waiting for the projection: a session that listens for its commits; `Commits` shares one among all threads."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Event, Thread
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg import sql

from penstock.errors import Unavailable

__all__ = ["CHANNEL", "POLL_SECONDS", "Commits", "heard", "listen", "remaining"]

CHANNEL: Final = "catalog"
"""Channel on which each commit is notified, with the next offset; a notification is a hint and may be lost."""
POLL_SECONDS: Final = 0.25
"""Seconds between two polls of a waiting thread: a notification is only a hint."""


class Commits:
    """The projector's commits as they happen. Starts to listen at the first wait."""

    def __init__(self, session: Callable[[], psycopg.Connection]) -> None:
        self._session = session
        self._changed = Condition()
        self._count = 0
        self._ready = Event()
        self._closed = Event()
        self._thread: Thread | None = None

    def listen(self) -> int:
        """Start listening; return the number of commits seen so far. The first call returns once LISTEN is active."""
        with self._changed:
            if self._thread is None and not self._closed.is_set():
                self._thread = Thread(target=self._run, name="catalog-commits", daemon=True)
                self._thread.start()
        self._ready.wait(POLL_SECONDS)
        return self._count

    def wait(self, seen: int, timeout: float) -> int:
        """Wait for more than `seen` commits, at most `timeout` or POLL_SECONDS seconds; return their number."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > seen, min(timeout, POLL_SECONDS))
            return self._count

    def close(self) -> None:
        """Stop listening; may be called more than once."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with self._session() as session:
                    self._hear(session)
            except (psycopg.OperationalError, Unavailable):
                self._closed.wait(POLL_SECONDS)  # waiting threads poll in the meantime

    def _hear(self, session: psycopg.Connection) -> None:
        listen(session)
        self._tell()
        self._ready.set()
        while not self._closed.is_set():
            if heard(session, POLL_SECONDS):
                self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()


def listen(session: psycopg.Connection[Any]) -> None:
    """Make the session listen for commits. Raises psycopg.Error."""
    session.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))


def heard(session: psycopg.Connection[Any], timeout: float) -> bool:
    """Wait for a commit, at most `timeout` seconds; return True if there was one. Raises psycopg.OperationalError."""
    return any(True for _ in session.notifies(timeout=timeout, stop_after=1))


def remaining(deadline: float) -> float:
    """Return the seconds until `deadline` of the monotonic clock, 0 when it has passed."""
    return max(0.0, deadline - monotonic())
