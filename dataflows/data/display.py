"""Rows as Python's values, for people to look at: in dead letters, previews and tests of pipelines."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = ["rows_of"]


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """One dictionary a row; a date or time that Python has no value for is there as a text."""
    columns = [_values(column) for column in batch.columns]
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    try:
        found: list[Any] = column.to_pylist()
    except OverflowError:  # Arrow's days and microseconds go beyond the years 1 to 9999
        found = column.cast(pa.string()).to_pylist()
    return found
