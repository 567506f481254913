"""The columns that `scd2` keeps beside those of the pipeline, whatever the sink is."""

from __future__ import annotations

from typing import Final

from dataflows.tables import Column

__all__ = ["HISTORY", "history_columns"]

HISTORY: Final = ("valid_from", "valid_to", "is_current")
"""The columns that `scd2` keeps by itself."""


def history_columns(version: Column) -> tuple[Column, ...]:
    """Those columns; times of validity are of the version's own type."""
    kinds = (version.type, version.type, "boolean")
    return tuple(Column(name, kind, nullable=name == "valid_to") for name, kind in zip(HISTORY, kinds, strict=True))
