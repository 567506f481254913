"""The runs of a batch pipeline as series: how many rows each has written, how long it took, what share was refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg

from dataflows.detect.measures import MEASURES
from dataflows.detect.score import Score

__all__ = ["MOST", "Run", "completed", "scores_of"]

MOST: Final = 700
"""Runs that the last ones are compared with: a week of one in fifteen minutes, two years of one a day."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has completed: when, its seconds, and its counters; `order` increases from run to run."""

    id: str
    at: datetime
    begun: datetime
    seconds: float
    counters: Mapping[str, int]
    offset: int | None = None
    """Of the record that has ended it."""
    order: int = 0

    def values(self) -> dict[str, float]:
        """Return what is watched of it."""
        rows, dead = self.counters.get("rows_in", 0), self.counters.get("dead", 0)
        found = {"rows_out": float(self.counters.get("rows_out", 0)), "duration": self.seconds}
        return found | ({"dead": dead / rows} if rows else {})


def completed(session: psycopg.Connection[Any], pipeline: str, limit: int = MOST) -> list[Run]:
    """Return the last runs of a pipeline that have completed, oldest first, without those that read rows again."""
    rows = session.execute(_RUNS, {"pipeline": pipeline, "limit": limit}).fetchall()
    return [
        Run(id_, at, begun, max(0.0, (at - begun).total_seconds()), found, offset, order)
        for id_, at, begun, found, offset, order in rows[::-1]
    ]


def scores_of(runs: Sequence[Run], index: int) -> Iterator[tuple[str, Score]]:
    """Yield the score of each metric of one of the runs, against those before it.

    The time of a run is when it began: its season is that of its schedule.
    """
    now = runs[index].values()
    begin = max(0, index - MOST)
    before = [(one.begun.timestamp(), one.values()) for one in runs[begin:index]]
    for metric, value in now.items():
        known = [(at, values[metric]) for at, values in before if metric in values]
        times, past = [at for at, _ in known], [one for _, one in known]
        found = MEASURES[metric].scored([*times, runs[index].begun.timestamp()], [*past, value])
        if found is not None:
            yield metric, found


_RUNS: Final = """SELECT r.id, r.finished_at, coalesce(r.started_at, r.requested_at), coalesce(r.counters, '{}'),
    r.changed, r."offset"
FROM catalog.runs AS r
JOIN catalog.pipelines AS p ON p.name = r.pipeline AND p.deleted_at IS NULL AND coalesce(r.uid, p.uid) = p.uid
WHERE r.pipeline = %(pipeline)s AND r.status = 'completed' AND r.finished_at IS NOT NULL AND r.reload IS NULL
ORDER BY r."offset" DESC LIMIT %(limit)s"""
