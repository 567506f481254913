"""Positions of a stream: how far each partition of its source has been written, as text that only the source reads."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Move"]


@dataclass(frozen=True, slots=True)
class Move:
    """Part of one partition that a commit writes: from one position up to another.

    The sink moves its position from `start` to `end` in the transaction of the rows, and only if it is at `start`.
    """

    partition: str
    start: str
    end: str
