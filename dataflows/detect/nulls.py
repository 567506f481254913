"""Shares of NULLs in the columns that runs have written, as series: the most unusual column stands for all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import psycopg

from catalog.metric_points import SECONDS
from dataflows.detect.measures import MEASURES
from dataflows.detect.runs import Run
from dataflows.detect.score import Score
from penstock.models.policy import Resolution

__all__ = ["worst_nulls"]

MOST: Final = 200
"""Runs that the last one is compared with."""
FEW: Final = 30
OFTEN: Final = timedelta(hours=1)
"""Points of a second are read if a few runs are within this time: those of a minute would be of several runs."""
RARE: Final = timedelta(days=20)
"""Points of an hour are read if they are not: those of a minute are not kept for so long."""


def worst_nulls(session: psycopg.Connection[Any], pipeline: str, runs: Sequence[Run]) -> tuple[str, Score] | None:
    """Return the column whose share of NULLs in the last run is the most unusual, with its score.

    None if the last run has reported no shares, or there are too few of before. Raises psycopg.Error.
    """
    last = runs[-1]
    span = last.at - runs[-FEW:][0].at
    step: Resolution = "1h" if span > RARE else "1s" if span < OFTEN else "1m"
    since = last.begun.timestamp() - SECONDS[step]  # the time of a point is the begin of its step
    series: dict[str, list[tuple[float, float]]] = {}
    for part, at, value in session.execute(_POINTS[step], {"pipeline": pipeline, "most": MOST}):
        series.setdefault(part, []).append((at.timestamp(), value))
    found: list[tuple[str, Score]] = []
    for part, points in sorted(series.items()):
        points.sort()
        times, values = [at for at, _ in points], [value for _, value in points]
        score = MEASURES["nulls"].scored(times, values) if times[-1] > since else None
        if score is not None:
            found.append((part, score))
    return max(found, key=lambda one: one[1].score, default=None)


_QUERY: Final = """SELECT s.part, p.at, p.last FROM ops.metric_series AS s
CROSS JOIN LATERAL (SELECT at, last FROM {points} WHERE series = s.id ORDER BY at DESC LIMIT %(most)s) AS p
WHERE s.pipeline = %(pipeline)s AND s.metric = 'nulls' AND s.part <> ''"""
_POINTS: Final = {one: _QUERY.format(points=f"ops.metrics_{one}") for one in ("1s", "1m", "1h")}
