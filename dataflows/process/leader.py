"""Waiting for one's turn: of the flows that there may be only one of, one is active and the others wait, stoppable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from penstock.clock import now
from penstock.topics.log import Stored
from penstock.topics.operators import TopicSource, Wakeup
from penstock.topics.postgres import PostgresLog

__all__ = ["Leader"]

LOOK: Final = 0.1
"""Seconds between two looks whether the active one is gone."""


class Leader(FixedPartitionedSource[Stored, None]):
    """Follows what `begin` gives, a topic of one partition, once the lock of that name is taken; nothing until then.

    It does not hold up the other flows of its process: while a projector elsewhere is active, the control flow beside
    this one works, and the other way round. The lock is held for as long as `log` is open.
    """

    def __init__(
        self, log: PostgresLog, name: str, begin: Callable[[], TopicSource], stop: threading.Event, wakeup: Wakeup
    ) -> None:
        self.log, self.name, self.begin, self.stop, self.wakeup = log, name, begin, stop, wakeup

    def list_parts(self) -> list[str]:
        """The one partition, named as `TopicSource` names it."""
        return ["0000"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Waiting:
        """Begin to wait."""
        return _Waiting(self, lambda: self.begin().build_part(step_id, for_part, None))


class _Waiting(StatefulSourcePartition[Stored, None]):
    def __init__(self, source: Leader, follow: Callable[[], StatefulSourcePartition[Stored, None]]) -> None:
        self._source, self._follow = source, follow
        self._followed: StatefulSourcePartition[Stored, None] | None = None

    def next_batch(self) -> list[Stored]:
        """What the topic has, if its turn has come."""
        if self._followed is not None:
            return list(self._followed.next_batch())
        if self._source.stop.is_set():
            raise StopIteration
        if self._source.log.lock(self._source.name, wait=False):
            self._followed = self._follow()
        else:
            self._source.wakeup.rest()
        return []

    def next_awake(self) -> datetime | None:
        """When to look again."""
        return now() + timedelta(seconds=LOOK) if self._followed is None else self._followed.next_awake()

    def snapshot(self) -> None:
        """Nothing, as in `TopicSource`."""

    def close(self) -> None:
        """Let the tail end; the log is for the caller to close, when all is done."""
        if self._followed is not None:
            self._followed.close()
