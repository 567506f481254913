"""Positions in a stream: the last record of a shard that was read, by its sequence number, as text.

Sequence numbers have more than 128 bits, and are compared as integers of any size. One alone lies: in a stream that was
made again under its name it means nothing, so that the stream's time of creation is a part of each position.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["START_OVER", "Position", "part_name", "shard_number", "shard_of"]

START_OVER: Final = "to go on, choose from where: `penstock run NAME --from earliest|latest|TIME --reset`"
"""The hint where a position no longer stands on what the stream has."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a shard: behind the record `sequence`; if there is none, at the time `at`, or at its beginning.

    All that came up to `seen` and was to be read has been read, so that nothing is lost as long as the stream keeps its
    records longer than that. Times are milliseconds of Unix time. `ended`: the shard is closed, and read to its end.
    """

    stream: str
    seen: int
    sequence: str | None = None
    at: int | None = None
    ended: bool = False

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse what `str` returned."""
        data = json.loads(text)
        return cls(data["stream"], data["seen"], data.get("sequence"), data.get("at"), data.get("ended", False))

    def __str__(self) -> str:
        data = {"stream": self.stream, "seen": self.seen, "sequence": self.sequence, "at": self.at}
        kept = {name: value for name, value in data.items() if value is not None} | (
            {"ended": True} if self.ended else {}
        )
        return json.dumps(kept, separators=(",", ":"))

    def behind(self, sequence: str, arrived: int) -> Position:
        """Return the position behind a record."""
        return Position(self.stream, arrived, sequence)

    def seen_until(self, moment: int) -> Position:
        """Return the same place, of which it is known that nothing came up to that moment."""
        return replace(self, seen=max(self.seen, moment))

    def at_end(self) -> Position:
        """Return the position at the end of the closed shard."""
        return replace(self, ended=True)


def part_name(stream: str, shard: str) -> str:
    """Return the name of a shard, as a sink stores it."""
    return f"{stream}/{shard}"


def shard_of(name: str) -> str:
    """Return the id of the shard of that name."""
    return name.rpartition("/")[2]


def shard_number(shard: str) -> int:
    """Return the number of a shard, which its id ends with."""
    digits = shard.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
