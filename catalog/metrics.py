"""Metrics of pipelines as history: queries by window, step and percentile.

What a policy no longer keeps is not shown, even before it is dropped. A point that begins at a time stands for all of
its second, minute or hour, and is kept until the whole of it is too old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, Final

import psycopg

from catalog.metric_points import SECONDS, bucket, cutoff, retention
from penstock import histogram
from penstock.errors import UsageError
from penstock.models.policy import Resolution

__all__ = ["METRICS", "MOST_POINTS", "Metric", "Point", "series"]

MOST_POINTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric means; `kind` is counter, gauge, or histogram, whose percentiles are those of its values."""

    kind: str
    unit: str
    about: str


METRICS: Final[Mapping[str, Metric]] = {
    "rows_in": Metric("counter", "rows", "rows read and committed"),
    "rows_out": Metric("counter", "rows", "rows written"),
    "filtered": Metric("counter", "rows", "rows that a step left out"),
    "dead": Metric("counter", "rows", "rows that became dead letters"),
    "bytes": Metric("counter", "bytes", "bytes read"),
    "errors": Metric("counter", "errors", "errors; a part for each kind of error"),
    "runs": Metric("counter", "runs", "runs that ended; a part for each status"),
    "duration": Metric("histogram", "seconds", "time from a run's start to its end; a part for each stage"),
    "wait": Metric("histogram", "seconds", "time from the request of a run to its start"),
    "latency": Metric("histogram", "seconds", "time from an event to the commit of its row, of a stream"),
    "lag": Metric("gauge", "seconds", "age of the newest row read; of a stream that has caught up, 0"),
    "behind": Metric("gauge", "", "what a stream's source has beyond its position; a part for each partition"),
    "nulls": Metric("gauge", "", "share of NULLs in what was written, from 0 to 1; a part for each column"),
    "slot_retained": Metric("gauge", "bytes", "WAL that the source keeps for a stream's replication slot"),
}
"""The metrics that are collected of runs. Steps that remember rows add ``step_<count>``, a gauge with a part for each
step. Detectors may store others by `catalog.metric_points.add`."""


@dataclass(frozen=True, slots=True)
class Point:
    """The values of a metric in one step: `count` of them, `sum` is the increase of a counter."""

    at: datetime
    count: int
    sum: float
    min: float
    max: float
    last: float
    percentile: float | None = None

    @property
    def mean(self) -> float:
        """The mean of a gauge or a histogram."""
        return self.sum / self.count if self.count else 0.0


def series(  # noqa: PLR0913 - each narrows the answer
    session: psycopg.Connection[Any],
    name: str,
    pipeline: str,
    since: datetime,
    until: datetime,
    step: timedelta,
    percentile: float | None = None,
    *,
    now: datetime,
    part: str = "",
) -> list[Point]:
    """Return the points of metric `name` of a pipeline, or of a set with its members, from `since` to before `until`.

    Points begin at multiples of `step` (since 1970, in UTC), the first at or before `since`. A step in which nothing
    was observed has no point: of a counter, nothing was counted. `part` names a step, a partition, a kind of error or
    the like; empty is the whole. With `percentile` (0 to 100) each point has that percentile: of a gauge or a histogram
    that of its values, right to a factor of 1.41; of a counter that of its increases per second, over the points of the
    next finer resolution, those without any included.

    `step` is a multiple of 1 s; the roll-up that is used divides it, and is the one that is kept longest, so that a
    step of 1 min shows as much as the retention of 1 min.

    Raises:
        UsageError: the step is no multiple of a second, or there are more than `MOST_POINTS` of them.
    """
    seconds = _checked(since, until, step, percentile)
    begin = bucket(since, seconds)
    rules = retention(session)
    found = dict(session.execute(_SERIES, [name, part, pipeline, pipeline]).fetchall())
    kept = {id_: rules.of(of) for id_, of in found.items()}
    longest = rules.longest()
    dividing = [one for one, length in SECONDS.items() if seconds % length == 0]
    used = max(dividing, key=lambda one: (longest[one], SECONDS[one]))
    chosen = _Chosen(kept, begin, until, now)
    rows = session.execute(_POINTS[used], chosen.values(used, seconds)).fetchall()
    points = {at: Point(_time(at), *values) for at, *values in rows}
    if percentile is not None and points:
        of_parts = _of_parts(session, chosen, used, seconds, percentile)
        finer = [one for one in dividing if SECONDS[one] < seconds and longest[one] >= now - begin]
        fine = max(finer, key=SECONDS.__getitem__, default=used)
        shares = of_parts or _of_increases(session, chosen, fine, seconds, percentile)
        points = {
            at: replace(point, percentile=_within(shares.get(at), point) if of_parts else shares.get(at))
            for at, point in points.items()
        }
    return list(points.values())


