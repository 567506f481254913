"""Statistics of a column in Arrow, of any type."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from dataflows.data.statistics import BOUNDS, LONGEST, measured, of_table

NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
)


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        (pa.array([10, 9, None, -1]), ("-1", "9", "10")),
        (pa.array([Decimal("10.5"), Decimal("9.25")]), ("9.25", "10.50")),
        (pa.array([2.5, float("nan"), float("inf"), -1e300]), ("-1e+300", "2.5", "inf", "nan")),
        (pa.array([True, False, True]), ("false", "true")),
        (pa.array(["b", "10", "9"]), ("10", "9", "b")),
        (pa.array([date(2026, 11, 30), date(999, 1, 2)]), ("0999-01-02", "2026-11-30")),
        (pa.array([datetime(2026, 11, 30, 12, tzinfo=UTC)], pa.timestamp("ms", "Europe/Berlin")),
         ("2026-11-30 12:00:00.000",)),
        (pa.array([b"\x00\xff"], pa.binary()), ("\\x00ff",)),
        (pa.array([b"ab"], pa.large_binary()), ("\\x6162",)),
        (pa.array([{"a": [1, None]}]), ('{"a": [1, null]}',)),
        (pa.array([[datetime(2026, 1, 1)]]), ('["2026-01-01T00:00:00"]',)),
        (pa.array(["x", None, "x"]).dictionary_encode(), ("x",)),
        (NOT_UTF8, ("a", "\ufffd")),
        (pa.array([None, None], pa.null()), ()),
    ],
)  # fmt: skip
def test_values_of_each_type_are_put_in_their_order(values: pa.Array, bounds: tuple[str, ...]) -> None:
    found = measured(values, whole=True)
    assert (found.bounds, found.rows, found.distinct) == (bounds, len(values), len(bounds))
    assert measured(pa.chunked_array([values]), whole=True) == found


def test_a_sample_is_summed_up_in_numbers_and_a_few_values() -> None:
    rows = pa.table({"id": range(1000), "kind": ["a", "b", None, "a"] * 250, "text": ["x" * 900] * 1000})
    found = of_table(rows)
    assert (found["id"].distinct, found["id"].top, len(found["id"].bounds)) == (-1.0, (), BOUNDS)
    assert (found["id"].bounds[0], found["id"].bounds[-1]) == ("0", "999")
    kind = found["kind"]
    assert (kind.nulls, kind.distinct, kind.top) == (0.25, 2.0, (("a", 0.5), ("b", 0.25)))
    assert (found["text"].width, found["text"].top) == (900, (("x" * LONGEST, 1.0),))
    assert of_table(rows.slice(0, 0)) == {}
    assert of_table(rows.slice(0, 9), whole=True)["id"].distinct == 9
