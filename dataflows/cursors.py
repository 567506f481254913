"""Cursors: the column by which a pipeline reads only what is new, and the window of one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dataflows.postgres.types import parse_type
from dataflows.tables import Column, Table
from penstock.errors import MissingColumn, SchemaMismatch, did_you_mean

__all__ = ["ORDERED", "TIMES", "Window", "cursor_column", "split_key"]

ORDERED: Final = {
    "smallint", "integer", "bigint", "numeric", "text", "character varying", "uuid", "date",
    "timestamp without time zone", "timestamp with time zone",
}  # fmt: skip
"""Types whose order is the same in every system, and whose values can be kept as text."""
TIMES: Final = {"date", "timestamp without time zone", "timestamp with time zone"}


@dataclass(frozen=True, slots=True)
class Window:
    """Rows with a cursor above `lower` and not above `upper`; empty where `upper` is None."""

    lower: str | None
    upper: str | None


def split_key(table: Table) -> Column | None:
    """The column to split by: the first of a unique key of an ordered type, the primary key before others."""
    for key in table.keys:
        column = table.column(key[0])
        if column is not None and parse_type(column.type).name in ORDERED:
            return column
    return None


def cursor_column(table: Table, name: str, where: str) -> Column:
    """The cursor's column.

    Raises:
        MissingColumn: no such column.
        SchemaMismatch: its type has no order that can be kept as text.
    """
    column = table.column(name)
    if column is None:
        known = [one.name for one in table.columns]
        raise MissingColumn("there is no such column", where=where, value=name, hint=did_you_mean(name, known))
    if parse_type(column.type).name not in ORDERED:
        hint = "use a whole number, a date, a timestamp, a uuid or a text that only grows"
        raise SchemaMismatch(f"`{name}` of type {column.type} cannot be a cursor", where=where, hint=hint)
    return column
