"""Leader election for flows of which only one may be active: the others stand by, and can be stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from penstock.topics.log import Stored, TopicLog
from penstock.topics.operators import ALWAYS, TopicSource, Wakeup

__all__ = ["Leader"]

POLL_SECONDS: Final = 0.1
"""Seconds between two attempts of a standby to take the lock."""


class Leader(FixedPartitionedSource[Stored, None]):
    """Follows the topic source that `begin` returns, of one partition, once it holds the lock of that name.

    A standby does not block the other flows of its process: the control flow works while a projector elsewhere is
    active, and the other way round. The lock is held for as long as `log` is open.
    """

    def __init__(
        self, log: TopicLog, name: str, begin: Callable[[], TopicSource], stop: threading.Event, wakeup: Wakeup
    ) -> None:
        self.log, self.name, self.begin, self.stop, self.wakeup = log, name, begin, stop, wakeup

    def list_parts(self) -> list[str]:
        """Return the one partition, named as `TopicSource` names it."""
        return ["0000"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Standby:
        """Start as a standby."""
        return _Standby(self, lambda: self.begin().build_part(step_id, for_part, None))


class _Standby(StatefulSourcePartition[Stored, None]):
    def __init__(self, source: Leader, follow: Callable[[], StatefulSourcePartition[Stored, None]]) -> None:
        self._source, self._follow = source, follow
        self._followed: StatefulSourcePartition[Stored, None] | None = None
        self._tried = -POLL_SECONDS

    def next_batch(self) -> list[Stored]:
        """Return the topic's messages once it is the leader."""
        if self._source.wakeup.failed:
            raise StopIteration
        return self._source.wakeup.guarded(self._messages, [])

    def _messages(self) -> list[Stored]:
        if self._followed is not None:
            return list(self._followed.next_batch())
        if self._source.stop.is_set():
            raise StopIteration
        if time.monotonic() < self._tried + POLL_SECONDS:
            self._source.wakeup.sleep()
        elif self._source.log.lock(self._source.name, wait=False):
            self._followed = self._follow()
        else:
            self._tried = time.monotonic()
        return []

    def next_awake(self) -> datetime:
        return ALWAYS

    def snapshot(self) -> None:
        """Return None, as `TopicSource` does."""

    def close(self) -> None:
        """End the tail; the caller closes the log at the end."""
        if self._followed is not None:
            self._followed.close()
