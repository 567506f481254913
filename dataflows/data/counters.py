"""Counters of the rows and bytes of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["COUNTED", "Counters"]


@dataclass(frozen=True, slots=True)
class Counters:
    """Rows and bytes processed: ``rows_in = rows_out + filtered + dead``."""

    rows_in: int = 0
    rows_out: int = 0
    filtered: int = 0
    dead: int = 0
    bytes: int = 0

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, name) - getattr(other, name) for name in COUNTED))

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, name) + getattr(other, name) for name in COUNTED))

    @property
    def balanced(self) -> bool:
        """True if every row that came in is accounted for."""
        return self.rows_in == self.rows_out + self.filtered + self.dead

    def as_dict(self) -> dict[str, int]:
        """Return the counters by name."""
        return {name: getattr(self, name) for name in COUNTED}


COUNTED: Final = ("rows_in", "rows_out", "filtered", "dead", "bytes")
