"""The score of a value against those before it: robust, with season, comparable to a normal distribution. Pure.

Values are compared with the median of their season (the hour of the day, or of the week, if that explains them), and
with the level of the values just before, if that does. Spreads come from what such a comparison would have missed by in
the past: the median of the absolute deviations (MAD), or a high quantile of jumps where tails are heavy. A second look
takes an exponentially weighted average (EWMA) of the last values, for a slow drift. Every spread is measured on
deviations from values that did not enter the expectation, so that a season of few repeats does not look more certain
than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign, log1p, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dataflows.detect.score import Score

__all__ = ["LEAST", "missing", "scored"]

LEAST: Final = 5
"""Values before the one that is scored, at least."""
SPAN: Final = 24
"""Span of the average that is compared with the past for a slow drift."""
LEVEL: Final = 12
"""Span of the average of the values just before: the level."""
TINY: Final = 1e-9
"""Share of a value that is nothing: so the spread of what never varies is not zero."""
HOUR: Final = 3600
SEASONS: Final = ((24, 3), (168, 3))
"""Seasons in hours, and the repeats of each that are needed."""
BETTER: Final = 0.85
"""A season or a level is used if it leaves this share of the spread at most."""
TO_SIGMA: Final = 1.4826
"""MAD of a normal distribution to its standard deviation."""
HIGH: Final = 0.95
AT_HIGH: Final = 1.96
"""A quantile of absolute deviations, and what it is of a standard normal distribution."""
ENOUGH: Final = 20
"""Deviations that are needed for such a quantile."""
SPIKES: Final = 2
"""Jumps that one value makes: what was unusual once does not count as a heavy tail."""
EFFICIENCY: Final = 0.4
"""Share of values that a standard deviation would need for the same certainty as the MAD."""

Floats = NDArray[np.float64]


def scored(times: Sequence[float] | Floats, values: Sequence[float] | Floats, floor: float) -> Score | None:
    """Score the last of `values`, at `times` (seconds since 1970, increasing), against those before it.

    `floor` is the least spread, in the unit of the values: what varies by less is nothing. None if there are too few.
    """
    t, x = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    past = len(x) - 1
    if past < LEAST:
        return None
    season, repeats = _season(t, x)
    left = x - season
    middle = _median(left[:-1])
    floor = max(floor, TINY * (1 + float(np.max(np.abs(x)))))
    limit = 5 * max(_spread(left[:-1] - middle), floor)
    tame = np.clip(left, middle - limit, middle + limit)
    fast = _fast(x, left, tame, middle, floor, repeats)
    slow = _slow(tame, left[-1], middle, floor, float(season[-1])) if past >= 5 * SPAN else None
    return slow if slow is not None and abs(slow.score) > abs(fast.score) else fast


def _fast(x: Floats, left: Floats, tame: Floats, middle: float, floor: float, repeats: int) -> Score:
    """Compare the last value with its season, and with the level before it if that says more."""
    past = len(x) - 1
    level, deviations = middle, left[:-1] - middle
    spread = _spread(deviations)
    if past >= 2 * LEVEL + ENOUGH:
        levels = _averages(tame[:-1], LEVEL)
        near = left[2 * LEVEL : -1] - levels[:-1]
        close = _spread(near)
        if close < BETTER * spread:
            level, spread = float(levels[-1]), close
    spread = max(spread, floor)
    away = float(left[-1]) - level
    value = float(x[-1])
    freedom = EFFICIENCY * min(past, past if not repeats else 24 * repeats)
    return Score(value, value - away, spread, _normal(away / spread, freedom), past)


def _slow(tame: Floats, last: float, middle: float, floor: float, season: float) -> Score | None:
    """Compare the average of the last values with those of before."""
    averages = _averages(tame, SPAN)
    before = averages[:-SPAN]
    spread = max(_spread(before - middle), floor / sqrt(SPAN))
    away = float(averages[-1]) - middle
    blocks = len(before) / SPAN
    score = _normal(away / spread, EFFICIENCY * max(blocks, 5.0))
    if (last - middle) * away <= 0:  # it is on its way back
        return None
    return Score(season + float(averages[-1]), season + middle, spread, score, len(tame) - 1, slow=True)


def _season(t: Floats, x: Floats) -> tuple[Floats, int]:
    """Return what the season adds to each value, and how often it was seen; zeros and 0 without one.

    For values of the past it is the mean of the other values of their hour, for the last one the median of all.
    """
    past, middle = x[:-1], _median(x[:-1])
    best, found, repeats = _spread(past - middle), np.zeros_like(x), 0
    hours = np.floor_divide(t, HOUR).astype(np.int64)
    for period, least in SEASONS:
        if t[-1] - t[0] < least * period * HOUR:
            continue
        place = hours % period
        before, same = place[:-1], place[:-1] == place[-1]
        if np.count_nonzero(same) < least:
            continue
        count, sums = np.bincount(before)[before], np.bincount(before, weights=past)[before]
        usual = np.where(count > 1, (sums - past) / np.maximum(count - 1, 1), middle)
        left = past - usual
        spread = _spread(left - _median(left))
        if spread < BETTER * best:
            best, repeats = spread, int(np.count_nonzero(same))
            found = np.append(usual, _median(past[same]))
    return found, repeats


def _spread(deviations: Floats) -> float:
    """Return the spread of deviations as a standard deviation: by the median, or by jumps where tails are heavy.

    A jump is the difference of neighbours: of a shift that has lasted for long there are two, of noise there are many.
    """
    if not len(deviations):
        return 0.0
    middle = TO_SIGMA * _median(np.abs(deviations))
    if len(deviations) < ENOUGH:
        return middle
    jumps = np.abs(deviations[1:] - deviations[:-1])
    place = min(int(HIGH * len(jumps)), len(jumps) - 1 - SPIKES)
    heavy = float(np.partition(jumps, place)[place]) / (AT_HIGH * sqrt(2))
    return max(middle, heavy)


def _median(values: Floats) -> float:
    """Return the median; of an even number of values the higher of the two, which is quicker."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2])


def _averages(values: Floats, span: int) -> Floats:
    """Return exponentially weighted averages (EWMA) with alpha = 2 / (span + 1), each of `2 * span` values."""
    weights = (1 - 2 / (span + 1)) ** np.arange(2 * span)
    found: Floats = np.convolve(values, weights / weights.sum(), mode="valid")
    return found


def _normal(t: float, freedom: float) -> float:
    """Return the value of a normal distribution that is as rare as `t` of Student's with these degrees of freedom.

    By D. L. Wallace, Bounds on normal approximations to Student's and the chi-square distributions (1959).
    """
    nu = max(freedom, 2.0)
    z = (8 * nu + 1) / (8 * nu + 3) * sqrt(nu * log1p(min(t * t, 1e12) / nu))
    return copysign(z, t)


def missing(present: Any) -> Score | None:
    """Score how long nothing has come, given for each step whether anything did, the last step last.

    None if something has come in the last step, or there are too few before.
    """
    there = np.asarray(present, dtype=bool)
    come = np.flatnonzero(there)
    gap = len(there) - 1 - int(come[-1]) if len(come) else 0
    before = there[: len(there) - gap]
    if not gap or len(before) < LEAST:
        return None
    rare = (len(before) - len(come) + 1) / (len(before) + 2)
    if rare >= 0.5:  # noqa: PLR2004 - nothing is as usual as something
        return None
    score = sqrt(2 * gap * -np.log(rare))
    return Score(0.0, float(1 - rare), float(rare), -score, len(before))
