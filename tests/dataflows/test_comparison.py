"""Comparison of both sides: nothing that differs is missed, and what is on its way is not called different."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dataflows.runs import comparison
from dataflows.runs.comparison import Comparison
from dataflows.runs.job import Job
from dataflows.runs.survey import opened
from penstock.errors import Refused
from tests.dataflows.conftest import Copy, Launchers


def compared(task: dict[str, Any]) -> Comparison:
    job = Job.from_task(task)
    with opened(job) as ends:
        return comparison.compare(job, ends, wait=0)


def keyed(made: Copy, write: str, **changes: Any) -> dict[str, Any]:
    """Return a task whose sink has the key `id`."""
    task = made.task("r1", **changes)
    task["pipeline"]["spec"]["sink"] |= {"write": write, "key": ["id"]}
    if write in {"merge", "scd2"}:
        made.session.execute(f"DROP TABLE {made.target}")
    return task


@pytest.mark.parametrize("write", ["append", "replace", "merge", "scd2"])
@pytest.mark.parametrize("arrow", [False, True])
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


def test_without_a_key_equal_rows_are_counted(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    task = made.task("r1")
    launchers.run(task)
    made.session.execute(f"INSERT INTO {made.target} SELECT id, name, price, at FROM {made.target} WHERE id = 5")
    found = compared(task)
    assert (found.key, found.agree, len(found.differences)) == ((), False, 1)


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
    first, second = (comparison._one_json(text) for text in (one, other))
    assert (first == second) is same
