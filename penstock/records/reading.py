"""Filter for every reader of the control topic: it drops the decisions of superseded brains, and repeated ones.

A brain that lost its lock may still append; the next `brain.started` voids all that it appends afterwards. A brain that
starts again may repeat a decision that its predecessor had made durable; the pair (offset of the cause, index) of each
agent only increases, so its pair identifies a repeat. The state here is part of the reader's position: it is saved in
the same transaction as what was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.ids import named_id
from penstock.records.envelope import Record

__all__ = ["Reading", "mark"]


def mark(record: Record) -> str:
    """Return an id that no record of another log has at the same offset; those of decisions come from offsets."""
    return named_id(record.id, record.at.isoformat(), record.correlation)


class Reading:
    """Decides which records count, for a reader that sees all of them in order."""

    def __init__(
        self, brain: int = -1, pairs: Mapping[str, tuple[int, int]] | None = None, last: str | None = None
    ) -> None:
        self.brain, self._last = brain, last
        self._record: Record | None = None
        self.pairs: dict[str, tuple[int, int]] = dict(pairs or {})
        self.dropped = 0

    def keep(self, offset: int, record: Record) -> bool:
        """Return True if the record at `offset` counts; call it once for each record, in order."""
        self._record = record
        if record.type == "brain.started":
            self.brain = offset
            return True
        agent = record.agent
        if agent is None or record.cause is None:
            return True
        if record.brain != self.brain or record.cause <= self.pairs.get(agent, (-1, -1)):
            self.dropped += 1
            return False
        self.pairs[agent] = record.cause
        return True

    @property
    def last(self) -> str | None:
        """The `mark` of the last record; None before the first one."""
        return self._last if self._record is None else mark(self._record)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as builtins, for the reader's position."""
        pairs = {agent: list(pair) for agent, pair in self.pairs.items()}
        return {"brain": self.brain, "pairs": pairs, "last": self.last}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reading:
        """Restore the state that `to_dict` returned."""
        pairs = {agent: (pair[0], pair[1]) for agent, pair in data["pairs"].items()}
        return cls(data["brain"], pairs, data.get("last"))
