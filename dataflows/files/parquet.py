"""Parquet: row groups are what a file is split by; batches are decoded one after the other, never a whole group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dataflows.files.formats import Shape
from dataflows.files.types import sql_type
from dataflows.tables import Column
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
        file = self._opened(stream, where)
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise BadData("two columns have the same name", where=where, hint="write the file anew")
        columns = tuple(
            Column(one.name, sql_type(one, where), nullable=one.nullable) for one in file.schema_arrow
        )  # fmt: skip
        metadata = file.metadata
        return Shape(columns, tuple(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)))

    def batches(
        self, opened: Callable[[], Any], groups: Sequence[int] | None, columns: Mapping[str, Column],
        known: Sequence[Column], rows: int, where: str,
    ) -> Iterator[pa.RecordBatch]:  # fmt: skip
        file = self._opened(opened(), where)
        have = file.schema_arrow.names
        if new := set(have) - {column.name for column in known}:
            hint = "it is in none of the files that were looked at; narrow the pattern, or write the files alike"
            raise SchemaMismatch(f"column `{min(new)}` is new", where=where, hint=hint)
        names = [name for name in columns if name in have] or have[:1]
        try:
            yield from file.iter_batches(
                _at_once(file.metadata, rows), row_groups=groups, columns=names, use_threads=False
            )
        except (pa.ArrowException, OSError) as error:
            raise _broken(error, where) from error

    def _opened(self, stream: Any, where: str) -> pq.ParquetFile:
        try:
            if self.remote:
                return pq.ParquetFile(stream, pre_buffer=True)
            return pq.ParquetFile(stream, buffer_size=READ_BYTES)
        except (pa.ArrowException, OSError) as error:
            raise _broken(error, where) from error


def _at_once(metadata: Any, rows: int) -> int:
    """How many rows a batch has: fewer where they are wide, as far as their encoded size tells."""
    held = sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    each = held / max(1, metadata.num_rows)
    return max(1, min(rows, BATCH_ROWS, int(BATCH_BYTES // max(1.0, each))))


def _broken(error: Exception, where: str) -> Exception:
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
            self._inner = pq.ParquetWriter(self.stream, self.schema, compression=self.compression)
        if self._held:
            self._inner.write_table(pa.Table.from_batches(self._held), row_group_size=GROUP_ROWS)
        self._held, self._rows, self._bytes = [], 0, 0
