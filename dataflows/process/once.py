"""A Bytewax source of one item, to start an operator that acts only after its first item."""

from __future__ import annotations

from typing import TypeVar

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

__all__ = ["Once"]

X = TypeVar("X")


class Once(FixedPartitionedSource[X, None]):
    """Emits `item`, then ends."""

    def __init__(self, item: X) -> None:
        self._item = item

    def list_parts(self) -> list[str]:
        """Return the one partition."""
        return ["0000"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Single[X]:
        """Build the partition."""
        return _Single(self._item)


class _Single(StatefulSourcePartition[X, None]):
    def __init__(self, item: X) -> None:
        self._items = [item]

    def next_batch(self) -> list[X]:
        if not self._items:
            raise StopIteration
        return [self._items.pop()]

    def snapshot(self) -> None:
        """Return None: Bytewax stores no state here."""
