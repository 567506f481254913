"""Find the rows that a target refuses: try what fails in halves, down to single rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from dataflows.connectors.formats.readable import bare
from penstock.errors import BadData

__all__ = ["Attempt", "RowRefused", "refused_rows"]


class RowRefused(BadData):
    """A system refused a value or a row.

    `state` is the system's own code, `column` the column that it names. `waits`: the row may be accepted later, as it
    refers to another row that is missing.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str,
        hint: str | None = None,
        state: str = "refused",
        column: str | None = None,
        waits: bool = False,
    ) -> None:
        self.state, self.column, self.waits = state, column, waits
        super().__init__(what, where=where, hint=hint)


Attempt = Callable[[pa.RecordBatch], RowRefused | None]
"""Sends a batch, all or nothing; returns the target's error, or None if it accepts the rows."""


def refused_rows(batch: pa.RecordBatch, attempt: Attempt, first: int = 0) -> Iterator[tuple[int, RowRefused]]:
    """Yield the number of each refused row, counted from `first`, with the target's error."""
    error = attempt(batch) if batch.num_rows else None
    if error is None:
        return
    if batch.num_rows == 1:
        yield first, bare(error)
        return
    half = batch.num_rows // 2
    yield from refused_rows(batch.slice(0, half), attempt, first)
    yield from refused_rows(batch.slice(half), attempt, first + half)
