"""Read a split as chunks, whatever the system: numbered, and closed by a marker that counts its rows."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from dataflows.connectors.formats.contract import Rows
from dataflows.data.chunks import REFUSED, Chunk
from dataflows.data.display import json_of
from dataflows.data.splits import Split
from penstock.failpoints import failpoint

__all__ = ["chunks"]


def chunks(slot: str, split: Split, found: Iterator[pa.RecordBatch | memoryview | int | Rows]) -> Iterator[Chunk]:
    """The chunks of what `found` yields, and the closing marker.

    `found` is not touched before the first chunk is asked for. Where it holds undecoded bytes, its last element is the
    number of rows that the source counted.
    """
    failpoint("read.begin", split.number)
    sequence = rows = aside = 0
    counted: int | None = None
    for data in found:
        if isinstance(data, int):
            counted = data
            continue
        failpoint("read.block", split.number)
        chunk = _chunk(data, slot, split.number, sequence)
        yield chunk
        sequence, rows, aside = sequence + 1, rows + chunk.rows, aside + chunk.dead
    failpoint("read.end", split.number)
    rows = rows if counted is None else counted
    yield Chunk(slot, split.number, sequence, None, rows, last=True, read=rows + aside, dead=aside)


def _chunk(data: pa.RecordBatch | memoryview | Rows, slot: str, split: int, sequence: int) -> Chunk:
    if isinstance(data, Rows):
        return _with_asides(data, slot, split, sequence)
    held = data.num_rows if isinstance(data, pa.RecordBatch) else 0
    return Chunk(slot, split, sequence, data, held, read=held)


def _with_asides(found: Rows, slot: str, split: int, sequence: int) -> Chunk:
    """Rows, and those that are set aside, numbered within the chunk."""
    rows = found.batch.num_rows
    if not found.asides:
        return Chunk(slot, split, sequence, found.batch, rows, read=rows)
    letters = [
        {"row": at, "step": "source", "code": one.code, "reason": one.reason, "values": json_of(one.values)}
        for at, one in enumerate(found.asides)
    ]
    refused = pa.RecordBatch.from_pylist(letters, schema=REFUSED)
    return Chunk(slot, split, sequence, found.batch, rows, read=rows + len(letters), dead=len(letters), refused=refused)
