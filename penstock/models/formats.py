"""Formats of files: how they are told to be read and written, where their names do not say it all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.models.base import Model

__all__ = ["CsvFormat", "Format", "JsonlFormat", "ParquetFormat"]

_Columns = dict[Annotated[str, Field(min_length=1, max_length=128)], Annotated[str, Field(min_length=1, max_length=64)]]
_OneByte = Annotated[str, Field(min_length=1, max_length=1, pattern=r"^[\x01-\x7f]$")]


class ParquetFormat(Model):
    """Apache Parquet; files say their own types. `compression` is that of written pages."""

    type: Literal["parquet"]
    compression: Literal["snappy", "zstd", "gzip", "lz4", "none"] = "snappy"


class CsvFormat(Model):
    """Text with a delimiter (RFC 4180). Written files always have a header, and NULL as nothing between delimiters.

    `columns` gives names and types in the order of the file, or overrides those that are told from a sample.
    """

    type: Literal["csv"]
    delimiter: _OneByte = ","
    quote: _OneByte = '"'
    header: bool = True
    null_values: tuple[Annotated[str, Field(max_length=64)], ...] = ("",)
    encoding: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")] = "utf-8"
    columns: _Columns = {}
    compression: Literal["none", "gzip", "zstd"] | None = None


class JsonlFormat(Model):
    """One JSON object a line. `columns` overrides the types that are told from a sample; with it, no other is read."""

    type: Literal["jsonl"]
    columns: _Columns = {}
    compression: Literal["none", "gzip", "zstd"] | None = None


Format = Annotated[ParquetFormat | CsvFormat | JsonlFormat, Field(discriminator="type")]
"""How files are read or written; without it the name's ending says."""
