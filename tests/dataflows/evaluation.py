"""Evaluate compiled expressions over a batch: Arrow in, Arrow out, and an error where SQL would raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast as typed

import polars as pl
import pyarrow as pa

from dataflows.transforms.expressions.compiler import Compiled
from dataflows.transforms.scope import BoundExpression
from dataflows.transforms.stages import ROW, evaluate_frame
from dataflows.transforms.values import arrow_of
from penstock.errors import BadData

__all__ = ["evaluate"]


def evaluate(expressions: Mapping[str, Compiled], batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Return the values of the expressions over a batch.

    Raises:
        BadData: SQL would raise for some row; the error does not say which.
    """
    rows = pl.int_range(batch.num_rows, dtype=pl.UInt32, eager=True).alias(ROW)
    frame = typed("pl.DataFrame", pl.from_arrow(batch)).with_columns(rows)
    values = {
        name: BoundExpression(one, {column: column for column in one.columns}) for name, one in expressions.items()
    }
    done = evaluate_frame(frame, values)
    for name, one in expressions.items():
        if one.wrong is not None and done[f"?{name}"].any():
            hint = "an overflow, a division by zero, or text that is not such a value; guard it with CASE or NULLIF"
            raise BadData("the expression fails for some row", where=one.where, hint=hint)
    return {name: arrow_of(done[name], one.type, one.where) for name, one in expressions.items()}
