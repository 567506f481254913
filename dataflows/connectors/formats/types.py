"""Arrow's types, as files have them, in PostgreSQL's spelling; and columns of files as the types that are asked for.

Each value is kept or refused: what does not go exactly is an error that names file and column. Nanoseconds are kept
where they are whole microseconds; nested values become JSON text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from dataflows.connectors.formats.nested import json_texts, unsupported_in_json, uuid_texts
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, fits, parse_type
from penstock.errors import BadData, SchemaMismatch

__all__ = [
    "LONG_BIGINT",
    "UNKNOWN",
    "can_read_as",
    "cast_exactly",
    "common_type",
    "file_column",
    "file_field",
    "final_type",
    "sql_type",
    "union_columns",
]

TYPE_KEY: Final = b"penstock.type"
"""Where a written Parquet column keeps its type in PostgreSQL's spelling."""
UNKNOWN: Final = "unknown"
"""The type of a column without a value."""
LONG_BIGINT: Final = "long bigint"
"""Whole numbers, of which a double rounds some: a sample tells them apart from those that may join a double."""
DIGITS: Final = 38
_PLAIN: Final = {
    pa.bool_(): "boolean", pa.int8(): "smallint", pa.int16(): "smallint", pa.uint8(): "smallint",
    pa.int32(): "integer", pa.uint16(): "integer", pa.int64(): "bigint", pa.uint32(): "bigint",
    pa.uint64(): "numeric(20,0)", pa.float16(): "real", pa.float32(): "real", pa.float64(): "double precision",
    pa.string(): "text", pa.large_string(): "text", pa.string_view(): "text", pa.null(): "unknown",
    pa.binary(): "bytea", pa.large_binary(): "bytea", pa.binary_view(): "bytea", pa.date32(): "date",
    pa.date64(): "date", pa.uuid(): "uuid",
}  # fmt: skip


def sql_type(field: pa.Field, where: str) -> str:
    """What a column of a file is in PostgreSQL's spelling.

    Raises:
        SchemaMismatch: values of its type cannot be kept exactly.
    """
    stored = (field.metadata or {}).get(TYPE_KEY, b"").decode(errors="replace")
    if stored and arrow_type(parse_type(stored)) is not None:
        return str(stored)
    found = _sql_name(field.type)
    if found is None:
        what = f"`{field.name}` is {field.type}, which no column keeps exactly"
        if pa.types.is_nested(field.type):
            what = f"`{field.name}` holds {unsupported_in_json(field.type)}, which JSON cannot say"
        hint = "leave it out of the file or the mapping, or write it there as a type that a table can keep"
        raise SchemaMismatch(what, where=where, hint=hint)
    return found


def file_column(field: pa.Field, where: str) -> Column:
    """A column of a file; one of a type that cannot be kept says why, for whoever maps it."""
    try:
        return Column(field.name, sql_type(field, where), nullable=field.nullable)
    except SchemaMismatch as error:
        return Column(field.name, str(field.type), nullable=field.nullable, unreadable=str(error))


def _sql_name(kind: pa.DataType) -> str | None:
    if kind in _PLAIN:
        return _PLAIN[kind]
    if pa.types.is_dictionary(kind):
        return _sql_name(kind.value_type)
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})" if kind.scale >= 0 and kind.precision <= DIGITS else None
    if pa.types.is_timestamp(kind):
        return "timestamp with time zone" if kind.tz else "timestamp without time zone"
    if isinstance(kind, pa.JsonType) or (pa.types.is_nested(kind) and unsupported_in_json(kind) is None):
        return "json"
    return next((name for check, name in _KINDS if check(kind)), None)


_KINDS: Final = ((pa.types.is_time, "time without time zone"), (pa.types.is_fixed_size_binary, "bytea"))


def can_read_as(found: str, wanted: str) -> bool:
    """True if values of one type of files may be read as another, each exactly or refused where it is not."""
    if found in (wanted, UNKNOWN):
        return True
    one, other = parse_type(found), parse_type(wanted)
    whole = {"smallint", "integer", "bigint", "numeric"}
    return fits(one, other) or (one.name in whole and other.name in whole)


