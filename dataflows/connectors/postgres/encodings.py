"""Encode Arrow batches for COPY: binary if each column has a binary form, else CSV.

The binary form is faster for the server too. Types that only the server can encode (an interval, an array, a
user-defined type) travel as its texts; one such column makes the whole COPY textual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

import pyarrow as pa
from pyarrow import csv

from dataflows.data.types import SqlType, carried

__all__ = ["ODD", "Encoder", "binary_values", "encoder", "has_binary_form", "hex_decoded"]

ODD: Final = ("uuid", "jsonb")
"""Types whose binary form differs from that of the Arrow type that carries them."""


class Encoder(Protocol):
    """Encoder of batches as the bytes of one COPY."""

    def write_header(self) -> bytes: ...
    def write_batch(self, batch: pa.RecordBatch) -> bytes: ...
    def finish(self) -> bytes: ...


def has_binary_form(kinds: Mapping[str, SqlType], schema: pa.Schema) -> bool:
    """True if batches of `schema` can be written to columns of these types by a binary COPY."""
    return not any(carried(kind) and pa.types.is_string(schema.field(name).type) for name, kind in kinds.items())


def encoder(schema: pa.Schema, *, binary: bool) -> Encoder:
    """Return the encoder for batches of a schema."""
    if not binary:
        return CsvEncoder()
    from pgpq import ArrowToPostgresBinaryEncoder

    return cast("Encoder", ArrowToPostgresBinaryEncoder(schema))


class CsvEncoder:
    """CSV encoder: texts are quoted, NULL is an empty field."""

    def write_header(self) -> bytes:
        return b""

    def write_batch(self, batch: pa.RecordBatch) -> bytes:
        sink = pa.BufferOutputStream()
        arrays = [_hex_encoded(array) if pa.types.is_binary(array.type) else array for array in batch.columns]
        shown = pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
        csv.write_csv(shown, sink, csv.WriteOptions(include_header=False))
        return bytes(sink.getvalue())

    def finish(self) -> bytes:
        return b""


def _hex_encoded(array: pa.Array) -> pa.Array:
    import polars as pl

    series = cast("pl.Series", pl.from_arrow(array))
    return ("\\x" + series.bin.encode("hex")).to_arrow(compat_level=pl.CompatLevel.oldest())


def hex_decoded(array: Any) -> pa.Array:
    """Decode bytes that the server has written as hexadecimal digits."""
    import polars as pl

    series = cast("pl.Series", pl.from_arrow(array))
    return (
        series.str.slice(2)
        .str.decode("hex", strict=True)
        .to_arrow(compat_level=pl.CompatLevel.oldest())
        .cast(pa.binary())
    )


def binary_values(array: pa.Array, kind: str) -> pa.Array:
    """Return the bytes of an odd type for a binary COPY: 16 bytes of a uuid, a version byte and the text of a jsonb."""
    import polars as pl

    series = cast("pl.Series", pl.from_arrow(array))
    if kind == "uuid":
        made = series.str.replace_all("[-{}]", "").str.decode("hex", strict=True)
    else:
        made = ("\x01" + series).cast(pl.Binary)
    return made.to_arrow(compat_level=pl.CompatLevel.oldest())
