"""Where a window ends to the microsecond, what is refused and told about a cursor, and how times are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dataflows.connectors.resolution import DISTINCT, LATEST, Ended, ended
from dataflows.connectors.windows import (
    LONG_TRANSACTION,
    XMIN,
    Clock,
    Edge,
    Evidence,
    check_cursor,
    format_time,
    future_row_notes,
    is_made,
    open_transaction_notes,
    read_time,
    risks,
    text_window,
    time_window,
    unit_text,
    window_edge,
)
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.tables import Column
from penstock.errors import Refused

ONCE, AGAIN = CursorRule(), CursorRule(idempotent=True)
LAG, ORDERED = CursorRule(timedelta(minutes=5)), CursorRule(ordered=True)
ID, DAY = Column("id", "bigint"), Column("day", "date")
AT, LOCAL = Column("at", "timestamp with time zone"), Column("at", "timestamp without time zone")
SECOND = Column("at", "timestamp(0) with time zone")
HOUR, MICRO = timedelta(hours=1), timedelta(microseconds=1)
NOW = datetime(2024, 5, 2, 12, 34, 56, 789123, tzinfo=UTC)
STANDBY = "a standby"


@pytest.mark.parametrize(
    ("evidence", "rule"),
    [
        (Evidence(ID), ONCE),
        (Evidence(AT), LAG),
        (Evidence(AT), ONCE),
        (Evidence(DAY), LAG),
        (Evidence(DAY), AGAIN),
        (Evidence(AT, hidden_writers=STANDBY), LAG),
        (Evidence(AT, client=True), ONCE),
        (Evidence(ID, client=True), AGAIN),
        (Evidence(ID, client=True), ORDERED),
        (Evidence(Column("code", "text"), alike="NOCASE"), AGAIN),
        (Evidence(Column(XMIN, "bigint")), ONCE),
        (Evidence(Column("place", "bigint", hidden=True)), ONCE),
        (Evidence(Column(XMIN, "bigint", hidden=True), cache=9), AGAIN),
    ],
)
def test_a_cursor_by_which_no_row_is_lost_is_taken(evidence: Evidence, rule: CursorRule) -> None:
    check_cursor(evidence, rule, "orders")


@pytest.mark.parametrize(
    ("evidence", "rule", "what", "hint"),
    [
        (Evidence(ID, hidden_writers=STANDBY), AGAIN, "a standby", "choose a time with a lag"),
        (Evidence(AT, hidden_writers=STANDBY), ONCE, "a standby", "give the cursor a lag"),
        (Evidence(ID, cache=2), AGAIN, "CACHE 2", "choose a time with a lag"),
        (Evidence(ID, step=-1), AGAIN, "counts down", "choose a time with a lag"),
        (Evidence(ID, nodes=2), AGAIN, "2 servers", "choose a time with a lag"),
        (Evidence(SECOND), ONCE, "resolution of 1 second", "give the cursor a lag"),
        (Evidence(ID, default="f()", client=True), ONCE, "has DEFAULT f[(][)]", "ordered: true"),
        (Evidence(ID, client=True), ONCE, "has no default", "cursor `xmin`"),
        (Evidence(ID, alike="NOCASE"), ORDERED, "NOCASE", "binary collation.*cursor `xmin`"),
    ],
)
def test_a_refusal_has_its_own_remedy(evidence: Evidence, rule: CursorRule, what: str, hint: str) -> None:
    with pytest.raises(Refused, match=what) as found:
        check_cursor(evidence, rule, "orders")
    with pytest.raises(Refused, match=hint):
        raise Refused(found.value.hint or "")


@pytest.mark.parametrize(
    ("evidence", "rule", "told"),
    [
        (Evidence(ID), ONCE, []),
        (Evidence(ID, "nextval('s')"), ONCE, ["has DEFAULT nextval"]),
        (Evidence(ID, "f()", client=True), AGAIN, ["programs make"]),
        (Evidence(ID, client=True), ORDERED, []),
        (Evidence(ID, no_catalog=True), ONCE, ["programs make"]),
        (Evidence(AT), ONCE, ["has no default: give a lag"]),
        (Evidence(AT, "now()", client=True), ONCE, ["has DEFAULT now"]),
        (Evidence(AT, "now()"), LAG, ["more than 0:05:00"]),
        (Evidence(AT, zone="UTC"), LAG, ["more than 0:05:00"]),
        (Evidence(LOCAL, zone="UTC"), LAG, ["has no zone: compared by UTC", "more than 0:05:00"]),
        (Evidence(SECOND), LAG, ["1 second: the current one is read when it is over", "more than 0:05:00"]),
        (Evidence(DAY), AGAIN, ["1 day: the current one is read again by each run", "has no default: give a lag"]),
        (Evidence(ID, "f()", alike="NOCASE"), AGAIN, ["NOCASE", "has DEFAULT f"]),
        (Evidence(Column(XMIN, "bigint", hidden=True), "f()"), AGAIN, ["whole table"]),
        (Evidence(Column(XMIN, "bigint"), "f()"), AGAIN, ["has DEFAULT f"]),
        (Evidence(Column("place", "bigint", hidden=True), "f()"), AGAIN, ["has DEFAULT f"]),
    ],
)
def test_exactly_the_risks_of_a_cursor_are_reported(evidence: Evidence, rule: CursorRule, told: list[str]) -> None:
    found = risks(evidence, rule)
    assert len(found) == len(told)
    assert all(part in note for part, note in zip(told, found, strict=True)), found


@pytest.mark.parametrize(
    ("default", "made"),
    [(None, False), ("'now()'", False), ("7", False), ("'it''s (x)'", False), ("now()", True), ("CURRENT_DATE", True)],
)
def test_a_default_makes_values_if_it_calls_something(default: str | None, *, made: bool) -> None:
    assert is_made(default) == made


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        (timedelta(days=1), "1 day"),
        (timedelta(days=7), "7 days"),
        (timedelta(hours=25), "25 hours"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(seconds=61), "61 seconds"),
        (timedelta(milliseconds=1500), "1500 ms"),
        (MICRO, "0.001 ms"),
    ],
)
def test_a_length_of_time_is_said_in_its_largest_unit(unit: timedelta, text: str) -> None:
    assert unit_text(unit) == text


def test_the_resolution_of_a_column_is_that_of_its_type_or_of_all_its_values() -> None:
    assert [Evidence(one).unit for one in (AT, SECOND, DAY)] == [MICRO, timedelta(seconds=1), timedelta(days=1)]
    assert Evidence(Column("at", "timestamp(3) with time zone")).unit == timedelta(milliseconds=1)
    assert Evidence(AT, coarse=HOUR).unit == HOUR
    assert Evidence(DAY, coarse=HOUR).unit == timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2024-05-{text}+00:00")


@pytest.mark.parametrize(
    ("evidence", "rule", "clock", "upper", "safe"),
    [
        (Evidence(AT), ONCE, Clock(NOW), "02 12:34:56.788999", "02 12:34:56.788999"),
        (Evidence(AT), AGAIN, Clock(NOW), "02 12:34:56.789123", "02 12:34:56.788999"),
        (Evidence(AT), LAG, Clock(NOW, NOW - HOUR), "02 12:29:56.788999", "02 12:29:56.788999"),
        (Evidence(AT), AGAIN, Clock(NOW, NOW - HOUR), "02 12:34:56.789123", "02 11:34:56.788999"),
        (Evidence(AT), ONCE, Clock(NOW, NOW + HOUR), "02 12:34:56.788999", "02 12:34:56.788999"),
        (Evidence(AT), ONCE, Clock(NOW, None, HOUR, 2 * HOUR), "02 13:34:56.788999", "02 13:34:56.788999"),
        (Evidence(AT), AGAIN, Clock(NOW, None, HOUR, 2 * HOUR), "02 13:34:56.789123", "02 13:34:56.788999"),
        (Evidence(SECOND), AGAIN, Clock(NOW), "02 12:34:56", "02 12:34:55"),
        (Evidence(AT, latest=HOUR), AGAIN, Clock(NOW), "02 12:34:56.789123", "02 11:00:00"),
        (Evidence(AT, latest=timedelta(days=1)), AGAIN, Clock(NOW), "02 12:34:56.789123", "01 00:00:00"),
        (Evidence(SECOND, latest=MICRO), AGAIN, Clock(NOW), "02 12:34:56", "02 12:34:55"),
    ],
)
def test_a_window_ends_where_no_new_row_can_appear(
    evidence: Evidence, rule: CursorRule, clock: Clock, upper: str, safe: str
) -> None:
    edge = window_edge(evidence, rule, clock)
    assert edge == Edge(at(upper), at(safe), NOW + clock.max_ahead)
    local = window_edge(Evidence(LOCAL, coarse=evidence.unit, latest=evidence.latest), rule, clock)
    assert local == Edge(*(one.replace(tzinfo=None) for one in (edge.upper, edge.safe, edge.now)))


def test_a_machines_clock_is_as_far_ahead_as_the_zone_was_or_will_be() -> None:
    """Clocks of New York are set back at 06:00 UTC, four hours behind until then and five afterwards."""
    zone = CursorRule(timezone="America/New_York")
    for hours, rule, ahead in (
        (-4, zone, (-4, -4)),
        (-2, zone, (-5, -4)),
        (1, zone, (-5, -5)),
        (1, CursorRule(timedelta(hours=2), "America/New_York"), (-5, -4)),
        (1, ONCE, (0, 0)),
    ):
        now = datetime(2024, 11, 3, 6, tzinfo=UTC) + timedelta(hours=hours)
        assert Clock.of_this_machine(now, rule) == Clock(now, None, *(timedelta(hours=one) for one in ahead))


def test_a_position_stays_at_what_is_safe_and_never_goes_back() -> None:
    edge = Edge(at("02 12:00:00"), at("02 11:00:00"), at("02 12:00:00"))

    def ends(last: str | None, highest: str | None) -> Window:
        return time_window(edge, AT, last, highest)

    safe, later, last = "2024-05-02 11:00:00+00:00", "2024-05-02 11:30:00+00:00", "2024-05-02 11:10:00+00:00"
    assert ends(last, None) == Window(last, None)
    assert ends(None, safe) == Window(None, safe)
    assert ends(None, later) == Window(None, later, safe)
    assert ends(last, later) == Window(last, later, last)
    assert ends("2024-05-02 10:00:00+00:00", later).reached == safe
    assert ends(None, "99999-01-01 00:00:00") == Window(None, "99999-01-01 00:00:00")
    assert time_window(edge, AT, None, later, lambda one: f"{one:%H}").reached == "11"


def test_the_window_of_texts_stays_before_those_that_are_equal_to_the_last() -> None:
    assert text_window("a", "c", "b") == Window("a", "c", "b")
    assert text_window("a", "c", None) == Window("a", "c", "a")
    assert text_window(None, "c", None) == Window(None, "c", "")


def test_times_are_read_and_written_as_the_column_has_them() -> None:
    text = "2024-05-02 12:00:00"
    assert read_time(text, AT) == read_time("2024-05-02 14:00:00+02:00", AT) == at("02 12:00:00")
    assert read_time(text, LOCAL) == read_time(f"{text}+02:00", LOCAL) == datetime(2024, 5, 2, 12)
    assert read_time("99999-05-02", AT) is None
    assert format_time(at("02 12:00:00"), AT) == f"{text}+00:00"
    assert format_time(at("02 12:00:00"), DAY) == "2024-05-02"


def test_notes_count_rows_and_tell_long_transactions_only() -> None:
    assert future_row_notes(AT, 0) == ()
    assert future_row_notes(AT, 1)[0].startswith("1 row has a cursor in the future")
    assert future_row_notes(AT, 1200)[0].startswith("1,200 rows have a cursor in the future")
    assert future_row_notes(ID, 2, above=True)[0].startswith("2 rows have the greatest value")
    assert open_transaction_notes(Clock(NOW)) == ()
    assert open_transaction_notes(Clock(NOW, NOW - LONG_TRANSACTION + MICRO)) == ()
    assert "2024-05-02 12:33:56 UTC" in open_transaction_notes(Clock(NOW, NOW - LONG_TRANSACTION))[0]


class Asked:
    """Answers a window's questions from texts, the greatest first, and keeps what it was asked for."""

    def __init__(self, *texts: str, distinct: tuple[str, ...] = ()) -> None:
        self.texts, self.distinct = texts, distinct
        self.asked: list[tuple[int, bool]] = []

    def latest(self, edge: Edge, rows: int, *, distinct: bool) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's
        self.asked.append((rows, distinct))
        return (self.distinct if distinct else self.texts)[:rows]

    def end(self, column: Column = AT) -> Ended:
        texts = self.texts or (None,)
        return ended(Evidence(column), AGAIN, Clock(NOW), lambda _: texts[0], self.latest)


