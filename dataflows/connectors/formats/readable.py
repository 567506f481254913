"""Convert the columns of a source, and find the rows that have a value which cannot be converted, by halves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import pyarrow as pa

from dataflows.connectors.formats.contract import RefusedRow, Rows
from penstock.errors import BadData

__all__ = ["NOT_OF_TYPE", "bare", "readable", "without"]

NOT_OF_TYPE: Final = "not_of_type"
"""Code of a row with a value that its column's type cannot represent exactly."""
_E = TypeVar("_E", bound=BadData)


def bare(error: _E) -> _E:
    """Return the error without traceback, cause and context.

    A run may keep one for each row, and they would keep its buffers alive.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def readable(
    values: Any, wanted: pa.DataType, convert: Callable[[Any], pa.Array]
) -> tuple[pa.Array, dict[int, BadData]]:
    """Convert a column; return it with NULL for each value that `convert` refuses, and the errors by row number.

    `values` is an array or a sequence; `convert` raises BadData for values that it cannot convert to `wanted` exactly.
    """
    try:
        return convert(values), {}
    except BadData as error:
        if len(values) == 1:
            return pa.nulls(1, wanted), {0: bare(error)}
    half = len(values) // 2
    (left, before), (right, after) = (readable(part, wanted, convert) for part in (values[:half], values[half:]))
    return pa.concat_arrays([left, right]), before | {half + at: error for at, error in after.items()}


def without(
    batch: pa.RecordBatch, wrong: Sequence[Mapping[int, BadData]], values: Callable[[int], Mapping[str, Any]]
) -> Rows:
    """Return the batch without the rows that have errors; these are refused, with their `values` in the source."""
    first: dict[int, BadData] = {}
    for errors in wrong:
        first = dict(errors) | first
    if not first:
        return Rows(batch)
    refused = tuple(RefusedRow(NOT_OF_TYPE, first[at].what, values(at)) for at in sorted(first))
    return Rows(batch.filter(pa.array([at not in first for at in range(batch.num_rows)], pa.bool_())), refused)
