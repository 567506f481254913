"""The metrics of a stream as series of five minutes: rows, latency, lag, errors, and whether anything comes at all.

They are read from the history of metrics once, and kept on a grid in memory; after that only what is new is read. Of a
stream that does not run nothing is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from catalog.metrics import Point, series
from dataflows.detect.measures import MEASURES
from dataflows.detect.score import STEP, Score
from dataflows.detect.scores import missing

__all__ = ["LENGTH", "Grid"]

LENGTH: Final = 8064
"""Steps that are kept: four weeks."""
HELD: Final = 3
"""Steps for which a score counts: an alert does not close and open again with each of them."""
METRICS: Final = ("rows_out", "errors", "latency", "lag", "behind", "nulls")
AVERAGED: Final = frozenset({"latency", "nulls"})
"""Metrics of which the mean of a step counts, of other gauges the greatest."""
COUNTED: Final = frozenset({"rows_out", "errors"})
"""Metrics of which no point means that nothing was counted, as long as there are reports."""

Floats = NDArray[np.float32]


@dataclass(slots=True)
class Grid:
    """The last steps of one stream; `end` is the end of the last one."""

    pipeline: str
    end: datetime | None = None
    values: dict[str, Floats] = field(default_factory=dict)
    held: dict[str, deque[Score]] = field(default_factory=dict)

    def read(self, session: psycopg.Connection[Any], upto: datetime, now: datetime) -> int:
        """Read the steps up to a boundary; return how many are new. Raises psycopg.Error."""
        since = self.end or upto - LENGTH * STEP
        new = min(LENGTH, max(0, (upto - since) // STEP))
        if new:
            begin = upto - new * STEP
            for metric in METRICS:
                points = series(session, metric, self.pipeline, begin, upto, STEP, now=now)
                self._append(metric, new, begin, points)
            self.end = upto
        return new

    def _append(self, metric: str, new: int, begin: datetime, points: Sequence[Point]) -> None:
        old = self.values.get(metric)
        old = np.full(LENGTH, np.nan, dtype=np.float32) if old is None else old
        fresh = np.full(new, np.nan, dtype=np.float32)
        for one in points:
            value = one.sum if metric in COUNTED else one.mean if metric in AVERAGED else one.max
            fresh[(one.at - begin) // STEP] = value
        self.values[metric] = np.concatenate((old, fresh))[-LENGTH:]

    def present(self) -> NDArray[np.bool_]:
        """Return for each step since the first report whether there was any."""
        there: NDArray[np.bool_] = np.any(~np.isnan(np.stack(list(self.values.values()))), axis=0)
        return there[int(np.argmax(there)) :] if there.any() else there[:0]

    def scores(self, *, runs: bool) -> Iterator[tuple[str, Score]]:
        """Yield the score of each metric in the last step; `runs` is True if there should be reports."""
        there = self.present()
        if not len(there):
            return
        if not there[-1]:
            found = missing(there) if runs else None
            if found is not None:
                yield "rows_out", found
            return
        assert self.end is not None  # noqa: S101 - it has been read
        last = self.end.timestamp() - STEP.total_seconds()
        times = last - STEP.total_seconds() * np.arange(len(there) - 1, -1, -1, dtype=np.float64)
        for metric, kept in self.values.items():
            values = kept[-len(there) :].astype(np.float64)
            values = np.where(there & np.isnan(values), 0.0, values) if metric in COUNTED else values
            known = ~np.isnan(values)
            if known[-1]:
                score = MEASURES[metric].scored(times[known], values[known])
                if score is not None:
                    yield metric, self._most(metric, score)

    def _most(self, metric: str, score: Score) -> Score:
        """Return the largest score of the last steps."""
        last = self.held.setdefault(metric, deque(maxlen=HELD))
        last.append(score)
        return max(last, key=lambda one: abs(one.score))
