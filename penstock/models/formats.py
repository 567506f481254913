"""Formats of files, if their names do not show it, and of messages."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from penstock.errors import did_you_mean
from penstock.models.base import Model

__all__ = ["AvroFormat", "CsvFormat", "FileFormat", "Format", "JsonlFormat", "ParquetFormat", "RawFormat"]

_Columns = dict[Annotated[str, Field(min_length=1, max_length=128)], Annotated[str, Field(min_length=1, max_length=64)]]
_ENCODINGS = (
    "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "ascii", "cp1250", "cp1251", "cp1252", "cp437",
    "cp850",
    "cp932", "iso8859-2", "iso8859-15", "koi8-r", "mac-roman", "gbk", "gb18030", "big5", "shift_jis",
    "euc-jp", "euc-kr",
)  # fmt: skip
_KNOWN = {codecs.lookup(name).name for name in (*_ENCODINGS, "utf-8-sig", *(f"iso8859-{n}" for n in range(3, 12)))}


def _encoding(value: str) -> str:
    try:
        known = codecs.lookup(value).name in _KNOWN
    except LookupError:
        known = False
    if not known:
        hint = did_you_mean(value, _ENCODINGS) or f"one of {', '.join(_ENCODINGS)}"
        message = f"unknown encoding {value!r}; {hint}"
        raise ValueError(message)
    return value


_Delimiter = Annotated[str, Field(pattern=r"^[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x26\x28-\x5f\x61-\x7f]$")]
_Quote = Annotated[str, Field(pattern=r"^[\"'`]$")]
"""A quotation mark."""
_Escape = Annotated[str, Field(pattern=r"^[!#-&(-/:-@\[-_{-~]$")]
"""A sign, neither letter nor quote."""


class ParquetFormat(Model):
    """Apache Parquet; files declare their own types. `compression` applies to written pages."""

    type: Literal["parquet"]
    compression: Literal["snappy", "zstd", "gzip", "lz4", "none"] = "snappy"


class CsvFormat(Model):
    """Text with a delimiter (RFC 4180). Written files always have a header, and an empty value for NULL.

    `columns` gives names and types in the order of the file, or overrides those inferred from a sample. `escape`, most
    often a backslash, precedes quotes, delimiters, line ends and itself in files of Spark, Hive or MySQL; before any
    other character it is text. Written files double their quotes instead.
    """

    type: Literal["csv"]
    delimiter: _Delimiter = ","
    quote: _Quote = '"'
    escape: _Escape | None = None
    header: bool = True
    null_values: tuple[Annotated[str, Field(max_length=64)], ...] = ("",)
    encoding: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$"), AfterValidator(_encoding)] = "utf-8"
    columns: _Columns = {}
    compression: Literal["none", "gzip", "zstd"] | None = None


class JsonlFormat(Model):
    """One JSON object a line. `columns` overrides the types inferred from a sample; then only these are read."""

    type: Literal["jsonl"]
    columns: _Columns = {}
    compression: Literal["none", "gzip", "zstd"] | None = None


class RawFormat(Model):
    """The whole value of a message as it is: one `column` of text, or of bytes."""

    type: Literal["raw"]
    as_: Literal["text", "bytes"] = Field(default="text", alias="as")
    column: Annotated[str, Field(min_length=1, max_length=128)] = "value"


class AvroFormat(Model):
    """One record of Apache Avro a message, framed by the id of its schema in the connection's `registry`.

    With `schema`, written out or the path of a file of it, messages are not framed, and it is the schema of all.
    `subject` is that of the columns' schema in the registry; without it the topic's name, and ``-value``.
    """

    type: Literal["avro"]
    schema_: dict[str, JsonValue] | Annotated[str, Field(pattern=r"^/")] | None = Field(default=None, alias="schema")
    subject: Annotated[str, Field(min_length=1, max_length=512)] | None = None


FileFormat = ParquetFormat | CsvFormat | JsonlFormat
Format = Annotated[ParquetFormat | CsvFormat | JsonlFormat | RawFormat | AvroFormat, Field(discriminator="type")]
"""Format of files or messages; without it the suffix of a file's name decides, and messages are JSON."""
