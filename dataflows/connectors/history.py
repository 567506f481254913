"""History columns that `scd2` adds to those of the pipeline, the same in every sink."""

from __future__ import annotations

from typing import Final

from dataflows.data.tables import Column, Table
from penstock.errors import MissingColumn

__all__ = ["HISTORY", "check_history", "history_columns"]

HISTORY: Final = ("valid_from", "valid_to", "is_current")
"""Columns that `scd2` maintains itself."""


def history_columns(version: Column) -> tuple[Column, ...]:
    """Return the history columns; times of validity have the version's type."""
    kinds = (version.type, version.type, "boolean")
    return tuple(Column(name, kind, nullable=name == "valid_to") for name, kind in zip(HISTORY, kinds, strict=True))


def check_history(table: Table, where: str) -> None:
    """Refuse a table that lacks a history column.

    Raises:
        MissingColumn: one of the columns does not exist.
    """
    for name in HISTORY:
        if table.column(name) is None:
            hint = f"`scd2` maintains {', '.join(HISTORY)}: add them, or write to a table that does not exist yet"
            raise MissingColumn(f"{table.name} has no such column", where=where, value=name, hint=hint)
