"""Parquet: row groups are what a file is split by; batches are decoded one after the other, never a whole group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dataflows.connectors.formats.contract import Shape
from dataflows.connectors.formats.types import sql_type
from dataflows.data.tables import Column
from penstock.errors import BadData, SchemaMismatch

__all__ = ["ParquetReader", "ParquetWriter"]

READ_BYTES: Final = 1 << 20
BATCH_ROWS: Final = 32_768
"""More would only be held in queues: as quick, and half the memory."""
BATCH_BYTES: Final = 8 << 20
GROUP_ROWS: Final = 131_072
GROUP_BYTES: Final = 16 << 20
"""What a writer holds of wide rows, whose groups have fewer of them."""


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """Reads Parquet files; `remote` ones by large ranges ahead of time."""

    remote: bool

    def shape(self, stream: Any, where: str) -> Shape:
        with _readable(where):
            file = self._opened(stream)
            metadata, schema = file.metadata, file.schema_arrow
            groups = tuple(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups))
        names = schema.names
        if len(set(names)) < len(names):
            raise BadData("two columns have the same name", where=where, hint="write the file anew")
        if sum(groups) != metadata.num_rows:
            raise _broken(where)
        return Shape(tuple(Column(one.name, sql_type(one, where), nullable=one.nullable) for one in schema), groups)

    def batches(
        self,
        opened: Callable[[], Any],
        groups: Sequence[int] | None,
        columns: Mapping[str, Column],
        known: Sequence[Column],
        rows: int,
        where: str,
    ) -> Iterator[pa.RecordBatch]:
        with _readable(where):
            file = self._opened(opened())
            have = file.schema_arrow.names
        if new := set(have) - {column.name for column in known}:
            hint = "it is in none of the files that were looked at; narrow the pattern, or write the files alike"
            raise SchemaMismatch(f"column `{min(new)}` is new", where=where, hint=hint)
        names = [name for name in columns if name in have] or have[:1]
        left = _rows(file, groups)
        with _readable(where):
            size = _at_once(file.metadata, rows)
            for batch in file.iter_batches(size, row_groups=groups, columns=names, use_threads=False):
                batch.validate(full=True)  # damage that no checksum tells
                left -= batch.num_rows
                yield batch
        if left:
            raise _broken(where)

    def _opened(self, stream: Any) -> pq.ParquetFile:
        if self.remote:
            return pq.ParquetFile(stream, pre_buffer=True, page_checksum_verification=True)
        return pq.ParquetFile(stream, buffer_size=READ_BYTES, page_checksum_verification=True)


def _rows(file: pq.ParquetFile, groups: Sequence[int] | None) -> int:
    metadata = file.metadata
    return int(metadata.num_rows if groups is None else sum(metadata.row_group(at).num_rows for at in groups))


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """What Arrow says of damaged files is of many kinds; all of them mean the same."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError) as error:
        raise _broken(where, error) from error


def _at_once(metadata: Any, rows: int) -> int:
    """How many rows a batch has: fewer where they are wide, as far as their encoded size tells."""
    held = sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    each = held / max(1, metadata.num_rows)
    return max(1, min(rows, BATCH_ROWS, int(BATCH_BYTES // max(1.0, each))))


def _broken(where: str, error: Exception | None = None) -> Exception:
    """The error itself where the system says it, not the file's content."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return BadData("the file is no readable Parquet", where=where, hint="write it anew, or name other files")


@dataclass(slots=True)
class ParquetWriter:
    """Writes row groups of up to 131,072 rows, or about 16 MB of them."""

    stream: Any
    schema: pa.Schema
    compression: str
    _inner: Any = field(default=None, init=False)
    _held: list[pa.RecordBatch] = field(default_factory=list, init=False)
    _rows: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)

    def write(self, batch: pa.RecordBatch) -> None:
        if self._held and (self._rows + batch.num_rows > GROUP_ROWS or self._bytes + batch.nbytes > GROUP_BYTES):
            self._flush()
        self._held.append(pa.RecordBatch.from_arrays(batch.columns, schema=self.schema))
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
        if self._held:
            self._inner.write_table(pa.Table.from_batches(self._held), row_group_size=GROUP_ROWS)
        self._held, self._rows, self._bytes = [], 0, 0
