"""SQLite's declared types in PostgreSQL's spelling, and exact conversion between its values and Arrow arrays.

A column of SQLite accepts values of any class, whatever its declared type, so each value is checked. Values without a
class of their own are stored as text: decimals with all their digits (declared ``DECIMAL_TEXT(p,s)``, since SQLite
would convert them to floats), and dates and times in ISO form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dataflows.connectors.isolation import RowRefused
from dataflows.data.decimals import as_texts, cast_text
from dataflows.data.tables import Column
from dataflows.data.times import outside
from dataflows.data.types import SqlType, column_type, parse_type
from penstock.errors import BadData

__all__ = ["MIXED", "array", "class_of", "ddl_type", "listed", "sql_type"]

MIXED: Final = "values of several kinds"
"""Type of an untyped column with values of several classes, which can be neither read nor written."""
CLASSES: Final = {"integer": "bigint", "real": "double precision", "text": "text", "blob": "bytea", "null": "text"}
_NAMED: Final = {
    "INT2": "smallint", "INT4": "integer", "FLOAT4": "real", "BOOL": "boolean", "BOOLEAN": "boolean", "UUID": "uuid",
    "DATE": "date", "DATETIME": "timestamp without time zone", "TIMESTAMP": "timestamp without time zone",
    "TIMESTAMPTZ": "timestamp with time zone", "TIME": "time without time zone", "JSON_TEXT": "json",
}  # fmt: skip
_AFFINITIES: Final = (
    (("INT",), "bigint"), (("CHAR", "CLOB", "TEXT"), "text"), (("BLOB",), "bytea"),
    (("REAL", "FLOA", "DOUB"), "double precision"),
)  # fmt: skip
_NUMBERS: Final = ("NUM", "DEC", "MONEY", "CURRENCY")
"""Parts of names of types that are meant for numbers, of those that SQLite knows nothing of."""
_DECLARED: Final = {
    "smallint": "INT2", "integer": "INT4", "bigint": "BIGINT", "real": "FLOAT4", "double precision": "DOUBLE",
    "boolean": "BOOLEAN", "date": "DATE", "timestamp without time zone": "TIMESTAMP",
    "timestamp with time zone": "TIMESTAMPTZ", "time without time zone": "TIME", "bytea": "BLOB", "uuid": "UUID",
    "json": "JSON_TEXT", "jsonb": "JSON_TEXT",
}  # fmt: skip
_DECIMAL: Final = re.compile(r"DECIMAL_TEXT\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def sql_type(text: str, *, sink: bool) -> str:
    """Return a declared type in PostgreSQL's spelling; empty if none is declared.

    An unknown name that is not an integer, text or blob by SQLite's affinity rules is a float: SQLite converts texts
    that look like numbers. Texts in columns such as ``STRING`` stay; of a source the values decide (`class_of`).
    """
    name = text.strip().upper()
    if found := _DECIMAL.fullmatch(name):
        return f"numeric({found[1]},{found[2]})"
    name = name.partition("(")[0].strip()
    if name in {"", "ANY"}:
        return ""
    if name in _NAMED:
        return "jsonb" if sink and _NAMED[name] == "json" else _NAMED[name]
    if name == "JSON" and not sink:
        return "json"
    known = next((kind for parts, kind in _AFFINITIES if any(part in name for part in parts)), None)
    return known or ("double precision" if sink or any(part in name for part in _NUMBERS) else "")


def class_of(text: str, classes: AbstractSet[str]) -> str:
    """Return the type of a column of which all values are of these classes, and whose declared type says nothing."""
    if text.strip() and text.strip().upper() != "ANY" and classes <= {"integer", "real"}:
        return "double precision"
    return CLASSES[next(iter(classes), "null")] if len(classes) <= 1 else MIXED


def ddl_type(column: Column) -> str:
    """Return the type of a column for ``CREATE TABLE``."""
    kind = parse_type(column.type)
    if kind.name == "numeric" and kind.precision is not None:
        return f"DECIMAL_TEXT({kind.precision},{kind.scale})"
    return _DECLARED.get(kind.name, "TEXT")


def array(values: Sequence[Any], column: Column, wanted: pa.DataType, where: str) -> pa.Array:
    """Return the values of a column as the Arrow type `wanted`.

    Raises:
        BadData: one of them is of another class than the column's type, or out of its range.
    """
    kind = column_type(column)
    if kind.name == "json":
        values = [_number(one) if isinstance(one, int | float) else one for one in values]
    classes = set(map(type, values)) - {type(None)}
    try:
        if not classes <= _allowed(wanted):
            raise pa.ArrowInvalid
        found = _converted(values, kind, wanted)
    except UnicodeEncodeError:
        hint = "correct such texts, or leave their rows out by a view"
        raise BadData(f"a value of `{column.name}` is not UTF-8", where=where, hint=hint) from None
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        found = None
    if found is None or outside(found):
        what = f"a value of `{column.name}` is not a valid {column.type}, or cannot be kept exactly"
        hint = "dates and times are read from ISO texts only; leave other rows out by a view, or CAST them there"
        raise BadData(what, where=where, hint=hint) from None
    return found


def _number(value: float) -> str | float:
    """Return a number of a JSON column as text; infinity, which JSON cannot represent, as it is."""
    return repr(value) if math.isfinite(value) else value


def _allowed(wanted: pa.DataType) -> set[type]:
    if pa.types.is_integer(wanted) or pa.types.is_boolean(wanted):
        return {int}
    if pa.types.is_floating(wanted):
        return {int, float}
    return {bytes} if pa.types.is_binary(wanted) else {str}


def _converted(values: Sequence[Any], kind: SqlType, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(wanted):
        found = pa.array(values, pa.int64())
        if pc.any(pc.and_(pc.not_equal(found, 0), pc.not_equal(found, 1))).as_py():
            raise pa.ArrowInvalid
        return found.cast(wanted)
    if pa.types.is_float32(wanted):
        found = pa.array(values, pa.float64())
        if pc.any(pc.not_equal(found.cast(wanted).cast(pa.float64()), found)).as_py():
            raise pa.ArrowInvalid
        return found.cast(wanted)
    if kind.name == "time without time zone":
        texts = pc.binary_join_element_wise("1970-01-01", pa.array(values, pa.string()), " ")
        return texts.cast(pa.timestamp("us")).cast(wanted)
    if wanted in (pa.string(), pa.binary()) or pa.types.is_integer(wanted) or pa.types.is_floating(wanted):
        return pa.array(values, wanted)
    return cast_text(pa.array(values, pa.string()), wanted)


def listed(found: pa.Array, name: str, where: str) -> list[Any]:
    """Return the values of an Arrow array as SQLite accepts them.

    Raises:
        BadData: a time outside of the years 1 to 9999, or NaN, which SQLite would make NULL.
    """
    import polars as pl

    kind = found.type
    bad = pa.types.is_floating(kind) and pc.any(pc.is_nan(found)).as_py()
    if bad or outside(found):
        what = f"SQLite cannot hold a value of `{name}`: {'NaN' if bad else 'a time out of its range'}"
        raise RowRefused(what, where=where, hint="leave such rows out, or map them to NULL", state="value", column=name)
    if pa.types.is_boolean(kind):
        found = found.cast(pa.int8())
    elif pa.types.is_decimal(kind):
        found = as_texts(found)
    elif pa.types.is_temporal(kind):
        found = found.cast(pa.string())
    return pl.Series(pa.chunked_array([found])).to_list()