def union_columns(
    shapes: Sequence[tuple[str, tuple[Column, ...]]], where: str, *, text: bool = False
) -> tuple[Column, ...]:
    """The columns of several files: the union of their names, each of a type that keeps the values of all.

    A column that some files do not have may be NULL. In formats that are `text`, what differs is text; in others, a
    column of two types of which neither keeps the other's values is unreadable.
    """
    found: dict[str, Column] = {}
    origin: dict[str, str] = {}
    for path, columns in shapes:
        for column in columns:
            known = found.setdefault(column.name, column)
            first = origin.setdefault(column.name, path)
            kind = common_type(known.type, column.type, text=text)
            unreadable = known.unreadable or column.unreadable
            if kind is None and unreadable is None:
                what = f"`{column.name}` is {known.type} in {first} and {column.type} in {path}"
                hint = "leave it out of the mapping, read the files by two pipelines, or write them alike"
                unreadable = f"{where}: {what}; {hint}"
            nullable = known.nullable or column.nullable
            found[column.name] = Column(column.name, kind or known.type, nullable, unreadable=unreadable)
    names = [{column.name for column in columns} for _, columns in shapes]
    return tuple(
        replace(
            column,
            type=final_type(column.type),
            nullable=column.nullable or not all(column.name in have for have in names),
        )
        for column in found.values()
    )


def final_type(kind: str) -> str:
    """The type of a column, once all that tell it are united."""
    return {UNKNOWN: "text", LONG_BIGINT: "bigint"}.get(kind, kind)


def common_type(one: str, other: str, *, text: bool) -> str | None:
    """A type that keeps the values of both; None where there is none. In formats that are `text`, text always does."""
    if other in (one, UNKNOWN):
        return one
    if one == UNKNOWN:
        return other
    if text:
        both = {one, other}
        return next((kind for kinds, kind in _COMMON_TYPES if both <= kinds), "text")
    first, second = parse_type(one), parse_type(other)
    return other if fits(first, second) else one if fits(second, first) else None


_COMMON_TYPES: Final = (
    ({"bigint", LONG_BIGINT}, LONG_BIGINT), ({"bigint", LONG_BIGINT, "numeric(38,0)"}, "numeric(38,0)"),
    ({"bigint", "double precision"}, "double precision"),
)  # fmt: skip
"""Of types that a sample tells, those that one of them keeps exactly."""


def file_field(column: Column) -> pa.Field:
    """A column as it is written to Parquet.

    Raises:
        KeyError: there is no Arrow type for it.
    """
    kind = arrow_type(parse_type(column.type))
    if kind is None:
        raise KeyError(column.type)
    return pa.field(column.name, kind, nullable=column.nullable, metadata={TYPE_KEY: column.type.encode()})


def cast_exactly(array: pa.Array, wanted: pa.Field, where: str) -> pa.Array:
    """A column of a file as the Arrow type that is asked for.

    Raises:
        BadData: a value that this type does not keep exactly.
    """
    try:
        return _converted(array, wanted.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError):
        what = f"a value of `{wanted.name}` ({array.type}) is not kept exactly as {wanted.type}"
        raise BadData(what, where=where, hint="leave such rows out, or read the column as another type") from None


def _converted(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    kind = array.type
    if kind == wanted:
        return array
    if isinstance(kind, pa.UuidType):
        return uuid_texts(array.storage).cast(wanted)
    if isinstance(kind, pa.BaseExtensionType):
        return _converted(array.storage, wanted)
    if pa.types.is_nested(kind):
        return json_texts(array).cast(wanted)
    if pa.types.is_date64(kind) and bool(
        pc.any(pc.not_equal(array.cast("int64"), array.cast("date32").cast("date64").cast("int64"))).as_py()
    ):
        raise pa.ArrowInvalid
    return array.cast(wanted)
