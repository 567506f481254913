"""A sink of one partition for flows that keep their positions themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

__all__ = ["OnePart"]


class OnePart(FixedPartitionedSink[Any, None]):
    """Calls `write` with the items of each batch, and `close` at the end."""

    def __init__(self, write: Callable[[list[Any]], None], close: Callable[[], None]) -> None:
        self.write, self.close = write, close

    def list_parts(self) -> list[str]:
        """Return the one partition."""
        return ["0000"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Part:
        """Return the one partition."""
        return _Part(self)


class _Part(StatefulSinkPartition[Any, None]):
    def __init__(self, sink: OnePart) -> None:
        self._sink = sink

    def write_batch(self, values: list[Any]) -> None:
        self._sink.write(values)

    def snapshot(self) -> None:
        """Return None: Bytewax stores no state here."""

    def close(self) -> None:
        self._sink.close()
