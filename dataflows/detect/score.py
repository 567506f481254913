"""What a score says, and the steps of time that streams are scored by. Without numpy, which takes a moment to load."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["STEP", "Score", "boundary"]

STEP: Final = timedelta(minutes=5)
LATE: Final = timedelta(seconds=20)
"""How long after the end of a step its last reports have been counted."""


@dataclass(frozen=True, slots=True)
class Score:
    """How unusual a value is: `score` is positive if it is above what was `expected`.

    `slow` is True if the mean of the last values is meant: it has drifted away.
    """

    value: float
    expected: float
    spread: float
    score: float
    samples: int
    slow: bool = False


def boundary(at: datetime) -> datetime:
    """Return the end of the last step that is complete at a time."""
    seconds = int(STEP.total_seconds())
    return datetime.fromtimestamp(int((at - LATE).timestamp()) // seconds * seconds, UTC)
