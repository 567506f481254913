"""Write the splits of one slot to staged files; an entry of the folder's log commits each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.files.folder import Folder
from dataflows.connectors.files.manifest import staged
from dataflows.connectors.files.state import FilesState
from dataflows.connectors.files.store import Store, translated
from dataflows.connectors.formats.contract import FileWriter, packed
from dataflows.connectors.formats.types import file_field
from dataflows.connectors.patience import patiently
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from penstock.errors import PenstockError
from penstock.failpoints import failpoint
from penstock.models.formats import CsvFormat, JsonlFormat

__all__ = ["FilesWriter"]


@dataclass(slots=True)
class _Open:
    """The split whose file is open; `file` and `stream` only once it has rows."""

    split: int
    sequence: int = 0
    rows: int = 0
    bytes: int = 0
    path: str = ""
    held: AbstractContextManager[Any] | None = None
    stream: Any = None
    file: FileWriter | None = None


class _GivenUp(Exception):
    pass


@dataclass(slots=True)
class FilesWriter:
    """Writes the chunks of one slot: a staged file for each split, then the entry that commits it."""

    store: Store
    folder: Folder
    state: FilesState
    order: WriterOrder
    _open: _Open | None = field(default=None, init=False)
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    def open(self) -> None:
        """Read the log."""
        if self.store.remote:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._asked(self.state.log.refresh)

    def close(self) -> None:
        """Give up what is not committed."""
        current, self._open = self._open, None
        if current is not None and current.held is not None:
            with suppress(_GivenUp, PenstockError):
                current.held.__exit__(_GivenUp, _GivenUp(), None)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def idle(self) -> None:
        """No session has to be watched."""

    def done(self) -> None:
        """Check that no split was left open when the stream ended."""
        if self._open is not None:
            message = f"the stream ended inside split {self._open.split}"
            raise AssertionError(message)

    def write(self, chunk: Chunk) -> None:
        """Write a chunk; the last one of a split commits it.

        Raises:
            Fenced: a newer run took over.
            BadData: a value that the format has no form for.
        """
        current = self._open = self._open or self._begun(chunk.split)
        if (chunk.split, chunk.sequence) != (current.split, current.sequence):
            message = f"chunk {chunk.split}.{chunk.sequence} came where {current.split}.{current.sequence} was due"
            raise AssertionError(message)
        current.sequence += 1
        if chunk.data is not None:
            if chunk.rows:
                self._asked(lambda: self._put(current, chunk))
            failpoint("commit.mid_copy", chunk.split)
        if chunk.last:
            self._commit(current, chunk)

    def _asked(self, work: Callable[[], Any]) -> Any:
        with translated(self.state.where):
            return patiently(self._pool, self.order.check, work)

    def _begun(self, split: int) -> _Open:
        failpoint("commit.begin", split)
        return _Open(split)

    def _put(self, current: _Open, chunk: Chunk) -> None:
        if current.file is None:
            order = self.order
            current.path = staged(self.state.uid, order.run, current.split, order.generation, self.folder.ending)
            current.held = self.store.writer(self.state.log.at(current.path))
            current.stream = packed(current.held.__enter__(), self.folder.codec)
            current.file = self._file(current.stream)
        current.file.write(chunk.data)
        current.rows += chunk.rows
        current.bytes += chunk.size

    def _file(self, stream: Any) -> FileWriter:
        form = self.folder.form
        schema = pa.schema([file_field(column) for column in self.order.columns])
        if isinstance(form, CsvFormat):
            from dataflows.connectors.formats.csv import CsvWriter

            return CsvWriter(stream, schema, form)
        if isinstance(form, JsonlFormat):
            from dataflows.connectors.formats.jsonl import JsonlWriter

            return JsonlWriter(stream, self.state.where)
        from dataflows.connectors.formats.parquet import ParquetWriter

        return ParquetWriter(stream, schema, form.compression)

    def _commit(self, current: _Open, marker: Chunk) -> None:
        file = self._asked(lambda: self._closed(current))
        failpoint("commit.copied", current.split)
        counted = self._counted(current, marker, file["rows"] if file else 0)
        failpoint("commit.before_fence", current.split)
        order = self.order
        self._asked(lambda: self.state.commit(order.run, order.generation, current.split, counted, file))
        failpoint("commit.sent", current.split)
        failpoint("commit.done", current.split)
        self._open = None
        order.committed(counted)

    def _closed(self, current: _Open) -> dict[str, Any] | None:
        """The split's file, durable; None where it has no rows."""
        if current.file is None or current.held is None:
            return None
        rows = current.file.close()
        if self.folder.codec is not None:
            current.stream.close()
        held, current.held = current.held, None
        held.__exit__(None, None, None)
        size = self.store.head(self.state.log.at(current.path)).size
        return {"path": current.path, "rows": rows, "bytes": size}

    def _counted(self, current: _Open, marker: Chunk, rows: int) -> Counters:
        """The split's counters, checked against what the file says that it holds."""
        filtered = marker.read - current.rows - marker.dead
        counted = Counters(marker.read, rows, filtered, marker.dead, current.bytes)
        if rows != current.rows or not counted.balanced or filtered < 0:
            raise PenstockError(
                f"split {current.split} does not add up: {marker.read} rows read, {current.rows} sent, {rows} written",
                where=self.state.where,
                hint="this is a defect: nothing of the split was committed",
            )
        return counted
