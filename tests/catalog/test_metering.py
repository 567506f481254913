"""The meter: totals are those of the sinks, whatever is repeated, lost, late, or broken off in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.metering import Meter
from catalog.metrics import series
from penstock.errors import Unreachable
from penstock.postgres import connect
from penstock.records import Record, encode
from penstock.topics.log import Message, Stored
from penstock.topics.table import METRICS

START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
EMPTY = """TRUNCATE catalog.runs, catalog.errors, catalog.position, ops.metric_series, ops.metrics_1s, ops.metrics_1m,
ops.metrics_1h, ops.metric_runs, ops.settings"""


@pytest.fixture(scope="module")
def dsn(new_catalog: Any) -> str:
    made: str = new_catalog()
    return made


@pytest.fixture(scope="module")
def session(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(connect(dsn, "tests")) as made:
        yield made


@pytest.fixture
def meter(dsn: str, session: psycopg.Connection[Any]) -> Iterator[Meter]:
    session.execute(EMPTY)
    with closing(Meter(dsn)) as made:
        made.begin()
        yield made


def report(at: int, rows: int, *, epoch: int = 1, run: str = "r1", **more: Any) -> Message:
    """Return a report, `at` seconds after the start, of rows since the beginning of its attempt."""
    counted = {"rows_in": rows, "rows_out": rows} if rows else {}
    payload = {"run": run, "pipeline": "orders", "attempt": epoch, "phase": "flow", **counted, **more}
    when = START + timedelta(seconds=at)
    record = Record(type="run.progress", key=run, at=when, actor="worker:w", cause=(epoch, 0), payload=payload)
    return encode(record)


def stored(messages: Sequence[Message], begin: int = 0, part: int = 0) -> list[Stored]:
    return [Stored(METRICS, part, offset, one) for offset, one in enumerate(messages, begin)]


def ends(
    session: psycopg.Connection[Any],
    at: int,
    rows: int,
    *,
    run: str = "r1",
    status: str = "completed",
    begun: int = 3,
) -> int:
    """Let the catalog have the end of a run; return how far it is."""
    session.execute(
        """INSERT INTO catalog.runs (id, pipeline, status, requested_at, started_at, finished_at, counters, seconds,
        "offset", changed) VALUES (%s, 'orders', %s, %s, %s, %s, jsonb_build_object('rows_in', %s::int, 'rows_out',
        %s::int), '{"flow": 1.5}', %s, 7)""",
        [run, status, START, START + timedelta(seconds=1), START + timedelta(seconds=at), rows, rows, begun],
    )
    return 8


def now(seconds: int = 3600) -> datetime:
    return START + timedelta(seconds=seconds)


def sums(
    session: psycopg.Connection[Any], metric: str = "rows_out", step: int = 60, part: str = ""
) -> dict[int, float]:
    """Return the sum of each step, by the seconds from the start to where it begins."""
    until, length = now(7200), timedelta(seconds=step)
    found = series(session, metric, "orders", START, until, length, now=until, part=part)
    return {int((one.at - START).total_seconds()): one.sum for one in found}


def test_rows_count_when_they_were_reported_and_the_end_of_a_run_adds_what_no_report_has_told(
    meter: Meter, session: psycopg.Connection[Any]
) -> None:
    meter.reported(stored([report(1, 10), report(2, 10), report(40, 25)]), now())
    assert sums(session, step=1) == {1: 10, 40: 15}
    assert not meter.ended(ends(session, 50, 31), now())
    assert sums(session, step=1) == {1: 10, 40: 15, 50: 6}
    assert (sums(session), sums(session, step=3600)) == ({-30: 10, 30: 21}, {-30: 31})
    assert sums(session, "runs", part="completed") == {30: 1}
    assert sums(session, "duration", 3600) == {-30: 49}
    assert sums(session, "duration", 3600, "flow") == {-30: 1.5}
    assert sums(session, "wait", 3600) == {-30: 1}


def test_what_is_repeated_or_late_adds_nothing(meter: Meter, session: psycopg.Connection[Any], dsn: str) -> None:
    first, second = report(1, 10), report(2, 20)
    meter.reported(stored([first, second, first, second, first]), now())
    assert sums(session, step=1) == {1: 10, 2: 10}
    meter.reported(stored([report(5, 7, epoch=9)], 5), now())
    meter.reported(stored([report(6, 40)], 6), now())  # of the first attempt, which the second has ended
    assert sums(session, step=1) == {1: 10, 2: 10, 5: 7}
    upto = ends(session, 60, 35)
    meter.ended(upto, now())
    meter.reported(stored([report(7, 12, epoch=9)], 7), now())
    assert sums(session, step=3600) == {-30: 35}
    with closing(Meter(dsn)) as again:
        again.begin()
        assert not again.ended(upto, now())
        assert again.positions == {0: 7}, "the last report changed nothing, so that it may be read again"


def test_errors_count_once_also_when_more_runs_end_than_are_counted_at_once(
    meter: Meter, session: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.metering.AT_ONCE", 2)
    upto = max(ends(session, 60 + n, 1, run=f"r{n}", begun=n) for n in range(3))
    while meter.ended(3, now()):
        pass
    session.execute(
        """INSERT INTO catalog.errors (id, "offset", changed, pipeline, at, classified)
        VALUES ('e1', 5, 5, 'orders', %s, '{"kind": "data"}')""",
        [START],
    )
    while meter.ended(upto, now()):
        pass
    assert sums(session, "errors", 3600) == sums(session, "errors", 3600, "data") == {-30: 1}


@dataclass(frozen=True)
class Story:
    """Reports of two runs in two partitions; how they are cut into batches, and after which the meter dies."""

    messages: list[tuple[int, Message]]
    deaths: set[int]
    rows: dict[str, int]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    messages: list[tuple[int, Message]] = []
    rows: dict[str, int] = {}
    for part, run in enumerate(("r1", "r2")):
        rows[run] = draw(st.integers(0, 50))
        for epoch in range(1, draw(st.integers(1, 3)) + 1):
            told = sorted(draw(st.lists(st.integers(0, 100), min_size=1, max_size=4)))
            rows[run] += told[-1]
            told = draw(st.permutations([*told, *draw(st.lists(st.sampled_from(told), max_size=3))]))
            at = draw(st.integers(0, 3000))
            messages += [(part, report(at + n, one, epoch=epoch, run=run)) for n, one in enumerate(told)]
    return Story(messages, draw(st.sets(st.integers(0, len(messages)))), rows)


@settings(max_examples=12)
@given(stories())
def test_totals_are_those_of_the_sinks_whatever_is_repeated_or_broken_off(
    session: psycopg.Connection[Any], dsn: str, story: Story
) -> None:
    session.execute(EMPTY)
    log: dict[int, list[Message]] = {0: [], 1: []}
    for part, message in story.messages:
        log[part].append(message)
    upto = max(ends(session, 3590, rows, run=run) for run, rows in story.rows.items())
    for step in range(len(story.messages) + 3):
        with closing(Meter(dsn)) as meter:
            meter.begin()
            if step in story.deaths:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(meter, "_put", lambda *_: meter.close())
                    with suppress(Unreachable):  # it may have nothing to write
                        turn(meter, log, upto, 2)
                continue
            turn(meter, log, upto, 2 if step < len(story.messages) else 1000)
    for length in (1, 60, 3600):
        assert sum(sums(session, step=length).values()) == sum(story.rows.values())
    total = "SELECT coalesce(sum(sum), 0) FROM ops.metric_series WHERE metric = 'rows_out'"
    totals = session.execute(total).fetchone()
    assert totals == (sum(story.rows.values()),)


def turn(meter: Meter, log: dict[int, list[Message]], upto: int, limit: int) -> None:
    """Count the next messages of each partition, and the ends of the runs once there are no more."""
    while batch := [
        one for part in log for one in stored(log[part], part=part)[meter.positions.get(part, 0) :][:limit]
    ]:
        meter.reported(batch, now())
        if limit < 1000:
            return
    meter.ended(upto, now())
