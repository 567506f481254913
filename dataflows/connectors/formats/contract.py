"""Formats: how a file's columns are told, its rows read as Arrow batches, and new files written. A table of three."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa

from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import BadData, Refused, SchemaMismatch
from penstock.models.formats import CsvFormat, Format, JsonlFormat, ParquetFormat

__all__ = [
    "FileReader",
    "FileWriter",
    "Shape",
    "declared",
    "decompressed",
    "ending_of",
    "format_of",
    "packed",
    "unpacked",
]

ENDINGS: Final[dict[str, Format]] = {
    ".parquet": ParquetFormat(type="parquet"), ".pq": ParquetFormat(type="parquet"),
    ".csv": CsvFormat(type="csv"), ".tsv": CsvFormat(type="csv", delimiter="\t"),
    ".jsonl": JsonlFormat(type="jsonl"), ".ndjson": JsonlFormat(type="jsonl"),
}  # fmt: skip
_PACKED: Final = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class Shape:
    """What one file looks like: its columns, and its rows by row group; a text file is one group of unknown size."""

    columns: tuple[Column, ...]
    groups: tuple[int, ...] | None = None


class FileReader(Protocol):
    """Reads files of one format, from Arrow streams that are already decompressed where the format is text."""

    def shape(self, stream: Any, where: str) -> Shape:
        """What the file looks like; of a text file, what its beginning tells.

        Raises:
            SchemaMismatch, BadData: it is not of this format, or has a column that cannot be kept.
        """

    def batches(
        self,
        opened: Callable[[], Any],
        groups: Sequence[int] | None,
        columns: Mapping[str, Column],
        known: Sequence[Column],
        rows: int,
        where: str,
    ) -> Iterator[pa.RecordBatch]:
        """Batches of at most `rows` rows that have at least those of `columns` that the file has.

        `opened` gives a new stream of the file's content each time; `known` are all columns that files may have.

        Raises:
            BadData: by file, line and column.
        """


class FileWriter(Protocol):
    """Writes one file to an Arrow stream."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows.

        Raises:
            BadData: a value that the format has no form for.
        """

    def close(self) -> int:
        """Write what is left; the rows in the file."""


def format_of(path: str, given: Format | None, where: str) -> tuple[Format, str | None]:
    """The format of a file and how it is compressed as a whole: as the pipeline says, else by its name's ending.

    Raises:
        Refused: neither tells it.
    """
    name, packed = path, None
    for ending, codec in _PACKED.items():
        if path.endswith(ending):
            name, packed = path.removesuffix(ending), codec
    found = given or next((one for ending, one in ENDINGS.items() if name.endswith(ending)), None)
    if found is None:
        hint = f"end it with {', '.join(ENDINGS)}, or say `format`"
        raise Refused("its name does not tell its format", where=where, value=path, hint=hint)
    if isinstance(found, ParquetFormat):
        return found, None
    return found, packed if found.compression is None else None if found.compression == "none" else found.compression


def ending_of(form: Format) -> str:
    """What names of written files of a format end with."""
    plain = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl"}[form.type]
    if isinstance(form, ParquetFormat):
        return plain
    return plain + {"gzip": ".gz", "zstd": ".zst"}.get(form.compression or "none", "")


@contextmanager
def decompressed(where: str) -> Iterator[None]:
    """Say it where a compressed file is damaged.

    Raises:
        BadData: it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise BadData("the file cannot be decompressed", where=where, hint="mend the file, or its name") from None


def unpacked(stream: Any, codec: str | None) -> Any:
    """A stream of what is in the file."""
    return stream if codec is None else pa.CompressedInputStream(stream, codec)


def packed(stream: Any, codec: str | None) -> Any:
    """A stream that compresses on the way."""
    return stream if codec is None else pa.CompressedOutputStream(stream, codec)


def declared(columns: Mapping[str, str], where: str) -> tuple[Column, ...]:
    """Columns as a pipeline's `format` names them.

    Raises:
        SchemaMismatch: a type that text cannot be read as.
    """
    for name, kind in columns.items():
        if arrow_type(parse_type(kind)) in {None, pa.binary()}:
            hint = "use text, a whole number, numeric(p,s), double precision, boolean, date, time, a timestamp or json"
            raise SchemaMismatch(f"`{name}` of type {kind} cannot be read from text", where=where, hint=hint)
    return tuple(Column(name, str(parse_type(kind))) for name, kind in columns.items())
