"""Typed terms: what an expression is made of while it is compiled.

A term is a Polars expression that never raises, its SQL type, and a second expression that is true in the rows where
SQL would raise (a division by zero, an overflow, a text that is no number). Whether such a row matters is only known at
the top: ``CASE WHEN b <> 0 THEN a / b END`` computes every branch, and fails only where the failing branch is taken.

Numbers of type numeric are carried as 128-bit whole numbers with the scale in the type, since Polars' own decimals
round products to the wider of both scales.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from dataflows.data.types import SqlType, carried
from penstock.errors import SchemaMismatch

__all__ = [
    "ANY_SIZE",
    "BIGINT",
    "BOOLEAN",
    "BPCHAR",
    "DATE",
    "DOUBLE",
    "INTEGER",
    "NULL",
    "REAL",
    "STAMP",
    "STAMPTZ",
    "TEXT",
    "UNKNOWN",
    "UUID",
    "Term",
    "any_of",
    "as_float",
    "as_number",
    "common",
    "day_unit",
    "frame_name",
    "in_date_range",
    "is_number",
    "is_supported",
    "is_text",
    "negate_int128",
    "null_of",
    "numeric",
    "out_of_range",
    "overflowing",
    "padded_text",
    "physical",
    "rescaled",
    "text_of",
]

SMALLINT: Final = SqlType("smallint")
INTEGER: Final = SqlType("integer")
BIGINT: Final = SqlType("bigint")
REAL: Final = SqlType("real")
DOUBLE: Final = SqlType("double precision")
TEXT: Final = SqlType("text")
BPCHAR: Final = SqlType("character")
"""A blank-padded text of any length: what ``coalesce(c, 'x')`` of a ``character(4)`` is."""
BOOLEAN: Final = SqlType("boolean")
DATE: Final = SqlType("date")
STAMP: Final = SqlType("timestamp without time zone")
STAMPTZ: Final = SqlType("timestamp with time zone")
NULL: Final = SqlType("null")
ANY_SIZE: Final = SqlType("numeric of any size")
"""A number that is carried as its digits, and can only be cast."""
UUID: Final = SqlType("uuid")
UNKNOWN: Final = SqlType("unknown")
"""A quoted literal: it takes the type of what it meets."""

MAX_DIGITS: Final = 38
FIRST_DAY: Final = -2_440_588
"""24 November 4714 BC, where PostgreSQL's dates begin."""
LAST_DAY: Final = 95_000_000
"""In the year 262,000: Polars knows no later times."""
DAY_MICROS: Final = 86_400_000_000
MAX_SAFE_FLOAT: Final = 9.9e37
INTEGERS: Final = ("smallint", "integer", "bigint")
LIMITS: Final = {"smallint": (1 << 15, 5), "integer": (1 << 31, 10), "bigint": (1 << 63, 19)}
_POLARS: Final[dict[str, pl.DataType]] = {
    "smallint": pl.Int16(), "integer": pl.Int32(), "bigint": pl.Int64(), "real": pl.Float32(),
    "double precision": pl.Float64(), "text": pl.String(), "character varying": pl.String(), "character": pl.String(),
    "boolean": pl.Boolean(), "date": pl.Date(), "numeric": pl.Int128(), "uuid": pl.String(),
    "timestamp without time zone": pl.Datetime("us"), "timestamp with time zone": pl.Datetime("us", "UTC"),
    "json": pl.String(), "jsonb": pl.String(), "label": pl.String(), "unknown": pl.String(), "null": pl.Null(),
    ANY_SIZE.name: pl.String(),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Term:
    """A value, its type, and where computing it is an error; `literal` is the text of a quoted or plain constant."""

    expr: pl.Expr
    type: SqlType
    wrong: pl.Expr | None = None
    literal: str | None = None

    @property
    def name(self) -> str:
        """Its type's base name."""
        return self.type.name

    def also_wrong(self, *others: pl.Expr | None) -> Term:
        """The same term, wrong where any of `others` is true too."""
        return replace(self, wrong=any_of(self.wrong, *others))


def frame_name(name: str) -> str:
    """Name of a column inside expressions: Polars takes names such as ``*`` and ``^a.*$`` for patterns."""
    return f"c:{name}"


def day_unit(kind: SqlType) -> int:
    """Units of a date or timestamp in a day."""
    return 1 if kind == DATE else DAY_MICROS


def in_date_range(term: Term) -> Term:
    """A date or timestamp that is wrong outside of the years that can be computed with, where Polars would panic."""
    unit = day_unit(term.type)
    inside = term.expr.to_physical().cast(pl.Int64).is_between(FIRST_DAY * unit, LAST_DAY * unit)
    return replace(term, expr=pl.when(inside).then(term.expr)).also_wrong(~inside)


def any_of(*masks: pl.Expr | None) -> pl.Expr | None:
    """True where one of the masks is; a NULL counts as false."""
    found = [mask.fill_null(value=False) for mask in masks if mask is not None]
    if not found:
        return None
    total = found[0]
    for mask in found[1:]:
        total = total | mask
    return total


def numeric(digits: int, scale: int) -> SqlType:
    """A numeric of that many digits (38 at most are tracked), `scale` of them after the point."""
    if scale > MAX_DIGITS:
        raise SchemaMismatch(f"a numeric with {scale} digits after the point is too fine", hint="cast it to fewer")
    return SqlType("numeric", min(digits, MAX_DIGITS), scale)


def physical(kind: SqlType) -> pl.DataType:
    """Polars type that carries a SQL type inside expressions."""
    return pl.String() if carried(kind) else _POLARS[kind.name]


def is_supported(kind: SqlType) -> bool:
    """True if expressions can work with a type."""
    return kind.name in _POLARS and not carried(kind)


def is_number(kind: SqlType) -> bool:
    """A whole number, a numeric or a floating-point number."""
    return kind.name in {*INTEGERS, "numeric", "real", "double precision"}


def as_number(term: Term) -> Term:
    """A whole number as a numeric of scale 0; a numeric as it is."""
    if term.name in INTEGERS:
        return replace(term, expr=term.expr.cast(pl.Int128), type=SqlType("numeric", LIMITS[term.name][1], 0))
    return term


def as_float(term: Term, kind: SqlType) -> Term:
    """Any number as real or double precision, rounded once."""
    expr = term.expr
    if term.name == "numeric":
        expr = expr.cast(pl.Decimal(MAX_DIGITS, 0)).cast(pl.String) + f"e-{term.type.scale or 0}"
    return replace(term, expr=expr.cast(physical(kind), strict=False), type=kind)


def rescaled(term: Term, scale: int) -> Term:
    """A numeric with more digits after the point."""
    more = scale - (term.type.scale or 0)
    if more == 0:
        return term
    digits = (term.type.precision or MAX_DIGITS) + more
    factor = pl.lit(10**more, dtype=pl.Int128)
    found = replace(term, expr=term.expr * factor, type=numeric(digits, scale))
    return found.also_wrong(overflowing(digits, term.expr.cast(pl.Float64) * float(10**more)))


def overflowing(digits: int, about: pl.Expr) -> pl.Expr | None:
    """Where a number leaves 38 digits; `about` is its value, unscaled, as a float. None if it never can."""
    return (about.abs() > MAX_SAFE_FLOAT) if digits > MAX_DIGITS else None


def negate_int128(number: pl.Expr) -> pl.Expr:
    """The negative of a 128-bit number, for which Polars has no operator of its own."""
    return pl.lit(0, dtype=pl.Int128) - number


def out_of_range(wide: pl.Expr, kind: SqlType) -> pl.Expr:
    """Where a whole number leaves its type."""
    limit = LIMITS[kind.name][0]
    low, high = pl.lit(-limit, dtype=pl.Int128), pl.lit(limit - 1, dtype=pl.Int128)
    return (wide < low) | (wide > high)


def text_of(term: Term) -> pl.Expr:
    """A text; the trailing blanks of a ``character(n)`` mean nothing."""
    return term.expr.str.strip_chars_end(" ") if term.name == "character" else term.expr


def is_text(kind: SqlType) -> bool:
    """Characters, or a quoted literal."""
    return kind.text or kind.name == "unknown"


def null_of(kind: SqlType) -> Term:
    """A NULL of a type."""
    return Term(pl.lit(None, dtype=physical(kind)), kind)


def padded_text(term: Term) -> pl.Expr:
    """A text with the trailing blanks that a ``character(n)`` is stored with, whatever system it comes from."""
    return term.expr.str.pad_end(term.type.precision or 0, " ") if term.name == "character" else term.expr


def common(terms: list[Term], where: str) -> SqlType:
    """The one type that all of the terms can be brought to, as SQL resolves CASE, COALESCE and comparisons.

    Of texts, the first decides whether blanks at the end count.

    Raises:
        SchemaMismatch: there is none.
    """
    kinds = [term.type for term in terms if term.name not in {"null", "unknown"}]
    if not kinds:
        return TEXT
    if all(kind.text for kind in kinds):
        same = len(set(kinds)) == 1 and not any(term.name == "unknown" for term in terms)
        return (kinds[0] if same else BPCHAR) if kinds[0].name == "character" else TEXT
    if all(is_number(kind) for kind in kinds):
        return _common_number(kinds)
    names = {kind.name for kind in kinds}
    if len(names) == 1:
        return kinds[0]
    if names <= {DATE.name, STAMP.name, STAMPTZ.name}:
        return STAMPTZ if STAMPTZ.name in names else STAMP
    listed = " and ".join(sorted(str(kind) for kind in kinds))
    raise SchemaMismatch(
        f"{listed} cannot be brought together", where=where, hint="write CAST(… AS …) around one of them"
    )


def _common_number(kinds: list[SqlType]) -> SqlType:
    names = {kind.name for kind in kinds}
    if names == {"real"}:
        return REAL
    if names & {"real", "double precision"}:
        return DOUBLE
    if "numeric" not in names:
        return SqlType(max(names, key=INTEGERS.index))
    shapes = [(LIMITS[k.name][1], 0) if k.integer else (k.precision or MAX_DIGITS, k.scale or 0) for k in kinds]
    scale = max(scale for _, scale in shapes)
    return numeric(max(digits - own for digits, own in shapes) + scale, scale)
