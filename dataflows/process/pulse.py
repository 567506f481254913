"""A Bytewax source that emits the same item whenever another thread asks for it, to make an operator act."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from penstock.topics.operators import Wakeup

__all__ = ["Pulse"]

X = TypeVar("X")


class Pulse(FixedPartitionedSource[X, None]):
    """Emits `item` soon after each `beat`, until `stop`; for use with a topic source, with which it shares `wakeup`."""

    def __init__(self, item: X, stop: threading.Event, wakeup: Wakeup) -> None:
        self.item, self.stop, self._wakeup = item, stop, wakeup
        self.touched = threading.Event()

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

    def next_batch(self) -> list[X]:
        if self._pulse.touched.is_set():
            self._pulse.touched.clear()
            return [self._pulse.item]
        if self._pulse.stop.is_set():
            raise StopIteration
        return []

    def snapshot(self) -> None:
        """Return None: Bytewax stores no state here."""
