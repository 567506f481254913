"""History columns that `scd2` adds to those of the pipeline, the same in every sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dataflows.data.tables import Column, Table
from dataflows.data.types import column_type, fits
from penstock.errors import MissingColumn, Refused, SchemaMismatch

__all__ = ["HISTORY", "check_history", "check_validity", "history_columns"]

HISTORY: Final = ("valid_from", "valid_to", "is_current")
"""Columns that `scd2` maintains itself."""


def history_columns(version: Column) -> tuple[Column, ...]:
    """Return the history columns; times of validity have the version's type."""
    kinds = (version.type, version.type, "boolean")
    return tuple(Column(name, kind, nullable=name == "valid_to") for name, kind in zip(HISTORY, kinds, strict=True))


def check_history(table: Table, key: Sequence[str], where: str) -> None:
    """Refuse a table that lacks a history column, or allows one row only of each key.

    Raises:
        MissingColumn: one of the columns does not exist.
        Refused: a unique key without the begin of a row's time.
    """
    for name in HISTORY:
        if table.column(name) is None:
            hint = f"`scd2` maintains {', '.join(HISTORY)}: add them, or write to a table that does not exist yet"
            raise MissingColumn(f"{table.name} has no such column", where=where, value=name, hint=hint)
    once = next((one for one in table.keys if set(one) <= set(key)), None)
    if once is not None:
        what = f"{table.name} allows one row of each ({', '.join(once)}), and a history has one for each state"
        hint = f"make this key ({', '.join((*once, HISTORY[0]))}), or write to a table that does not exist yet"
        raise Refused(what, where=where, value=str(table.name), hint=hint)


def check_validity(table: Table, version: str, where: str) -> None:
    """Refuse a table whose history columns cannot hold each value of its column `version`, as it is.

    Raises:
        SchemaMismatch: by column.
    """
    versions = table.column(version)
    for wanted in history_columns(versions) if versions is not None else ():
        column = table.column(wanted.name)
        if column is None:
            continue
        what = f"`{column.name}` of {table.name} is {column.type}"
        hint = f"make it {wanted.type}{'' if wanted.nullable else ' NOT NULL'}, as `scd2` itself does"
        if column.generated:
            raise SchemaMismatch(f"`{column.name}` of {table.name} is computed by the server", where=where, hint=hint)
        if not fits(column_type(wanted), column_type(column)):
            raise SchemaMismatch(f"{what}, and cannot hold each {wanted.type}", where=where, hint=hint)
        if wanted.nullable and not column.nullable:
            raise SchemaMismatch(f"{what} NOT NULL, and is NULL in current rows", where=where, hint=hint)
