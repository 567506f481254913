"""Positions in a topic: the next offset of a partition, with the topic's id and the leader epoch."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["Position"]


@dataclass(frozen=True, slots=True)
class Position:
    """The next offset to read, the epoch of the leader that wrote the one before (-1 = unknown), and the topic's id."""

    offset: int
    epoch: int
    topic: str

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse what `str` returned."""
        data = json.loads(text)
        return cls(data["offset"], data["epoch"], data["topic"])

    def __str__(self) -> str:
        return json.dumps({"offset": self.offset, "epoch": self.epoch, "topic": self.topic}, separators=(",", ":"))
