"""NULLs by column: runs report those of the rows that they have written, in every form, from every process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from dataflows.data.changes import CHANGE, DELETE
from dataflows.data.nulls import MOST_COLUMNS, OTHER, Nulls, nulls_of

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers


@pytest.mark.parametrize(("arrow", "workers"), [(False, 1), (True, 1), (False, 2), (True, 2)])
def test_a_run_reports_the_nulls_that_it_has_written(
    copy: Callable[..., Copy], launchers: Launchers, *, arrow: bool, workers: int
) -> None:
    made = copy("append", arrow=arrow, workers=workers)
    task = made.task("r1")
    assert launchers.run(task)["status"] == "completed"
    said = Path(task["result"] + ".log").read_text().splitlines()
    reports = [json.loads(line) for line in said if line.startswith("{")]
    rows, names, prices = (
        made.value(f"SELECT count(*) FROM {made.target} WHERE {which} IS NULL") for which in ("NULL", "name", "price")
    )
    assert (rows, names > 0, prices > 0) == (600, True, True)
    found = [one["nulls"] for one in reports if "nulls" in one]
    assert found == [{"rows": rows, "columns": {"id": 0, "name": names, "price": prices, "at": 0}}], "once, at its end"


def test_changes_count_only_if_all_of_their_values_are_known() -> None:
    changes = [None, DELETE, '{"op": "keep", "columns": ["b"]}', None]
    batch = pa.record_batch({"a": [1, 2, 3, 4], "b": [None, None, None, "x"], CHANGE: changes})
    assert nulls_of(batch) == (2, {"a": 0, "b": 1})
    assert nulls_of(batch.slice(1, 2)) == (0, {})
    assert nulls_of(batch.slice(3, 1)) == (1, {"a": 0, "b": 0})


def test_columns_beyond_the_most_are_reported_as_their_mean() -> None:
    nulls = Nulls()
    assert nulls.as_dict() is nulls.take() is None
    nulls.add(10, {f"c{number:03}": number % 10 for number in range(MOST_COLUMNS + 10)})
    nulls.add(10, {"c000": 10})
    found = nulls.as_dict()
    assert found is not None
    assert (found["rows"], len(found["columns"])) == (20, MOST_COLUMNS + 1)
    assert (found["columns"]["c000"], found["columns"][OTHER]) == (10, 4)
    taken = nulls.take()
    assert taken is not None
    assert (len(taken["columns"]), nulls.as_dict()) == (MOST_COLUMNS + 10, None)
