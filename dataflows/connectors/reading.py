"""Read a split as chunks, in any system: numbered, and closed by a marker that counts its rows."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from dataflows.connectors.formats.contract import Rows
from dataflows.data.chunks import REFUSED, Chunk
from dataflows.data.display import json_of
from dataflows.data.splits import Split
from penstock.failpoints import failpoint

__all__ = ["chunks"]


def chunks(slot: str, split: Split, parts: Iterator[pa.RecordBatch | memoryview | int | Rows]) -> Iterator[Chunk]:
    """Yield a chunk for each element of `parts`, then the closing marker.

    `parts` is first read when the first chunk is requested. If it yields undecoded bytes, its last element is the
    number of rows that the source counted.
    """
    failpoint("read.begin", split.number)
    sequence = rows = refused_count = 0
    counted: int | None = None
    for data in parts:
        if isinstance(data, int):
            counted = data
            continue
        failpoint("read.block", split.number)
        chunk = _chunk(data, slot, split.number, sequence)
        yield chunk
        sequence, rows, refused_count = sequence + 1, rows + chunk.rows, refused_count + chunk.dead
    failpoint("read.end", split.number)
    rows = rows if counted is None else counted
    read = rows + refused_count
    yield Chunk(slot, split.number, sequence, None, rows, last=True, read=read, dead=refused_count, moves=split.moves)


def _chunk(data: pa.RecordBatch | memoryview | Rows, slot: str, split: int, sequence: int) -> Chunk:
    if isinstance(data, Rows):
        return _with_refused(data, slot, split, sequence)
    count = data.num_rows if isinstance(data, pa.RecordBatch) else 0
    return Chunk(slot, split, sequence, data, count, read=count)


def _with_refused(part: Rows, slot: str, split: int, sequence: int) -> Chunk:
    """Return a chunk of the rows and of the refused rows, which are numbered within the chunk."""
    rows = part.batch.num_rows
    if not part.refused:
        return Chunk(slot, split, sequence, part.batch, rows, read=rows)
    letters = [
        {"row": at, "step": "source", "code": one.code, "reason": one.reason, "values": json_of(one.values)}
        for at, one in enumerate(part.refused)
    ]
    refused = pa.RecordBatch.from_pylist(letters, schema=REFUSED)
    return Chunk(slot, split, sequence, part.batch, rows, read=rows + len(letters), dead=len(letters), refused=refused)
