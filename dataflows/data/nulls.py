"""Count of NULLs by column among the rows that a run writes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from dataflows.data.changes import CHANGE, COMMITTED, LOG_COLUMNS

__all__ = ["MOST_COLUMNS", "OTHER", "Nulls", "nulls_of"]

MOST_COLUMNS: Final = 63
"""Columns that are reported one by one, the first ones; the others are reported together."""
OTHER: Final = "(other)"
"""Name of the mean of the other columns."""
_HIDDEN: Final = {CHANGE, COMMITTED, *(one.name for one in LOG_COLUMNS)}


@dataclass(slots=True)
class Nulls:
    """Rows that were looked at, and the number of NULLs in each column of them; thread-safe."""

    rows: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, rows: int, columns: Mapping[str, int]) -> None:
        """Count more rows."""
        with self._lock:
            self.rows += rows
            for name, count in columns.items():
                self.columns[name] = self.columns.get(name, 0) + count

    def as_dict(self) -> dict[str, Any] | None:
        """Return rows and columns for a report; None if no row was looked at."""
        with self._lock:
            rows, columns = self.rows, dict(self.columns)
        if not rows:
            return None
        if len(columns) > MOST_COLUMNS:
            others = list(columns.items())[MOST_COLUMNS:]
            columns = dict(list(columns.items())[:MOST_COLUMNS])
            columns[OTHER] = round(sum(count for _, count in others) / len(others))
        return {"rows": rows, "columns": columns}

    def take(self) -> dict[str, Any] | None:
        """Return what was counted since the last call, for another process that adds it up; None for nothing."""
        with self._lock:
            rows, columns, self.rows, self.columns = self.rows, self.columns, 0, {}
        return {"rows": rows, "columns": columns} if rows else None


def nulls_of(batch: pa.RecordBatch) -> tuple[int, dict[str, int]]:
    """Return the rows of a batch, and the NULLs of each column; of changes only rows whose values are all known."""
    if CHANGE in batch.schema.names and (known := batch.column(CHANGE).null_count) != batch.num_rows:
        if not known:
            return 0, {}
        batch = batch.filter(batch.column(CHANGE).is_null())
    pairs = zip(batch.schema.names, batch.columns, strict=True)
    return batch.num_rows, {name: column.null_count for name, column in pairs if name not in _HIDDEN}
