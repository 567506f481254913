"""A Bytewax source that emits the same item at intervals and whenever another thread asks, to make an operator act."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Generic, TypeVar

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from penstock.topics.operators import ALWAYS, Wakeup

__all__ = ["Pulse"]

X = TypeVar("X")


class Pulse(FixedPartitionedSource[X, None]):
    """Emits `item` every `seconds` and soon after each `beat`, until `stop`.

    An operator's `notify_at` names times of the wall clock, which can be set back; these intervals are the monotonic
    clock's. It never waits: for flows with a topic source, with which it shares `wakeup`.
    """

    def __init__(self, item: X, seconds: float, stop: threading.Event, wakeup: Wakeup) -> None:
        self.item, self.seconds, self.stop, self._wakeup = item, seconds, stop, wakeup
        self.touched = threading.Event()

    @property
    def failed(self) -> bool:
        """True if something in the flow has failed."""
        return self._wakeup.failed

    def beat(self) -> None:
        """Emit the item; may be called from any thread."""
        self.touched.set()
        self._wakeup.wake()

    def list_parts(self) -> list[str]:
        """Return the one partition."""
        return ["0000"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Beating[X]:
        """Build the partition."""
        return _Beating(self)


class _Beating(StatefulSourcePartition[X, None], Generic[X]):
    def __init__(self, pulse: Pulse[X]) -> None:
        self._pulse = pulse
        self._due = time.monotonic()

    def next_batch(self) -> list[X]:
        if self._pulse.failed:
            raise StopIteration
        at = time.monotonic()
        if self._pulse.touched.is_set() or at >= self._due:
            self._pulse.touched.clear()
            self._due = at + self._pulse.seconds
            return [self._pulse.item]
        if self._pulse.stop.is_set():
            raise StopIteration
        return []

    def next_awake(self) -> datetime:
        return ALWAYS

    def snapshot(self) -> None:
        """Return None: Bytewax stores no state here."""
