"""A window ends where no new row can appear: the pure decision, and its check against a simulated source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataflows.connectors.resolution import ended, resolution
from dataflows.connectors.windows import (
    MAX_CLOCK_SETBACK,
    XMIN,
    Clock,
    Edge,
    Evidence,
    ahead_of,
    check_cursor,
    format_time,
    future_row_notes,
    risks,
    time_window,
    window_edge,
)
from dataflows.data.cursors import CursorRule, window_between
from dataflows.data.tables import Column
from penstock.errors import Refused, SchemaMismatch
from penstock.models.domain import Reload

ONCE, AGAIN = CursorRule(), CursorRule(idempotent=True)
LAG = CursorRule(timedelta(minutes=5))
ID = Column("id", "bigint", nullable=False)
AT = Column("at", "timestamp with time zone", nullable=False)
DAY = Column("day", "date", nullable=False)
SECOND = Column("at", "timestamp(0) without time zone", nullable=False)
MILLI = Column("at", "timestamp(3) with time zone", nullable=False)
CODE = Column("code", "text", nullable=False)
XID = Column(XMIN, "bigint", nullable=False, hidden=True)
REPLICA = "the server is a hot standby"


@pytest.mark.parametrize(
    ("evidence", "rule", "said"),
    [
        (Evidence(ID), LAG, "a lag needs a time"),
        (Evidence(ID, cache=50), ONCE, "CACHE 50"),
        (Evidence(ID, cache=50), AGAIN, "CACHE 50"),
        (Evidence(ID, step=-1), ONCE, "counts down"),
        (Evidence(ID, nodes=2), ONCE, "2 servers"),
        (Evidence(Column("u", "uuid"), random=True), AGAIN, "random UUIDs"),
        (Evidence(ID, hidden_writers=REPLICA), ONCE, "hot standby"),
        (Evidence(AT, hidden_writers=REPLICA), AGAIN, "hot standby"),
        (Evidence(DAY), ONCE, "resolution of 1 day"),
        (Evidence(SECOND), ONCE, "resolution of 1 second"),
        (Evidence(MILLI), ONCE, "resolution of 1 ms"),
        (Evidence(AT, coarse=timedelta(seconds=1)), ONCE, "resolution of 1 second"),
        (Evidence(XID), ONCE, "merge"),
        (Evidence(ID, client=True), ONCE, "has no default"),
        (Evidence(CODE, alike="NOCASE"), CursorRule(ordered=True), "NOCASE"),
    ],
)
def test_a_cursor_that_would_lose_rows_is_refused_with_evidence_and_remedy(
    evidence: Evidence, rule: CursorRule, said: str
) -> None:
    with pytest.raises((Refused, SchemaMismatch), match=said) as found:
        check_cursor(evidence, rule, "orders")
    assert found.value.hint


@pytest.mark.parametrize(
    ("evidence", "rule", "said"),
    [
        (Evidence(ID, "nextval('s')"), ONCE, "nextval('s')"),
        (Evidence(ID, client=True), AGAIN, "values that programs make"),
        (Evidence(ID, no_catalog=True), ONCE, "values that programs make"),
        (Evidence(AT, "now()"), ONCE, "DEFAULT now()"),
        (Evidence(AT), ONCE, "no default"),
        (Evidence(AT, hidden_writers=REPLICA), LAG, "0:05:00"),
        (Evidence(DAY, zone="America/New_York"), LAG, "America/New_York"),
        (Evidence(DAY), AGAIN, "read again"),
        (Evidence(XID), AGAIN, "whole table"),
        (Evidence(CODE, alike="NOCASE"), AGAIN, "NOCASE"),
    ],
)
def test_risks_are_named_with_their_evidence(evidence: Evidence, rule: CursorRule, said: str) -> None:
    check_cursor(evidence, rule, "orders")
    assert any(said in one for one in risks(evidence, rule))


def test_the_window_of_a_day_ends_before_today_and_a_merge_reads_today_again() -> None:
    clock = Clock(datetime(2024, 5, 2, 12, tzinfo=UTC))
    edge = window_edge(Evidence(DAY), LAG, clock)
    assert format_time(edge.upper, DAY) == format_time(edge.safe, DAY) == "2024-05-01"
    edge = window_edge(Evidence(DAY), AGAIN, clock)
    window = time_window(edge, DAY, "2024-05-01", "2024-05-02")
    assert (window.upper, window.position) == ("2024-05-02", "2024-05-01")
    assert time_window(edge, DAY, None, "2024-05-01").position == "2024-05-01"


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["2024-05-01 10:00:00.5", "2024-05-01 10:00:00"], None),
        (["2024-05-01 10:00:07", "2024-05-01 10:00:00"], timedelta(seconds=1)),
        (["2024-05-01 10:07:00", "2024-05-01 10:00:00"], timedelta(minutes=1)),
        (["2024-05-01 10:15:00", "2024-05-01 12:00:00"], timedelta(minutes=15)),
        (["2024-05-01 10:05:00", "2024-05-01 10:10:00"], timedelta(minutes=5)),
        (["2024-05-01 10:10:00", "2024-05-01 10:20:00"], timedelta(minutes=10)),
        (["2024-05-01 10:30:00", "2024-05-01 11:30:00", "2024-05-01 13:30:00"], timedelta(hours=1)),
        (["2024-05-01 10:15:00", "2024-05-01 11:15:00", "2024-05-01 13:15:00"], timedelta(hours=1)),
        (["2024-05-01 06:00:00", "2024-05-01 12:00:00", "2024-05-01 18:00:00"], timedelta(hours=7)),
        (["2024-05-01 00:00:00"], timedelta(days=1)),
        (["2024-05-03 22:00:00", "2024-05-02 22:00:00", "2024-02-01 23:00:00"], timedelta(days=1)),
        (["2024-03-03 23:00:00", "2024-03-05 00:00:00"], timedelta(days=1)),
        (["2024-05-01 00:00:00", "2024-05-08 00:00:00", "2024-05-15 00:00:00"], timedelta(days=7)),
        (["2024-02-01 00:00:00", "2024-03-01 00:00:00", "2024-04-01 00:00:00", None], timedelta(days=31)),
        (["2024-01-01 00:00:00", "2023-10-01 00:00:00"], timedelta(days=92)),
        (["2024-01-01 00:00:00", "2023-01-01 00:00:00"], timedelta(days=366)),
        ([], None),
    ],
)
def test_the_resolution_of_the_latest_values_is_seen(texts: list[str | None], found: timedelta | None) -> None:
    assert resolution(texts, AT) == found
    if found is not None and len(texts) == 1:
        edge = window_edge(Evidence(AT, latest=found), LAG, Clock(datetime(2024, 5, 2, 12, tzinfo=UTC)))
        assert edge.upper == datetime(2024, 5, 1, tzinfo=UTC)


BINS: dict[str, Callable[[datetime], datetime]] = {
    "5 minutes": lambda at: at.replace(minute=at.minute // 5 * 5),
    "10 minutes": lambda at: at.replace(minute=at.minute // 10 * 10),
    "20 minutes": lambda at: at.replace(minute=at.minute // 20 * 20),
    "hour": lambda at: at.replace(minute=0),
    "6 hours": lambda at: at.replace(minute=0, hour=at.hour // 6 * 6),
    "day": lambda at: at.replace(minute=0, hour=0),
    "week": lambda at: (at - timedelta(days=at.weekday())).replace(minute=0, hour=0),
    "month": lambda at: at.replace(minute=0, hour=0, day=1),
    "quarter": lambda at: at.replace(minute=0, hour=0, day=1, month=(at.month - 1) // 3 * 3 + 1),
    "year": lambda at: at.replace(minute=0, hour=0, day=1, month=1),
}


@pytest.mark.parametrize("unit", BINS)
def test_a_value_that_new_rows_may_get_is_not_safe(unit: str) -> None:
    """At any time of a day and of a year, in zones with and without half hours, and as clocks are set."""
    for zone in ("UTC", "America/New_York", "Asia/Kolkata"):
        for step in range(40):
            at = datetime(2024, 1, 3, tzinfo=UTC) + timedelta(days=9, hours=1, minutes=7) * step
            size = timedelta(minutes=5) if unit.endswith("minutes") else timedelta(hours=1)
            size = timedelta(days=5) if unit in {"week", "month"} else size
            size = timedelta(days=30) if unit in {"quarter", "year"} else size
            values = {BINS[unit]((at - size * back).astimezone(ZoneInfo(zone))) for back in range(75)}
            texts = sorted((f"{one.astimezone(UTC):%Y-%m-%d %H:%M:%S}" for one in values), reverse=True)
            clock = Clock(at)

            def greatest(_: Edge, newest: str = texts[0]) -> str:
                return newest

            def latest(edge: Edge, rows: int, *, distinct: bool, texts: list[str] = texts) -> list[str]:
                return texts[:rows] if distinct else texts[:1] * rows

            end = ended(Evidence(AT), AGAIN, clock, greatest, latest)
            assert parsed(texts[0], AT).replace(tzinfo=UTC) > end.edge.safe, (zone, at, end.notes)


def test_west_of_utc_today_is_still_yesterday() -> None:
    clock = Clock(datetime(2024, 5, 2, 3, tzinfo=UTC), None, timedelta(hours=-4), timedelta(hours=-4))
    assert format_time(window_edge(Evidence(DAY), LAG, clock).upper, DAY) == "2024-04-30"


def test_a_window_ends_before_the_start_of_an_open_transaction() -> None:
    began = datetime(2024, 5, 2, 11, 59, 30, 250, tzinfo=UTC)
    edge = window_edge(Evidence(AT), ONCE, Clock(datetime(2024, 5, 2, 12, tzinfo=UTC), began))
    assert edge.upper < began
    assert began - edge.upper <= timedelta(milliseconds=1)


def test_rows_beyond_the_window_are_counted() -> None:
    assert future_row_notes(AT, 12) == (
        "12 rows have a cursor in the future (`at`), to be read when that time has come",
    )
    assert "greatest value" in future_row_notes(ID, 1, above=True)[0]
    assert future_row_notes(AT, 0) == ()


def test_a_bound_with_an_offset_is_converted_to_utc() -> None:
    reload = Reload.parse({"rows": "window", "from": "2024-01-01T02:00+02:00", "to": "2024-01-01T03:00+02:00"})
    window = window_between(reload, AT, "2024-06-01 00:00:00+00:00", "orders")
    assert window.lower == "2023-12-31 23:59:59.999999+00:00"
    assert window.upper == "2024-01-01 00:59:59.999999+00:00"


@dataclass(frozen=True)
class Written:
    """A row of ``DEFAULT now()``: its transaction's beginning and end."""

    begun: datetime
    ended: datetime

    def value(self, unit: timedelta, zone: str | None) -> datetime:
        """The beginning by the column's clock, rounded as a server rounds."""
        at = self.begun
        if zone is not None:
            at = (at + ahead_of(zone, at)).replace(tzinfo=None)
        half = unit / 2 if unit < timedelta(days=1) else timedelta(0)
        start = datetime(1970, 1, 1, tzinfo=at.tzinfo)
        return at + half - (at + half - start) % unit