def test_the_latest_values_are_asked_for_only_if_they_may_be_coarse() -> None:
    for texts, column in (((), AT), (("2024-05-02 12:00:00.5",), AT), (("2024-05-01",), DAY)):
        asked = Asked(*texts)
        assert asked.end(column).edge == window_edge(Evidence(column), AGAIN, Clock(NOW))
        assert asked.asked == []


def test_values_without_repeats_are_asked_for_only_if_the_latest_rows_share_few() -> None:
    week = ("2024-04-29 00:00:00", "2024-04-22 00:00:00", "2024-04-15 00:00:00")
    asked = Asked(*[week[0]] * LATEST, distinct=week)
    found = asked.end()
    assert asked.asked == [(LATEST, False), (DISTINCT, True)]
    assert (found.edge.safe, len(found.notes)) == (at("02 00:00:00") - timedelta(days=7), 1)
    assert "resolution of 7 days" in found.notes[0]
    few = Asked(*[week[0]] * (LATEST - 1))
    few.end()
    assert few.asked == [(LATEST, False)], "these are all rows"
    many = [f"2024-05-02 11:{n:02}:00" for n in range(DISTINCT)]
    fine = Asked(*(many[n % DISTINCT] for n in range(LATEST)))
    fine.end()
    assert fine.asked == [(LATEST, False)]


def test_a_value_whose_unit_is_over_is_not_reported() -> None:
    assert Asked("2024-05-01 00:00:00").end().notes == ()
    assert len(Asked("2024-05-02 00:00:00").end().notes) == 1
