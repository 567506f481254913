"""Rows on disk, in parts by the hash of their key, so that two sides can be compared part by part in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

__all__ = ["PARTS", "Spill"]

PARTS: Final = 64


class Spill:
    """Rows of one schema in files of a folder; entered to write, read afterwards."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self.rows = folder, name, 0
        self._open = ExitStack()
        self._writers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Begin to write."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the files."""
        self._open.close()

    def add(self, rows: pa.RecordBatch, hashes: Any) -> None:
        """Write rows, each into the part that its hash says."""
        parts = hashes % np.uint64(PARTS)
        for part in np.unique(parts).tolist():
            self.put(int(part), rows.filter(pa.array(parts == part)))

    def put(self, part: int, rows: pa.RecordBatch) -> None:
        """Write rows into a part."""
        if part not in self._writers:
            file = self._open.enter_context(self._path(part).open("wb"))
            self._writers[part] = self._open.enter_context(pa.ipc.new_stream(file, rows.schema))
        self._writers[part].write_batch(rows)
        self.rows += rows.num_rows

    def part(self, number: int) -> pa.Table | None:
        """Return the rows of a part; None if there are none."""
        if number not in self._writers:
            return None
        with self._path(number).open("rb") as file, pa.ipc.open_stream(file) as reader:
            return reader.read_all()

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield all rows, at most so many at once."""
        for part in sorted(self._writers):
            table = self.part(part)
            if table is not None:
                yield from table.combine_chunks().to_batches(rows)

    def _path(self, part: int) -> Path:
        return self._folder / f"{self._name}.{part}"
