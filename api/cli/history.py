"""`penstock metrics NAME --since …`: a metric of a pipeline over time, from its stored points."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from api.cli.moments import moment
from api.client import Client
from catalog.metering import Meter
from catalog.metrics import METRICS, Metric, Point, series
from dataflows.process.metering import collect
from penstock import postgres
from penstock.clock import now
from penstock.errors import Fenced, UsageError, did_you_mean
from penstock.models.base import Duration, duration_text

__all__ = ["BLOCKS", "History", "columns", "history", "plot", "rows"]

BLOCKS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 60
"""Points that a window has unless a step is given, and the most that are drawn."""
STEPS: Final = tuple(timedelta(seconds=one) for one in (1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 86_400, 7 * 86_400))


@dataclass(frozen=True, slots=True)
class History:
    """Points of a metric, and what they mean."""

    name: str
    step: timedelta
    since: datetime
    until: datetime
    points: Sequence[Point]
    percentile: float | None

    @property
    def metric(self) -> Metric:
        """What it means; a metric of a step or a detector is a gauge."""
        return METRICS.get(self.name) or Metric("gauge", "", "")

    def value(self, point: Point) -> float:
        """Return what is drawn of a point: its percentile, the rate of a counter, or the mean."""
        if point.percentile is not None:
            return point.percentile
        return point.sum / self.step.total_seconds() if self.metric.kind == "counter" else point.mean

    def document(self) -> list[dict[str, Any]]:
        """Return the points for programs."""
        return [{**asdict(one), "mean": one.mean} for one in self.points]


def history(client: Client, name: str, asked: dict[str, Any]) -> History:
    """Return the points that the options ask for, all that runs have reported until now included.

    Raises:
        NotFound: there is no such pipeline.
        UsageError: an option is wrong.
    """
    client.store.pipeline(name)
    metric, at = asked["metric"] or "rows_out", now()
    if metric not in METRICS and not metric.startswith("step_"):
        hint = did_you_mean(metric, METRICS) or f"one of {', '.join(METRICS)}"
        raise UsageError("no such metric", where="--metric", value=metric, hint=hint)
    since = moment(asked["since"] or "1h", "--since")
    step = _step(asked["step"]) if asked["step"] else _fitting(at - since)
    dsn = client.site.catalog_dsn
    with closing(Meter(dsn)) as meter, suppress(Fenced):  # fenced: `penstock up` counts them
        meter.begin()
        collect(client.log, meter)
    with closing(postgres.connect(dsn, "penstock:metrics")) as session:
        found = series(session, metric, name, since, at, step, asked["percentile"], now=at, part=asked["part"] or "")
    return History(metric, step, since, at, found, asked["percentile"])


def _step(text: str) -> timedelta:
    try:
        found: timedelta = TypeAdapter(Duration).validate_python(text)
    except ValidationError:
        raise UsageError("is not a duration", where="--step", value=text, hint="write 1s, 5m or 1h") from None
    return found


def _fitting(window: timedelta) -> timedelta:
    """Return the step of which about a minute's worth of points fill the window."""
    return next((step for step in STEPS if step * WIDTH >= window), STEPS[-1])


def columns(found: History) -> tuple[str, ...]:
    """Return the headings of a table of points."""
    share = () if found.percentile is None else (f"#p{found.percentile:g}",)
    if found.metric.kind == "counter":
        return ("from", f"#{found.name}", "#per second", *share)
    return ("from", "#values", "#mean", "#min", "#max", "#last", *share)


def rows(found: History) -> list[tuple[object, ...]]:
    """Return points as rows of a table."""
    lines: list[tuple[object, ...]] = []
    for one in found.points:
        share = () if found.percentile is None else (_number(one.percentile),)
        begin = f"{one.at:%Y-%m-%d %H:%M:%S}"
        if found.metric.kind == "counter":
            lines.append((begin, _number(one.sum), _number(one.sum / found.step.total_seconds()), *share))
        else:
            lines.append((begin, f"{one.count:,}", *map(_number, (one.mean, one.min, one.max, one.last)), *share))
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:,.3g}"  # noqa: PLR2004 - digits


def plot(found: History) -> str:
    """Return a chart of blocks over the window; where nothing was observed it has a gap, or 0 for a counter."""
    if not found.points:
        return "nothing to draw: nothing was observed"
    begin, end = found.points[0].at, found.points[-1].at
    each = max(1, -(-((end - begin) // found.step + 1) // WIDTH))
    cells: dict[int, float] = {}
    for one in found.points:
        cell = (one.at - begin) // found.step // each
        cells[cell] = max(cells.get(cell, 0.0), found.value(one))
    top = max(cells.values())
    empty = BLOCKS[0] if found.metric.kind == "counter" else " "
    drawn = "".join(
        BLOCKS[round(max(0.0, cells[cell]) / top * (len(BLOCKS) - 1))] if cell in cells and top > 0 else empty
        for cell in range(max(cells) + 1)
    )
    unit = f"{found.metric.unit}/s" if found.metric.kind == "counter" else found.metric.unit
    return f"{drawn}  {duration_text(found.step * each)} each, at most {_number(top)} {unit}".rstrip()
