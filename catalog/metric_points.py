"""Points of metrics in schema `ops`: written at three resolutions at once, and dropped as the policy says.

A point is the sum of what was observed in one second, minute or hour. Every resolution gets each value itself, in one
transaction, instead of being computed from a finer one later: so a value that comes late lands in the right point of
each, and nothing is lost or changed when the finer points are dropped. Partitions begin and end where points of their
resolution do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, Final, Self

import psycopg
from psycopg import sql

from penstock.histogram import added, bounds_of, part_of
from penstock.models.policy import AgentPolicy, MonitorPolicy, Resolution, applying

__all__ = [
    "MAX_PARTS", "OTHER", "SECONDS", "WIDTHS", "Retention", "Sample", "add", "bucket", "cutoff", "retention", "sweep",
]  # fmt: skip

SECONDS: Final[Mapping[Resolution, int]] = {"1s": 1, "1m": 60, "1h": 3600}
"""Length of a point of each resolution."""
WIDTHS: Final[Mapping[Resolution, int]] = {"1s": 6 * 3600, "1m": 4 * 86_400, "1h": 60 * 86_400}
"""Seconds of a partition: an eighth of what is kept by default."""
MAX_PARTS: Final = 64
"""Parts of one metric of one pipeline; what is beyond is counted as `OTHER`."""
OTHER: Final = "(other)"
MAX_LENGTH: Final = 200
"""Characters of a part's name that are kept."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '1s'"


@dataclass(slots=True)
class Sample:
    """One or more values of one metric, at one time; `part` is a step, a partition or the like, empty for the whole."""

    pipeline: str
    metric: str
    part: str
    at: datetime
    count: int
    sum: float
    min: float
    max: float
    last: float
    last_at: datetime
    parts: dict[int, int] = field(default_factory=dict)

    @classmethod
    def counted(cls, pipeline: str, metric: str, at: datetime, value: float, part: str = "") -> Self:
        """Return an increase of a counter."""
        return cls(pipeline, metric, part, at, 1, value, value, value, value, at)

    @classmethod
    def seen(cls, pipeline: str, metric: str, at: datetime, value: float, part: str = "") -> Self:
        """Return a value of a gauge, or one duration; percentiles come from its histogram."""
        return cls(pipeline, metric, part, at, 1, value, value, value, value, at, {part_of(value): 1})

    @classmethod
    def spread(cls, pipeline: str, metric: str, at: datetime, parts: Mapping[int, int], total: float) -> Self:
        """Return many durations, known by their histogram and their sum; the least and the greatest by its bounds."""
        count, (least, most) = sum(parts.values()), bounds_of(parts)
        mean = total / count
        return cls(pipeline, metric, "", at, count, total, least, most, mean, at, dict(parts))

    def merge(self, other: Sample) -> None:
        """Add the values of another sample of the same point."""
        self.count += other.count
        self.sum += other.sum
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)
        if other.last_at >= self.last_at:
            self.last, self.last_at = other.last, other.last_at
        self.parts = added((self.parts, other.parts)) if self.parts or other.parts else {}


def bucket(at: datetime, seconds: int) -> datetime:
    """Return where the point of that length begins that `at` belongs to."""
    return _EPOCH + (at - _EPOCH) // timedelta(seconds=seconds) * timedelta(seconds=seconds)


def cutoff(now: datetime, kept: timedelta, resolution: Resolution) -> datetime:
    """Return the time at and before which points begin that are older than `kept`: as a whole, to their end."""
    try:
        return now - kept - timedelta(seconds=SECONDS[resolution])
    except OverflowError:
        return _EPOCH


@dataclass(frozen=True, slots=True)
class Retention:
    """The policies in force, for how long points are kept; `labels` are those of each pipeline."""

    policies: Sequence[AgentPolicy]
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of(self, pipeline: str) -> dict[Resolution, timedelta]:
        """Return how long points of a pipeline are kept."""
        policy = applying(self.policies, self.labels.get(pipeline, {}))
        return (policy.spec.monitor if policy is not None else MonitorPolicy()).kept

    def longest(self) -> dict[Resolution, timedelta]:
        """Return how long any points are kept."""
        every = [policy.spec.monitor.kept for policy in self.policies]
        if all(policy.spec.applies for policy in self.policies):
            every.append(MonitorPolicy().kept)
        return {resolution: max(kept[resolution] for kept in every) for resolution in SECONDS}


def retention(session: psycopg.Connection[Any]) -> Retention:
    """Return what the policies in force say, from the catalog."""
    policies = _policies(session)
    if not any(policy.spec.applies for policy in policies):
        return Retention(policies)
    return Retention(policies, dict(session.execute(_LABELS).fetchall()))


def _policies(session: psycopg.Connection[Any]) -> list[AgentPolicy]:
    return [AgentPolicy.parse(policy) for (policy,) in session.execute(_POLICIES)]


