"""Chunks that were made of a split, kept until it is committed: in memory, and what is too much in a temporary file.

A split of a topic is small; one of a folder has whole files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Final

import pyarrow as pa

from dataflows.data.chunks import Chunk

__all__ = ["Kept"]

MEMORY_BYTES: Final = 32 << 20
"""Bytes of rows that a split keeps in memory."""


@dataclass(slots=True)
class Kept:
    """The chunks of one split, in order. They may be read by another thread once the last one is there."""

    _chunks: list[tuple[Chunk, int | None]] = field(default_factory=list)
    """Each chunk, and where in the file its rows are; None if it has them itself."""
    _bytes: int = 0
    _file: IO[bytes] | None = None

    def add(self, chunk: Chunk) -> None:
        """Keep one more chunk."""
        if not isinstance(chunk.data, pa.RecordBatch) or self._bytes + chunk.size <= MEMORY_BYTES:
            self._bytes += chunk.size
            self._chunks.append((chunk, None))
        else:
            self._chunks.append((replace(chunk, data=None), self._stored(chunk.data)))

    def _stored(self, rows: pa.RecordBatch) -> int:
        self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
        place = self._file.tell()
        with pa.ipc.new_stream(self._file, rows.schema) as stream:
            stream.write_batch(rows)
        return place

    def __iter__(self) -> Iterator[Chunk]:
        for chunk, place in self._chunks:
            yield chunk if place is None or self._file is None else replace(chunk, data=_rows(self._file, place))

    def close(self) -> None:
        """Delete the file, if there is one."""
        if self._file is not None:
            self._file.close()


def _rows(file: IO[bytes], place: int) -> pa.RecordBatch:
    file.seek(place)
    with pa.ipc.open_stream(file) as stream:
        return stream.read_next_batch()