START = datetime(2024, 11, 3, 5, 0, tzinfo=UTC)
"""An hour before clocks are set back in New York."""
SECONDS = st.integers(0, 4 * 3600 * 1000).map(lambda ms: timedelta(milliseconds=ms))
TRANSACTION = st.tuples(SECONDS, st.integers(0, 600_000).map(lambda ms: timedelta(milliseconds=ms)))


@settings(max_examples=400, deadline=None)
@given(
    written=st.lists(TRANSACTION, max_size=12),
    runs=st.lists(SECONDS, min_size=1, max_size=8),
    column=st.sampled_from([AT, MILLI, SECOND, DAY, Column("at", "timestamp without time zone")]),
    zone=st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Europe/Berlin"]),
    lagging=st.booleans(),
    again=st.booleans(),
)
@example(
    written=[(timedelta(minutes=50), timedelta(0)), (timedelta(minutes=70), timedelta(0))],
    runs=[timedelta(minutes=55), timedelta(minutes=80)],
    column=SECOND,
    zone="America/New_York",
    lagging=True,
    again=False,
)
def test_property_runs_read_all_rows_committed_below_the_last_window(
    written: list[tuple[timedelta, timedelta]],
    runs: list[timedelta],
    column: Column,
    zone: str,
    *,
    lagging: bool,
    again: bool,
) -> None:
    """For any interleaving of open transactions, zones, precisions, lags and run times."""
    rows = [Written(START + begun, START + begun + lasted) for begun, lasted in written]
    rule = CursorRule(timedelta(minutes=11) if lagging else timedelta(0), idempotent=again)
    evidence = Evidence(column)
    if evidence.unit > timedelta(microseconds=1) and not lagging and not again:
        return  # refused
    its_zone = None if column.type.endswith("with time zone") else zone
    values = [one.value(evidence.unit, its_zone) for one in rows]
    last: str | None = None
    read = [0] * len(rows)
    for now in sorted(START + one for one in [*runs, timedelta(days=2), timedelta(days=2, hours=1)]):
        oldest = min((one.begun for one in rows if one.begun <= now < one.ended), default=None)
        times = (min(now - rule.lag, oldest or now), now, now + MAX_CLOCK_SETBACK)
        ahead = [timedelta(0) if its_zone is None else ahead_of(its_zone, at) for at in times]
        edge = window_edge(evidence, rule, Clock(now, None if lagging else oldest, min(ahead), max(ahead)))
        low = None if last is None else parsed(last, column)
        window_values = [
            value
            for one, value in zip(rows, values, strict=True)
            if one.ended <= now and value <= edge.upper and (low is None or value > low)
        ]
        found = max(window_values, default=None)
        window = time_window(edge, column, last, None if found is None else format_time(found, column))
        if window.upper is None:
            continue
        upper = parsed(window.upper, column)
        for at, (one, value) in enumerate(zip(rows, values, strict=True)):
            if one.ended <= now and value <= upper and (low is None or value > low):
                read[at] += 1
        last = window.position
    assert all(read)
    if not again:
        assert read == [1] * len(rows)


def parsed(text: str, column: Column) -> datetime:
    if column.type == "date":
        return datetime.combine(date.fromisoformat(text), datetime.min.time())
    return datetime.fromisoformat(text)
