"""Read a split as chunks, whatever the system: numbered, and closed by a marker that counts its rows."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from dataflows.data.chunks import Chunk
from dataflows.data.splits import Split
from penstock.failpoints import failpoint

__all__ = ["chunks"]


def chunks(slot: str, split: Split, found: Iterator[pa.RecordBatch | memoryview | int]) -> Iterator[Chunk]:
    """The chunks of what `found` yields, and the closing marker.

    `found` is not touched before the first chunk is asked for. Where it holds undecoded bytes, its last element is the
    number of rows that the source counted.
    """
    failpoint("read.begin", split.number)
    sequence = rows = 0
    counted: int | None = None
    for data in found:
        if isinstance(data, int):
            counted = data
            continue
        failpoint("read.block", split.number)
        held = data.num_rows if isinstance(data, pa.RecordBatch) else 0
        yield Chunk(slot, split.number, sequence, data, held, read=held)
        sequence, rows = sequence + 1, rows + held
    failpoint("read.end", split.number)
    rows = rows if counted is None else counted
    yield Chunk(slot, split.number, sequence, None, rows, last=True, read=rows)
