"""Which scores are worth a record on the log: those that differ from the last one recorded, and are not usual.

So the log stays small: nothing is written about what is usual, and little about what stays unusual. Scores are recorded
from a size on that is well below the sensitivity in force, and below that of the built-in policy: a policy with
another sensitivity can be judged on what is there.
"""

from __future__ import annotations

from typing import Final

__all__ = ["is_news", "least"]

DEFAULT: Final = 4.0
"""The sensitivity of the built-in policy."""
SHARE: Final = 0.6
"""Share of the sensitivity from which on scores are recorded: the one below which an alert is over."""
STEP: Final = 0.5
GROWTH: Final = 0.15
"""A score is another one if it differs by a step, and by a share of the one before."""


def least(sensitivity: float) -> float:
    """Return the size from which on scores are recorded."""
    return SHARE * min(sensitivity, DEFAULT)


def is_news(last: float | None, score: float, floor: float) -> bool:
    """True if a score is worth a record after the `last` one that has one; None if none has."""
    before = last or 0.0
    if abs(score) < floor:
        return abs(before) >= floor
    return abs(before) < floor or score * before < 0 or abs(score - before) >= max(STEP, GROWTH * abs(before))
