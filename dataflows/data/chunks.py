"""The item that flows through a dataflow: a chunk of rows, with the split that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from pyarrow import RecordBatch

from dataflows.data.positions import Move
from dataflows.data.state import StateChange

__all__ = ["REFUSED", "Chunk"]

REFUSED: Final = pa.schema(
    [("row", pa.int64()), *((name, pa.string()) for name in ("step", "code", "reason", "values"))]
)
"""Schema of refused rows: their number in the chunk, the step, code and reason, and their values as a JSON object."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one split, as an Arrow batch, or undecoded as messages of a binary COPY that may be cut anywhere.

    A split's chunks are numbered from 0 by `sequence` and end with one whose `last` is true and whose `data` is None;
    a split is committed only after that marker. `rows` of the marker is the number of rows that the source reports for
    the whole split; of other chunks it is the number of rows in `data`, 0 if they are undecoded.
    """

    slot: str
    split: int
    sequence: int
    data: RecordBatch | memoryview | None
    rows: int
    last: bool = False
    read: int = 0
    """Number of rows read from the source for this chunk, before filters; of the marker: for the whole split."""
    dead: int = 0
    """Number of rows of this chunk that go to the dead letters; of the marker: of the whole split."""
    refused: RecordBatch | None = None
    """The dead rows, with columns row (in the split, from 0), step, code, reason and values (a JSON object)."""
    moves: tuple[Move, ...] = ()
    """On the marker of a stream's split: the positions that its commit moves."""
    state: tuple[StateChange, ...] = ()
    """On the marker: the changes that the split made to the state of steps that remember rows."""
    origins: pa.Array | None = None
    """For each row, its index among the rows read for the chunk; None if they are all there, in the same order."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        if self.data is None:
            return 0
        return int(self.data.nbytes)
