"""The contract of file formats: infer a file's columns, read its rows as Arrow batches, write new files."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa

from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import BadData, Refused, SchemaMismatch
from penstock.models.formats import AvroFormat, CsvFormat, FileFormat, Format, JsonlFormat, ParquetFormat, RawFormat

__all__ = [
    "MAX_VALUE_BYTES",
    "FileReader",
    "FileWriter",
    "ReadRequest",
    "RefusedRow",
    "Rows",
    "Shape",
    "check_plain_text",
    "check_width",
    "compress_stream",
    "declared_columns",
    "decompress_stream",
    "decompression_errors",
    "ending_of",
    "extension_of",
    "format_of",
]

EXTENSIONS: Final[dict[str, FileFormat]] = {
    ".parquet": ParquetFormat(type="parquet"), ".pq": ParquetFormat(type="parquet"),
    ".csv": CsvFormat(type="csv"), ".tsv": CsvFormat(type="csv", delimiter="\t"),
    ".jsonl": JsonlFormat(type="jsonl"), ".ndjson": JsonlFormat(type="jsonl"),
}  # fmt: skip
MAX_COLUMNS: Final = 4096
"""Columns that are inferred from texts: more than a table of PostgreSQL, MySQL or SQLite can have."""
MAX_VALUE_BYTES: Final = 64 << 20
"""Longest line, row of a text file, or value that is read."""
_PACKED: Final = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"\xfd7zXZ\x00": "xz",
    b"PAR1\x15": "Parquet", b"Obj\x01": "Avro", **{f"BZh{level}1AY&SY".encode(): "bzip2" for level in range(1, 10)},
}  # fmt: skip
"""First bytes of files that are no text, and that no header of a text file begins with."""
_WIDE: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_COMPRESSED: Final = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class Shape:
    """Columns of one file, and the number of rows in each row group; None for a text file."""

    columns: tuple[Column, ...]
    groups: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that cannot be read, why, and the values known of it. `reason` never contains a value."""

    code: str
    reason: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a file, and the refused rows among them."""

    batch: pa.RecordBatch
    refused: tuple[RefusedRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Request to read `columns` of the `known` columns of a file, in batches of at most `rows` rows.

    `whole`: all columns are wanted, so that an unknown one is an error; otherwise unknown columns are skipped.
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
        """Return the file's columns; for a text file, inferred from its first `sample` bytes.

        Raises:
            SchemaMismatch, BadData: it is not of this format.
        """

    def batches(self, open_stream: Callable[[], Any], request: ReadRequest) -> Iterator[Rows]:
        """Yield the rows, with at least the requested columns that the file has; `open_stream` opens its content.

        A row is refused if it is malformed, or has a value that is not of a declared type.

        Raises:
            BadData: a value that is not of an inferred type, with file, line and column; a corrupted file.
        """


class FileWriter(Protocol):
    """Writes one file to an Arrow stream."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows.

        Raises:
            BadData: a value that the format cannot represent.
        """

    def close(self) -> int:
        """Write what is buffered; return the number of rows in the file."""


def format_of(path: str, given: Format | None, where: str) -> tuple[FileFormat, str | None]:
    """Return the format and compression of a file, from the pipeline or from the file's name.

    Raises:
        Refused: the format cannot be determined, or is none of files.
    """
    if isinstance(given, RawFormat | AvroFormat):
        hint = "write type: parquet, csv or jsonl"
        raise Refused(f"only messages of topics can be read as {given.type}", where=f"{where}: format", hint=hint)
    name, codec = path, None
    for ending, compression in _COMPRESSED.items():
        if path.endswith(ending):
            name, codec = path.removesuffix(ending), compression
    form = given or next((one for ending, one in EXTENSIONS.items() if name.endswith(ending)), None)
    if form is None:
        hint = f"let its name end with {', '.join(EXTENSIONS)}, or set `format`"
        raise Refused("the format is not clear from the file's name", where=where, value=path, hint=hint)
    if isinstance(form, ParquetFormat):
        return form, None
    return form, codec if form.compression is None else None if form.compression == "none" else form.compression


def ending_of(name: str) -> str | None:
    """Return the ending of a file's name that says its format and compression; None if it says no format."""
    packed = next((one for one in _COMPRESSED if name.endswith(one)), "")
    plain = next((one for one in EXTENSIONS if name.removesuffix(packed).endswith(one)), None)
    return None if plain is None else plain + packed


def extension_of(form: FileFormat) -> str:
    """Return the extension of files written in a format."""
    plain = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl"}[form.type]
    if isinstance(form, ParquetFormat):
        return plain
    return plain + {"gzip": ".gz", "zstd": ".zst"}.get(form.compression or "none", "")


@contextmanager
def decompression_errors(where: str) -> Iterator[None]:
    """Translate errors of decompression.

    Raises:
        BadData: the compressed file is corrupted.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise BadData("the file cannot be decompressed", where=where, hint="repair the file, or its name") from None


def decompress_stream(stream: Any, codec: str | None) -> Any:
    """Return a stream of the decompressed content."""
    return stream if codec is None else pa.CompressedInputStream(stream, codec)


def compress_stream(stream: Any, codec: str | None) -> Any:
    """Return a stream that compresses what is written to it."""
    return stream if codec is None else pa.CompressedOutputStream(stream, codec)


def declared_columns(columns: Mapping[str, str], where: str) -> tuple[Column, ...]:
    """Return the columns that a pipeline's `format` declares.

    Raises:
        SchemaMismatch: a type that text cannot be read as.
    """
    for name, kind in columns.items():
        if arrow_type(parse_type(kind)) in {None, pa.binary()}:
            hint = "use text, an integer type, numeric(p,s), double precision, boolean, date, time, a timestamp or json"
            raise SchemaMismatch(f"`{name}` of type {kind} cannot be read from text", where=where, hint=hint)
    return tuple(Column(name, str(parse_type(kind))) for name, kind in columns.items())


def check_plain_text(data: bytes, where: str) -> None:
    """Refuse a file by its first bytes if it is compressed, of another format, or not in UTF-8, by what it is.

    Raises:
        BadData: it is.
    """
    if (kind := next((kind for begin, kind in _PACKED.items() if data.startswith(begin)), None)) is not None:
        known = {"gzip": ".gz", "zstd": ".zst", "Parquet": ".parquet"}.get(kind)
        hint = (
            f"let its name end with {known}, or set `format`" if known else "unpack it, or write it in another format"
        )
        raise BadData(f"the content is {kind}, not text", where=where, hint=hint)
    if data.startswith(_WIDE):
        hint = "set `encoding: utf-16` in the `format` of CSV, or write it in UTF-8"
        raise BadData("line 1 is not in utf-8: the file is in UTF-16", where=where, hint=hint)


def check_width(count: int, where: str) -> None:
    """Refuse records with more keys, or lines with more values, than a table can have columns.

    Raises:
        BadData: it has.
    """
    if count > MAX_COLUMNS:
        hint = "write names and values as rows, or as one JSON value; or declare the columns that are wanted"
        raise BadData(f"there are more than {MAX_COLUMNS:,} columns", where=where, hint=hint)
