"""See from the latest values of a time cursor how coarse they are: new rows may get a value until its unit is over.

A default such as ``date_trunc('day', now())`` gives a row of this evening the time of this morning, in a column of any
precision; a window that ends in between would never read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from itertools import pairwise
from math import gcd
from typing import Final, Protocol

from dataflows.connectors.windows import (
    DAY,
    EPOCH,
    HOUR,
    SECOND,
    Clock,
    Edge,
    Evidence,
    read_time,
    unit_text,
    window_edge,
)
from dataflows.data.cursors import CursorRule
from dataflows.data.tables import Column
from dataflows.data.types import parse_type

__all__ = ["DISTINCT", "LATEST", "Ended", "Latest", "ended", "resolution"]

_UNITS: Final = (3600, 1800, 1200, 900, 600, 300, 120, 60, 30, 20, 15, 10, 5, 2, 1)
"""Seconds that divide an hour."""
_OFFSETS: Final = 900
"""Zones differ from UTC by multiples of this many seconds."""
_PERIODS: Final = ((28, 31), (59, 62), (89, 92), (120, 123), (181, 184), (365, 366))
"""Days of one, two, three, four, six and twelve months: the least and the most."""
LATEST: Final = 200
"""Number of rows of which `resolution` is asked."""
DISTINCT: Final = 24
"""Number of values of which it is asked if these rows have fewer."""

Texts = Sequence[str | None]


class Latest(Protocol):
    """Reads the latest values of a cursor."""

    def __call__(self, edge: Edge, rows: int, *, distinct: bool) -> Texts:
        """Return as many of the values up to the window's end, the greatest first; without repeats if asked."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Where a window ends, the greatest value in it, and notes on what is left for later."""

    edge: Edge
    greatest: str | None
    notes: tuple[str, ...] = ()


def ended(
    evidence: Evidence, rule: CursorRule, clock: Clock, greatest: Callable[[Edge], str | None], latest: Latest
) -> Ended:
    """Return where a window ends once the resolution of the latest values is known; `greatest` reads one of it.

    If the greatest value has a fraction of a second, nothing more is asked. Values without repeats are asked for only
    if the latest rows share few: rows of one week have one.
    """
    edge = window_edge(evidence, rule, clock)
    newest = greatest(edge)
    at = None if newest is None else read_time(newest, evidence.column)
    if at is None or at.microsecond or parse_type(evidence.column.type).name == "date":
        return Ended(edge, newest)
    texts = latest(edge, LATEST, distinct=False)
    found = resolution(texts, evidence.column)
    if found is None:
        return Ended(edge, newest)
    if len(texts) == LATEST and len(set(texts)) < DISTINCT:
        found = max(found, resolution(latest(edge, DISTINCT, distinct=True), evidence.column) or found)
    coarse = window_edge(replace(evidence, latest=found), rule, clock)
    what = f"the latest values of `{evidence.column.name}` have a resolution of {unit_text(found)}"
    note = f"{what}: that of now is read when it is over, or again"
    return Ended(coarse, greatest(coarse), (note,) if at > coarse.safe else ())


def resolution(texts: Texts, column: Column) -> timedelta | None:
    """Return how long one of the latest values may be given to new rows, at most; None if they are fine.

    Up to an hour it is the largest unit in which all values begin, as clocks of any zone show it; beyond, the least
    distance of two values: that of days, weeks, months, quarters and years is the longest of its kind. Midnights and
    hours of a zone whose clocks are set are an hour nearer or farther.
    """
    found = sorted({at.replace(tzinfo=UTC) for one in texts if one is not None and (at := read_time(one, column))})
    seconds = [round((at - EPOCH) / SECOND) for at in found]
    if not found or any(at.microsecond for at in found):
        return None
    first = seconds[0]
    unit = next(
        one for one in _UNITS if first % gcd(one, _OFFSETS) == 0 and all((at - first) % one == 0 for at in seconds)
    )
    if unit < _UNITS[0]:
        return timedelta(seconds=unit)
    gaps = [later - earlier for earlier, later in pairwise(found)]
    clocks = sorted(at % (DAY // SECOND) for at in seconds)
    if timedelta(seconds=clocks[-1] - clocks[0]) not in {timedelta(0), HOUR, DAY - HOUR}:
        return HOUR if min(gaps) == HOUR else min(DAY, min(gaps) + HOUR)
    days = round(min(gaps, default=DAY) / DAY)
    if days == 0:
        return HOUR
    return DAY * next((most for least, most in _PERIODS if least <= days <= most), min(days, _PERIODS[-1][1]))
