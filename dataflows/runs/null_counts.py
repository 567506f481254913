"""Step of a flow that counts the NULLs of what goes on to the writer; it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from dataflows.data.chunks import Chunk
from dataflows.data.nulls import Nulls, nulls_of

__all__ = ["counting"]


def counting(nulls: Nulls, columns: Sequence[str], *, text: bool) -> Callable[[Chunk], Chunk]:
    """Return the step; `columns` are the names of undecoded rows, of which a sample is counted, in `text` or binary."""

    def count(chunk: Chunk) -> Chunk:
        if isinstance(chunk.data, pa.RecordBatch):
            nulls.add(*nulls_of(chunk.data))
        elif chunk.data is not None:
            from dataflows.connectors.postgres.null_sample import null_sample

            rows, counts = null_sample(chunk.data, len(columns), text=text, first=chunk.sequence == 0)
            nulls.add(rows, dict(zip(columns, counts, strict=True)))
        return chunk

    return count
