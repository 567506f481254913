"""Of rows that are refused together, exactly those are found that are refused alone."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pyarrow as pa
import pytest

from dataflows.connectors.formats.readable import readable, without
from dataflows.connectors.isolation import RowRefused, refused_rows
from penstock.errors import BadData


def batch(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"n": pa.array(values, pa.int64())})


def refusal(rows: pa.RecordBatch) -> RowRefused | None:
    """Refuse a batch that has a negative number."""
    bad = [n for n in rows["n"].to_pylist() if n < 0]
    return RowRefused(f"{bad[0]} is refused", where="t") if bad else None


@pytest.mark.parametrize("values", [(), (1,), (-1,), (1, -2), (-1, -2, -3), (1, 2, 3), (-1, 2, 3, 4, -5, 6, -7)])
def test_each_refused_row_is_found_by_its_number_and_with_its_own_error(values: tuple[int, ...]) -> None:
    wanted = [(at, f"{n} is refused") for at, n in enumerate(values) if n < 0]
    assert [(at, error.what) for at, error in refused_rows(batch(*values), refusal)] == wanted
    assert [at for at, _ in refused_rows(batch(*values), refusal, 100)] == [at + 100 for at, _ in wanted]


def test_a_refusal_is_final_unless_it_says_that_it_waits() -> None:
    assert (RowRefused("x", where="t").waits, RowRefused("x", where="t", waits=True).waits) == (False, True)
    assert "x" in str(RowRefused("x", where="t", hint="y"))


def convert(values: Any) -> pa.Array:
    try:
        return pa.array([int(one) for one in values], pa.int64())
    except ValueError as error:
        raise BadData(str(error), where="t") from None


@pytest.mark.parametrize("values", [["1"], ["x"], ["1", "x"], ["x", "2", "3", "y", "5"], ["1", "2", "3"]])
def test_a_column_is_read_but_for_the_values_that_cannot_be(values: list[str]) -> None:
    array, errors = readable(values, pa.int64(), convert)
    assert array.to_pylist() == [int(one) if one.isdigit() else None for one in values]
    assert {at: repr(values[at]) in error.what for at, error in errors.items()} == {
        at: True for at, one in enumerate(values) if not one.isdigit()
    }


def test_rows_with_an_error_are_refused_with_their_first_one() -> None:
    one, two = BadData("one", where="t"), BadData("two", where="t")
    rows = without(batch(10, 11, 12, 13), [{2: one}, {2: two, 0: two}, {}], lambda at: {"n": 10 + at})
    assert rows.batch.equals(batch(11, 13))
    assert [(found.reason, found.values) for found in rows.refused] == [("two", {"n": 10}), ("one", {"n": 12})]
    whole = without(batch(1), [{}], lambda _: {})
    assert (whole.batch, whole.refused) == (batch(1), ())


class Buffer:
    """Memory that an attempt takes."""


def test_errors_that_are_kept_keep_nothing_of_the_attempts() -> None:
    seen: list[weakref.ref[Buffer]] = []

    def attempt(rows: pa.RecordBatch) -> RowRefused | None:
        buffer = Buffer()
        seen.append(weakref.ref(buffer))
        try:
            raise ValueError(rows.num_rows)
        except ValueError:
            try:
                raise RowRefused("no", where="t")
            except RowRefused as error:
                return error

    def converted(values: Any) -> pa.Array:
        buffer = Buffer()
        seen.append(weakref.ref(buffer))
        raise BadData(f"{len(values)} values", where="t")

    kept = [list(refused_rows(batch(1, 2, 3, 4), attempt)), readable([1, 2, 3, 4], pa.int64(), converted)]
    gc.collect()
    assert len(seen) == 14
    assert not [one for one in seen if one() is not None], kept
