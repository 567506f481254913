"""PostgreSQL's types as Arrow types, for which every value survives the round trip, and the types of columns.

The types themselves, and which of them contains another, are in `catalog/types.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pyarrow as pa

from catalog.types import ARROW_DIGITS, ONLY_TEXT, TEXTS, SqlType, carried, fits, parse_type
from dataflows.data.tables import Column

__all__ = [
    "ARROW_DIGITS",
    "LABEL",
    "SqlType",
    "arrow_type",
    "as_text",
    "carried",
    "column_type",
    "fits",
    "parse_type",
    "portable",
]

_ARROW: Final[dict[str, pa.DataType]] = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "time without time zone": pa.time64("us"),
    "bytea": pa.binary(),
} | dict.fromkeys(TEXTS, pa.string())

LABEL: Final = SqlType("label")
"""The label of any enum."""


def column_type(column: Column) -> SqlType:
    """Return the type of a column's values: for a domain, its base type."""
    if column.label:
        return LABEL
    if column.base is not None:
        return parse_type(column.base)
    return parse_type(column.type) if column.builtin else SqlType(column.type, foreign=True)


def portable(column: Column) -> Column:
    """Return the column for a system that does not know its type: with the base type of a domain, else as text."""
    if column.builtin:
        return column
    return replace(column, type=column.base or "text", builtin=True, label=False, base=None)


def as_text(column: Column) -> bool:
    """Return True if another database may refuse the column's bytes, or read them otherwise, unlike its text."""
    kind = column_type(column)
    return kind.foreign or kind.name.removesuffix("[]") in ONLY_TEXT


def arrow_type(kind: SqlType) -> pa.DataType | None:
    """Return the Arrow type that represents each value of `kind` exactly, or None."""
    if carried(kind):
        return pa.string()
    return pa.decimal128(kind.precision, kind.scale) if kind.name == "numeric" else _ARROW.get(kind.name)
