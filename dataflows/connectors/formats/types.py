"""Map Arrow types of files to PostgreSQL's spelling, and convert columns of files to the types requested.

Each value is kept exactly or refused with an error that names file and column. Nanoseconds are kept if they are whole
microseconds; nested values become JSON text.
"""

from __future__ import annotations

from collections import Counter
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
    "check_headers",
    "common_type",
    "file_column",
    "file_field",
    "final_type",
    "no_header",
    "sql_type",
    "union_columns",
]

TYPE_KEY: Final = b"penstock.type"
"""Key of the metadata in which a written Parquet column keeps its type in PostgreSQL's spelling."""
UNKNOWN: Final = "unknown"
"""Type of a column without values."""
LONG_BIGINT: Final = "long bigint"
"""Inferred type of integers that a double may round, so that the column cannot become double precision."""
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
    """Return the type of a file's column in PostgreSQL's spelling.

    Raises:
        SchemaMismatch: values of its type cannot be kept exactly.
    """
    stored = (field.metadata or {}).get(TYPE_KEY, b"").decode(errors="replace")
    if stored and arrow_type(parse_type(stored)) is not None:
        return str(stored)
    name = _sql_name(field.type)
    if name is None:
        what = f"`{field.name}` is {field.type}, which no column keeps exactly"
        if pa.types.is_nested(field.type):
            what = f"`{field.name}` contains {unsupported_in_json(field.type)}, which JSON cannot represent"
        hint = "leave it out of the file or the mapping, or write it to the file as a type that a table can store"
        raise SchemaMismatch(what, where=where, hint=hint)
    return name


def file_column(field: pa.Field, where: str) -> Column:
    """Return a column of a file; `unreadable` says why its type cannot be kept, if it cannot."""
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


def can_read_as(actual: str, wanted: str) -> bool:
    """True if values of type `actual` may be read as `wanted`, each exactly or refused."""
    if actual in (wanted, UNKNOWN):
        return True
    one, other = parse_type(actual), parse_type(wanted)
    whole = {"smallint", "integer", "bigint", "numeric"}
    return fits(one, other) or (one.name in whole and other.name in whole)


def check_headers(headers: Sequence[tuple[str, Sequence[str]]], where: str) -> None:
    """Refuse a file without a column of the others, if there are several with columns.

    Raises:
        SchemaMismatch: by the file's name.
    """
    files = Counter(name for _, names in headers for name in set(names))
    several = [(path, names) for path, names in headers if names]
    for path, names in several[1:] if len(several) > 1 else ():
        if all(files[name] == 1 for name in names):
            raise no_header(names, f"{where}: {path}")


def no_header(names: Sequence[str], where: str) -> SchemaMismatch:
    """Return the error of a file whose first line names no column of the others: it may be a row that would be lost."""
    what = f"line 1 has none of the other files' columns: {', '.join(f'`{name}`' for name in names[:3])}"
    hint = "give the file a header, declare `format: {header: false}` if no file has one, or narrow the pattern"
    return SchemaMismatch(what, where=where, hint=hint)


def union_columns(
    shapes: Sequence[tuple[str, tuple[Column, ...]]], where: str, *, text: bool = False
) -> tuple[Column, ...]:
    """Return the union of the columns of several files, each of a type that keeps all values.

    A column that some files lack is nullable. In `text` formats, a column of different types becomes text; in others,
    it is unreadable if neither type keeps the other's values.
    """
    combined: dict[str, Column] = {}
    origin: dict[str, str] = {}
    for path, columns in shapes:
        for column in columns:
            known = combined.setdefault(column.name, column)
            first = origin.setdefault(column.name, path)
            kind = common_type(known.type, column.type, text=text)
            unreadable = known.unreadable or column.unreadable
            if kind is None and unreadable is None:
                what = f"`{column.name}` is {known.type} in {first} and {column.type} in {path}"
                hint = "leave it out of the mapping, read the files by two pipelines, or write them with the same types"
                unreadable = f"{where}: {what}; {hint}"
            nullable = known.nullable or column.nullable
            combined[column.name] = Column(column.name, kind or known.type, nullable, unreadable=unreadable)
    names = [{column.name for column in columns} for _, columns in shapes]
    return tuple(
        replace(
            column,
            type=final_type(column.type),
            nullable=column.nullable or not all(column.name in have for have in names),
        )
        for column in combined.values()
    )


def final_type(kind: str) -> str:
    """Return the final type of a column once all samples are combined."""
    return {UNKNOWN: "text", LONG_BIGINT: "bigint"}.get(kind, kind)


def common_type(one: str, other: str, *, text: bool) -> str | None:
    """Return a type that keeps the values of both, or None; in `text` formats, text always does."""
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
"""Sets of inferred types, and the type that keeps the values of each set exactly."""


def file_field(column: Column) -> pa.Field:
    """Return a column as a field of a Parquet file.

    Raises:
        KeyError: there is no Arrow type for it.
    """
    kind = arrow_type(parse_type(column.type))
    if kind is None:
        raise KeyError(column.type)
    return pa.field(column.name, kind, nullable=column.nullable, metadata={TYPE_KEY: column.type.encode()})


def cast_exactly(array: pa.Array, wanted: pa.Field, where: str) -> pa.Array:
    """Convert a column of a file to the Arrow type requested.

    Raises:
        BadData: a value that this type cannot represent exactly.
    """
    try:
        return _converted(array, wanted.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError):
        what = f"a value of `{wanted.name}` ({array.type}) cannot be kept exactly as {wanted.type}"
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
