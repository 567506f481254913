"""Aggregates of windows: of rows to partial results, of partial results to larger ones, and to the values of SQL.

Sums of whole numbers and decimals are exact: they are added as 128-bit integers, those of more than 28 digits in two
halves. What has more than 38 digits in the end is refused, never cut off. A numeric is the integer of its digits here.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

import polars as pl
import pyarrow as pa

from dataflows.data.types import ARROW_DIGITS, SqlType, arrow_type, carried
from penstock.errors import SchemaMismatch

__all__ = ["Aggregate", "planned"]

SAFE_DIGITS: Final = 28
"""Digits of numbers whose sum in 128 bits is exact for ten billion rows."""
HALF: Final = 10**19
AVERAGE_DIGITS: Final = 10
"""Digits after the point that an average has more than its values."""
_FLOATS: Final = {"real", "double precision"}
_ORDERED: Final = {
    "smallint", "integer", "bigint", "numeric", "real", "double precision", "text", "character varying", "date",
    "timestamp without time zone", "timestamp with time zone", "time without time zone", "uuid",
}  # fmt: skip
_EXACT: Final = Context(prec=120, rounding=ROUND_HALF_UP)
BIGINT: Final = SqlType("bigint")
DOUBLE: Final = SqlType("double precision")


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate over the column `column` of type `kind` (None: over rows), whose values are of type `made`.

    Its partial results are in columns that begin with `id`.
    """

    id: str
    function: str
    column: str | None
    kind: SqlType
    made: SqlType

    @property
    def _summed(self) -> bool:
        return self.function in {"sum", "avg"}

    @property
    def _halved(self) -> bool:
        return self._summed and self.kind.name == "numeric" and (self.kind.precision or 0) > SAFE_DIGITS

    def partials(self) -> list[pl.Expr]:
        """Return the partial results of a group of rows."""
        if self.function == "count":
            counted = pl.len() if self.column is None else pl.col(self.column).count()
            return [counted.cast(pl.Int64).alias(f"{self.id}n")]
        value = pl.col(self.column or "")
        if not self._summed:
            return [(value.min() if self.function == "min" else value.max()).alias(f"{self.id}v")]
        count = value.count().cast(pl.Int64).alias(f"{self.id}n")
        if self.kind.name in _FLOATS:
            return [count, value.cast(pl.Float64).sum().alias(f"{self.id}s")]
        exact = value.cast(pl.Int128)
        if not self._halved:
            return [count, exact.sum().alias(f"{self.id}s")]
        half = pl.lit(HALF, dtype=pl.Int128)
        return [count, (exact // half).sum().alias(f"{self.id}s"), (exact % half).sum().alias(f"{self.id}l")]

    def merged(self) -> list[pl.Expr]:
        """Return the partial results of a group of partial results."""
        if not self._summed and self.function != "count":
            name = f"{self.id}v"
            return [pl.col(name).min() if self.function == "min" else pl.col(name).max()]
        names = [f"{self.id}n"]
        names += [f"{self.id}s"] if self._summed else []
        names += [f"{self.id}l"] if self._halved else []
        return [pl.col(name).sum() for name in names]

    def values(self, frame: pl.DataFrame) -> tuple[pa.Array, list[int]]:
        """Return the values of finished windows, and the numbers of those that no value of the type can hold."""
        if self.function == "count":
            return frame[f"{self.id}n"].to_arrow(), []
        if not self._summed:
            from dataflows.transforms.values import arrow_of

            return arrow_of(frame[f"{self.id}v"], self.kind, self.id), []
        count, total = pl.col(f"{self.id}n"), pl.col(f"{self.id}s")
        if self.kind.name in _FLOATS:
            value = total / count if self.function == "avg" else total
            return frame.select(pl.when(count > 0).then(value).alias("_"))["_"].to_arrow(), []
        if self.function == "sum" and not self._halved:
            from dataflows.transforms.values import arrow_of

            whole = frame.select(pl.when(count > 0).then(total).alias("_"))["_"]
            if self.made == BIGINT:
                return whole.cast(pl.Int64).to_arrow(), []
            return arrow_of(whole, self.made, self.id), []
        sums = frame[f"{self.id}s"].to_list()
        if self._halved:
            sums = [high * HALF + low for high, low in zip(sums, frame[f"{self.id}l"].to_list(), strict=True)]
        return self._exact(sums, frame[f"{self.id}n"].to_list())

    def _exact(self, sums: list[int], counts: list[int]) -> tuple[pa.Array, list[int]]:
        scale, kind = self.kind.scale or 0, arrow_type(self.made)
        found: list[Decimal | None] = []
        wrong: list[int] = []
        to = Decimal(1).scaleb(-(self.made.scale or 0))
        for at, (total, count) in enumerate(zip(sums, counts, strict=True)):
            value = None if not count else Decimal(total).scaleb(-scale, _EXACT)
            if value is not None and self.function == "avg":
                value = _EXACT.divide(value, Decimal(count)).quantize(to, context=_EXACT)
            if value is not None and value.scaleb(self.made.scale or 0, _EXACT).copy_abs() >= 10**ARROW_DIGITS:
                wrong.append(at)
                value = None
            found.append(value)
        return pa.array(found, kind), wrong


def planned(id_: str, function: str, column: str | None, kind: SqlType | None, where: str) -> Aggregate:
    """Return an aggregate; `kind` is the type of its column.

    Raises:
        SchemaMismatch: the function has no exact result for values of this type.
    """
    if function == "count" or kind is None:
        return Aggregate(id_, function, column, kind or BIGINT, BIGINT)
    if function in {"min", "max"} and kind.name in _ORDERED and not carried(kind):
        return Aggregate(id_, function, column, kind, kind)
    if function in {"sum", "avg"} and kind.name in _FLOATS:
        return Aggregate(id_, function, column, kind, DOUBLE)
    if function in {"sum", "avg"} and (kind.integer or (kind.name == "numeric" and not carried(kind))):
        return Aggregate(id_, function, column, kind, _made(function, kind))
    hint = "cast it to numeric(p,s) in an earlier step" if kind.name == "numeric" else "cast it in an earlier step"
    raise SchemaMismatch(f"there is no `{function}` of {kind}", where=where, value=column, hint=hint)


def _made(function: str, kind: SqlType) -> SqlType:
    scale = kind.scale or 0
    if function == "avg":
        digits = 19 if kind.integer else (kind.precision or 0) - scale
        return SqlType("numeric", ARROW_DIGITS, min(scale + AVERAGE_DIGITS, ARROW_DIGITS - digits))
    if kind.integer and kind.name != "bigint":
        return BIGINT
    return SqlType("numeric", ARROW_DIGITS, scale)
