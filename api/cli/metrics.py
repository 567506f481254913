"""`penstock metrics`: totals from the sinks' counters, the course of a run from its reports, and metrics over time."""

from __future__ import annotations

import itertools
from datetime import datetime
from shlex import quote
from typing import Any, Final

import click

from api.cli.completion import pipeline_names
from api.cli.console import length, size
from api.cli.history import BLOCKS, columns, history, plot, rows
from api.cli.main import State, command
from api.client import Client, connected
from catalog.entries import RunEntry
from penstock.records.execution import RunProgress

STAGES: Final = ("prepare", "flow", "publish")
COLUMNS: Final = (
    "run", "pipeline", "status", "#in", "#out", "#filtered", "#dead", "#bytes", *(f"#{one}" for one in STAGES),
    "#rows/s", "#lag",
)  # fmt: skip
WIDTH: Final = 60


@command(name="metrics")
@click.argument("name", shell_complete=pipeline_names)
@click.option(
    "--runs", "count", type=click.IntRange(1, 200), default=10, show_default=True, help="How many, the latest."
)
@click.option("--plot", "drawn", is_flag=True, help="Draw rows/s of the latest run, or the metric, over time.")
@click.option("--since", help="Show a metric since a time (ISO 8601) or a duration ago such as 10m, 2h, 30d.")
@click.option("--step", help="Length of time that a point stands for: 1s, 1m, 1h and multiples.")
@click.option("--metric", help="Which one: rows_in, rows_out (the default), dead, errors, lag, duration, latency, …")
@click.option("--part", help="Only a part of it: a stage, a step, a partition, a kind of error.")
@click.option("--percentile", type=click.FloatRange(0, 100), help="A percentile of each point, such as 99.")
def metrics_(state: State, name: str, count: int, *, drawn: bool, **asked: Any) -> None:
    """Show rows in, out, filtered and dead, bytes, seconds by stage, and lag of the latest runs.

    With --since, --step, --metric, --part or --percentile: a metric over time, all runs together. Of a set: what its
    members have done.
    """
    if any(value is not None for value in asked.values()):
        _show_history(state, name, asked, drawn=drawn)
    else:
        _show_runs(state, name, count, drawn=drawn)


def _show_history(state: State, name: str, asked: dict[str, Any], *, drawn: bool) -> None:
    with connected(state.settings, runs=False) as client:
        found = history(client, name, asked)
    state.output.data(found.document())
    nothing = f"nothing was observed of {found.name} since {found.since:%Y-%m-%d %H:%M:%S}"
    state.output.table(columns(found), rows(found), empty=nothing)
    if drawn:
        state.output.say(plot(found))
    state.output.hint(f"penstock metrics {quote(name)}")


def _show_runs(state: State, name: str, count: int, *, drawn: bool) -> None:
    with connected(state.settings, runs=False) as client:
        found = [_measured(client, run) for run in client.store.runs_of(name, limit=count).items]
    state.output.data([document for document, _ in found])
    state.output.table(COLUMNS, [_row(document) for document, _ in found], empty=f"{name} has no runs yet")
    if drawn and found:
        state.output.say(_plot(found[0][0]["requested_at"], found[0][1]))
    state.output.hint(f"penstock why {found[0][0]['run']}" if found else f"penstock run {quote(name)} --watch")


def _measured(client: Client, run: RunEntry) -> tuple[dict[str, Any], list[tuple[datetime, RunProgress]]]:
    """Return the figures of a run, and its course; the catalog takes precedence over progress records."""
    course = client.measured(run)
    last = course[-1][1] if course else None
    counters = (
        dict(run.counters) if run.finished_at or last is None else {name: getattr(last, name) for name in run.counters}
    )
    stages = dict(run.seconds or (last.stages if last else {}))
    taken = sum(stages.values())
    return {
        "run": run.id,
        "pipeline": run.pipeline,
        "status": run.status,
        "requested_at": run.requested_at,
        "finished_at": run.finished_at,
        "counters": counters,
        "seconds": stages,
        "lag": last.lag if last else None,
        "rows_per_second": round(counters.get("rows_out", 0) / taken) if taken else None,
        "resumed": run.resumed,
        "course": [
            {"at": at, "phase": one.phase, "rows_in": one.rows_in, "rows_out": one.rows_out} for at, one in course
        ],
    }, course


def _row(document: dict[str, Any]) -> tuple[object, ...]:
    counters, seconds, lag = document["counters"], document["seconds"], document["lag"]
    shown = [f"{counters.get(name, 0):,}" for name in ("rows_in", "rows_out", "filtered", "dead")]
    shown.append(size(counters.get("bytes", 0)))
    stages = [f"{seconds[one]:.2f} s" if one in seconds else "" for one in STAGES]
    return (
        document["run"],
        document["pipeline"],
        document["status"],
        *shown,
        *stages,
        "" if document["rows_per_second"] is None else f"{document['rows_per_second']:,}",
        "" if lag is None else length(lag),
    )


def _plot(asked: datetime, course: list[tuple[datetime, RunProgress]]) -> str:
    """Return a chart of blocks: time since the run was asked for against rows/s."""
    if not course:
        return "nothing to draw: the run has reported no progress yet"
    points = [(asked, 0), *((at, one.rows_out) for at, one in course)]
    begin, end = points[0][0], points[-1][0]
    length = max((end - begin).total_seconds(), 0.001)
    width = min(WIDTH, max(1, round(length / 0.25)))
    rows = [0.0] * width
    for (_, before), (at, after) in itertools.pairwise(points):
        place = min(width - 1, int((at - begin).total_seconds() / length * width))
        rows[place] += max(0, after - before)
    rates = [one / (length / width) for one in rows]
    top = max(rates)
    drawn = "".join(BLOCKS[round(one / top * (len(BLOCKS) - 1))] if top else BLOCKS[0] for one in rates)
    return f"{drawn}  {length:.1f} s, at most {top:,.0f} rows/s"
