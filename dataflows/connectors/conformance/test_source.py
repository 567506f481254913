"""Promises of every source."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from dataflows.connectors import CursorRule, Listed, MissingTable, Refused, Window, parse_type
from dataflows.connectors.conformance.case import ALL, EVERYTHING, HOUR, NAMES, Case, Row, read
from dataflows.connectors.inspection import check_connector

MISSING = "nothing_of_that_name"


@pytest.fixture(scope="module")
def readable(case: Case) -> Iterator[str]:
    """Object to read: the given one, or one that the connector itself has written."""
    if case.source_object is not None:
        yield case.source_object
        return
    pipeline = case.pipeline("merge", "replace")  # a table with a key is split
    pipeline.finish("r1", ALL)
    yield pipeline.sink.object
    pipeline.drop()


def ordered(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=repr)


def test_the_class_has_all_members(case: Case) -> None:
    check_connector(case.connector, "connector")


def test_an_object_has_one_name(case: Case, readable: str) -> None:
    place = case.place(readable)
    assert case.connector.named(place) == case.connector.named(place) != case.connector.named(case.place(MISSING))


def test_a_description_is_the_same_twice_and_its_names_are_unique(case: Case, readable: str) -> None:
    with case.source(readable) as one, case.source(readable) as other:
        table, again = one.describe(), other.describe()
    assert (table.columns, table.keys) == (again.columns, again.keys)
    names = [one.name for one in table.columns]
    assert names
    assert len(set(names)) == len(names)
    assert all(parse_type(one.type).name for one in table.columns)
    assert {name for key in table.keys for name in key} <= set(names)


def test_what_is_listed_can_be_opened_by_its_name(case: Case, readable: str) -> None:
    kind: object = case.connector
    if not isinstance(kind, Listed):
        pytest.skip("it does not list its objects, so it has neither sets nor discovery")
    listed = [one.name for one in kind.objects_of(case.place(readable), (readable,), lambda: None)]
    wanted = case.connector.named(case.place(readable))
    found = [name for name in listed if case.connector.named(case.place(name)) == wanted]
    assert len(found) == 1, f"{readable} is not among {sorted(listed)[:20]}, or more than once"
    with case.source(found[0]) as one, case.source(readable) as other:
        assert one.describe().columns == other.describe().columns


def test_a_missing_object_is_named(case: Case, readable: str) -> None:
    with pytest.raises(MissingTable) as missing, case.source(MISSING) as source:
        source.describe()
    assert MISSING in str(missing.value)


def test_all_rows_that_were_written_are_read(case: Case, readable: str) -> None:
    if case.source_object is not None:
        pytest.skip("give --target-object without --source-object: only then are the rows known")
    assert ordered(case.rows(readable, names=NAMES)) == ordered(ALL)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_splits_of_any_size_have_each_row_once(case: Case, readable: str, rows: int) -> None:
    assert ordered(case.rows(readable, rows=rows)) == ordered(case.rows(readable))


def test_splits_are_numbered_from_the_first(case: Case, readable: str) -> None:
    with case.source(readable) as source:
        table = source.describe()
        splits = source.plan(table, source.split_key(table), EVERYTHING, 10, 5)
    assert [one.number for one in splits] == list(range(5, 5 + len(splits)))


def test_a_split_read_twice_is_the_same(case: Case, readable: str) -> None:
    with case.source(readable) as source:
        table = source.describe()
        key = source.split_key(table)
        splits = source.plan(table, key, EVERYTHING, 10, 0)
        held = source.hold(table, HOUR)
        first, again = (read(source, table, splits, key, held=held, batch_rows=size) for size in (3, 1000))
    assert [ordered(one) for one in first] == [ordered(one) for one in again]


def test_only_the_columns_asked_for_are_read_in_that_order(case: Case, readable: str) -> None:
    with case.source(readable) as source:
        names = [one.name for one in source.describe().columns if not one.hidden]
    whole = case.rows(readable, names=names)
    turned = case.rows(readable, names=names[::-1][:2])
    assert ordered([row[::-1][:2] for row in whole]) == ordered(turned)


def windowed(case: Case, readable: str, last: str | None) -> tuple[Window, list[Row]]:
    """Return the window above `last`, and its rows."""
    with case.source(readable) as source:
        table = source.describe()
        cursor = table.column(case.cursor or "id")
        if cursor is None:
            pytest.skip("give --cursor to test reading what is new")
        try:
            window = source.window(table, cursor, last, CursorRule(ordered=True))
        except Refused as error:
            pytest.skip(f"it is not read by a cursor: {error}")
        splits = source.plan(table, cursor, window, 10, 0) if window.upper is not None else ()
        for one, following in pairwise(splits):
            assert one.upper == following.lower, "windows are cut without gaps"
        names: list[Any] = [one.name for one in table.columns if not one.hidden]
        return window, [row for one in read(source, table, splits, cursor, names=names) for row in one]


def test_a_window_has_the_new_rows_and_the_next_one_none(case: Case, readable: str) -> None:
    window, rows = windowed(case, readable, None)
    assert (window.lower, rows != []) == (None, window.upper is not None)
    if window.upper is not None:
        try:
            again = windowed(case, readable, window.upper)
        except Refused:  # a source that cannot distinguish no new rows from lost rows
            return
        assert again == (Window(window.upper, None), [])


def test_two_windows_have_the_rows_of_one(case: Case, readable: str) -> None:
    whole, rows = windowed(case, readable, None)
    with case.source(readable) as source:
        table = source.describe()
        cursor = table.column(case.cursor or "id")
        splits = source.plan(table, cursor, whole, 10, 0) if whole.upper is not None else ()
        if len(splits) < 2 or splits[0].upper is None:
            pytest.skip("the object is too small to be read in two windows")
        names = [one.name for one in table.columns if not one.hidden]
        middle = splits[0].upper
        lower = source.plan(table, cursor, Window(None, middle), 10, 0)
        first = [row for one in read(source, table, lower, cursor, names=names) for row in one]
    upper, rest = windowed(case, readable, middle)
    assert (upper.lower, upper.upper) == (middle, whole.upper)
    assert first
    assert rest
    assert ordered([*first, *rest]) == ordered(rows)
