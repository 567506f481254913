"""Conversion between Arrow and the Polars frame, in which a numeric is a 128-bit integer with its scale in the type."""

from __future__ import annotations

from typing import cast as typed

import polars as pl
import pyarrow as pa

from dataflows.data.decimals import cast_text
from dataflows.data.types import SqlType, arrow_type, carried
from dataflows.transforms.expressions.terms import MAX_DIGITS
from penstock.errors import BadData

__all__ = ["arrow_of", "series_of"]


def arrow_of(series: pl.Series, kind: SqlType, where: str) -> pa.Array:
    """Convert to Arrow; a numeric gets its scale back, its digits unchanged.

    Raises:
        BadData: a number of more than 38 digits.
    """
    if kind.name != "numeric" or carried(kind) or isinstance(series.dtype, pl.Decimal):
        array = series.to_arrow(compat_level=pl.CompatLevel.oldest())
        wanted = arrow_type(kind)
        return array if wanted is None or array.type == wanted else array.cast(wanted)
    try:
        array = series.cast(pl.Decimal(MAX_DIGITS, 0)).to_arrow(compat_level=pl.CompatLevel.oldest())
    except pl.exceptions.PolarsError:
        raise BadData("a number has more than 38 digits", where=where, hint="cast it to fewer") from None
    made = pa.decimal128(MAX_DIGITS, kind.scale or 0)
    return pa.Array.from_buffers(made, len(array), array.buffers(), offset=array.offset)


def series_of(array: pa.Array, kind: SqlType, where: str) -> pl.Series:
    """Convert values made outside Penstock to the frame's representation of `kind`.

    Raises:
        BadData: their type cannot be converted without loss.
    """
    wanted = arrow_type(kind)
    try:
        cast = cast_text if pa.types.is_string(array.type) else pa.Array.cast
        fitting = array if wanted is None or array.type == wanted else cast(array, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise BadData(f"values of type {array.type} are not {kind}", where=where, hint="declare their type") from None
    return typed("pl.Series", pl.from_arrow(fitting))
