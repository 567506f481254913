"""Compiled expressions over a batch, by themselves: Arrow in, Arrow out, and an error where SQL would raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast as typed

import polars as pl
import pyarrow as pa

from dataflows.postgres.types import arrow_type
from dataflows.transforms.expressions import Compiled
from dataflows.transforms.terms import (
    MAX_DIGITS,
)
from penstock.errors import BadData

__all__ = ["evaluate"]


def evaluate(expressions: Mapping[str, Compiled], batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """The values of the expressions over a batch.

    Raises:
        BadData: a row for which SQL would raise; which row is not told.
    """
    needed = sorted(set().union(*(one.columns for one in expressions.values())))
    if needed:
        frame = typed("pl.DataFrame", pl.from_arrow(batch.select(needed)))
    else:
        frame = pl.DataFrame({"_rows": pl.zeros(batch.num_rows, pl.Int8, eager=True)})
    names = {name: f"_value_{at}" for at, name in enumerate(expressions)}
    values = [one.expr.alias(names[name]) for name, one in expressions.items()]
    masks = {
        name: one.wrong.alias(f"_wrong{names[name]}") for name, one in expressions.items() if one.wrong is not None
    }
    try:
        done = frame.with_columns(*values, *masks.values())
    except pl.exceptions.PolarsError:
        first = next(iter(expressions.values()))
        raise BadData("the expressions cannot be computed for some row", where=first.where) from None
    for name in masks:
        if done[f"_wrong{names[name]}"].any():
            hint = "an overflow, a division by zero, or a text that is no such value; guard it with CASE or NULLIF"
            raise BadData("the expression fails for some row", where=expressions[name].where, hint=hint)
    return {name: _arrow(done[names[name]], one) for name, one in expressions.items()}


def _arrow(series: pl.Series, compiled: Compiled) -> pa.Array:
    """As Arrow; a numeric gets its scale back without touching its digits."""
    if compiled.type.name != "numeric":
        array = series.to_arrow(compat_level=pl.CompatLevel.oldest())
        wanted = arrow_type(compiled.type)
        return array if wanted is None or array.type == wanted else array.cast(wanted)
    try:
        array = series.cast(pl.Decimal(MAX_DIGITS, 0)).to_arrow(compat_level=pl.CompatLevel.oldest())
    except pl.exceptions.PolarsError:
        raise BadData("a number has more than 38 digits", where=compiled.where) from None
    kind = pa.decimal128(MAX_DIGITS, compiled.type.scale or 0)
    return pa.Array.from_buffers(kind, len(array), array.buffers(), offset=array.offset)
