"""Parquet: files are split by row groups, and decoded batch by batch, never a whole group at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataflows.connectors.formats.contract import MAX_VALUE_BYTES, ReadRequest, Rows, Shape
from dataflows.connectors.formats.int96 import exact_times, int96_columns
from dataflows.connectors.formats.parquet_rows import checked_rows
from dataflows.connectors.formats.types import can_read_as, file_column, sql_type
from penstock.errors import BadData, SchemaMismatch

__all__ = ["ParquetReader", "ParquetWriter"]

READ_BYTES: Final = 1 << 20
BATCH_ROWS: Final = 32_768
"""Larger batches are no faster, and need twice the memory while they wait in queues."""
BATCH_BYTES: Final = 8 << 20
GROUP_ROWS: Final = 131_072
GROUP_BYTES: Final = 16 << 20
"""Size limit of a row group in memory: groups of wide rows have fewer of them."""


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """Reads Parquet files; `remote` ones by large ranges, read ahead."""

    remote: bool

    def shape(self, stream: Any, where: str, sample: int) -> Shape:
        with _readable(where):
            file = self._open(stream)
            metadata, schema = file.metadata, file.schema_arrow
            groups = tuple(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups))
        names = schema.names
        if len(set(names)) < len(names):
            raise BadData("two columns have the same name", where=where, hint="write the file again")
        if sum(groups) != metadata.num_rows:
            raise _broken(where)
        return Shape(tuple(file_column(one, where) for one in schema), groups)

    def batches(self, open_stream: Callable[[], Any], request: ReadRequest) -> Iterator[Rows]:
        where = request.where
        with _readable(where):
            file = self._open(open_stream())
            schema = file.schema_arrow
        _check_columns(schema, request)
        present = set(schema.names)
        names = [name for name in request.columns if name in present] or schema.names[:1]
        with _readable(where):
            texts, twice = _dictionaries(file.metadata, names), int96_columns(file.metadata, names)
            again = self._open(open_stream(), (), file.metadata, "us") if twice else None
            groups = request.groups if request.groups is not None else range(file.metadata.num_row_groups)
            for group in groups:
                coded = self._open(open_stream(), texts, file.metadata) if texts else None
                if coded is not None and not _has_long_texts(coded, group, texts):
                    coded = None  # release what it has buffered
                old = partial(again.iter_batches, columns=twice) if again is not None else None
                yield from self._group(coded or file, old, group, names, request)

    def _group(
        self, file: pq.ParquetFile, old: Any, group: int, names: Sequence[str], request: ReadRequest
    ) -> Iterator[Rows]:
        metadata = file.metadata
        first = sum(metadata.row_group(at).num_rows for at in range(group))
        left = metadata.row_group(group).num_rows
        rows = _batch_rows(metadata.row_group(group), request.rows)
        for batch in _with_times(file, old, group, names, rows, request.where):
            for part in decoded(batch, request.where):
                yield checked_rows(part, first, request)
                first += part.num_rows
            left -= batch.num_rows
        if left:
            raise _broken(request.where)

    def _open(
        self, stream: Any, texts: Sequence[str] = (), metadata: Any = None, int96: str | None = None
    ) -> pq.ParquetFile:
        options: dict[str, Any] = {"pre_buffer": True} if self.remote else {"buffer_size": READ_BYTES}
        options |= {"coerce_int96_timestamp_unit": int96}
        options |= {"read_dictionary": list(texts), "metadata": metadata}
        return pq.ParquetFile(stream, page_checksum_verification=True, **options)


def _check_columns(schema: pa.Schema, request: ReadRequest) -> None:
    """Refuse a new column, or one whose type differs from that in the sampled files so that values may be lost."""
    if request.whole and (new := set(schema.names) - {column.name for column in request.known}):
        hint = "it is in none of the sampled files; narrow the pattern, or write all files with the same columns"
        raise SchemaMismatch(f"column `{min(new)}` is new", where=request.where, hint=hint)
    fields = {field.name: field for field in schema}
    for name, column in request.columns.items():
        if name in fields and not can_read_as(actual := sql_type(fields[name], request.where), column.type):
            what = f"`{name}` is {actual} here, and {column.type} in the sampled files"
            hint = "narrow the pattern, or write all files with the same types"
            raise SchemaMismatch(what, where=request.where, hint=hint)


def _dictionaries(metadata: Any, names: Sequence[str]) -> list[str]:
    """Return the dictionary-encoded text and binary columns, which may be of any size once decoded."""
    if not metadata.num_row_groups:
        return []
    group, wanted, schema = metadata.row_group(0), set(names), metadata.schema
    # Of other columns the library would abort the process if their statistics are corrupted.
    places = (at for at in range(group.num_columns) if schema.column(at).physical_type == "BYTE_ARRAY")
    columns = (group.column(at) for at in places if schema.column(at).path in wanted)
    return [one.path_in_schema for one in columns if any("DICTIONARY" in encoding for encoding in one.encodings)]


def _has_long_texts(coded: pq.ParquetFile, group: int, texts: Sequence[str]) -> bool:
    """True if a batch may be large once decoded, since a text that is once in the dictionary can be in every row.

    Groups of short texts are read decoded, as Arrow would keep all texts of the group, also outside the dictionary.
    """
    batch = next(coded.iter_batches(1, row_groups=[group], columns=list(texts), use_threads=False), None)
    columns = batch.columns if batch is not None else []
    longest = sum(pc.max(pc.binary_length(column.dictionary)).as_py() or 0 for column in columns)
    return bool(longest * BATCH_ROWS > BATCH_BYTES)


def decoded(batch: pa.RecordBatch, where: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows without dictionary encoding, in batches of a few megabytes.

    Raises:
        BadData: values of more than 64 MiB in one row.
    """
    coded = [column for column in batch.columns if pa.types.is_dictionary(column.type)]
    sizes = None
    for column in coded:
        raw = column.dictionary.cast(pa.large_binary())  # texts are checked row by row
        pa.DictionaryArray.from_arrays(column.indices, raw).validate(full=True)
        lengths = pc.fill_null(pc.binary_length(column.dictionary).cast(pa.int64()).take(column.indices), 0)
        sizes = lengths if sizes is None else pc.add(sizes, lengths)
    for part in _parts(batch, sizes, where):
        arrays = [
            column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
            for column in part.columns
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _parts(batch: pa.RecordBatch, sizes: pa.Array | None, where: str) -> Iterator[pa.RecordBatch]:
    if sizes is None or not batch.num_rows or pc.sum(sizes).as_py() <= BATCH_BYTES:
        yield batch
        return
    if pc.max(sizes).as_py() > MAX_VALUE_BYTES:
        what = f"the text of a row is larger than {MAX_VALUE_BYTES >> 20} MiB"
        raise BadData(what, where=where, hint="leave that column out of the mapping, or such rows out of the file")
    start = size_so_far = 0
    for at, size in enumerate(sizes.to_pylist()):
        if size_so_far and size_so_far + size > BATCH_BYTES:
            yield batch.slice(start, at - start)
            start, size_so_far = at, 0
        size_so_far += size
    yield batch.slice(start)


def _with_times(
    file: pq.ParquetFile, old: Any, group: int, names: Sequence[str], rows: int, where: str
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a row group; `old` reads its old timestamps again, in another unit, if it has some."""
    options = {"batch_size": rows, "row_groups": [group], "use_threads": False}
    others = repeat(None) if old is None else old(**options)
    for batch, other in zip(file.iter_batches(columns=names, **options), others, strict=False):
        arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name in other.schema.names if other is not None else ():
            arrays[name] = exact_times(arrays[name], other.column(name))
            if arrays[name] is None:
                what = f"`{name}` has times beyond the years 1677 to 2262, and others with parts of a microsecond"
                raise BadData(what, where=where, hint="leave one of both out, or write the file with other types")
        yield pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Translate the many errors that Arrow raises for corrupted files."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError) as error:
        raise _broken(where, error) from error


def _batch_rows(group: Any, rows: int) -> int:
    """Return the number of rows in a batch; fewer if rows are wide, by their encoded size."""
    each = group.total_byte_size / max(1, group.num_rows)
    return max(1, min(rows, BATCH_ROWS, int(BATCH_BYTES // max(1.0, each))))


def _broken(where: str, error: Exception | None = None) -> Exception:
    """Return the error for an unreadable file; `error` itself if it comes from the operating system."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return BadData("the file is not readable as Parquet", where=where, hint="write it again, or name other files")


@dataclass(slots=True)
class ParquetWriter:
    """Writes row groups of up to 131,072 rows, or about 16 MB of them."""

    stream: Any
    schema: pa.Schema
    compression: str
    _inner: Any = field(default=None, init=False)
    _pending: list[pa.RecordBatch] = field(default_factory=list, init=False)
    _rows: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)

    def write(self, batch: pa.RecordBatch) -> None:
        if self._pending and (self._rows + batch.num_rows > GROUP_ROWS or self._bytes + batch.nbytes > GROUP_BYTES):
            self._flush()
        self._pending.append(pa.RecordBatch.from_arrays(batch.columns, schema=self.schema))
        self._rows += batch.num_rows
        self._bytes += batch.nbytes

    def close(self) -> int:
        self._flush()
        self._inner.close()
        return int(self._inner.writer.metadata.num_rows)

    def _flush(self) -> None:
        if self._inner is None:
            self._inner = pq.ParquetWriter(
                self.stream, self.schema, compression=self.compression, write_page_checksum=True
            )
        if self._pending:
            self._inner.write_table(pa.Table.from_batches(self._pending), row_group_size=GROUP_ROWS)
        self._pending, self._rows, self._bytes = [], 0, 0
