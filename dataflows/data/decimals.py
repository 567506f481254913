"""Texts as decimals. Arrow's own cast wraps a number of more digits than 128 bits hold, and gives another number."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from catalog.types import ARROW_DIGITS

__all__ = ["as_texts", "cast_text", "decimals"]

_LONG: Final = rf"[0-9.]{{{ARROW_DIGITS + 1}}}"


def decimals(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Return the texts as `wanted`, a type of decimals.

    Raises:
        ArrowInvalid: one of them is no number, or cannot be kept exactly.
    """
    long = pc.match_substring_regex(texts, _LONG)
    if pc.any(long).as_py():
        pairs = zip(texts.to_pylist(), long.to_pylist(), strict=True)
        texts = pa.array([_shortened(text) if is_long else text for text, is_long in pairs], pa.string())
    return texts.cast(wanted)


def cast_text(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Return texts as `wanted`, as Arrow does, and decimals as above."""
    return decimals(texts, wanted) if pa.types.is_decimal(wanted) else texts.cast(wanted)


def as_texts(values: pa.Array) -> pa.Array:
    """Return decimals as texts with all their digits: Arrow's own cast writes small ones with an exponent (`1E-10`)."""
    import polars as pl

    return pl.Series(pa.chunked_array([values])).cast(pl.String).to_arrow().cast(pa.string())


def _shortened(text: str) -> str:
    """Return the number without zeros that do not count."""
    try:
        sign, digits, exponent = Decimal(text).as_tuple()
    except InvalidOperation:
        raise pa.ArrowInvalid("not a number") from None
    while len(digits) > 1 and digits[-1] == 0 and isinstance(exponent, int):
        digits, exponent = digits[:-1], exponent + 1
    if not isinstance(exponent, int) or len(digits) > ARROW_DIGITS or abs(exponent) > ARROW_DIGITS:
        raise pa.ArrowInvalid("more digits than a decimal holds")
    return f"{Decimal((sign, digits, exponent)):f}"
