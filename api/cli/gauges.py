"""Gauges of a stream for people: rows/s, how far it is behind, how late its rows are, what slows it down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from api.cli.console import ago, length
from api.client import Client
from api.watch import OPEN
from catalog.entries import RunEntry
from penstock.clock import now
from penstock.records.execution import LATENCIES, RunProgress, StreamProgress

__all__ = ["Reported", "latest", "percentile", "shown", "watched"]

RECENT: Final = timedelta(minutes=10)
EVERY_SECONDS: Final = 1.0
_COUNTED: Final = {
    "windows": "windows made",
    "open": "open",
    "deduplicated": "deduplicated",
    "remembered": "remembered",
    "late": "late",
    "ahead": "too far ahead",
    "no_time": "without a time",
}
Reported = tuple[datetime, RunProgress]


def latest(client: Client, runs: Sequence[RunEntry]) -> Reported | None:
    """Return the last progress of the open run, and when it was reported; None if no run is open."""
    if not runs or runs[0].status not in OPEN:
        return None
    course = client.measured(runs[0], max(runs[0].requested_at, now() - RECENT)) or client.measured(runs[0])
    return course[-1] if course else None


def watched(client: Client, name: str) -> Iterator[str]:
    """Yield a line every second, for as long as the pipeline has an open run."""
    while (found := latest(client, client.store.runs(pipeline=name, limit=1).items)) is not None:
        at, progress = found
        rows = f"{progress.rows_out:,} rows"
        yield f"{now():%H:%M:%S}  {rows if progress.stream is None else shown(progress.stream, at)}"
        time.sleep(EVERY_SECONDS)


def shown(stream: StreamProgress, at: datetime) -> str:
    """Return the gauges as one line; `at` is when they were reported."""
    parts = [f"{stream.rate:,.0f} rows/s"]
    if stream.behind is not None:
        parts.append(f"{stream.behind:,} {stream.behind_unit} behind")
    if stream.watermark is not None:
        parts.append(f"newest event {ago(stream.watermark)}")
    if stream.latencies:
        middle, most = (_at_most(percentile(stream.latencies, share)) for share in (0.5, 0.99))
        parts.append(f"from event to commit {middle} for half of the rows, {most} for 99 %")
    if stream.bottleneck is not None:
        parts.append(f"held up by the {stream.bottleneck}")
    for name, step in stream.steps.items():
        counts = ", ".join(f"{step.counts[what]:,} {said}" for what, said in _COUNTED.items() if what in step.counts)
        until = "" if step.watermark is None else f", watermark {ago(step.watermark)}"
        parts.append(f"step {name}: {counts}{until}")
    if (silent := (now() - at).total_seconds()) > RECENT.total_seconds():
        parts.append(f"unchanged for {length(silent)}")
    return ", ".join(parts)


def percentile(latencies: Sequence[int], share: float) -> float | None:
    """Return the bound in seconds that this share of the rows keeps; None if it is beyond the last bound."""
    wanted, seen = share * sum(latencies), 0
    for bound, count in zip(LATENCIES, latencies, strict=False):
        seen += count
        if seen >= wanted:
            return bound
    return None


def _at_most(bound: float | None) -> str:
    if bound is None:
        return f"more than {length(LATENCIES[-1])}"
    return f"≤ {bound * 1000:.0f} ms" if bound < 1 else f"≤ {length(bound)}"
