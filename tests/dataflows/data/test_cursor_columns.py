"""The column by which a pipeline reads only new rows, and the windows of one run as values of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dataflows.data.cursors import CursorRule, Window, cursor_column, since, split_key, time_text, window_between
from dataflows.data.tables import Column, Table
from penstock.errors import MissingColumn, PenstockError, Refused, SchemaMismatch
from penstock.models.domain import Reload

ID, DAY, NAME = Column("id", "bigint"), Column("day", "date"), Column("name", "text")
LOCAL, AT = Column("local", "timestamp without time zone"), Column("at", "timestamp with time zone")
FLAG, LOST = Column("flag", "boolean"), Column("lost", "bigint", unreadable="`lost` cannot be read")
TABLE = Table(
    "orders", "r", (ID, DAY, NAME, LOCAL, AT, FLAG, LOST), (("flag", "id"), ("gone",), ("day", "id"), ("id",))
)


def window(cursor: Column, start: str, end: str, last: str) -> Window:
    return window_between(Reload.parse({"rows": "window", "from": start, "to": end}), cursor, last, "orders")


def test_a_rule_is_careful_unless_something_else_is_said() -> None:
    assert CursorRule() == CursorRule(timedelta(0), None, idempotent=False, ordered=False)


def test_a_position_is_where_the_window_ends_unless_it_has_reached_less() -> None:
    assert Window("1", "9").position == "9"
    assert Window("1", "9", "7").position == "7"


def test_a_table_is_split_by_its_first_key_of_an_ordered_type() -> None:
    assert split_key(TABLE) == DAY
    assert split_key(Table("orders", "r", TABLE.columns, (("flag",),))) is None


def test_a_cursor_is_a_readable_column_of_an_ordered_type() -> None:
    assert cursor_column(TABLE, "id", "orders") == ID
    for name, error, said in (
        ("nme", MissingColumn, "no such column"),
        ("flag", SchemaMismatch, "boolean cannot be a cursor"),
        ("lost", SchemaMismatch, "`lost` cannot be read"),
    ):
        with pytest.raises(error, match=said):
            cursor_column(TABLE, name, "orders")


@pytest.mark.parametrize(
    ("cursor", "start", "end", "last", "found"),
    [
        (ID, "5", "6", "9", Window("4", "5")),
        (ID, "5", "20", "9", Window("4", "9")),
        (ID, "9", "20", "9", Window("8", "9")),
        (DAY, "2024-03-01", "2024-03-02", "2024-06-01", Window("2024-02-29", "2024-03-01")),
        (
            LOCAL,
            "2024-03-01 00:00",
            "2024-03-02 00:00",
            "2024-06-01 00:00",
            Window("2024-02-29 23:59:59.999999", "2024-03-01 23:59:59.999999"),
        ),
    ],
)
def test_a_window_of_values_ends_before_its_end_and_where_earlier_runs_ended(
    cursor: Column, start: str, end: str, last: str, found: Window
) -> None:
    assert window(cursor, start, end, last) == found


@pytest.mark.parametrize(
    ("cursor", "start", "end", "last", "said"),
    [
        (ID, "5", "5", "9", "the window is empty"),
        (ID, "10", "12", "9", "have read up to 9 only"),
        (ID, "x", "12", "9", "not a value"),
        (ID, "5", "x", "9", "not a value"),
        (LOCAL, "2024-03-01 00:00+01:00", "2024-03-02 00:00", "2024-06-01 00:00", "not a value"),
        (NAME, "a", "b", "c", "has no windows"),
    ],
)
def test_a_window_that_cannot_be_read_again_is_refused(
    cursor: Column, start: str, end: str, last: str, said: str
) -> None:
    with pytest.raises(Refused, match=said):
        window(cursor, start, end, last)


def test_rows_since_a_value_are_above_the_one_before_it() -> None:
    assert since("5", ID, "orders") == "4"
    assert since("2024-03-01T01:00", AT, "orders") == "2024-03-01 00:59:59.999999+00:00"
    with pytest.raises(Refused, match="has no windows"):
        since("a", NAME, "orders")


@pytest.mark.parametrize(
    ("cursor", "zone", "text"),
    [
        (DAY, "Asia/Tokyo", "2024-03-02"),
        (DAY, None, "2024-03-01"),
        (LOCAL, "Asia/Tokyo", "2024-03-02 05:00:00"),
        (LOCAL, None, "2024-03-01 20:00:00"),
        (AT, "Asia/Tokyo", "2024-03-02 05:00:00+09:00"),
        (AT, None, "2024-03-01 20:00:00+00:00"),
    ],
)
def test_a_time_is_written_as_the_column_has_it(cursor: Column, zone: str | None, text: str) -> None:
    assert time_text(datetime(2024, 3, 1, 20, tzinfo=UTC), cursor, zone, "orders") == text


def test_a_time_is_no_value_of_a_number() -> None:
    with pytest.raises(PenstockError, match="is no time"):
        time_text(datetime(2024, 3, 1, tzinfo=UTC), ID, None, "orders")


@pytest.mark.parametrize("cursor", [ID, DAY, LOCAL, AT])
def test_the_example_in_the_hint_is_a_value_of_the_cursors_type(cursor: Column) -> None:
    with pytest.raises(Refused) as refused:
        since("soon", cursor, "orders")
    _, _, example = str(refused.value.hint).partition("write a value such as ")
    assert since(example, cursor, "orders")
