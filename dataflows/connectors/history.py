"""The columns that `scd2` keeps beside those of the pipeline, whatever the sink is."""

from __future__ import annotations

from typing import Final

from dataflows.data.tables import Column, Table
from penstock.errors import MissingColumn

__all__ = ["HISTORY", "check_history", "history_columns"]

HISTORY: Final = ("valid_from", "valid_to", "is_current")
"""The columns that `scd2` keeps by itself."""


def history_columns(version: Column) -> tuple[Column, ...]:
    """Those columns; times of validity are of the version's own type."""
    kinds = (version.type, version.type, "boolean")
    return tuple(Column(name, kind, nullable=name == "valid_to") for name, kind in zip(HISTORY, kinds, strict=True))


def check_history(table: Table, where: str) -> None:
    """Refuse a table that has no place for the history.

    Raises:
        MissingColumn: one of the columns is not there.
    """
    for name in HISTORY:
        if table.column(name) is None:
            hint = f"`scd2` keeps {', '.join(HISTORY)}: add them, or write to a table that is not there yet"
            raise MissingColumn(f"{table.name} has no such column", where=where, value=name, hint=hint)
