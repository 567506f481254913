"""A look at the catalog: what runs and streams have done becomes few records, once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from catalog.metric_points import Sample, add
from dataflows.detect.detecting import until_projected
from dataflows.detect.looking import Look
from dataflows.detect.runs import completed
from dataflows.detect.score import boundary
from dataflows.detect.streams import Grid
from dataflows.detect.trial import fired, of_runs, of_steps
from dataflows.projector import project
from penstock.models.policy import MonitorPolicy
from penstock.postgres import connect
from penstock.records import Record, encode
from penstock.records.alerts import SeriesScored
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import CONTROL

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
PIPELINE = """INSERT INTO catalog.pipelines (uid, name, version, status, labels, pipeline, changed)
VALUES (%s, %s, 1, 'active', '{}', %s::jsonb, 1)"""
RUN = """INSERT INTO catalog.runs (id, pipeline, uid, status, requested_at, started_at, finished_at, counters, "offset",
changed) VALUES (%s, %s, %s, 'completed', %s, %s, %s, jsonb_build_object('rows_in', %s::int, 'rows_out', %s::int),
%s, %s)"""
STREAM = '{"spec": {"mode": "stream", "expect": {"fresh": "10m"}}}'


@pytest.fixture
def session(catalog: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(connect(catalog, "tests", autocommit=True)) as made:
        yield made


def run(
    session: psycopg.Connection[Any],
    number: int,
    rows: int,
    name: str = "orders",
    *,
    minute: int = 0,
    back: timedelta = timedelta(),
) -> datetime:
    """Record a run of an hour, and count it as the meter does; return its end, by a clock that was set back."""
    begin = START + number * HOUR + timedelta(minutes=minute) - back
    end = begin + timedelta(seconds=40)
    place = 10 * number
    session.execute(RUN, [f"{name}{number}", name, name, begin, begin, end, rows, rows, place, place + 5])
    with session.transaction():
        add(session, [Sample.counted(name, "runs", end, 1, part) for part in ("", "completed")], end)
    return end


def test_runs_are_scored_once_and_recorded_where_they_are_unusual(
    catalog: str, session: psycopg.Connection[Any]
) -> None:
    session.execute(PIPELINE, ["orders", "orders", "{}"])
    for number in range(60):
        end = run(session, number, 1000 + number % 7)
    with closing(Look(catalog)) as look:
        assert look.news(end) == [], "all is as usual"
        end = run(session, 60, 10)
        (news,) = look.news(end)
        scored = SeriesScored.parse(news.payload)
        assert (scored.metric, scored.run, scored.at, news.cause) == ("rows_out", "orders60", end, 605)
        assert (scored.value, scored.samples) == (10, 60)
        assert scored.expected == pytest.approx(1003, abs=3)
        assert scored.score < -8
        look.recorded([news])
        assert look.news(end) == [], "nothing is new"
        run(session, 61, 10)
        assert look.news(end) == [], "it is as unusual as before"
        (calm,) = look.news(run(session, 62, 1003))
        assert abs(calm.payload["score"]) < 1
    with closing(Look(catalog)) as again:
        again.news(end)
        assert again.news(end) == [], "another process goes on where this one was"


def test_the_column_with_the_most_unusual_share_of_nulls_stands_for_all(
    catalog: str, session: psycopg.Connection[Any]
) -> None:
    session.execute(PIPELINE, ["orders", "orders", "{}"])

    def report(number: int, **shares: float) -> datetime:
        end = run(session, number, 100)
        with session.transaction():
            add(session, [Sample.seen("orders", "nulls", end, share, part) for part, share in shares.items()], end)
        return end

    for number in range(40):
        end = report(number, email=0.02 + number % 3 * 0.001, note=0.9)
    with closing(Look(catalog)) as look:

        def told(at: datetime) -> list[tuple[str, str, float]]:
            found = look.news(at)
            look.recorded(found)
            return [(one.payload["metric"], one.payload.get("part", ""), one.payload["value"]) for one in found]

        assert told(end) == []
        assert told(report(40, email=1.0, note=1.0)) == [("nulls", "email", 1.0)]
        assert told(report(41, email=1.0, note=1.0)) == []
        ((metric, _, value),) = told(report(42, email=0.02, note=0.9))
        assert (metric, value < 1) == ("nulls", True)


def test_nulls_of_runs_once_a_day_are_scored_at_any_minute(catalog: str, session: psycopg.Connection[Any]) -> None:
    session.execute(PIPELINE, ["orders", "orders", "{}"])

    def report(day: int, share: float) -> datetime:
        end = run(session, 24 * day, 100, minute=30)
        with session.transaction():
            add(session, [Sample.seen("orders", "nulls", end, share, "email")], end)
        return end

    for day in range(40):
        end = report(day, 0.02 + day % 3 * 0.001)
    with closing(Look(catalog)) as look:
        assert look.news(end) == []
        assert [one.payload["metric"] for one in look.news(report(40, 1.0))] == ["nulls"]


def test_runs_are_scored_whatever_clocks_show(catalog: str, session: psycopg.Connection[Any]) -> None:
    for name in ("orders", "bills"):
        session.execute(PIPELINE, [name, name, "{}"])
        for number in range(60):
            end = run(session, number, 1000 + number % 7, name)
    with closing(Look(catalog)) as look:
        assert look.news(end) == []
        look.recorded([])
        run(session, 60, 10, back=30 * HOUR)
        at = run(session, 60, 10, "bills", back=30 * HOUR)
        assert {one.payload["pipeline"] for one in look.news(at)} == {"orders", "bills"}


def test_a_run_that_is_counted_after_a_later_one_is_scored_by_the_next_process(
    catalog: str, session: psycopg.Connection[Any]
) -> None:
    for name in ("orders", "bills"):
        session.execute(PIPELINE, [name, name, "{}"])
        for number in range(60):
            run(session, number, 1000 + number % 7, name)
    end = run(session, 60, 1003, "bills", minute=1)
    with closing(Look(catalog)) as look:
        look.recorded(look.news(end))
    run(session, 60, 10)
    with closing(Look(catalog)) as another:
        assert [one.payload["run"] for one in another.news(end)] == ["orders60"]


def test_a_look_waits_for_what_the_catalog_does_not_have_yet(catalog: str, database: str) -> None:
    waits: list[int] = []

    def wait() -> bool:
        waits.append(1)
        project(log, catalog)
        return len(waits) > 3

    with closing(PostgresLog(database)) as log, closing(Look(catalog)) as look:
        log.create(CONTROL)
        lost = Record(type="worker.lost", key="w", at=START, actor="tests", payload={"worker": "w", "reason": "gone"})
        log.append(CONTROL, [encode(lost)])
        until_projected(lambda: PostgresLog(database), look, wait)
        assert (len(waits), look.projected()) == (1, log.end(CONTROL, 0))


def test_a_back_test_tells_what_would_have_opened_and_closed(catalog: str, session: psycopg.Connection[Any]) -> None:
    session.execute(PIPELINE, ["orders", "orders", "{}"])
    for number in range(60):
        run(session, number, {50: 10, 51: 11}.get(number, 1000 + number % 7))
    runs = completed(session, "orders")
    scores = list(of_runs("orders", runs, START))
    (one,) = fired(scores, MonitorPolicy())
    assert (one.metric, one.severity, one.run) == ("rows_out", "critical", "orders50")
    assert (one.begin, one.end) == (runs[50].at, runs[52].at)
    assert fired(scores, MonitorPolicy(sensitivity=90)) == []
    assert fired(scores, MonitorPolicy(warm_up=55)) == []


def test_a_stream_is_scored_by_steps_and_by_what_its_file_promises(
    catalog: str, session: psycopg.Connection[Any]
) -> None:
    session.execute(PIPELINE, ["s", "clicks", STREAM])
    session.execute(
        'INSERT INTO catalog.runs (id, pipeline, uid, status, requested_at, "offset", changed)'
        " VALUES ('r1', 'clicks', 's', 'running', %s, 1, 1)", [START],
    )  # fmt: skip
    step = timedelta(minutes=5)

    def report(number: int, rows: int, lag: float) -> datetime:
        at = START + number * step + timedelta(minutes=2)
        with session.transaction():
            add(session, [Sample.counted("clicks", "rows_out", at, rows), Sample.seen("clicks", "lag", at, lag)], at)
        return at + step

    for number in range(300):
        at = report(number, 500 + number % 11, 1.0)
    with closing(Look(catalog)) as look:

        def told(at: datetime) -> list[tuple[str, float]]:
            found = look.news(at)
            look.recorded(found)
            return [(one.payload["metric"], one.payload["value"]) for one in found]

        assert told(at) == []
        assert told(report(300, 5, 700.0)) == [("rows_out", 5), ("lag", 1000)]
        assert told(report(301, 500, 700.0)) == [], "a score counts for some steps"
        assert told(report(302, 500, 800.0)) == []
        at = report(303, 500, 2.0)
        assert [metric for metric, _ in told(at)] == ["rows_out", "lag"]
        grid = Grid("clicks")
        grid.read(session, boundary(at), at)
        past = fired(of_steps(grid, at - timedelta(hours=1)), MonitorPolicy())
        span = (boundary(at) - 3 * step, boundary(at))
        assert [(one.metric, (one.begin, one.end)) for one in past if one.metric != "lag"] == [("rows_out", span)]
        later = told(at + 3 * step)
        assert ("rows_out", 0.0) in later, "it runs, and nothing comes"
        assert later[-1] == ("lag", 1202.0), "and gets later"


def test_a_promise_of_a_stream_counts_from_its_last_change(catalog: str, session: psycopg.Connection[Any]) -> None:
    session.execute(PIPELINE, ["s", "clicks", STREAM])

    def report(minute: int, lag: float) -> datetime:
        at = START + timedelta(minutes=minute)
        with session.transaction():
            add(session, [Sample.seen("clicks", "lag", at, lag)], at)
        return at

    def changed(minute: int) -> None:
        at = START + timedelta(minutes=minute)
        session.execute("UPDATE catalog.pipelines SET updated_at = %s", [at])

    with closing(Look(catalog)) as look:

        def told(at: datetime) -> list[float]:
            found = [one for one in look.news(at) if one.payload["metric"] == "lag"]
            look.recorded(found)
            return [one.payload["value"] for one in found]

        changed(0)
        assert told(report(1, 900.0)) == [900]
        assert told(report(2, 910.0)) == []
        changed(300)
        resumed = START + timedelta(minutes=301)
        assert told(resumed) == [], "what was reported before does not count"
        assert told(report(302, 950.0)) == [950]
        changed(400)
        assert told(report(401, 960.0)) == [960], "the alert was closed meanwhile"
        assert told(report(402, 970.0)) == []


def test_hundred_idle_pipelines_cost_one_query(
    catalog: str, session: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        session.execute(PIPELINE, [f"u{number}", f"p{number}", "{}"])
        end = run(session, number % 3, 100, f"p{number}")
    with closing(Look(catalog)) as look:
        look.news(end)
        asked: list[Any] = []
        execute = look._session.execute

        def counted(query: Any, *more: Any) -> Any:
            asked.append(query)
            return execute(query, *more)

        monkeypatch.setattr(look._session, "execute", counted)
        assert look.news(end) == []
        assert len(asked) == 1, "one query for all of them"
