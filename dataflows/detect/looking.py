"""One look at what pipelines have done since the last one: which scores are worth a record.

Numpy is loaded when there is something to score: a process whose pipelines are idle goes without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import orjson

from catalog.metric_points import Retention, retention
from dataflows.detect.news import is_news, least
from dataflows.detect.score import Score, boundary
from penstock.models.expect import Expect
from penstock.models.policy import MonitorPolicy, applying
from penstock.postgres import address, connect, translating
from penstock.records.alerts import watched_part

if TYPE_CHECKING:
    from dataflows.detect.runs import Run
    from dataflows.detect.streams import Grid

__all__ = ["Look", "News", "payload_of"]

NAME: Final = "detecting"
"""Name of its position among the settings in schema `ops`."""
AT_ONCE: Final = 20
"""Runs of one pipeline that are scored in one look, the latest."""
PROMISES: Final = timedelta(seconds=15)
"""Time between two looks at how far streams are behind whose files promise that."""
SILENT: Final = timedelta(seconds=90)
"""A stream that has reported nothing for so long gets later by the time: it reports at least once a minute."""
FIRST: Final = timedelta(days=1)
"""How far back the very first look goes."""
OVERLAP: Final = timedelta(minutes=5)
"""How far behind the last end the first look of another process begins: not all runs are counted in order."""

Series = tuple[str, str, str]
"""Pipeline, metric, and part."""


@dataclass(frozen=True, slots=True)
class News:
    """A record of `series.scored` that is due, and the offset of the record that has led to it."""

    payload: dict[str, Any]
    cause: int | None = None


class Look:
    """Scores what has been counted since the last look. Not thread-safe; every method raises Unavailable."""

    def __init__(self, dsn: str) -> None:
        """Connect to the catalog at `dsn`."""
        self._where = address(dsn)
        self._session = connect(dsn, "penstock:detecting", autocommit=True)
        self._session.execute("SET synchronous_commit TO off")
        self._seen: dict[str, tuple[float, int]] = {}
        """How many runs of a pipeline had ended at its last look, and the `order` of the last of them."""
        self._since: datetime | None = None
        self._ended: datetime | None = None
        """The last end of a run that was looked at, until that is stored."""
        self._last: dict[Series, tuple[datetime, float, float]] = {}
        """Time, score and value of the last record of each metric."""
        self._grids: dict[str, Grid] = {}
        self._upto: datetime | None = None
        """The end of the last step of streams that was looked at."""
        self._asked: datetime | None = None
        """When it was last looked at what files of streams promise."""

    def news(self, at: datetime) -> list[News]:
        """Return what is to be recorded at a time."""
        with translating(self._where):
            if self._since is None:
                self._begin(at)
            elif at - OVERLAP < self._since:
                self._set_back(at)
            return [*self._batches(), *self._streams(at), *self._promises(at)]

    def projected(self) -> int:
        """Return how far the catalog is: the offset of the next record."""
        with translating(self._where):
            row = self._session.execute(_PROJECTED).fetchone()
        return 0 if row is None else int(row[0])

    def _begin(self, at: datetime) -> None:
        row = self._session.execute(_POSITION, [NAME]).fetchone()
        self._since = min(datetime.fromisoformat(row[0]["at"]), at) - OVERLAP if row else at - FIRST
        for pipeline, metric, part, *numbers in self._session.execute(_SCORES):
            self._last[pipeline, metric, watched_part(metric, part)] = (numbers[0], numbers[1], numbers[2])

    def _set_back(self, at: datetime) -> None:
        """Follow a clock that was set back: nothing that was looked at was later than it shows now."""
        self._since, self._asked, self._upto, self._grids = at - OVERLAP, None, None, {}
        self._last = {key: (min(one[0], at), one[1], one[2]) for key, one in self._last.items()}

    def _batches(self) -> list[News]:
        """Return what is news about runs that have ended since the last look.

        That is known by their number, and their order on the log: clocks may be set back.
        """
        ended = self._session.execute(_ENDED, [self._since]).fetchall()
        news = {name: count for name, _, count in ended if self._seen.get(name, (-1.0, 0))[0] != count}
        if not news:
            return []
        rules = self._rules(list(news))
        found = [one for name, count in news.items() for one in self._of_runs(name, count, rules)]
        self._ended = max(last for _, last, _ in ended)
        return found

    def _rules(self, names: list[str]) -> _Rules:
        return _Rules(retention(self._session), dict(self._session.execute(_LABELS, [names]).fetchall()))

    def _streams(self, at: datetime) -> list[News]:
        """Return what is news about streams, once for each step of their grid."""
        upto = boundary(at)
        if self._upto == upto:
            return []
        self._upto = upto
        found = self._session.execute(_STREAMS, [upto - timedelta(hours=1)]).fetchall()
        if not found:
            self._grids = {}
            return []
        from dataflows.detect.streams import Grid

        self._grids = {name: self._grids.get(name) or Grid(name) for name, _, _ in found}
        rules, news = self._rules([name for name, _, _ in found]), list[News]()
        for name, runs, expect in found:
            grid = self._grids[name]
            if grid.read(self._session, upto, at):
                fresh = Expect.parse(expect).fresh if expect else None
                scores = self._of_stream(grid, least(rules.of(name).sensitivity), runs=runs)
                news += [one for one in scores if not (fresh and one.payload["metric"] == "lag")]
        return news

    def _of_stream(self, grid: Grid, floor: float, *, runs: bool) -> Iterator[News]:
        for metric, score in grid.scores(runs=runs):
            before = self._last.get((grid.pipeline, metric, ""))
            if is_news(before and before[1], score.score, floor) and grid.end is not None:
                yield News(payload_of((grid.pipeline, metric, ""), grid.end, score, None))

    def _promises(self, at: datetime) -> Iterator[News]:
        """Yield how far streams are behind, where that breaks or keeps what their files promise, other than before."""
        if self._asked is not None and at - self._asked < PROMISES:
            return
        self._asked = at
        for name, expect, changed, reported, seen in self._session.execute(_PROMISES).fetchall():
            fresh, before = Expect.parse(expect).fresh, self._last.get((name, "lag", ""))
            lag = _lag(reported, seen, changed, at)
            if fresh is not None and lag is not None:
                promised = fresh.total_seconds()
                now, last = (min(int(one / promised), 2) for one in (lag, before[2] if before else 0.0))
                begins = before is None or (changed is not None and before[0] < changed)
                if now != last or (begins and now):
                    yield News(payload_of((name, "lag", ""), at, Score(lag, promised, promised, 0.0, 0), None))

    def _of_runs(self, pipeline: str, count: float, rules: _Rules) -> Iterator[News]:
        """Yield what is news about the runs of a pipeline that have ended since the last look."""
        from dataflows.detect.nulls import worst_nulls
        from dataflows.detect.runs import completed, scores_of

        runs, floor = completed(self._session, pipeline), least(rules.of(pipeline).sensitivity)
        last = {metric: known for (name, metric, part), known in self._last.items() if name == pipeline and not part}
        for index in self._unseen(pipeline, runs):
            run = runs[index]
            more = worst_nulls(self._session, pipeline, runs) if index == len(runs) - 1 else None
            scores = [(metric, "", score) for metric, score in scores_of(runs, index)]
            for metric, part, score in [*scores, *((("nulls", *more),) if more else ())]:
                before = last.get(metric)
                if pipeline not in self._seen and before is not None and before[0] >= run.at:
                    continue  # by the process before this one
                if is_news(before and before[1], score.score, floor):
                    last[metric] = (run.at, score.score, score.value)
                    yield News(payload_of((pipeline, metric, part), run.at, score, run.id), run.offset)
        self._seen[pipeline] = (count, runs[-1].order if runs else 0)

    def _unseen(self, pipeline: str, runs: Sequence[Run]) -> list[int]:
        """Return which of the runs of a pipeline are to be looked at."""
        seen, since = self._seen.get(pipeline), self._since
        return [
            index for index, one in enumerate(runs)
            if (one.order > seen[1] if seen else since is None or one.at > since)
        ][-AT_ONCE:]  # fmt: skip

    def recorded(self, found: Iterable[News]) -> None:
        """Note what is on the log now, and that what was looked at is done with."""
        if self._ended is not None:
            with translating(self._where):
                self._session.execute(_KEEP, [NAME, orjson.dumps({"at": self._ended.isoformat()}).decode()])
            self._ended = None
        for one in (news.payload for news in found):
            key = (one["pipeline"], one["metric"], watched_part(one["metric"], one.get("part", "")))
            self._last[key] = (datetime.fromisoformat(one["at"]), one["score"], one["value"])

    def close(self) -> None:
        """End the session."""
        self._session.close()


class _Rules:
    """The policies in force, and the labels of the pipelines that are looked at."""

    def __init__(self, rules: Retention, labels: Mapping[str, Mapping[str, str]]) -> None:
        self._rules, self._labels = rules, labels

    def of(self, pipeline: str) -> MonitorPolicy:
        policy = applying(self._rules.policies, self._labels.get(pipeline, {}))
        return policy.spec.monitor if policy is not None else MonitorPolicy()


def payload_of(series: Series, at: datetime, score: Score, run: str | None) -> dict[str, Any]:
    """Return the payload of `series.scored`; numbers are rounded to what matters."""
    pipeline, metric, part = series
    numbers = {name: _rounded(getattr(score, name)) for name in ("value", "expected", "spread", "score")}
    found: dict[str, Any] = {"pipeline": pipeline, "metric": metric, "at": at.isoformat(), **numbers}
    found |= {"samples": score.samples} | ({"part": part} if part else {}) | ({"run": run} if run else {})
    return found


def _lag(reported: float, seen: datetime, changed: datetime | None, at: datetime) -> float | None:
    """Return how far a stream is behind, by its last report; None if it has not reported since it was resumed."""
    begins = max(seen, changed or seen)
    silent = at - begins if at - begins > SILENT else timedelta()
    if begins > seen:
        return silent.total_seconds() or None
    return reported + silent.total_seconds()


def _rounded(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


_PROJECTED: Final = "SELECT next FROM catalog.position WHERE id = 'control'"
_ENDED: Final = """SELECT pipeline, last_at, sum FROM ops.metric_series
WHERE metric = 'runs' AND part = 'completed' AND last_at > %s"""
_LABELS: Final = """SELECT name, coalesce(labels, '{}') FROM catalog.pipelines
WHERE name = ANY(%s) ORDER BY deleted_at NULLS LAST"""
_POSITION: Final = "SELECT value FROM ops.settings WHERE name = %s"
_KEEP: Final = """INSERT INTO ops.settings (name, value) VALUES (%s, %s::jsonb)
ON CONFLICT (name) DO UPDATE SET value = excluded.value"""
_SCORES: Final = """SELECT pipeline, metric, part, at, score, (numbers ->> 'value')::float8 FROM catalog.scores
WHERE at IS NOT NULL"""
_PROMISES: Final = """SELECT p.name, p.pipeline #> '{spec,expect}', p.updated_at, s.last, s.last_at
FROM catalog.pipelines AS p
JOIN ops.metric_series AS s ON s.pipeline = p.name AND s.metric = 'lag' AND s.part = ''
WHERE p.deleted_at IS NULL AND p.status = 'active' AND p.pipeline #>> '{spec,mode}' = 'stream'
AND p.pipeline #> '{spec,expect}' IS NOT NULL ORDER BY p.name"""
_STREAMS: Final = """SELECT p.name, bool_or(r.status = 'running'), p.pipeline #> '{spec,expect}'
FROM catalog.pipelines AS p
JOIN ops.metric_series AS s ON s.pipeline = p.name AND s.part = '' AND s.last_at >= %s
LEFT JOIN catalog.runs AS r ON r.pipeline = p.name AND r.finished_at IS NULL AND r."offset" IS NOT NULL
WHERE p.deleted_at IS NULL AND p.status = 'active' AND p.pipeline #>> '{spec,mode}' = 'stream'
GROUP BY p.uid, p.name, p.pipeline ORDER BY p.name"""