def add(session: psycopg.Connection[Any], samples: Iterable[Sample], now: datetime) -> None:
    """Add samples to the points of every resolution that is still kept, in the caller's transaction.

    A time in the future counts as `now`. Numbers that are not finite are left out.
    """
    given = [_storable(one, now) for one in samples if isfinite(one.sum) and isfinite(one.last)]
    if not given:
        return
    ids = _series(session, {(one.pipeline, one.metric, one.part) for one in given})
    kept = Retention(_policies(session)).longest()
    for resolution, seconds in SECONDS.items():
        oldest = cutoff(now, kept[resolution], resolution)
        points: dict[tuple[int, datetime], Sample] = {}
        for one in given:
            begin = bucket(one.at, seconds)
            if begin > oldest:
                _merge(points, (ids[one.pipeline, one.metric, one.part], begin), one)
        _make_partitions(session, resolution, {begin for _, begin in points})
        _put(session, resolution, points)
    totals: dict[int, Sample] = {}
    for one in given:
        _merge(totals, ids[one.pipeline, one.metric, one.part], one)
    session.execute(_TOTALS, [_array(map(str, totals)), *_columns(totals.values())])


def _merge(into: dict[Any, Sample], key: Any, one: Sample) -> None:
    if key in into:
        into[key].merge(one)
    else:
        into[key] = replace(one)


def _storable(one: Sample, now: datetime) -> Sample:
    """Return a sample with times of the past, and a part that is text of the database, and not too long."""
    part = one.part.replace("\0", "").encode(errors="replace").decode()[:MAX_LENGTH]
    return replace(one, part=part, at=min(one.at, now), last_at=min(one.last_at, now))


def _series(session: psycopg.Connection[Any], names: set[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    """Return the ids of series, made if they are new; parts that are too many share one."""
    wanted = sorted(names)
    found = _ids(session, wanted)
    new = [name for name in wanted if name not in found]
    if not new:
        return found
    pairs = sorted({(pipeline, metric) for pipeline, metric, _ in new})
    room = dict.fromkeys(pairs, MAX_PARTS)
    for pipeline, metric, count in session.execute(_PARTS, [[p for p, _ in pairs], [m for _, m in pairs]]):
        room[pipeline, metric] = MAX_PARTS - count
    placed: dict[tuple[str, str, str], tuple[str, str, str]] = {}
    for pipeline, metric, part in new:
        fits = not part or room[pipeline, metric] > 0
        room[pipeline, metric] -= bool(part)
        placed[pipeline, metric, part] = (pipeline, metric, part if fits else OTHER)
    session.execute(_NEW, [list(column) for column in zip(*sorted(set(placed.values())), strict=True)])
    made = _ids(session, sorted(set(placed.values())))
    return found | {name: made[place] for name, place in placed.items()}


def _ids(session: psycopg.Connection[Any], names: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    columns = [list(column) for column in zip(*names, strict=True)]
    return {(one[1], one[2], one[3]): one[0] for one in session.execute(_FIND, columns)}


def _make_partitions(session: psycopg.Connection[Any], resolution: Resolution, begins: Iterable[datetime]) -> None:
    width = WIDTHS[resolution]
    names = {f"metrics_{resolution}_{one:%Y%m%d%H}": one for one in {bucket(begin, width) for begin in begins}}
    missing = session.execute(_MISSING, [list(names)]).fetchall() if names else ()
    for (name,) in missing:
        begin = names[name]
        session.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                sql.Identifier("ops", name),
                sql.Identifier("ops", f"metrics_{resolution}"),
                sql.Literal(begin.isoformat()),
                sql.Literal((begin + timedelta(seconds=width)).isoformat()),
            )
        )


def _put(
    session: psycopg.Connection[Any], resolution: Resolution, points: Mapping[tuple[int, datetime], Sample]
) -> None:
    if points:
        keys = [_array(str(series) for series, _ in points), _array(begin.isoformat() for _, begin in points)]
        session.execute(_PUT[resolution], [*keys, *_columns(points.values())])


def _columns(samples: Iterable[Sample]) -> list[str]:
    """Return samples by column, as arrays of one statement."""
    rows = [
        (
            str(one.count),
            *(repr(float(value)) for value in (one.sum, one.min, one.max, one.last)),
            one.last_at.isoformat(),
            _quoted(json.dumps(one.parts)) if one.parts else '"{}"',
        )
        for one in samples
    ]
    return [_array(column) for column in zip(*rows, strict=True)]


def _array(elements: Iterable[str]) -> str:
    """Return the text of an array; psycopg takes ten times as long for a list of values."""
    return f"{{{','.join(elements)}}}"


def _quoted(element: str) -> str:
    text = element.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def sweep(session: psycopg.Connection[Any], now: datetime) -> None:
    """Drop what is older than the policies in force say. Each drop is a transaction; one that is blocked waits 1 s.

    Points of a pipeline that are kept for a shorter time than others are deleted. `session` is in autocommit.
    """
    rules = retention(session)
    for resolution, kept in rules.longest().items():
        oldest = cutoff(now, kept, resolution)
        for (name,) in session.execute(_PARTITIONS, [f"ops.metrics_{resolution}"]).fetchall():
            begin = datetime.strptime(name.rpartition("_")[2], "%Y%m%d%H").replace(tzinfo=UTC)
            last = begin + timedelta(seconds=WIDTHS[resolution] - SECONDS[resolution])
            if last <= oldest:
                with session.transaction():
                    session.execute(_LOCK_TIMEOUT)
                    session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier("ops", name)))
        _delete(session, rules, resolution, now)
    session.execute(_FORGET, [now - timedelta(days=30)])
    session.execute(_FORGET_SERIES, [min(cutoff(now, kept, name) for name, kept in rules.longest().items())])


