"""Conversion between DuckDB's types and PostgreSQL's, and expressions that select their values exactly."""

from __future__ import annotations

import re
from typing import Final

from dataflows.data.tables import Column
from dataflows.data.types import carried, column_type, parse_type

__all__ = ["ALIKE", "bound_type", "ddl_type", "select_item", "source_column"]

_SAME: Final = {
    "BOOLEAN": "boolean", "SMALLINT": "smallint", "INTEGER": "integer", "BIGINT": "bigint", "FLOAT": "real",
    "DOUBLE": "double precision", "VARCHAR": "text", "BLOB": "bytea", "DATE": "date", "TIME": "time without time zone",
    "TIMESTAMP": "timestamp without time zone", "TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
    "UUID": "uuid",
}  # fmt: skip
_SOURCE_TYPES: Final = {
    "TINYINT": "smallint", "UTINYINT": "smallint", "USMALLINT": "integer", "UINTEGER": "bigint",
    "UBIGINT": "numeric(20,0)", "HUGEINT": "numeric(39,0)", "UHUGEINT": "numeric(39,0)", "BIGNUM": "numeric",
    "JSON": "json", "INTERVAL": "interval", "BIT": "bit varying", "TIME WITH TIME ZONE": "time with time zone",
    "TIMESTAMP_S": "timestamp(0) without time zone", "TIMESTAMP_MS": "timestamp(3) without time zone",
}  # fmt: skip
"""Types that are read as another type, which holds all their values."""
_SINK_TYPES: Final = {
    "TINYINT": "smallint", "UTINYINT": "smallint", "USMALLINT": "integer", "UINTEGER": "bigint",
    "UBIGINT": "numeric(20,0)", "HUGEINT": "numeric(38,0)", "JSON": "jsonb",
    "TIMESTAMP_S": "timestamp(0) without time zone", "TIMESTAMP_MS": "timestamp(3) without time zone",
}  # fmt: skip
"""Types of values that DuckDB stores exactly in columns of these types, or refuses."""
_DECLARED: Final = {spelled: name for name, spelled in _SAME.items()} | {"json": "JSON", "jsonb": "JSON"}
ALIKE: Final = {
    "NOCASE": ("'A'", "'a'"), "NOACCENT": ("'é'", "'e'"), "NFC": ("'e' || chr(769)", "'é'"),
    "of a language": ("'a' || chr(1)", "'a'"),
}  # fmt: skip
"""Two texts that each kind of collation treats as equal."""
_DECIMAL: Final = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_NESTED: Final = re.compile(r"^(STRUCT|MAP)\(|\[\d*\]$")


def source_column(text: str, name: str, *, nullable: bool, sink: bool) -> Column:
    """Return a column of DuckDB's type `text`; a type without a counterpart keeps its name, and is refused later."""
    if text.startswith("ENUM("):
        return Column(name, "enum", nullable, builtin=False, label=True)
    if found := _DECIMAL.fullmatch(text):
        return Column(name, f"numeric({found[1]},{found[2]})", nullable)
    if not sink and _NESTED.search(text):
        return Column(name, "json", nullable)
    known = _SAME.get(text) or (_SINK_TYPES if sink else _SOURCE_TYPES).get(text)
    return Column(name, known or f"{text} of DuckDB", nullable)


def ddl_type(column: Column) -> str:
    """Return the type of a column for ``CREATE TABLE``."""
    kind = parse_type(column.type)
    if kind.name == "numeric" and kind.precision is not None:
        return f"DECIMAL({kind.precision},{kind.scale})"
    return _DECLARED.get(kind.name, "VARCHAR")


def bound_type(column: Column) -> str:
    """Return the type of a range's bound: one that holds each value of the column, and compares exactly with it."""
    kind = column_type(column)
    return "BIGNUM" if kind.name == "numeric" and carried(kind) else ddl_type(column)


def select_item(name: str, column: Column, text: str) -> str:
    """Return the expression that selects column `name` in the form of `column`; `text` is DuckDB's own type."""
    if _NESTED.search(text):
        return f"CAST(to_json({name}) AS VARCHAR)"
    kind = column_type(column)
    if kind.name in _DECLARED and kind.name not in {"json", "uuid"}:
        return f"CAST({name} AS {_DECLARED[kind.name]})"
    if kind.name == "numeric" and kind.precision is not None and kind.precision <= 38:  # noqa: PLR2004 - DuckDB's own
        return f"CAST({name} AS DECIMAL({kind.precision},{kind.scale}))"
    return f"CAST({name} AS VARCHAR)"
