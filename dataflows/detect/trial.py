"""A back-test: which alerts a sensitivity would have opened on the history of a pipeline, and when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from agents.alerts import CALM, KINDS, severity_of, words
from dataflows.detect.looking import payload_of
from dataflows.detect.runs import Run, scores_of
from dataflows.detect.score import STEP, Score
from dataflows.detect.streams import LENGTH, Grid
from penstock.models.policy import MonitorPolicy

__all__ = ["MOST_STEPS", "Fired", "Scored", "fired", "of_runs", "of_steps"]

MOST_STEPS: Final = 2016
"""Steps of a stream that are tried: those of a week."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of a metric at a time."""

    pipeline: str
    metric: str
    part: str
    at: datetime
    score: Score
    run: str | None = None

    def numbers(self) -> dict[str, Any]:
        """Return it as it would be recorded."""
        return payload_of((self.pipeline, self.metric, self.part), self.at, self.score, self.run)


@dataclass(slots=True)
class Fired:
    """An alert that would have opened: `end` is None if it would still be open; `peak` is the largest score."""

    metric: str
    part: str
    kind: str
    severity: str
    begin: datetime
    end: datetime | None
    peak: float
    summary: str
    run: str | None


def of_runs(pipeline: str, runs: Sequence[Run], since: datetime) -> Iterator[Scored]:
    """Yield the scores of runs from a time on, each against the runs before it."""
    for index, run in enumerate(runs):
        if run.at >= since:
            for metric, score in scores_of(runs, index):
                yield Scored(pipeline, metric, "", run.at, score, run.id)


def of_steps(grid: Grid, since: datetime) -> Iterator[Scored]:
    """Yield the scores of the steps of a stream from a time on, `MOST_STEPS` at most, each against those before it."""
    if grid.end is None:
        return
    count = min(MOST_STEPS, LENGTH - 1, max(0, -(-(grid.end - since) // STEP)))
    past = Grid(grid.pipeline)
    for back in range(count, -1, -1):
        past.end = grid.end - back * STEP
        past.values = {metric: values[: LENGTH - back] for metric, values in grid.values.items()}
        for metric, score in past.scores(runs=False):
            yield Scored(grid.pipeline, metric, "", past.end, score)


def fired(found: Iterable[Scored], rules: MonitorPolicy, *, promised: bool = False) -> list[Fired]:
    """Return the alerts that these scores would open by the rules, in the order of their begin."""
    every: list[Fired] = []
    open_ones: dict[tuple[str, str], Fired] = {}
    for one in found:
        numbers, key = one.numbers(), (one.metric, one.part)
        severity = severity_of(numbers, rules, promised=promised and one.metric == "rows_out")
        known = open_ones.get(key)
        if known is not None:
            if severity is None and abs(numbers["score"]) < CALM * rules.sensitivity:
                known.end = one.at
                del open_ones[key]
            elif abs(numbers["score"]) > abs(known.peak):
                known.peak = numbers["score"]
                known.severity = "critical" if "critical" in {severity, known.severity} else known.severity
        elif severity is not None:
            alert = Fired(
                *key, KINDS[one.metric], severity, one.at, None, numbers["score"], words(numbers), numbers.get("run")
            )
            open_ones[key] = alert
            every.append(alert)
    return every
