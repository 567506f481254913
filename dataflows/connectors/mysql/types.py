"""MySQL's and MariaDB's types in PostgreSQL's spelling, and exact conversion between their values and Arrow arrays.

Each value arrives as the text that the server writes for it. Nothing is rounded, truncated or wrapped: values that a
type cannot represent are refused, by the column's type if that suffices, else one by one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.mysql.session import Session, quoted
from dataflows.data.decimals import cast_text
from dataflows.data.tables import Column
from dataflows.data.times import outside
from dataflows.data.types import SqlType, column_type, parse_type
from penstock.errors import BadData

__all__ = [
    "KEY_VARCHAR",
    "array",
    "bound",
    "dated",
    "ddl_type",
    "encoded",
    "is_binary",
    "is_exact",
    "literal_of",
    "load_target",
    "select_item",
    "short_enough",
    "spelled",
    "storable",
    "without_zeros",
]

DECIMAL_DIGITS: Final = 65
DECIMAL_SCALE: Final = 30
VARCHAR: Final = 4000
"""Longest text, in characters, that is declared as varchar."""
KEY_VARCHAR: Final = 255
"""Length of a text or of bytes in a key that the pipeline names."""
UUID_CHARACTERS: Final = 36
BITS: Final = 64
_WHOLE: Final = {
    "tinyint": ("smallint", "smallint"), "smallint": ("smallint", "integer"), "mediumint": ("integer", "integer"),
    "int": ("integer", "bigint"), "bigint": ("bigint", "numeric(20,0)"),
}  # fmt: skip
"""Integer types, signed and unsigned."""
_SPELLED: Final = {
    "float": "real", "double": "double precision", "date": "date", "json": "json", "uuid": "uuid", "inet4": "inet",
    "inet6": "inet", "enum": "text", "set": "text", "char": "text", "varchar": "text", "tinytext": "text",
    "text": "text", "mediumtext": "text", "longtext": "text", "binary": "bytea", "varbinary": "bytea",
    "tinyblob": "bytea", "blob": "bytea", "mediumblob": "bytea", "longblob": "bytea",
}  # fmt: skip
_DECLARED: Final = {
    "smallint": "SMALLINT", "integer": "INT", "bigint": "BIGINT", "real": "FLOAT", "double precision": "DOUBLE",
    "boolean": "TINYINT(1)", "date": "DATE", "timestamp without time zone": "DATETIME",
    "timestamp with time zone": "TIMESTAMP", "time without time zone": "TIME", "bytea": "LONGBLOB", "json": "JSON",
    "jsonb": "JSON",
    "uuid": "UUID", "text": "LONGTEXT",
}  # fmt: skip
_TIMED: Final = {
    "datetime": "timestamp{} without time zone", "timestamp": "timestamp{} with time zone",
    "time": "time{} without time zone",
}  # fmt: skip
_PARENS: Final = re.compile(r"\((.*)\)")
_ZERO: Final = r"^(?:0000-|\d{4}-00|\d{4}-\d\d-00)"
"""A date without a year, month or day."""
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")


def spelled(name: str, text: str, *, sink: bool, parsed: bool = True) -> str:  # noqa: PLR0911 - a table of types
    """Return a column's type; `name` and `text` are its DATA_TYPE and COLUMN_TYPE.

    `parsed` is true if the server keeps the values of a document, and not its text.

    A sink's `year` and `set`, floats with a fixed scale and types without a counterpart keep a name that no value fits;
    its `char` drops blanks at the end, as `character` ignores them.
    """
    inner = found[1] if (found := _PARENS.search(text)) else ""
    unsigned = "unsigned" in text
    if name in _WHOLE:
        return "boolean" if text == "tinyint(1)" else _WHOLE[name][unsigned]
    if name == "decimal":
        return f"numeric({inner})"
    if name in _TIMED:
        return _TIMED[name].format(f"({inner or 0})" if inner != "6" else "")
    if name == "bit":
        return f"bit({inner})"
    if name == "year":
        return "mysql year" if sink else "smallint"
    if name == "varchar" or (name == "char" and inner):
        return f"character{'' if sink and name == 'char' else ' varying'}({inner})"
    if (sink and name == "set") or (sink and name in {"float", "double"} and inner):
        return f"mysql {text}"
    return "jsonb" if sink and parsed and name == "json" else _SPELLED.get(name, f"mysql {name}")


def select_item(column: Column, native: str) -> str:
    """Return the expression that selects a column: a float with all its digits, bits as digits."""
    name = quoted(column.name)
    if native == "float":
        return f"{name} * 1e0"
    if native == "bit":
        return f"LPAD(BIN({name}), {column_type(column).precision}, '0')"
    return name


def is_binary(column: Column) -> bool:
    """True if values are bytes."""
    return column_type(column).name == "bytea"


def is_exact(column: Column) -> bool:
    """True if only identical values of the column are equal."""
    return column_type(column).name not in {"text", "character varying", "character"}


def literal_of(session: Session, values: pa.Array, column: Column, where: str) -> str:
    """Return the only value of an array as an SQL literal for a column.

    Raises:
        BadData: the server cannot represent it.
    """
    value = _plain(values, column.name, where)[0].as_py()
    if column_type(column).name == "bit" and value is not None:
        return str(int(value, 2))
    return session.literal(value)


def array(found: pa.Array, column: Column, wanted: pa.DataType, where: str) -> pa.Array:
    """Return the server's texts as the Arrow type `wanted`.

    Raises:
        BadData: one of them is not a value of that type.
    """
    try:
        made = _converted(found, wanted)
    except pa.ArrowInvalid:
        made = None
    if made is None or (pa.types.is_temporal(wanted) and outside(made)):
        what = f"a value of `{column.name}` is not a valid {column.type}, or cannot be kept exactly"
        hint = "such as a zero date (`clean: {zero_dates: null}` helps), a time beyond a day, a tinyint(1) above 1"
        raise BadData(what, where=where, hint=hint) from None
    return made


def dated(column: Column) -> bool:
    """True if values have a date, which may be a zero date."""
    return column_type(column).name == "date" or column_type(column).name.startswith("timestamp")


def without_zeros(found: pa.Array) -> pa.Array:
    """Return texts of dates and times with NULL in place of zero dates."""
    texts = found.cast(pa.string())
    return pc.if_else(pc.match_substring_regex(texts, _ZERO), pa.scalar(None, pa.string()), texts)


def _converted(found: pa.Array, wanted: pa.DataType) -> pa.Array:  # noqa: PLR0911 - a table of types
    if pa.types.is_binary(wanted):
        return found.cast(pa.binary())
    texts = found.cast(pa.binary_view()).cast(pa.string())  # unlike a cast of texts, it checks that they are UTF-8
    if pa.types.is_string(wanted):
        return texts
    if pa.types.is_boolean(wanted):
        numbers = texts.cast(pa.int8())
        if pc.any(pc.greater(pc.abs(pc.subtract(pc.multiply(numbers, 2), 1)), 1)).as_py():
            raise pa.ArrowInvalid
        return numbers.cast(wanted)
    if pa.types.is_float32(wanted):
        return texts.cast(pa.float64()).cast(wanted)
    if pa.types.is_time64(wanted):
        days = pc.binary_join_element_wise("1970-01-01", texts, " ")
        return days.cast(pa.timestamp("us")).cast(wanted)
    if pa.types.is_timestamp(wanted):
        return texts.cast(pa.timestamp("us")).cast(wanted)
    return cast_text(texts, wanted)


def storable(column: Column, *, uuids: bool) -> Column:
    """Return the column as a new table can store it: text if its type has no exact counterpart."""
    kind = column_type(column)
    name = _storable_type(kind, uuids=uuids)
    return Column(column.name, name, column.nullable)


def _storable_type(kind: SqlType, *, uuids: bool) -> str:
    if kind.foreign:
        return "text"
    if kind.name == "numeric":
        digits, scale = kind.precision, kind.scale or 0
        fits = digits is not None and digits <= DECIMAL_DIGITS and 0 <= scale <= min(DECIMAL_SCALE, digits)
        return str(kind) if fits else "text"
    if kind.name in {"character", "character varying"}:
        length = kind.precision
        return f"character varying({length})" if length and length <= VARCHAR else "text"
    if kind.name == "bit":
        return f"bit({kind.precision or 1})" if (kind.precision or 1) <= BITS else "text"
    if kind.name == "uuid":
        return "uuid" if uuids else f"character varying({UUID_CHARACTERS})"
    return str(kind) if kind.name in _DECLARED else "text"


def ddl_type(column: Column, *, key: bool = False) -> str:
    """Return the type of a column for ``CREATE TABLE``; that of a key column is short enough for an index."""
    kind = parse_type(column.type)
    if kind.name == "numeric":
        return f"DECIMAL({kind.precision},{kind.scale})"
    if kind.name == "character varying":
        return f"VARCHAR({kind.precision})"
    if kind.name == "bit":
        return f"BIT({kind.precision})"
    if key and kind.name in {"text", "bytea"}:
        return f"VAR{'CHAR' if kind.name == 'text' else 'BINARY'}({KEY_VARCHAR})"
    if kind.name in {"timestamp without time zone", "timestamp with time zone", "time without time zone"}:
        digits = 6 if kind.precision is None else kind.precision
        return f"{_DECLARED[kind.name]}({digits})"
    return _DECLARED[kind.name]


def bound(column: Column, text: str, literal: Any) -> str:
    """Return the bound of a range as an SQL literal; numbers unquoted, since texts would be compared as floats."""
    name = parse_type(column.type).name
    if name in {"smallint", "integer", "bigint", "numeric"}:
        if not _NUMBER.fullmatch(text):
            message = f"{text!r} is not a number"
            raise AssertionError(message)
        return text
    return str(literal(text.removesuffix("Z").removesuffix("+00:00") if name.startswith("timestamp") else text))


def load_target(column: Column, native: str, text: str, at: int) -> tuple[str, str]:
    """Return where a field of ``LOAD DATA`` goes: the column, or a variable with the SET clause that converts it."""
    name, variable = quoted(column.name), f"@v{at}"
    if column_type(column).name == "bytea":
        size = 2 * int(found[1]) if native == "binary" and (found := _PARENS.search(text)) else 0
        # Bytes that the server would pad become too many, so that it refuses them.
        padded = f"IF(LENGTH({variable}) < {size}, RPAD({variable}, {size + 2}, '0'), {variable})"
        return variable, f"{name} = UNHEX({padded if size else variable})"
    if native == "bit":
        return variable, f"{name} = CAST(CONV({variable}, 2, 10) AS UNSIGNED)"
    if native == "enum":
        labels = text.partition("(")[2].rpartition(")")[0]
        known = f"FIELD(CAST({variable} AS BINARY), {', '.join(f'CAST({one} AS BINARY)' for one in _labels(labels))})"
        return variable, f"{name} = IF({variable} IS NULL OR {known}, {variable}, _binary 0x01)"
    return name, ""


def _labels(text: str) -> Sequence[str]:
    return re.findall(r"'(?:[^']|'')*'", text)


def encoded(batch: pa.RecordBatch, columns: Sequence[Column], where: str) -> bytes:
    """Return rows as CSV for ``LOAD DATA``: texts quoted, NULL unquoted.

    Raises:
        BadData: a value that the server cannot represent.
    """
    import polars as pl

    found = {column.name: _plain(batch.column(column.name), column.name, where) for column in columns}
    frame = pl.DataFrame({str(at): pl.Series(pa.chunked_array([one])) for at, one in enumerate(found.values())})
    frame = frame.with_columns(pl.col(pl.Binary).bin.encode("hex"))
    return frame.write_csv(include_header=False, quote_style="non_numeric", null_value="NULL").encode()


def _plain(values: pa.Array, name: str, where: str) -> pa.Array:
    kind = values.type
    endless = pa.types.is_floating(kind) and not pc.all(pc.is_finite(values)).as_py()
    if (endless and pc.any(pc.invert(pc.is_finite(values))).as_py()) or outside(values):
        what = f"MySQL cannot hold a value of `{name}`: NaN, infinity, or a time out of its range"
        raise RowRefused(what, where=where, hint="leave such rows out, or map them to NULL", state="value", column=name)
    if pa.types.is_boolean(kind):
        return values.cast(pa.int8())
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return values.cast(pa.timestamp("us")).cast(pa.string())
    if pa.types.is_decimal(kind) or pa.types.is_temporal(kind):
        return values.cast(pa.string())
    return values


def short_enough(columns: Sequence[Column], *, room: int) -> tuple[Column, ...]:
    """Return the columns; texts of limited length become unlimited if all of them together exceed a row's `room`."""
    sizes = (4 * (parse_type(one.type).precision or 0) for one in columns if one.type.startswith("character varying"))
    if sum(sizes) <= room:
        return tuple(columns)
    return tuple(replace(one, type="text") if one.type.startswith("character varying") else one for one in columns)
