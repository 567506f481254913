"""Alerts: the numbers that workers record about metrics, alerts that open and close, and people who quieten them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from penstock.models.base import Model, Name, PipelineName
from penstock.models.domain import Id
from penstock.records.shapes import Count, Moment

__all__ = [
    "AlertChanged",
    "AlertClosed",
    "AlertKind",
    "AlertOpened",
    "AlertSilence",
    "AlertSilenced",
    "AlertSnooze",
    "AlertSnoozed",
    "Metric",
    "SeriesScored",
    "Severity",
    "watched_part",
]

AlertKind = Literal["fresh", "volume", "latency", "errors", "lag", "nulls", "drift", "incident"]
Severity = Literal["warning", "critical"]
Metric = Annotated[str, Field(min_length=1, max_length=64)]
Part = Annotated[str, Field(max_length=200)]
Reason = Annotated[str, Field(max_length=2000)]
WHOLE: Final = frozenset({"nulls"})
"""Metrics whose parts are watched together, by the most unusual one: a source that breaks empties many columns."""


def watched_part(metric: str, part: str) -> str:
    """Return the part of a metric that has scores and alerts of its own: none where one stands for all."""
    return "" if metric in WHOLE else part


class SeriesScored(Model):
    """``series.scored``: how unusual the last value of a metric is, recorded where that has changed; by its pipeline.

    `score` is how many times its usual `spread` the value is above (below if negative) what was `expected`, from
    `samples` values before it; it is comparable to that of a normal distribution, whatever the number of samples.
    """

    pipeline: PipelineName
    metric: Metric
    part: Part = ""
    at: Moment
    value: float
    expected: float
    spread: float
    score: float
    samples: Count
    run: Id | None = None
    """The run that the value is of."""


class AlertOpened(Model):
    """``alert.opened``: something is not as it should be; keyed by the alert's id.

    There is one open alert for each `cause`. `routes` are where it is told; empty while it is silenced.
    """

    alert: Id
    cause: Annotated[str, Field(min_length=1, max_length=1000)]
    pipeline: PipelineName | None = None
    connection: Name | None = None
    """The connection whose incident it is, if that is about more than one pipeline."""
    kind: AlertKind
    metric: Metric | None = None
    part: Part = ""
    severity: Severity
    summary: str
    hint: str | None = None
    """What a person can do, if that is known."""
    value: float | None = None
    expected: float | None = None
    score: float | None = None
    since: Moment
    run: Id | None = None
    incident: Id | None = None
    """The incident that it tells of, or an open one of the pipeline, which may be why."""
    routes: tuple[str, ...] = ()


class AlertChanged(AlertOpened):
    """``alert.changed``: an open alert is told again: it is worse, or what kept it quiet is over; keyed by its id."""

    reason: str


class AlertClosed(Model):
    """``alert.closed``: its cause is gone; keyed by the alert's id. `routes` are those that were told of it."""

    alert: Id
    cause: str
    pipeline: PipelineName | None = None
    connection: Name | None = None
    reason: str
    summary: str
    lasted_s: Annotated[float, Field(ge=0)]
    routes: tuple[str, ...] = ()


class AlertSnooze(Model):
    """``alert.snooze``: tell nothing of an open alert until then."""

    alert: Id
    until: Moment
    why: Reason | None = None


class AlertSnoozed(AlertSnooze):
    """``alert.snoozed``: an alert that somebody quietened; keyed by its id. `timer` fires when that is over."""

    by: str
    timer: Id


class AlertSilence(Model):
    """``alert.silence``: tell nothing of a pipeline, or of one metric of it, until then; a time of the past ends it."""

    pipeline: PipelineName
    metric: Metric | None = None
    until: Moment
    why: Reason | None = None


class AlertSilenced(AlertSilence):
    """``alert.silenced``: a pipeline whose alerts are not told; keyed by its name. `timer` fires when that is over."""

    by: str
    timer: Id
