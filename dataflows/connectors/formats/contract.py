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
    "MAX_VALUE_BYTES",
    "FileReader",
    "FileWriter",
    "ReadRequest",
    "RefusedRow",
    "Rows",
    "Shape",
    "compress_stream",
    "declared_columns",
    "decompress_stream",
    "decompression_errors",
    "extension_of",
    "format_of",
]

EXTENSIONS: Final[dict[str, Format]] = {
    ".parquet": ParquetFormat(type="parquet"), ".pq": ParquetFormat(type="parquet"),
    ".csv": CsvFormat(type="csv"), ".tsv": CsvFormat(type="csv", delimiter="\t"),
    ".jsonl": JsonlFormat(type="jsonl"), ".ndjson": JsonlFormat(type="jsonl"),
}  # fmt: skip
MAX_VALUE_BYTES: Final = 64 << 20
"""The longest line, row of a text file, or value that is read."""
_COMPRESSED: Final = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class Shape:
    """What one file looks like: its columns, and its rows by row group; a text file is one group of unknown size."""

    columns: tuple[Column, ...]
    groups: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that cannot be read: why, and what is known of it. No value stands in `reason`."""

    code: str
    reason: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a file, and those next to them that had to be set aside."""

    batch: pa.RecordBatch
    refused: tuple[RefusedRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What is to be read of a file: `columns` of `known`, in batches of at most `rows` rows.

    `whole`: all columns are wanted, so that one which is not `known` is an error; else it is passed over.
    """

    columns: Mapping[str, Column]
    known: Sequence[Column]
    rows: int
    where: str
    whole: bool = True
    groups: Sequence[int] | None = None


class FileReader(Protocol):
    """Reads files of one format, from Arrow streams that are already decompressed where the format is text."""

    def shape(self, stream: Any, where: str, sample: int) -> Shape:
        """What the file looks like; of a text file, what its first `sample` bytes tell.

        Raises:
            SchemaMismatch, BadData: it is not of this format.
        """

    def batches(self, open_stream: Callable[[], Any], request: ReadRequest) -> Iterator[Rows]:
        """The rows, with at least those of the columns that the file has; `opened` gives a stream of its content.

        A row that is malformed, or has a value that is not of the type that a person declared, is set aside.

        Raises:
            BadData: a value that is not of the type which a sample told, by file, line and column; a damaged file.
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
    name, compress_stream = path, None
    for ending, codec in _COMPRESSED.items():
        if path.endswith(ending):
            name, compress_stream = path.removesuffix(ending), codec
    found = given or next((one for ending, one in EXTENSIONS.items() if name.endswith(ending)), None)
    if found is None:
        hint = f"end it with {', '.join(EXTENSIONS)}, or say `format`"
        raise Refused("its name does not tell its format", where=where, value=path, hint=hint)
    if isinstance(found, ParquetFormat):
        return found, None
    return (
        found,
        compress_stream if found.compression is None else None if found.compression == "none" else found.compression,
    )


def extension_of(form: Format) -> str:
    """What names of written files of a format end with."""
    plain = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl"}[form.type]
    if isinstance(form, ParquetFormat):
        return plain
    return plain + {"gzip": ".gz", "zstd": ".zst"}.get(form.compression or "none", "")


@contextmanager
def decompression_errors(where: str) -> Iterator[None]:
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


def decompress_stream(stream: Any, codec: str | None) -> Any:
    """A stream of what is in the file."""
    return stream if codec is None else pa.CompressedInputStream(stream, codec)


def compress_stream(stream: Any, codec: str | None) -> Any:
    """A stream that compresses on the way."""
    return stream if codec is None else pa.CompressedOutputStream(stream, codec)


def declared_columns(columns: Mapping[str, str], where: str) -> tuple[Column, ...]:
    """Columns as a pipeline's `format` names them.

    Raises:
        SchemaMismatch: a type that text cannot be read as.
    """
    for name, kind in columns.items():
        if arrow_type(parse_type(kind)) in {None, pa.binary()}:
            hint = "use text, a whole number, numeric(p,s), double precision, boolean, date, time, a timestamp or json"
            raise SchemaMismatch(f"`{name}` of type {kind} cannot be read from text", where=where, hint=hint)
    return tuple(Column(name, str(parse_type(kind))) for name, kind in columns.items())
