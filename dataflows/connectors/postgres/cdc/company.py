"""The members of a set whose streams run on this machine: whichever comes first reads the slot for all of them."""

from __future__ import annotations

import fcntl
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dataflows.connectors.postgres.cdc.feed import NEVER, Feed, FeedLost, Hello, unix
from dataflows.connectors.postgres.cdc.holds import Holds
from dataflows.connectors.postgres.cdc.hub import Hub

__all__ = ["Company"]

WAITS: Final = (0.5, 20.0)
"""Shortest and longest seconds between two times that a stream with a slot of its own asks for the shared one."""
POLL_SECONDS: Final = 0.05


@dataclass
class Company:
    """Where the streams of a set meet: `folder` is on this machine, and `slot` the name of the one they share."""

    folder: Path
    slot: str
    dsn: str
    where: str
    _hub: Hub | None = field(default=None, init=False)
    _feed: Feed | None = field(default=None, init=False)
    _next: float = field(default=0.0, init=False)
    _wait: float = field(default=WAITS[0], init=False)

    @property
    def due(self) -> bool:
        """True if it is time to ask for the shared slot."""
        return time.monotonic() >= self._next

    def asked(self, hello: Hello, check: Callable[[], None]) -> Feed | None:
        """Join if that is possible now; otherwise it is `due` later, and later still the next time."""
        found = self.joined(hello, check, 0.0)
        self._wait = WAITS[0] if found else min(WAITS[1], self._wait * 2)
        self._next = time.monotonic() + self._wait
        return found

    def joined(self, hello: Hello, check: Callable[[], None], seconds: float) -> Feed | None:
        """Join, and begin to read the slot if nobody does; None if that does not succeed within `seconds`."""
        end = time.monotonic() + seconds
        while True:
            check()
            try:
                answer = Feed.asked(self._at(".sock"), hello, self.where, check)
            except FeedLost:
                if not self._lead() or time.monotonic() > end:
                    return None
                time.sleep(POLL_SECONDS)
            else:
                self._feed = answer if isinstance(answer, Feed) else None
                return self._feed

    def comes_back(self, uid: str) -> None:
        """Say that a stream which was read before is about to be read again, so that the slot is kept for it."""
        Feed.told(self._at(".sock"), Hello(uid, 0, 0, 0, 0, joins=False))

    def give_up(self) -> None:
        """Let the slot keep nothing for this stream any more."""
        if self._feed is not None:
            with suppress(FeedLost):
                self._feed.confirm(NEVER)

    def forget(self) -> None:
        """Delete what a set that was deleted left on this machine."""
        for suffix in (".sock", ".lock", ".json"):
            self._at(suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process read the slot, if it was this one that did."""
        if self._hub is not None:
            self._hub.stop()
            self._hub = None

    def _lead(self) -> bool:
        """Begin to read the slot, unless another process does; False if this process has tried, and failed."""
        if self._hub is not None:
            failed = not self._hub.alive
            self._hub = None if failed else self._hub
            return not failed
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._at(".lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return True
        self._at(".sock").unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with unix(self._at(".sock")) as address:
            listener.bind(address)
        listener.listen(128)
        self._hub = Hub(self.dsn, self.slot, self.where, listener, Holds(self._at(".json")), lock)
        self._hub.start()
        return True

    def _at(self, suffix: str) -> Path:
        return self.folder / f"{self.slot}{suffix}"
