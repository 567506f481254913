"""Positions in a topic of a log: the next offset of a partition, with the topic's id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Ends", "Position"]

Ends = Mapping[int, tuple[int, int]]
"""The first kept offset of each partition, and the one that its next message will get."""


@dataclass(frozen=True, slots=True)
class Position:
    """The next offset to read, and the topic's id."""

    offset: int
    topic: str

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse what `str` returned."""
        data = json.loads(text)
        return cls(data["offset"], data["topic"])

    def __str__(self) -> str:
        return json.dumps({"offset": self.offset, "topic": self.topic}, separators=(",", ":"))
