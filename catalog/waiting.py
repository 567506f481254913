"""Waiting for the projection: one session that listens for its commits, shared by all who wait in this process."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Event, Thread
from time import monotonic
from typing import Final

import psycopg
from psycopg import sql

from catalog.projection import CHANNEL
from penstock.errors import Unavailable

__all__ = ["Commits"]

POLL: Final = 0.25
"""Seconds after which those who wait look by themselves: a notification is only a hint."""


class Commits:
    """The projector's commits, as they happen. Begins to listen when first waited for."""

    def __init__(self, session: Callable[[], psycopg.Connection]) -> None:
        self._session = session
        self._heard = Condition()
        self._count = 0
        self._ready = Event()
        self._closed = Event()
        self._thread: Thread | None = None

    def listen(self) -> int:
        """Listen from here on; how many commits were heard so far. A first call returns when the ears are open."""
        with self._heard:
            if self._thread is None and not self._closed.is_set():
                self._thread = Thread(target=self._run, name="catalog-commits", daemon=True)
                self._thread.start()
        self._ready.wait(POLL)
        return self._count

    def wait(self, heard: int, timeout: float) -> int:
        """Wait until more than `heard` commits were, at most `timeout` or POLL seconds; how many there are then."""
        with self._heard:
            self._heard.wait_for(lambda: self._count > heard, min(timeout, POLL))
            return self._count

    def close(self) -> None:
        """Stop listening; more than once is fine."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with self._session() as session:
                    self._hear(session)
            except (psycopg.OperationalError, Unavailable):
                self._closed.wait(POLL)  # those who wait look by themselves meanwhile

    def _hear(self, session: psycopg.Connection) -> None:
        session.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        self._tell()
        self._ready.set()
        while not self._closed.is_set():
            for _ in session.notifies(timeout=POLL, stop_after=1):
                self._tell()

    def _tell(self) -> None:
        with self._heard:
            self._count += 1
            self._heard.notify_all()


def remaining(deadline: float) -> float:
    """Seconds until `deadline` of the monotonic clock, 0 when it has passed."""
    return max(0.0, deadline - monotonic())
