"""Reader of files: a split is pieces of files, each with the version that it must have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.files.names import partitions
from dataflows.connectors.files.store import Gone, Listed, Store, translated
from dataflows.connectors.formats.contract import (
    FileReader,
    ReadRequest,
    Rows,
    decompress_stream,
    decompression_errors,
    format_of,
)
from dataflows.connectors.formats.types import cast_exactly
from dataflows.connectors.reading import chunks
from dataflows.connectors.waiting import run_checked
from dataflows.data.chunks import Chunk
from dataflows.data.decimals import cast_text
from dataflows.data.splits import Split
from penstock.errors import BadData, PenstockError, Unavailable
from penstock.models.formats import CsvFormat, FileFormat, JsonlFormat

__all__ = ["GOES_ON", "MODIFIED", "FilesReader", "inside", "reader_of"]

MODIFIED: Final = "_modified"
GOES_ON: Final = "nothing to do: the stream lists the folder again, and goes on"


def inside(form: FileFormat, path: str) -> FileFormat:
    """Return the format of a file itself, without the columns that it declares for the file's folders ``key=value``."""
    declared, keys = getattr(form, "columns", {}), partitions(path)
    if keys.keys().isdisjoint(declared):
        return form
    return form.model_copy(update={"columns": {name: kind for name, kind in declared.items() if name not in keys}})


def reader_of(form: FileFormat, *, remote: bool, own: bool = False) -> FileReader:
    """Return the reader of a format; `own`: files that a run has written."""
    if isinstance(form, CsvFormat):
        from dataflows.connectors.formats.csv import CsvReader

        return CsvReader(form, own)
    if isinstance(form, JsonlFormat):
        from dataflows.connectors.formats.jsonl import JsonlReader

        return JsonlReader(form, own)
    from dataflows.connectors.formats.parquet import ParquetReader

    return ParquetReader(remote)


@dataclass(slots=True)
class FilesReader:
    """Reads splits, piece by piece."""

    place: Place
    store: Store
    order: ReadOrder
    own: bool = False
    watched: bool = False
    """True if the folder is listed again and again: a file that is gone or has changed is then no error."""
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the chunks of a split and its closing marker.

        Raises:
            BadData: a value is not of its type, or a file has changed; Unavailable if the folder is watched.
        """
        if self.store.remote and self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="files")
        pieces = json.loads(split.lower or "[]")
        return chunks(slot, split, chain.from_iterable(self._batches(*piece) for piece in pieces))

    def close(self) -> None:
        """Stop without waiting for a pending request."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _run_checked(self, work: Callable[[], Any]) -> Any:
        with translated(self.place.where):
            return run_checked(self._pool, self.order.check, work)

    def _batches(self, path: str, version: str, groups: list[int] | None) -> Iterator[Rows]:
        where = f"{self.place.where}: {path}"
        file = self._unchanged(path, version, where)
        form, codec = format_of(path, self.place.format, where)
        known = [column for column in self.order.table.columns if not column.hidden]
        folders = partitions(path)
        own = [column for column in known if column.name not in folders]
        wanted = {name: column for name in self.order.columns for column in own if column.name == name}
        request = ReadRequest(wanted, own, self.order.batch_rows, where, len(wanted) == len(own), groups)
        reader = reader_of(inside(form, path), remote=self.store.remote, own=self.own)
        batches = reader.batches(lambda: decompress_stream(self.store.reader(path), codec), request)
        try:
            with decompression_errors(where):
                while (rows := self._run_checked(lambda: next(batches, None))) is not None:
                    yield Rows(self._with_constants(rows.batch, file, folders, where), rows.refused)
        except (BadData, Gone):
            self._unchanged(path, version, where)  # else that is the reason
            raise
        self._unchanged(path, version, where)

    def _unchanged(self, path: str, version: str, where: str) -> Listed:
        try:
            current: Listed = self._run_checked(lambda: self.store.head(path))
        except Gone:
            raise self._lost("the file is gone", where) from None
        if current.version != version:
            raise self._lost("the file has changed", where)
        return current

    def _lost(self, what: str, where: str) -> PenstockError:
        """Return the error for a file that is not there any more as it was listed."""
        if self.watched:
            return Unavailable(f"{what} since it was listed", where=where, hint=GOES_ON)
        hint = "restore it and run again; a new run of write: replace makes a new plan"
        return BadData(f"{what} since the run was planned", where=where, hint=hint)

    def _with_constants(
        self, batch: pa.RecordBatch, file: Listed, folders: dict[str, str | None], where: str
    ) -> pa.RecordBatch:
        schema = self.order.schema
        assert schema is not None  # noqa: S101 - files are never read undecoded
        constants: dict[str, Any] = {"_path": file.path, MODIFIED: file.modified, **folders}
        have = set(batch.schema.names)
        arrays = []
        for one in schema:
            if one.name in have:
                arrays.append(cast_exactly(batch.column(one.name), one, where))
            else:
                arrays.append(_constant(constants.get(one.name), one, batch.num_rows, where))
        return pa.RecordBatch.from_arrays(arrays, names=schema.names)


def _constant(value: Any, wanted: pa.Field, count: int, where: str) -> pa.Array:
    try:
        given = pa.array([value], None if isinstance(value, datetime) else pa.string())
        constant = cast_text(given, wanted.type)[0]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        what = f"the folder's value of `{wanted.name}` is not of type {wanted.type}"
        raise BadData(what, where=where, hint="give the key another type in `format.columns`") from None
    return pa.repeat(constant, count)
