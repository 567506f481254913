"""The item that flows through a dataflow: a chunk of rows, with the split that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from pyarrow import RecordBatch

__all__ = ["REFUSED", "Chunk"]

REFUSED: Final = pa.schema(
    [("row", pa.int64()), *((name, pa.string()) for name in ("step", "code", "reason", "values"))]
)
"""Rows that were refused: their number in the chunk, by which step, why, and their values as a JSON object."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one split, as an Arrow batch, or undecoded as messages of a binary COPY that may be cut anywhere.

    A split's chunks are numbered from 0 by `sequence` and end with one whose `last` is true and whose `data` is None;
    only that marker lets the split be committed. `rows` of the marker is the number of rows that the source says it
    sent for the whole split; of other chunks the rows held, 0 where they are undecoded.
    """

    slot: str
    split: int
    sequence: int
    data: RecordBatch | memoryview | None
    rows: int
    last: bool = False
    read: int = 0
    """Rows read from the source for this chunk, before filters; of the marker: for the whole split."""
    dead: int = 0
    """Rows of this chunk that go to the dead letters; of the marker: of the whole split."""
    refused: RecordBatch | None = None
    """The dead rows, with columns row (in the split, from 0), step, code, reason and values (a JSON object)."""
    origins: pa.Array | None = None
    """Of each row its number among the rows that were read for the chunk; None where they are all, in their order."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        if self.data is None:
            return 0
        return int(self.data.nbytes)