def _checked(since: datetime, until: datetime, step: timedelta, percentile: float | None) -> int:
    """Return the seconds of a step."""
    seconds = int(step.total_seconds())
    if seconds < 1 or step != timedelta(seconds=seconds):
        raise UsageError("a step is one or more whole seconds", value=step, hint="such as 1s, 1m, 15m, 1h")
    if (until - since) / step > MOST_POINTS:
        hint = "use a longer step, or a shorter window"
        raise UsageError(f"these are more than {MOST_POINTS:,} points", value=step, hint=hint)
    if percentile is not None and not 0 <= percentile <= 100:  # noqa: PLR2004 - percent
        raise UsageError("a percentile is a number from 0 to 100", value=percentile, hint="such as 50, 95, 99.9")
    return seconds


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The series of a query by id, with how long their points are kept, and its window."""

    kept: Mapping[int, Mapping[Resolution, timedelta]]
    begin: datetime
    until: datetime
    now: datetime

    def values(self, resolution: Resolution, seconds: int) -> dict[str, Any]:
        """Return the parameters of a query of points."""
        oldest = [cutoff(self.now, kept[resolution], resolution) for kept in self.kept.values()]
        return {
            "ids": list(self.kept),
            "oldest": oldest,
            "begin": self.begin,
            "until": self.until,
            "seconds": seconds,
        }


def _of_parts(
    session: psycopg.Connection[Any], chosen: _Chosen, used: Resolution, seconds: int, percentile: float
) -> dict[int, float | None]:
    """Return the percentile of each step from histograms; empty if there are none."""
    by_step: dict[int, dict[int, int]] = {}
    for at, part, count in session.execute(_PARTS[used], chosen.values(used, seconds)):
        by_step.setdefault(at, {})[part] = count
    return {at: histogram.percentile(parts, percentile) for at, parts in by_step.items()}


def _of_increases(
    session: psycopg.Connection[Any], chosen: _Chosen, fine: Resolution, seconds: int, percentile: float
) -> dict[int, float | None]:
    """Return the percentile of each step from the points of a finer resolution, per second."""
    length = SECONDS[fine]
    rows = session.execute(_INCREASES[fine], chosen.values(fine, seconds) | {"length": length}).fetchall()
    end = min(chosen.until, chosen.now).timestamp()
    return {
        at: _ranked(values, max(len(values), ceil((min(at + seconds, end) - at) / length)), percentile) / length
        for at, values in rows
    }


def _ranked(values: Sequence[float], of: int, percentile: float) -> float:
    """Return the value of the rank, where `values`, in order, are the last of `of`, and the others are 0."""
    rank = max(1, ceil(of * percentile / 100)) - (of - len(values))
    return float(values[rank - 1]) if rank > 0 else 0.0


def _within(value: float | None, point: Point) -> float | None:
    """Return a percentile within what has been observed; a histogram knows it by its bounds only."""
    return None if value is None else min(max(value, point.min), point.max)


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


_SERIES: Final = """SELECT id, pipeline FROM ops.metric_series
WHERE metric = %s AND part = %s AND (pipeline = %s OR starts_with(pipeline, %s || '/'))"""
_FROM: Final = """FROM ops.metrics_{resolution} AS p
JOIN unnest(%(ids)s::int[], %(oldest)s::timestamptz[]) AS s (id, oldest) ON s.id = p.series AND p.at > s.oldest
{more} WHERE p.at >= %(begin)s AND p.at < %(until)s"""
_STEP: Final = "(floor(extract(epoch FROM p.at) / %(seconds)s) * %(seconds)s)::bigint"


def _queries(columns: str, end: str, more: str = "") -> dict[Resolution, str]:
    return {one: f"SELECT {columns} {_FROM.format(resolution=one, more=more)} {end}" for one in SECONDS}


_POINTS: Final = _queries(
    f"{_STEP}, sum(p.count)::bigint, sum(p.sum), min(p.min), max(p.max), "
    "(array_agg(p.last ORDER BY p.last_at DESC, p.series))[1]",
    "GROUP BY 1 ORDER BY 1",
)
_PARTS: Final = _queries(
    f"{_STEP}, key::int, sum(value::bigint)::bigint", "GROUP BY 1, 2", "CROSS JOIN jsonb_each_text(p.parts)"
)
_INCREASES: Final = {
    one: f"SELECT step, array_agg(increase ORDER BY increase) FROM ({query}) AS finer GROUP BY step"
    for one, query in _queries(
        f"{_STEP} AS step, sum(p.sum) AS increase",
        "GROUP BY 1, floor(extract(epoch FROM p.at) / %(length)s)",
    ).items()
}
