"""What reports of runs add to their pipelines' metrics: increases of counters, gauges, durations.

Reports are cumulative: what counts is the increase over what was counted before. So a report that is repeated, lost or
late changes no total. Counters of an attempt begin at zero; the end of a run, which has the sink's own counters, adds
what no report has told. What an attempt has loaded in vain stays counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from catalog.metric_points import Sample
from penstock.models.domain import Counters
from penstock.records.execution import RunProgress, StreamProgress

__all__ = ["Ended", "Subject", "ended", "progressed"]

HEARTBEAT: Final = timedelta(seconds=60)
"""Time after which a gauge that has not changed is recorded again."""
EVERY: Final = timedelta(seconds=10)
"""Time between two recordings of gauges of partitions and steps."""
MOST_PARTITIONS: Final = 16
"""Partitions of a stream that are recorded one by one: those that are furthest behind."""
COUNTERS: Final = tuple(Counters.model_fields)


@dataclass(slots=True)
class Subject:
    """What has been counted of one run, or of another task that reports progress.

    `epoch` is the offset of the task's assignment: that of a later attempt is higher. `seen` is what this attempt has
    reported, `total` what was counted of all attempts.
    """

    pipeline: str
    epoch: int = -1
    seen: dict[str, Any] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)
    done: bool = False
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended, as the catalog has it."""

    id: str
    pipeline: str
    status: str
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime
    counters: Mapping[str, int]
    seconds: Mapping[str, float]


def progressed(subject: Subject, epoch: int, report: RunProgress, at: datetime) -> list[Sample]:
    """Return what a report adds, and note it in `subject`; nothing for a report of an earlier attempt."""
    if epoch < subject.epoch:
        return []
    if epoch > subject.epoch:
        subject.epoch, subject.seen = epoch, {}
    samples = [*_increases(subject, report, at), *_latency(subject, report, at), *_gauges(subject, report, at)]
    samples += _nulls(subject, report, at)
    if samples:
        subject.at = at
    return samples


def _increases(subject: Subject, report: RunProgress, at: datetime) -> Iterator[Sample]:
    for name in COUNTERS:
        value = getattr(report, name)
        increase = value - subject.seen.get(name, 0)
        if increase > 0:
            subject.seen[name] = value
            if not subject.done:
                subject.total[name] = subject.total.get(name, 0) + increase
                yield Sample.counted(subject.pipeline, name, at, increase)


def _latency(subject: Subject, report: RunProgress, at: datetime) -> Iterator[Sample]:
    """Return the increase of a stream's histogram of latencies."""
    stream = report.stream
    if stream is None or not stream.latency_parts:
        return
    before = subject.seen.get("latency", {})
    parts = {int(part): count - before.get(part, 0) for part, count in stream.latency_parts.items()}
    parts = {part: count for part, count in parts.items() if count > 0}
    if parts:
        total = max(0.0, stream.latency_seconds - subject.seen.get("latency_seconds", 0.0))
        subject.seen["latency"] = before | {
            part: max(count, before.get(part, 0)) for part, count in stream.latency_parts.items()
        }
        subject.seen["latency_seconds"] = max(stream.latency_seconds, subject.seen.get("latency_seconds", 0.0))
        yield Sample.spread(subject.pipeline, "latency", at, parts, total)


def _nulls(subject: Subject, report: RunProgress, at: datetime) -> Iterator[Sample]:
    """Return the share of NULLs in each column, and in all of them, among the rows since the report before it."""
    if report.nulls is None:
        return
    before = subject.seen.get("nulls", {"rows": 0, "columns": {}})
    rows = report.nulls.rows - before["rows"]
    if rows <= 0:
        return
    subject.seen["nulls"] = report.nulls.to_dict()
    known = before["columns"]
    shares = {part: max(0, count - known.get(part, 0)) / rows for part, count in report.nulls.columns.items()}
    for part, share in shares.items():
        yield Sample.seen(subject.pipeline, "nulls", at, min(1.0, share), part)
    if shares:
        yield Sample.seen(subject.pipeline, "nulls", at, min(1.0, sum(shares.values()) / len(shares)))


def _gauges(subject: Subject, report: RunProgress, at: datetime) -> Iterator[Sample]:
    shown = subject.seen.setdefault("gauges", {})
    fine = _is_due(subject, "fine", at, EVERY)
    for name, value in _values(report, at).items():
        metric, _, part = name.partition(":")
        if (part and not fine) or value is None:
            continue
        last = shown.get(name)
        if last is None or last[0] != value or at - datetime.fromisoformat(last[1]) >= HEARTBEAT:
            shown[name] = [value, at.isoformat()]
            yield Sample.seen(subject.pipeline, metric, at, value, part)


def _is_due(subject: Subject, name: str, at: datetime, every: timedelta) -> bool:
    last = subject.seen.get(name)
    if last is not None and at - datetime.fromisoformat(last) < every:
        return False
    subject.seen[name] = at.isoformat()
    return True


def _values(report: RunProgress, at: datetime) -> dict[str, float | None]:
    """Return the gauges of a report, those of a part as ``metric:part``."""
    stream = report.stream
    if stream is None:
        return {"lag": report.lag}
    furthest = sorted(stream.behind_parts.items(), key=lambda one: (-one[1], one[0]))[:MOST_PARTITIONS]
    return {
        "lag": _lag(stream, at),
        "behind": stream.behind,
        **{f"behind:{part}": value for part, value in furthest},
        "slot_retained": None if stream.slot is None else stream.slot.retained,
        **{f"step_{name}:{step}": value for step, one in stream.steps.items() for name, value in one.counts.items()},
    }


def _lag(stream: StreamProgress, at: datetime) -> float | None:
    """Return the age of the newest event that a stream has committed; 0 if it has caught up."""
    if stream.behind == 0:
        return 0.0
    return None if stream.watermark is None else round(max(0.0, (at - stream.watermark).total_seconds()), 3)


def ended(subject: Subject, run: Ended) -> list[Sample]:
    """Return what the end of a run adds, and note it in `subject`."""
    if subject.done:
        return []
    subject.done, subject.at = True, run.finished_at
    return list(_end(subject, run))


def _end(subject: Subject, run: Ended) -> Iterator[Sample]:
    pipeline, at = run.pipeline, run.finished_at
    for name in COUNTERS:
        missing = int(run.counters.get(name, 0)) - subject.total.get(name, 0)
        if missing > 0:
            subject.total[name] = int(run.counters[name])
            yield Sample.counted(pipeline, name, at, missing)
    yield Sample.counted(pipeline, "runs", at, 1)
    yield Sample.counted(pipeline, "runs", at, 1, run.status)
    if run.started_at is not None:
        yield Sample.seen(pipeline, "duration", at, max(0.0, (at - run.started_at).total_seconds()))
        wait = max(0.0, (run.started_at - run.requested_at).total_seconds())
        yield Sample.seen(pipeline, "wait", run.started_at, wait)
    for stage, seconds in run.seconds.items():
        yield Sample.seen(pipeline, "duration", at, seconds, stage)