def _delete(session: psycopg.Connection[Any], rules: Retention, resolution: Resolution, now: datetime) -> None:
    """Delete the points of pipelines whose own policy keeps them for a shorter time."""
    longest = rules.longest()[resolution]
    by_age: dict[timedelta, list[str]] = {}
    for pipeline in rules.labels:
        if (kept := rules.of(pipeline)[resolution]) < longest:
            by_age.setdefault(kept, []).append(pipeline)
    for kept, pipelines in by_age.items():
        session.execute(_DELETE[resolution], [pipelines, cutoff(now, kept, resolution)])


_POLICIES: Final = "SELECT policy FROM catalog.policies WHERE policy IS NOT NULL"
_LABELS: Final = "SELECT name, coalesce(labels, '{}') FROM catalog.pipelines ORDER BY deleted_at NULLS LAST"
_FIND: Final = """SELECT id, pipeline, metric, part FROM ops.metric_series
JOIN unnest(%s::text[], %s::text[], %s::text[]) AS wanted (pipeline, metric, part) USING (pipeline, metric, part)"""
_PARTS: Final = """SELECT pipeline, metric, count(*)::int FROM ops.metric_series
JOIN unnest(%s::text[], %s::text[]) AS wanted (pipeline, metric) USING (pipeline, metric)
WHERE part <> '' GROUP BY pipeline, metric"""
_NEW: Final = """INSERT INTO ops.metric_series (pipeline, metric, part, count, sum, min, max, last, last_at, parts)
SELECT *, 0, 0, 'infinity', '-infinity', 0, '-infinity', '{}' FROM unnest(%s::text[], %s::text[], %s::text[])
ON CONFLICT DO NOTHING"""
_MISSING: Final = "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass('ops.' || name) IS NULL"
_PARTITIONS: Final = """SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = %s::regclass ORDER BY 1"""
_ADDED_PARTS: Final = """CASE WHEN {new} = '{{}}' THEN {old} WHEN {old} = '{{}}' THEN {new} ELSE
  (SELECT jsonb_object_agg(key, total) FROM (SELECT key, sum(value::bigint) AS total
    FROM (SELECT * FROM jsonb_each_text({old}) UNION ALL SELECT * FROM jsonb_each_text({new})) AS either
    GROUP BY key) AS sums) END"""
_SUMS: Final = """count = {old}.count + {new}.count, sum = {old}.sum + {new}.sum, min = least({old}.min, {new}.min),
max = greatest({old}.max, {new}.max),
last = CASE WHEN {new}.last_at >= {old}.last_at THEN {new}.last ELSE {old}.last END,
last_at = greatest({old}.last_at, {new}.last_at), parts = """
_ARRAYS: Final = "%s::bigint[], %s::float8[], %s::float8[], %s::float8[], %s::float8[], %s::timestamptz[], %s::jsonb[]"


def _sums(old: str, new: str) -> str:
    return _SUMS.format(old=old, new=new) + _ADDED_PARTS.format(old=f"{old}.parts", new=f"{new}.parts")


_PUT: Final = {
    resolution: f"""INSERT INTO ops.metrics_{resolution} AS kept
(series, at, count, sum, min, max, last, last_at, parts)
SELECT * FROM unnest(%s::int[], %s::timestamptz[], {_ARRAYS})
ON CONFLICT (series, at) DO UPDATE SET {_sums("kept", "excluded")}"""
    for resolution in SECONDS
}
_TOTALS: Final = f"""UPDATE ops.metric_series AS kept SET {_sums("kept", "news")}
FROM unnest(%s::int[], {_ARRAYS}) AS news (id, count, sum, min, max, last, last_at, parts) WHERE kept.id = news.id"""
_DELETE: Final = {
    resolution: f"""DELETE FROM ops.metrics_{resolution} AS p USING ops.metric_series AS s
WHERE s.id = p.series AND s.pipeline = ANY(%s) AND p.at <= %s"""
    for resolution in SECONDS
}
_FORGET_SERIES: Final = "DELETE FROM ops.metric_series WHERE last_at < %s"
_FORGET: Final = """DELETE FROM ops.metric_runs AS m WHERE at < %s
AND (done OR NOT EXISTS (SELECT FROM catalog.runs AS r WHERE r.id = m.subject))"""
