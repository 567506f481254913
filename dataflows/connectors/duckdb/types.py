"""DuckDB's types in PostgreSQL's spelling, and how values of each are put into a form that Arrow keeps exactly."""

from __future__ import annotations

import re
from typing import Final

from dataflows.data.tables import Column
from dataflows.data.types import column_type, parse_type

__all__ = ["declared", "selected", "shaped"]

_SAME: Final = {
    "BOOLEAN": "boolean", "SMALLINT": "smallint", "INTEGER": "integer", "BIGINT": "bigint", "FLOAT": "real",
    "DOUBLE": "double precision", "VARCHAR": "text", "BLOB": "bytea", "DATE": "date", "TIME": "time without time zone",
    "TIMESTAMP": "timestamp without time zone", "TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
    "UUID": "uuid",
}  # fmt: skip
_READ: Final = {
    "TINYINT": "smallint", "UTINYINT": "smallint", "USMALLINT": "integer", "UINTEGER": "bigint",
    "UBIGINT": "numeric(20,0)", "HUGEINT": "numeric(39,0)", "UHUGEINT": "numeric(39,0)", "JSON": "json",
    "INTERVAL": "interval", "BIT": "bit varying", "TIME WITH TIME ZONE": "time with time zone",
    "TIMESTAMP_S": "timestamp without time zone", "TIMESTAMP_MS": "timestamp without time zone",
}  # fmt: skip
"""Types whose values another type holds too."""
_PUT: Final = {
    "TINYINT": "smallint", "UTINYINT": "smallint", "USMALLINT": "integer", "UINTEGER": "bigint",
    "UBIGINT": "numeric(20,0)", "HUGEINT": "numeric(38,0)", "JSON": "jsonb",
    "TIMESTAMP_S": "timestamp(0) without time zone", "TIMESTAMP_MS": "timestamp(3) without time zone",
}  # fmt: skip
"""What DuckDB puts into columns of these types exactly, or refuses."""
_DECLARED: Final = {spelled: name for name, spelled in _SAME.items()} | {"json": "JSON", "jsonb": "JSON"}
_DECIMAL: Final = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_NESTED: Final = re.compile(r"^(STRUCT|MAP)\(|\[\d*\]$")


def shaped(text: str, name: str, *, nullable: bool, sink: bool) -> Column:
    """A column as its type shows it; one that no other system has a type for is of that very name, and refused."""
    if text.startswith("ENUM("):
        return Column(name, "enum", nullable, builtin=False, label=True)
    if found := _DECIMAL.fullmatch(text):
        return Column(name, f"numeric({found[1]},{found[2]})", nullable)
    if not sink and _NESTED.search(text):
        return Column(name, "json", nullable)
    known = _SAME.get(text) or (_PUT if sink else _READ).get(text)
    return Column(name, known or f"{text} of DuckDB", nullable)


def declared(column: Column) -> str:
    """The type that a column is made with."""
    kind = parse_type(column.type)
    if kind.name == "numeric" and kind.precision is not None:
        return f"DECIMAL({kind.precision},{kind.scale})"
    return _DECLARED.get(kind.name, "VARCHAR")


def selected(name: str, column: Column, text: str) -> str:
    """The expression that gives a column's values, `name`, in the form that is asked for; `text`: DuckDB's own type."""
    if _NESTED.search(text):
        return f"CAST(to_json({name}) AS VARCHAR)"
    kind = column_type(column)
    if kind.name in _DECLARED and kind.name not in {"json", "uuid"}:
        return f"CAST({name} AS {_DECLARED[kind.name]})"
    if kind.name == "numeric" and kind.precision is not None and kind.precision <= 38:  # noqa: PLR2004 - DuckDB's own
        return f"CAST({name} AS DECIMAL({kind.precision},{kind.scale}))"
    return f"CAST({name} AS VARCHAR)"
