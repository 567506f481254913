"""Typed terms, the intermediate form of an expression while it is compiled.

A term is a Polars expression that never raises, its SQL type, and a mask that is true in the rows where SQL would
raise (division by zero, overflow, text that is not a number). Only the outermost term knows if such a row matters:
``CASE WHEN b <> 0 THEN a / b END`` computes every branch, and fails only where the failing branch is taken.

Values of type numeric are 128-bit integers with the scale in the type, since Polars' own decimals round products to
the larger of both scales.
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
    "DAY_MICROS",
    "DOUBLE",
    "FIRST_DAY",
    "INTEGER",
    "INTEGERS",
    "LAST_DAY",
    "MAX_DIGITS",
    "NULL",
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

INTEGER: Final = SqlType("integer")
BIGINT: Final = SqlType("bigint")
REAL: Final = SqlType("real")
DOUBLE: Final = SqlType("double precision")
TEXT: Final = SqlType("text")
BPCHAR: Final = SqlType("character")
"""Blank-padded text of any length, such as ``coalesce(c, 'x')`` of a ``character(4)``."""
BOOLEAN: Final = SqlType("boolean")
DATE: Final = SqlType("date")
STAMP: Final = SqlType("timestamp without time zone")
STAMPTZ: Final = SqlType("timestamp with time zone")
NULL: Final = SqlType("null")
ANY_SIZE: Final = SqlType("numeric of any size")
"""A number represented by its digits; it can only be cast."""
UUID: Final = SqlType("uuid")
UNKNOWN: Final = SqlType("unknown")
"""A quoted literal; it takes the type of the other operand."""

MAX_DIGITS: Final = 38
FIRST_DAY: Final = -2_440_588
"""24 November 4714 BC, where PostgreSQL's dates begin."""
LAST_DAY: Final = 95_000_000
"""In the year 262,000, close to the end of Polars' calendar."""
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
    """A value and its type. `wrong` masks the rows where computing it is an error; `literal` is a constant's text."""

    expr: pl.Expr
    type: SqlType
    wrong: pl.Expr | None = None
    literal: str | None = None

    @property
    def name(self) -> str:
        """Base name of its type."""
        return self.type.name

    def also_wrong(self, *others: pl.Expr | None) -> Term:
        """Return the term, also wrong where any of `others` is true."""
        return replace(self, wrong=any_of(self.wrong, *others))


def frame_name(name: str) -> str:
    """Return a column's name inside expressions; prefixed, as Polars takes ``*`` and ``^a.*$`` for patterns."""
    return f"c:{name}"


def day_unit(kind: SqlType) -> int:
    """Return how many units of a date or timestamp make a day."""
    return 1 if kind == DATE else DAY_MICROS


def in_date_range(term: Term) -> Term:
    """Mark a date or timestamp as wrong outside the supported range of years, where Polars would panic."""
    unit = day_unit(term.type)
    inside = term.expr.to_physical().cast(pl.Int64).is_between(FIRST_DAY * unit, LAST_DAY * unit)
    return replace(term, expr=pl.when(inside).then(term.expr)).also_wrong(~inside)


def any_of(*masks: pl.Expr | None) -> pl.Expr | None:
    """Return a mask that is true where any of the masks is; NULL counts as false."""
    given = [mask.fill_null(value=False) for mask in masks if mask is not None]
    if not given:
        return None
    total = given[0]
    for mask in given[1:]:
        total = total | mask
    return total


def numeric(digits: int, scale: int) -> SqlType:
    """Type ``numeric(digits, scale)``; digits beyond 38 are not tracked."""
    if scale > MAX_DIGITS:
        raise SchemaMismatch(f"a numeric cannot have {scale} digits after the point", hint="cast it to fewer")
    return SqlType("numeric", min(digits, MAX_DIGITS), scale)


def physical(kind: SqlType) -> pl.DataType:
    """Return the Polars type that represents a SQL type inside expressions."""
    return pl.String() if carried(kind) else _POLARS[kind.name]


def is_supported(kind: SqlType) -> bool:
    """True if expressions can use a type."""
    return kind.name in _POLARS and not carried(kind)


