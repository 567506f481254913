"""Rows of Parquet files as they are requested: each value is kept exactly, or its row is refused by file and number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dataflows.connectors.formats.contract import ReadRequest, RefusedRow, Rows
from dataflows.connectors.formats.nested import json_texts, not_representable
from dataflows.connectors.formats.readable import NOT_OF_TYPE, readable
from dataflows.connectors.formats.types import cast_exactly, sql_type
from dataflows.data.types import arrow_type, parse_type

__all__ = ["checked_rows"]

_NAN: Final = "contains NaN or infinity, which JSON cannot represent"
Wrong = tuple[str, str, list[int]]
"""A code, a reason, and the rows of a batch that it holds for."""


def checked_rows(batch: pa.RecordBatch, first: int, request: ReadRequest) -> Rows:
    """Return the rows of a batch, which begins after `first` rows of its file, with nested values as JSON.

    Raises:
        BadData: a value that the type in the sampled files, another one than here, cannot hold.
        ArrowInvalid: the file is corrupted.
    """
    path = request.where.rpartition(": ")[2]
    arrays, refused = [], dict[int, RefusedRow]()
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        array, wrongs = _column(name, column, request)
        arrays.append(array)
        for code, what, rows in wrongs:
            for row in rows:
                reason = f"{path}, row {first + row + 1}: `{name}` {what}"
                refused.setdefault(row, RefusedRow(code, reason, {"_path": path, "_row": first + row + 1}))
    made = pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
    if not refused:
        return Rows(made)
    kept = made.filter(pa.array([row not in refused for row in range(batch.num_rows)], pa.bool_()))
    return Rows(kept, tuple(refused[row] for row in sorted(refused)))


def _column(name: str, column: pa.Array, request: ReadRequest) -> tuple[pa.Array, Sequence[Wrong]]:
    """Return a column of the requested type with NULL for values that are wrong, and these."""
    column, wrong = _text(column)
    if pa.types.is_nested(column.type):
        if (mask := not_representable(column)) is not None:
            wrong = [*wrong, ("not_json", _NAN, pc.indices_nonzero(mask).to_pylist())]
        return json_texts(column), wrong
    wanted = arrow_type(parse_type(request.columns[name].type)) if name in request.columns else None
    if wanted is None or column.type == wanted:
        return column, wrong
    exact = partial(cast_exactly, wanted=pa.field(name, wanted), where=request.where)
    if sql_type(pa.field(name, column.type), request.where) != request.columns[name].type:
        return exact(column), wrong  # what contradicts the sampled files is an error
    array, errors = readable(column, wanted, exact)
    if not errors:
        return array, wrong
    what = f"has a value of {column.type} that cannot be kept exactly as {wanted}"
    return array, [*wrong, (NOT_OF_TYPE, what, sorted(errors))]


def _text(column: pa.Array) -> tuple[pa.Array, Sequence[Wrong]]:
    """Return a column after a full check, without texts that are not UTF-8, which Arrow does not look for.

    Raises:
        ArrowInvalid: it is corrupted.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise
        raw = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
        raw.validate(full=True)
        rows = list(_not_utf8(raw.to_pylist()))
        if not rows:
            raise
        wrong = set(rows)
        bad = pa.array([row in wrong for row in range(len(raw))], pa.bool_())
        texts = pc.if_else(bad, pa.scalar(None, raw.type), raw).cast(column.type)
        return texts, [("not_text", "contains bytes that are not UTF-8", rows)]
    return column, []


def _not_utf8(values: Sequence[Any]) -> Iterator[int]:
    for row, value in enumerate(values):
        try:
            if value is not None:
                value.decode()
        except UnicodeDecodeError:
            yield row
