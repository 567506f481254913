"""Comparison of both sides: nothing that differs is missed, and what is on its way is not called different."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from dataflows.data.cursors import time_text
from dataflows.data.tables import Column
from dataflows.runs import comparison, sides
from dataflows.runs.checking import recorded
from dataflows.runs.comparison import Comparison
from dataflows.runs.job import Job
from dataflows.runs.survey import opened
from penstock.errors import BadData, Refused
from penstock.records.commands import MAX_POSITION
from tests.dataflows.conftest import Copy, Launchers
from tests.pairs import soon


def compared(task: dict[str, Any], since: str | None = None) -> Comparison:
    job = Job.from_task(task)
    with opened(job) as ends:
        return comparison.compare(job, ends, since=since, wait=0)


def keyed(made: Copy, write: str, **changes: Any) -> dict[str, Any]:
    """Return a task whose sink has the key `id`."""
    task = made.task("r1", **changes)
    task["pipeline"]["spec"]["sink"] |= {"write": write, "key": ["id"]}
    if write in {"merge", "scd2"}:
        made.session.execute(f"DROP TABLE {made.target}")
    return task


@pytest.mark.parametrize(
    ("write", "arrow"),
    soon(
        product(("append", "replace", "merge", "scd2"), (False, True)),
        ("append", False),
        ("replace", True),
        ("merge", False),
        ("scd2", True),
    ),
)
def test_each_row_that_differs_is_found(
    copy: Callable[..., Copy], launchers: Launchers, write: str, *, arrow: bool
) -> None:
    made = copy("append" if write in {"append", "scd2"} else "replace", arrow=arrow)
    task = keyed(made, write)
    assert launchers.run(task)["status"] == "completed"
    rows = made.value("SELECT count(*) FROM items")
    found = compared(task)
    assert (found.source_rows, found.target_rows, found.agree) == (rows, rows, True)
    made.session.execute(f"UPDATE {made.target} SET price = coalesce(price, 0) + 0.01 WHERE id IN (7, 300)")
    made.session.execute(f"DELETE FROM {made.target} WHERE id IN (1, 2, 3)")
    current = ", id, NULL, true" if write == "scd2" else ""
    made.session.execute(f"INSERT INTO {made.target} SELECT -id, 'foreign', 1, at{current} FROM items WHERE id = 9")
    found = compared(task)
    assert (found.missing, found.extra, found.changed, found.agree) == (3, 1, 2, False)
    assert {(one.kind, one.key["id"], one.columns) for one in found.differences} == {
        *(("missing", number, ()) for number in (1, 2, 3)),
        ("extra", -9, ()),
        *(("changed", number, ("price",)) for number in (7, 300)),
    }


def test_rows_above_the_position_are_on_their_way(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    task = keyed(made, "merge")
    launchers.run(task)
    made.add(4)
    made.session.execute(f"DELETE FROM {made.target} WHERE id = 5")
    found = compared(task)
    assert (found.missing, found.extra, found.changed, found.in_flight) == (1, 0, 0, 4)
    assert found.differences[0].key == {"id": 5}


def test_before_a_run_has_read_a_row_all_are_on_their_way(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    task = keyed(made, "merge")
    task["pipeline"]["spec"]["source"]["cursor"] = {"field": "at", "lag": "500000h"}
    launchers.run(task)
    found = compared(task)
    assert (found.agree, found.target_rows) == (True, 0)
    assert found.in_flight == found.source_rows > 0


def test_of_too_many_differences_a_part_is_looked_at(
    copy: Callable[..., Copy], launchers: Launchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "MAX_ROWS", 50)
    made = copy("append")
    task = keyed(made, "merge")
    launchers.run(task)
    rows = made.value("SELECT count(*) FROM items")
    made.add(100)
    found = compared(task)
    assert (found.agree, found.in_flight, found.partly, found.source_rows) == (True, 100, False, rows + 100)
    made.session.execute(f"DELETE FROM {made.target} WHERE id % 4 = 0")
    found = compared(task)
    assert (found.agree, found.partly, found.extra, found.changed) == (False, True, 0, 0)
    assert (0 < found.missing <= 50, found.in_flight) == (True, 100)
    assert {one.key["id"] % 4 for one in found.differences} == {0}


def test_a_position_that_is_too_long_for_the_log_stays_out_of_it() -> None:
    for length, kept in ((MAX_POSITION, True), (MAX_POSITION + 1, False)):
        found = recorded(Comparison("p", 1, 1, position="x" * length), "u" * 32)
        assert (found.position is not None, found.agree) == (kept, True)


def test_only_rows_since_a_value_of_the_cursor_are_compared(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    task = keyed(made, "merge")
    launchers.run(task)
    made.add(4)
    top = made.value("SELECT max(id) FROM items")
    made.session.execute(f"DELETE FROM {made.target} WHERE id IN (5, {top - 7})")
    made.session.execute(f"UPDATE {made.target} SET id = -6 WHERE id = 6")
    made.session.execute(f"UPDATE {made.target} SET price = coalesce(price, 0) + 1 WHERE id = 8")
    found = compared(task, since=str(top - 9))
    assert (found.source_rows, found.target_rows, found.since) == (10, 5, str(top - 9))
    assert (found.missing, found.extra, found.changed, found.in_flight) == (1, 0, 0, 4)
    assert compared(task, since="9").missing == 1
    assert (compared(task, since="8").changed, compared(task, since="5").missing) == (1, 3)
    made.session.execute(f"UPDATE {made.target} SET id = {top + 1} WHERE id = 7")
    assert {(one.kind, one.key["id"]) for one in compared(task, since=str(top + 1)).differences} == {("extra", top + 1)}


@pytest.mark.parametrize(
    ("write", "since", "why"),
    [
        ("replace", "7", "has no cursor"),
        ("merge", "7d", "is no time"),
        ("merge", "x", "not a value of the cursor's type"),
        ("merge", f"{10**30}d", "no time is so long ago"),
        ("merge", "999999d", "no time is so long ago"),
    ],
)
def test_rows_since_what_is_no_value_of_the_cursor_are_refused(
    copy: Callable[..., Copy], launchers: Launchers, write: str, since: str, why: str
) -> None:
    made = copy("append" if write == "merge" else "replace")
    task = keyed(made, write)
    launchers.run(task)
    with pytest.raises(Refused, match=why) as raised:
        compared(task, since=since)
    assert raised.value.where == f"{task['pipeline']['metadata']['name']}: --since"


def test_how_long_ago_is_by_the_servers_zone(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    base = made.value("SELECT current_database()")
    made.session.execute(f"ALTER DATABASE {base} SET timezone = 'Asia/Kolkata'")
    try:
        made.session.execute(
            "CREATE TABLE timed AS SELECT n AS id, now() AT TIME ZONE 'Asia/Kolkata' - n * interval '40 min' AS seen "
            "FROM generate_series(1, 3) n"
        )
        task = keyed(made, "merge")
        task["pipeline"]["spec"]["source"] |= {"object": "public.timed", "cursor": {"field": "seen", "lag": "1s"}}
        done = launchers.run(task)
        assert done["status"] == "completed", done
        assert compared(task, since="1h").source_rows == 1
        task["pipeline"]["spec"]["source"]["cursor"]["timezone"] = "Asia/Kolkata"
        assert compared(task, since="1h").source_rows == 1, "as the pipeline says itself"
    finally:
        made.session.execute(f"ALTER DATABASE {base} RESET timezone")
        made.session.execute("DROP TABLE timed")


@pytest.mark.parametrize(
    ("type_", "zone", "text"),
    [
        ("timestamp with time zone", None, "2026-01-01 12:00:00+00:00"),
        ("timestamp without time zone", "Europe/Berlin", "2026-01-01 13:00:00"),
        ("date", None, "2026-01-01"),
    ],
)
def test_a_time_has_the_form_of_the_cursor(type_: str, zone: str | None, text: str) -> None:
    assert time_text(datetime(2026, 1, 1, 12, tzinfo=UTC), Column("at", type_), zone, "x") == text


def test_without_a_key_equal_rows_are_counted_and_more_than_can_be_compared_are_refused(
    copy: Callable[..., Copy], launchers: Launchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = copy("append")
    task = made.task("r1")
    launchers.run(task)
    again = f"INSERT INTO {made.target} SELECT id, name, price, at FROM {made.target} WHERE id = 5"
    made.session.execute(again)
    found = compared(task)
    assert (found.key, found.agree, len(found.differences)) == ((), False, 1)
    monkeypatch.setattr(comparison, "MAX_ROWS", 3)
    for _ in range(2):
        made.session.execute(again)
    with pytest.raises(BadData, match="more changes now"):
        compared(task)


def test_before_the_first_run_there_is_nothing_to_compare(copy: Callable[..., Copy]) -> None:
    made = copy("append")
    made.session.execute("DROP TABLE IF EXISTS w._penstock_runs, w._penstock_positions CASCADE")
    with pytest.raises(Refused, match="nothing was loaded yet"):
        compared(made.task("r1"))


@pytest.mark.parametrize("emptied", ["target", "source"])
def test_a_side_without_rows_is_compared(copy: Callable[..., Copy], launchers: Launchers, emptied: str) -> None:
    made = copy("append")
    task = keyed(made, "append")
    launchers.run(task)
    rows = made.value("SELECT count(*) FROM items")
    made.session.execute(f"DELETE FROM {made.target if emptied == 'target' else 'items'}")
    found = compared(task)
    assert (found.missing, found.extra) == ((rows, 0) if emptied == "target" else (0, rows))


def test_a_column_that_the_target_lacks_is_told(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    done = launchers.run(keyed(made, "append"))
    assert done["status"] == "completed", done
    made.session.execute("ALTER TABLE items ADD COLUMN added text")
    task = keyed(made, "append")
    task["pipeline"]["spec"]["schema"] = {"additive": "apply"}
    found = compared(task)
    assert (found.agree, found.not_compared) == (True, ("added",))
    made.session.execute(f"DROP TABLE {made.target}; CREATE TABLE {made.target} (foreign_one int)")
    with pytest.raises(Refused, match="none of the columns"):
        compared(task)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1.0, "b": 2e1}', '{"b": 20, "a": 1}', True),
        ("10000000000000000000000000000000001", "10000000000000000000000000000000002", False),
        ('"number 1"', "1", False),
        ("1e999999999999999999999", "2e999999999999999999999", False),
        ("not JSON", "not JSON", True),
        ("not JSON", '"not JSON"', False),
    ],
)
def test_equal_json_has_one_form(one: str, other: str, *, same: bool) -> None:
    first, second = (sides._one_json(text) for text in (one, other))
    assert (first == second) is same