def is_number(kind: SqlType) -> bool:
    """True for integer, numeric and floating-point types."""
    return kind.name in {*INTEGERS, "numeric", "real", "double precision"}


def as_number(term: Term) -> Term:
    """Return an integer as a numeric of scale 0; a numeric unchanged."""
    if term.name in INTEGERS:
        return replace(term, expr=term.expr.cast(pl.Int128), type=SqlType("numeric", LIMITS[term.name][1], 0))
    return term


def as_float(term: Term, kind: SqlType) -> Term:
    """Return any number as real or double precision, rounded once."""
    expr = term.expr
    if term.name == "numeric":
        expr = expr.cast(pl.Decimal(MAX_DIGITS, 0)).cast(pl.String) + f"e-{term.type.scale or 0}"
    return replace(term, expr=expr.cast(physical(kind), strict=False), type=kind)


def rescaled(term: Term, scale: int) -> Term:
    """Return a numeric with more digits after the point."""
    more = scale - (term.type.scale or 0)
    if more == 0:
        return term
    digits = (term.type.precision or MAX_DIGITS) + more
    factor = pl.lit(10**more, dtype=pl.Int128)
    wider = replace(term, expr=term.expr * factor, type=numeric(digits, scale))
    return wider.also_wrong(overflowing(digits, term.expr.cast(pl.Float64) * float(10**more)))


def overflowing(digits: int, about: pl.Expr) -> pl.Expr | None:
    """Return a mask of values beyond 38 digits, None if `digits` exclude any; `about` is the unscaled float value."""
    return (about.abs() > MAX_SAFE_FLOAT) if digits > MAX_DIGITS else None


def negate_int128(number: pl.Expr) -> pl.Expr:
    """Negate a 128-bit integer, for which Polars has no unary minus."""
    return pl.lit(0, dtype=pl.Int128) - number


def out_of_range(wide: pl.Expr, kind: SqlType) -> pl.Expr:
    """Return a mask of the integers beyond the range of their type."""
    limit = LIMITS[kind.name][0]
    low, high = pl.lit(-limit, dtype=pl.Int128), pl.lit(limit - 1, dtype=pl.Int128)
    return (wide < low) | (wide > high)


def text_of(term: Term) -> pl.Expr:
    """Return text without the insignificant trailing blanks of a ``character(n)``."""
    return term.expr.str.strip_chars_end(" ") if term.name == "character" else term.expr


def is_text(kind: SqlType) -> bool:
    """True for text types and quoted literals."""
    return kind.text or kind.name == "unknown"


def null_of(kind: SqlType) -> Term:
    """Return a NULL of a type."""
    return Term(pl.lit(None, dtype=physical(kind)), kind)


def padded_text(term: Term) -> pl.Expr:
    """Return text padded with the blanks of a ``character(n)``, whatever system it comes from."""
    return term.expr.str.pad_end(term.type.precision or 0, " ") if term.name == "character" else term.expr


def common(terms: list[Term], where: str) -> SqlType:
    """Return the common type of the terms, as SQL resolves CASE, COALESCE and comparisons.

    Among text types, the first decides if trailing blanks are significant.

    Raises:
        SchemaMismatch: they have no common type.
    """
    kinds = [term.type for term in terms if term.name not in {"null", "unknown"}]
    if not kinds:
        return TEXT
    if all(kind.text for kind in kinds):
        same = len(set(kinds)) == 1 and not any(term.name == "unknown" for term in terms)
        if kinds[0].name == "character":
            return kinds[0] if same else BPCHAR
        return SqlType(kinds[0].name)
    if all(is_number(kind) for kind in kinds):
        return _common_number(kinds)
    names = {kind.name for kind in kinds}
    if len(names) == 1:
        return kinds[0]
    if names <= {DATE.name, STAMP.name, STAMPTZ.name}:
        return STAMPTZ if STAMPTZ.name in names else STAMP
    listed = " and ".join(sorted(str(kind) for kind in kinds))
    raise SchemaMismatch(f"{listed} have no common type", where=where, hint="write CAST(… AS …) around one of them")


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
