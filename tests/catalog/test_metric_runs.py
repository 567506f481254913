"""What reports of streams add to metrics: increases of latencies, gauges when they change, partitions now and then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from catalog.metric_points import Sample
from catalog.metric_runs import MOST_PARTITIONS, Subject, progressed
from penstock.histogram import BOUNDS
from penstock.records.execution import RunProgress

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def told(subject: Subject, seconds: float, *, epoch: int = 1, rows: int = 0, **stream: Any) -> list[Sample]:
    """Return what a report of a stream adds."""
    payload = {"run": "r", "pipeline": "clicks", "attempt": 1, "phase": "flow", "rows_in": rows}
    report = RunProgress.parse(payload | {"stream": {"rate": 1.0, **stream}})
    return progressed(subject, epoch, report, START + timedelta(seconds=seconds))


def of(samples: list[Sample], metric: str) -> dict[str, float]:
    return {one.part: one.sum for one in samples if one.metric == metric}


def test_latencies_are_counted_once_and_again_by_a_new_attempt() -> None:
    subject = Subject("clicks")
    (first,) = told(subject, 1, latency_parts={"4": 10}, latency_seconds=0.5)
    (second,) = told(subject, 2, latency_parts={"4": 10, "9": 5}, latency_seconds=2.5)
    assert told(subject, 3, latency_parts={"4": 10, "9": 5}, latency_seconds=2.5) == []
    (other,) = told(subject, 4, epoch=7, latency_parts={"4": 3}, latency_seconds=0.25)
    assert [one.parts for one in (first, second, other)] == [{4: 10}, {9: 5}, {4: 3}]
    assert [(one.count, one.sum) for one in (first, second, other)] == [(10, 0.5), (5, 2.0), (3, 0.25)]


def test_the_extremes_of_latencies_are_those_of_their_histogram_not_of_the_mean() -> None:
    (sample,) = told(Subject("clicks"), 1, latency_parts={"0": 1, "4": 98, "20": 1}, latency_seconds=1.4)
    assert (sample.min, sample.max) == (0.0, BOUNDS[20])
    beyond = str(len(BOUNDS))
    (sample,) = told(Subject("clicks"), 1, latency_parts={beyond: 1}, latency_seconds=1.0)
    assert (sample.min, sample.max) == (BOUNDS[-1], BOUNDS[-1])


def test_a_gauge_is_recorded_when_it_changes_and_once_a_minute() -> None:
    subject, seen = Subject("clicks"), []
    for seconds, behind in ((0, 5), (10, 5), (20, 6), (79, 6), (80, 6)):
        seen += [(seconds, behind)] if of(told(subject, seconds, behind=behind), "behind") else []
    assert seen == [(0, 5), (20, 6), (80, 6)]


def test_the_lag_of_a_stream_is_the_age_of_its_newest_event_until_it_has_caught_up() -> None:
    subject = Subject("clicks")
    assert of(told(subject, 30, behind=3, watermark=START.isoformat()), "lag") == {"": 30}
    assert of(told(subject, 40, behind=0, watermark=START.isoformat()), "lag") == {"": 0}
    assert of(told(subject, 50, behind=3), "lag") == {}, "nothing is known"


def test_partitions_that_are_furthest_behind_are_recorded_every_ten_seconds() -> None:
    subject = Subject("clicks")
    parts = {f"t/{n}": n for n in range(MOST_PARTITIONS + 5)}
    found = of(told(subject, 0, behind=1, behind_parts=parts), "behind")
    assert found == {"": 1, **{name: n for name, n in parts.items() if n >= 5}}
    assert of(told(subject, 9, behind=2, behind_parts=parts | {"t/20": 99}), "behind") == {"": 2}
    assert of(told(subject, 10, behind=2, behind_parts=parts | {"t/20": 99}), "behind") == {"t/20": 99}


def test_steps_and_slots_are_gauges() -> None:
    slot = {"name": "s", "active": True, "status": "reserved", "retained": 4096}
    found = told(Subject("clicks"), 0, slot=slot, steps={"hourly": {"counts": {"late": 2}}})
    assert of(found, "slot_retained") == {"": 4096}
    assert of(found, "step_late") == {"hourly": 2}


def nulls(subject: Subject, seconds: float, rows: int, *, epoch: int = 1, **columns: int) -> dict[str, float]:
    """Return the shares that a report of NULLs adds, by column."""
    payload = {"run": "r", "pipeline": "clicks", "attempt": 1, "phase": "flow", "rows_in": rows}
    report = RunProgress.parse(payload | {"nulls": {"rows": rows, "columns": columns}})
    return of(progressed(subject, epoch, report, START + timedelta(seconds=seconds)), "nulls")


def test_shares_of_nulls_are_those_of_the_rows_since_the_report_before() -> None:
    subject = Subject("clicks")
    assert nulls(subject, 1, 100, phone=10, id=0) == {"": 0.05, "phone": 0.1, "id": 0.0}
    assert nulls(subject, 1, 100, phone=10, id=0) == {}, "a repeat adds nothing"
    assert nulls(subject, 11, 150, phone=60, id=0) == {"": 0.5, "phone": 1.0, "id": 0.0}
    assert nulls(subject, 21, 20, epoch=2, phone=5, id=0)["phone"] == 0.25, "a new attempt begins at zero"
