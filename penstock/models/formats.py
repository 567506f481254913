"""Formats of files: how they are read and written, if their names do not show it."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from penstock.errors import did_you_mean
from penstock.models.base import Model

__all__ = ["CsvFormat", "Format", "JsonlFormat", "ParquetFormat"]

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


Format = Annotated[ParquetFormat | CsvFormat | JsonlFormat, Field(discriminator="type")]
"""Format of files; without it the suffix of the name decides."""
