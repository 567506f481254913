"""Arrow's types, as files have them, in PostgreSQL's spelling; and columns of files as the types that are asked for.

Each value is kept or refused: what does not go exactly is an error that names file and column. Nanoseconds are kept
where they are whole microseconds; nested values become JSON text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, fits, parse_type
from penstock.errors import BadData, SchemaMismatch

__all__ = ["UNKNOWN", "as_asked", "file_field", "sql_type", "united"]

TYPE_KEY: Final = b"penstock.type"
"""Where a written Parquet column keeps its type in PostgreSQL's spelling."""
UNKNOWN: Final = "unknown"
"""The type of a column without a value."""
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
    told = (field.metadata or {}).get(TYPE_KEY, b"").decode(errors="replace")
    if told and arrow_type(parse_type(told)) is not None:
        return str(told)
    found = _spelled(field.type)
    if found is None:
        hint = "leave it out of the file, or write it there as a type that a table can keep"
        raise SchemaMismatch(f"`{field.name}` is {field.type}, which no column keeps exactly", where=where, hint=hint)
    return found


def _spelled(kind: pa.DataType) -> str | None:  # noqa: PLR0911 - a table of kinds
    if kind in _PLAIN:
        return _PLAIN[kind]
    if pa.types.is_dictionary(kind):
        return _spelled(kind.value_type)
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})" if kind.scale >= 0 and kind.precision <= DIGITS else None
    if pa.types.is_timestamp(kind):
        return "timestamp with time zone" if kind.tz else "timestamp without time zone"
    if pa.types.is_time(kind):
        return "time without time zone"
    if pa.types.is_fixed_size_binary(kind):
        return "bytea"
    if pa.types.is_struct(kind) or pa.types.is_map(kind) or isinstance(kind, pa.JsonType):
        return "json"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _spelled(kind.value_type)
        return None if inner is None else "json"
    return None


def united(shapes: Sequence[tuple[str, tuple[Column, ...]]], where: str, *, text: bool = False) -> tuple[Column, ...]:
    """The columns of several files: the union of their names, each of a type that keeps the values of all.

    A column that some files do not have may be NULL. In formats that are `text`, what differs is text.

    Raises:
        SchemaMismatch: two files that have a column of types of which neither keeps the other's values.
    """
    found: dict[str, Column] = {}
    origin: dict[str, str] = {}
    for path, columns in shapes:
        for column in columns:
            known = found.setdefault(column.name, column)
            first = origin.setdefault(column.name, path)
            kind = _wider(known.type, column.type, text=text)
            if kind is None:
                what = f"`{column.name}` is {known.type} in {first} and {column.type} in {path}"
                raise SchemaMismatch(what, where=where, hint="read the files by two pipelines, or write them alike")
            found[column.name] = Column(column.name, kind, known.nullable or column.nullable)
    names = [{column.name for column in columns} for _, columns in shapes]
    return tuple(
        Column(
            column.name,
            "text" if column.type == UNKNOWN else column.type,
            nullable=column.nullable or not all(column.name in have for have in names),
        )
        for column in found.values()
    )


def _wider(one: str, other: str, *, text: bool) -> str | None:
    if other in (one, UNKNOWN):
        return one
    if one == UNKNOWN:
        return other
    if text:
        return "double precision" if {one, other} == {"bigint", "double precision"} else "text"
    first, second = parse_type(one), parse_type(other)
    return other if fits(first, second) else one if fits(second, first) else None


def file_field(column: Column) -> pa.Field:
    """A column as it is written to Parquet.

    Raises:
        KeyError: there is no Arrow type for it.
    """
    kind = arrow_type(parse_type(column.type))
    if kind is None:
        raise KeyError(column.type)
    return pa.field(column.name, kind, nullable=column.nullable, metadata={TYPE_KEY: column.type.encode()})


def as_asked(array: pa.Array, wanted: pa.Field, where: str) -> pa.Array:
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
        return _uuid_text(array.storage).cast(wanted)
    if isinstance(kind, pa.BaseExtensionType):
        return _converted(array.storage, wanted)
    nested = pa.types.is_nested(kind)
    if nested and (pa.types.is_string(wanted) or pa.types.is_large_string(wanted)):
        return _json_text(array).cast(wanted)
    if pa.types.is_date64(kind) and bool(
        pc.any(pc.not_equal(array.cast("int64"), array.cast("date32").cast("date64").cast("int64"))).as_py()
    ):
        raise pa.ArrowInvalid
    return array.cast(wanted)


def _uuid_text(array: pa.Array) -> pa.Array:
    import polars as pl

    digits = pl.Series(pa.array(array).cast(pa.binary())).bin.encode("hex")
    parts = [digits.str.slice(start, length) for start, length in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    frame = pl.DataFrame({f"{at}": part for at, part in enumerate(parts)})
    return frame.select(pl.concat_str(pl.all(), separator="-")).to_series().to_arrow()


def _json_text(array: pa.Array) -> pa.Array:
    """Nested values as JSON, one text each; a map as an array of its entries."""
    import polars as pl

    series: Any = pl.from_arrow(pa.table({"v": array})).to_series()  # type: ignore[union-attr]
    frame = pl.DataFrame({"v": series})
    text = frame.select(pl.struct("v").struct.json_encode()).to_series()
    inner = text.str.slice(5, text.str.len_chars() - 6)  # {"v":…}
    return pc.if_else(pc.is_valid(array), inner.to_arrow().cast(pa.string()), pa.scalar(None, pa.string()))
