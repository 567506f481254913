"""A Bytewax source of one item again and again: what other threads touch makes an operator look."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Generic, TypeVar

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from penstock.clock import now
from penstock.topics.operators import AWAKE_HOT, Wakeup

__all__ = ["Pulse"]

X = TypeVar("X")


class Pulse(FixedPartitionedSource[X, None]):
    """Gives `item` soon after each `beat`, until `stop`; beside a topic's source, with which it shares `wakeup`."""

    def __init__(self, item: X, stop: threading.Event, wakeup: Wakeup) -> None:
        self.item, self.stop, self._wakeup = item, stop, wakeup
        self.touched = threading.Event()

    def beat(self) -> None:
        """Let the item be given; from any thread."""
        self.touched.set()
        self._wakeup.touch()

    def list_parts(self) -> list[str]:
        """One."""
        return ["0000"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Beating[X]:
        """The item, each time."""
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

    def next_awake(self) -> datetime:
        return now() + AWAKE_HOT

    def snapshot(self) -> None:
        """Nothing."""
