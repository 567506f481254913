"""The commands that an agent has answered: so many of the last, so that none is carried out twice."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from penstock.ids import named_id
from penstock.records import Record

__all__ = ["FORGET_AFTER", "Answered"]

FORGET_AFTER: Final = timedelta(hours=24)
"""Time after which the same id is a new command, by the time of the records."""
MOST: Final = 20_000
"""Ids that are remembered: about 2 MB."""
_LONGEST: Final = 64
"""Characters of an id that is remembered as it is."""


class Answered:
    """Ids of the last `MOST` commands that were answered, with their times, oldest answer first.

    A command that is not among them and not newer than the newest forgotten one may have been answered: it is too old.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        self.seen: dict[str, str] = dict(saved["seen"]) if saved else {}
        horizon = saved.get("horizon") if saved else None
        self.horizon = datetime.fromisoformat(horizon) if horizon else None

    def to_dict(self) -> dict[str, Any]:
        """Return the state as builtins."""
        return {"seen": dict(self.seen), "horizon": self.horizon and self.horizon.isoformat()}

    def repeats(self, record: Record) -> bool:
        """True if the command has been answered within `FORGET_AFTER`."""
        answered = self.seen.get(_key(record))
        return answered is not None and record.at - datetime.fromisoformat(answered) <= FORGET_AFTER

    def is_too_old(self, record: Record) -> bool:
        """True if the command may be one of those that were forgotten."""
        return self.horizon is not None and record.at <= self.horizon and _key(record) not in self.seen

    def remember(self, record: Record) -> None:
        """Remember a command that was answered; forget the oldest ones."""
        self.seen.pop(_key(record), None)
        self.seen[_key(record)] = record.at.isoformat()
        while len(self.seen) > MOST:
            oldest = datetime.fromisoformat(self.seen.pop(next(iter(self.seen))))
            # A time that this command has not reached is a wrong clock's: it would refuse everything until then.
            if oldest <= record.at:
                self.horizon = max(oldest, self.horizon or oldest)

    def set_back(self, at: datetime) -> None:
        """Lower the horizon to `at`, which clocks show now: commands that are sent from here on are newer."""
        if self.horizon is not None and self.horizon > at:
            self.horizon = at


def _key(record: Record) -> str:
    return record.id if len(record.id) <= _LONGEST else named_id(record.id)
