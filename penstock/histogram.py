"""Histograms with fixed bounds: they add up, over time and over pipelines, and percentiles come from sums."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["BOUNDS", "added", "bounds_of", "part_of", "percentile"]

BOUNDS: Final = tuple(0.001 * 2 ** (number / 2) for number in range(121))
"""Upper bounds of the parts: from a thousandth to 10¹⁵, each 1.41 times the one before. What is above
the last one counts in one more part. A histogram is sparse: the counts of the parts that are not empty, by number."""


def part_of(value: float) -> int:
    """Return the number of the part that `value` belongs to."""
    return bisect_left(BOUNDS, value)


def bounds_of(parts: Mapping[int, int]) -> tuple[float, float]:
    """Return what the values of a histogram that is not empty lie between, as far as the bounds of its parts tell."""
    lowest, highest = min(parts), max(parts)
    return BOUNDS[lowest - 1] if lowest else 0.0, BOUNDS[min(highest, len(BOUNDS) - 1)]


def added(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Return the sum of histograms, without empty parts."""
    total: dict[int, int] = {}
    for one in histograms:
        for part, count in one.items():
            total[part] = total.get(part, 0) + count
    return {part: count for part, count in sorted(total.items()) if count}


def percentile(parts: Mapping[int, int], percent: float) -> float | None:
    """Return the value below which `percent` of the values are; None if the histogram is empty.

    It lies in the same part as the exact one, so it is off by a factor of 1.41 at most; above the last bound it is
    that bound.
    """
    counted = sum(parts.values())
    if counted <= 0:
        return None
    rank, below = counted * percent / 100, 0
    for part, count in sorted(parts.items()):
        if count and below + count >= rank:
            lower = BOUNDS[part - 1] if part else 0.0
            upper = BOUNDS[min(part, len(BOUNDS) - 1)]
            return lower + (upper - lower) * max(0.0, rank - below) / count
        below += count
    return BOUNDS[-1]
