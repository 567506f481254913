"""Write the splits of one slot to staged files; an entry of the folder's log commits each.

A split of a stream is part of the folder at once: its file is copied to its place among the others before the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.files.folder import Folder
from dataflows.connectors.files.log import folder_removed
from dataflows.connectors.files.manifest import published, staged
from dataflows.connectors.files.state import FilesState
from dataflows.connectors.files.store import Gone, Store, translated
from dataflows.connectors.formats.contract import FileWriter, compress_stream
from dataflows.connectors.formats.types import file_field
from dataflows.connectors.waiting import run_checked
from dataflows.connectors.writing import OpenSplit
from dataflows.data.counters import Counters
from penstock.errors import Fenced, PenstockError
from penstock.models.formats import CsvFormat, JsonlFormat

__all__ = ["FilesSink"]


@dataclass(slots=True)
class _Staged:
    """The open file of a split that has rows."""

    path: str
    context: AbstractContextManager[Any]
    stream: Any
    file: FileWriter


class _Abandoned(Exception):
    pass


@dataclass(slots=True)
class FilesSink:
    """Stages a file for each split; the entry that names it commits it."""

    store: Store
    folder: Folder
    state: FilesState
    order: WriterOrder
    pool: ThreadPoolExecutor | None
    _split: int = field(default=0, init=False)
    _staged: _Staged | None = field(default=None, init=False)

    @classmethod
    @contextmanager
    def open(cls, store: Store, folder: Folder, state: FilesState, order: WriterOrder) -> Iterator[FilesSink]:
        """Open a sink, with the log read; a file still open at the end of the context is dropped."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="files") if store.remote else None
        sink = cls(store, folder, state, order, pool)
        try:
            sink.run(state.log.refresh)
            yield sink
        finally:
            sink.abandon()
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, split: int, data: Any) -> None:
        self._split = split

    def put(self, data: pa.RecordBatch) -> None:
        if data.num_rows:
            self.run(lambda: self._file().write(data))

    def idle(self) -> None:
        """Do nothing: there is no session."""

    def commit(self, split: OpenSplit) -> Counters:
        file = self.run(self._close_file)
        split.reached("copied")
        counted = split.counted(file["rows"] if file else 0)
        order = self.order
        if split.moves:
            self._move(split, counted, file)
            return counted
        split.reached("before_fence")
        self.run(lambda: self.state.commit(order.run, order.generation, split.number, counted, file))
        split.reached("sent")
        return counted

    def _move(self, split: OpenSplit, counted: Counters, file: dict[str, Any] | None) -> None:
        """Commit a split of a stream. What is left by a process that dies here is swept when the next one begins."""
        state, order, at = self.state, self.order, self.state.log.at
        placed = None if file is None else file | {"path": published(file["path"])}
        try:
            if file is not None and placed is not None:
                self.run(lambda: self.store.copy(at(file["path"]), at(placed["path"])))
            split.reached("before_fence")
            self.run(lambda: state.move(order.run, order.generation, split.number, counted, placed, split.moves))
        except Gone:
            self.run(lambda: state.check(state.log.refresh(), order.generation))  # fenced if a newer run has swept it
            raise folder_removed(state.where) from None
        except Fenced:
            if placed is not None:
                self.store.delete([at(placed["path"])])
            raise
        split.reached("sent")
        if file is not None:
            self.run(lambda: self.store.delete([at(file["path"])]))

    def run(self, work: Callable[[], Any]) -> Any:
        """Run work on the store, while the order's check may end the wait."""
        with translated(self.state.where):
            return run_checked(self.pool, self.order.check, work)

    def abandon(self) -> None:
        """Drop the file of an uncommitted split."""
        if self._staged is not None:
            with suppress(_Abandoned, PenstockError):
                self._staged.context.__exit__(_Abandoned, _Abandoned(), None)

    def _file(self) -> FileWriter:
        """Return the split's file, opening it for its first rows."""
        if self._staged is None:
            order = self.order
            path = staged(self.state.uid, order.run, self._split, order.generation, self.folder.ending)
            context = self.store.writer(self.state.log.at(path))
            stream = compress_stream(context.__enter__(), self.folder.codec)
            self._staged = _Staged(path, context, stream, self._writer(stream))
        return self._staged.file

    def _writer(self, stream: Any) -> FileWriter:
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

    def _close_file(self) -> dict[str, Any] | None:
        """Close the split's file durably and describe it; None if the split has no rows."""
        if self._staged is None:
            return None
        one = self._staged
        rows = one.file.close()
        if self.folder.codec is not None:
            one.stream.close()
        self._staged = None
        one.context.__exit__(None, None, None)
        return {"path": one.path, "rows": rows, "bytes": self.store.head(self.state.log.at(one.path)).size}
