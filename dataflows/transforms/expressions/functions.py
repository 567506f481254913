"""Arithmetic, comparison and logic on terms, with SQL's rules for NULL, rounding and division."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Final

import polars as pl

from dataflows.data.types import SqlType
from dataflows.transforms.expressions.casts import cast, rounded
from dataflows.transforms.expressions.terms import (
    BIGINT,
    BOOLEAN,
    BPCHAR,
    DOUBLE,
    INTEGER,
    INTEGERS,
    MAX_DIGITS,
    TEXT,
    Term,
    any_of,
    as_float,
    as_number,
    common,
    is_number,
    is_text,
    negate_int128,
    null_of,
    numeric,
    out_of_range,
    overflowing,
    padded_text,
    physical,
    rescaled,
    text_of,
)
from penstock.errors import SchemaMismatch

__all__ = ["and_", "arithmetic", "coalesce", "compare", "greatest", "negate", "not_", "or_", "unified"]

ZERO: Final = pl.lit(0, dtype=pl.Int128)
COMPARISONS: Final[dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]]] = {
    "=": lambda a, b: a == b, "<>": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


# -- arithmetic ------------------------------------------------------------------------------------------------------


def arithmetic(sign: str, left: Term, right: Term, where: str) -> Term:
    """``+ - * / %`` of two numbers.

    Raises:
        SchemaMismatch: an operand is not a number, or numerics are divided (their scale would depend on the values).
    """
    left, right = _as_numbers(left, right, sign, where)
    kind = common([left, right], where)
    if kind.name in {"real", "double precision"}:
        return _float_arithmetic(sign, cast(left, kind, where), cast(right, kind, where), where)
    if kind.name == "numeric":
        return _numeric_arithmetic(sign, as_number(left), as_number(right), where)
    return _integer_arithmetic(sign, left, right, kind)


def _as_numbers(left: Term, right: Term, sign: str, where: str) -> tuple[Term, Term]:
    """Return both operands as numbers; NULL or a quoted literal takes the other's type."""
    if {left.name, right.name} <= {"null", "unknown"}:
        what = f"`{sign}` does not know the type of its operands"
        raise SchemaMismatch(what, where=where, hint="write CAST(… AS …) around one")
    pair = []
    for one, other in ((left, right), (right, left)):
        term = one
        if one.name in {"null", "unknown"}:
            kind = other.type if is_number(other.type) else INTEGER
            term = _quoted_number(one, kind, where) if kind.name == "numeric" else cast(one, kind, where)
        if not is_number(term.type):
            raise SchemaMismatch(f"`{sign}` does not take {one.type}", where=where, hint="write CAST(… AS …) around it")
        pair.append(term)
    return pair[0], pair[1]


def _integer_arithmetic(sign: str, left: Term, right: Term, kind: SqlType) -> Term:
    carrier = pl.Int128 if kind == BIGINT else pl.Int64
    a, b = left.expr.cast(carrier), right.expr.cast(carrier)
    by_zero = None
    if sign in "/%":
        by_zero = (right.expr == 0) & left.expr.is_not_null()
        quotient = _truncated_quotient(a, b, carrier)
        wide = quotient if sign == "/" else a - quotient * b
    else:
        wide = {"+": a + b, "-": a - b, "*": a * b}[sign]
    value = wide.cast(physical(kind), strict=False)
    return Term(value, kind, any_of(left.wrong, right.wrong, by_zero, out_of_range(wide.cast(pl.Int128), kind)))


def _truncated_quotient(a: pl.Expr, b: pl.Expr, carrier: type[pl.DataType]) -> pl.Expr:
    zero = pl.lit(0, dtype=carrier)
    size = a.abs() // pl.when(b != zero).then(b.abs())
    return pl.when((a < zero) == (b < zero)).then(size).otherwise(pl.lit(0, dtype=carrier) - size)


def _numeric_arithmetic(sign: str, left: Term, right: Term, where: str) -> Term:
    if sign == "/":
        hint = "write CAST(a AS double precision) / b, or multiply by the reciprocal, such as a * 0.01"
        raise SchemaMismatch("a division of numerics has no fixed number of digits", where=where, hint=hint)
    if sign == "*":
        return _product(left, right)
    scale = max(left.type.scale or 0, right.type.scale or 0)
    a, b = rescaled(left, scale), rescaled(right, scale)
    if sign == "%":
        by_zero = (b.expr == ZERO) & a.expr.is_not_null()
        rest = a.expr - _truncated_quotient(a.expr, b.expr, pl.Int128) * b.expr
        return Term(rest, numeric(b.type.precision or MAX_DIGITS, scale), any_of(a.wrong, b.wrong, by_zero))
    digits = max(a.type.precision or MAX_DIGITS, b.type.precision or MAX_DIGITS) + 1
    floats = a.expr.cast(pl.Float64), b.expr.cast(pl.Float64)
    about = floats[0] + floats[1] if sign == "+" else floats[0] - floats[1]
    value = a.expr + b.expr if sign == "+" else a.expr - b.expr
    return Term(value, numeric(digits, scale), any_of(a.wrong, b.wrong, overflowing(digits, about)))


def _product(left: Term, right: Term) -> Term:
    digits = (left.type.precision or MAX_DIGITS) + (right.type.precision or MAX_DIGITS)
    about = left.expr.cast(pl.Float64) * right.expr.cast(pl.Float64) if digits > MAX_DIGITS else None
    kind = numeric(digits, (left.type.scale or 0) + (right.type.scale or 0))
    over = overflowing(digits, about) if about is not None else None
    return Term(left.expr * right.expr, kind, any_of(left.wrong, right.wrong, over))


def _float_arithmetic(sign: str, left: Term, right: Term, where: str) -> Term:
    a, b = left.expr, right.expr
    if sign == "/" or (sign == "+" and not b.meta.root_names()):
        b = _as_column(b, a, left.type)
    elif sign in "+-" and not a.meta.root_names():
        a = _as_column(a, b, left.type)
    if sign == "%":
        raise SchemaMismatch("`%` does not take floating-point numbers", where=where, hint="cast to numeric(p, s)")
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
    wrong = value.is_infinite() & a.is_finite() & b.is_finite()
    if sign == "/":
        wrong = wrong | ((b == 0.0) & a.is_not_null() & ~a.is_nan())
    if sign in "*/":
        wrong = wrong | (
            (value == 0.0) & (a != 0.0) & b.is_finite() & ((b != 0.0) if sign == "*" else pl.lit(value=True))
        )
    return Term(value, left.type, any_of(left.wrong, right.wrong, wrong))


def _as_column(value: pl.Expr, other: pl.Expr, kind: SqlType) -> pl.Expr:
    """Return the value as a column: Polars multiplies by a constant's reciprocal, and takes ``-0.0 + 0`` for -0.0."""
    return value + other.is_null().cast(physical(kind))


def positive(term: Term, where: str) -> Term:
    """``+x``, of a number."""
    _needs_number("+", term, where)
    return term


def negate(term: Term, where: str) -> Term:
    """``-x``."""
    zero = Term(pl.lit(0, dtype=physical(term.type)), term.type) if is_number(term.type) else term
    if term.name in {"real", "double precision"}:
        return replace(term, expr=-term.expr, literal=None)
    if term.name == "numeric":
        return replace(term, expr=negate_int128(term.expr), literal=None)
    return replace(arithmetic("-", zero, term, where), literal=None)


def absolute_value(term: Term, where: str) -> Term:
    """``abs(x)``; wrong for the smallest integer, whose absolute value overflows."""
    _needs_number("abs", term, where)
    wrong = term.expr == -MIN_MAGNITUDES[term.name] if term.name in INTEGERS else None
    return replace(term, expr=term.expr.abs(), literal=None).also_wrong(wrong)


MIN_MAGNITUDES: Final = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}


def round_to(term: Term, places: int, where: str) -> Term:
    """``round(x, n)``: numerics half away from zero; floating point only to a whole number, half to even."""
    _needs_number("round", term, where)
    if term.name in {"real", "double precision"}:
        if places:
            raise SchemaMismatch("round(double, n) does not exist", where=where, hint="cast to numeric(p, s) first")
        return replace(
            as_float(term, DOUBLE), expr=as_float(term, DOUBLE).expr.round(0, mode="half_to_even"), literal=None
        )
    exact = as_number(term)
    if term.name in INTEGERS and places == 0:
        return replace(
            as_float(term, DOUBLE), expr=as_float(term, DOUBLE).expr.round(0, mode="half_to_even"), literal=None
        )
    if not 0 <= places <= MAX_DIGITS:
        raise SchemaMismatch(f"round supports 0 to {MAX_DIGITS} digits", where=where, value=places, hint="cast it")
    return replace(rounded(exact, places), literal=None)


def floor_or_ceil(name: str, term: Term, where: str) -> Term:
    """``floor(x)`` and ``ceil(x)``: numeric for a numeric, else double."""
    _needs_number(name, term, where)
    if term.name != "numeric":
        value = as_float(term, DOUBLE)
        return replace(value, expr=value.expr.floor() if name == "floor" else value.expr.ceil(), literal=None)
    scale = term.type.scale or 0
    unit = pl.lit(10**scale, dtype=pl.Int128)
    size = term.expr.abs() // unit
    rest = (term.expr.abs() % unit) != ZERO
    below = term.expr < ZERO
    away = (below if name == "floor" else ~below) & rest
    more = pl.when(away).then(pl.lit(1, dtype=pl.Int128)).otherwise(ZERO)
    whole = pl.when(below).then(negate_int128(size + more)).otherwise(size + more)
    return Term(whole, numeric((term.type.precision or MAX_DIGITS) - scale + 1, 0), term.wrong)


def _needs_number(name: str, term: Term, where: str) -> None:
    if not is_number(term.type):
        raise SchemaMismatch(
            f"{name} takes a number, not {term.type}", where=where, hint="write CAST(… AS …) around it"
        )


# -- comparison and logic --------------------------------------------------------------------------------------------


def as_condition(term: Term, where: str) -> Term:
    """Return a boolean; a quoted literal or NULL becomes one."""
    if term.name in {"null", "unknown"}:
        return cast(term, BOOLEAN, where)
    if term.type != BOOLEAN:
        raise SchemaMismatch(f"a condition is needed, not {term.type}", where=where, hint="compare it with something")
    return term


def and_(left: Term, right: Term) -> Term:
    """``AND``; where the left side is false, the right one is not evaluated."""
    later = None if right.wrong is None else right.wrong & left.expr.fill_null(value=True)
    return Term(left.expr & right.expr, BOOLEAN, any_of(left.wrong, later))


def or_(left: Term, right: Term) -> Term:
    """``OR``; where the left side is true, the right one is not evaluated."""
    later = None if right.wrong is None else right.wrong & ~left.expr.fill_null(value=False)
    return Term(left.expr | right.expr, BOOLEAN, any_of(left.wrong, later))


def not_(term: Term) -> Term:
    """``NOT``."""
    return replace(term, expr=~term.expr, literal=None)


def unified(terms: list[Term], where: str) -> list[Term]:
    """Convert all terms to their common type; numerics to one scale, with all digits of quoted literals."""
    kind = common(terms, where)
    if kind.name == "numeric":
        terms = [_quoted_number(term, kind, where) for term in terms]
        kind = common(terms, where)
    return [_unify(term, kind, where) for term in terms]


def _quoted_number(term: Term, kind: SqlType, where: str) -> Term:
    """Return a quoted literal next to a numeric as a numeric with the literal's digits; other terms unchanged."""
    if term.name == "null":
        return null_of(kind)
    if term.name != "unknown":
        return term
    try:
        exponent = Decimal((term.literal or "").strip()).as_tuple().exponent
    except InvalidOperation:
        exponent = 0
    scale = max(-exponent, 0) if isinstance(exponent, int) else 0
    return cast(term, numeric(MAX_DIGITS, scale), where)


def _unify(term: Term, kind: SqlType, where: str) -> Term:
    if kind.name == "numeric":
        return replace(rescaled(as_number(term), kind.scale or 0), type=kind) if term.name != "null" else null_of(kind)
    expr = None
    if is_text(term.type) and kind.name in {"text", "character"}:
        expr = text_of(term) if kind == TEXT else padded_text(term)
    elif term.name == "unknown" and kind.name == "label":
        expr = term.expr
    elif term.name == "unknown" and kind.name in {"json", "jsonb"}:
        expr = pl.lit(_json(term, kind, where), dtype=pl.String)
    return cast(term, kind, where) if expr is None else replace(term, expr=expr, type=kind)


def _json(term: Term, kind: SqlType, where: str) -> str:
    """Return the text of a literal, checked to be valid JSON."""
    text = term.literal or ""
    try:
        json.loads(text, parse_constant=int)  # NaN is not JSON
    except ValueError:
        raise SchemaMismatch(f"this is not valid {kind}", where=where, value=text[:60], hint="such as '{}'") from None
    return text


def compare(sign: str, left: Term, right: Term, where: str) -> Term:
    """A comparison. Text compares by code points, as with ``COLLATE "C"``; the trailing blanks of a character(n) are
    ignored unless the other side is text.
    """
    a, b = _compared(left, right, where)
    if a.name in {"json", "jsonb"} or (a.name == "label" and sign not in {"=", "<>"}):
        raise SchemaMismatch(f"`{sign}` does not take {left.type}", where=where, hint="write CAST(… AS text) around it")
    return with_null_literal(Term(COMPARISONS[sign](a.expr, b.expr), BOOLEAN, any_of(a.wrong, b.wrong)), left, right)


def with_null_literal(term: Term, *operands: Term) -> Term:
    """Return an operator's result; if an operand is a literal NULL, the others are not evaluated, so cannot fail."""
    return replace(term, wrong=None) if any(one.name == "null" for one in operands) else term


def _compared(left: Term, right: Term, where: str) -> tuple[Term, Term]:
    names = {left.name, right.name}
    if "character" in names and "text" not in names and all(is_text(one.type) for one in (left, right)):
        left, right = (replace(one, type=BPCHAR) for one in (left, right))
        return replace(left, expr=text_of(left)), replace(right, expr=text_of(right))
    if "text" in names and all(is_text(one.type) for one in (left, right)):
        return replace(left, expr=text_of(left), type=TEXT), replace(right, expr=text_of(right), type=TEXT)
    a, b = unified([left, right], where)
    return a, b


def is_distinct(left: Term, right: Term, where: str) -> Term:
    """``IS DISTINCT FROM``: never NULL."""
    a, b = _compared(left, right, where)
    return Term(a.expr.ne_missing(b.expr), BOOLEAN, any_of(a.wrong, b.wrong))


def coalesce(terms: list[Term], where: str) -> Term:
    """``COALESCE``: operands after the first non-NULL value are not evaluated."""
    items = unified(terms, where)
    wrong, open_ = [], pl.lit(value=True)
    for item in items:
        if item.wrong is not None:
            wrong.append(open_ & item.wrong)
        open_ = open_ & item.expr.is_null()
    return Term(pl.coalesce([item.expr for item in items]), _widest(items), any_of(*wrong))


def _widest(items: list[Term]) -> SqlType:
    if items[0].name != "numeric":
        return items[0].type
    return numeric(max(item.type.precision or MAX_DIGITS for item in items), items[0].type.scale or 0)


def nullif(left: Term, right: Term, where: str) -> Term:
    """``NULLIF``: the left side, or NULL if both are equal."""
    same = compare("=", left, right, where)
    kept = cast(left, TEXT, where) if left.name == "unknown" else left
    if all(is_text(one.type) for one in (left, right)):  # also a text here: the left side as `=` compares it
        blank = "character" in {left.name, right.name} and "text" not in {left.name, right.name}
        if not blank:
            kept = replace(left, expr=text_of(left), type=TEXT, literal=None)
        elif left.name != "character":
            kept = replace(left, type=BPCHAR, literal=None)
    kind = common([left, right], where)
    if not kind.integer and is_number(kind):  # the left side has the type that `=` compares in
        kept = (
            as_number(left) if kind.name == "numeric" and left.name != "unknown" else unified([left, right], where)[0]
        )
    expr = pl.when(~same.expr.fill_null(value=False)).then(kept.expr)
    return Term(expr, kept.type, same.wrong)


def greatest(terms: list[Term], where: str, *, least: bool = False) -> Term:
    """``GREATEST`` and ``LEAST``, which ignore NULLs."""
    items = unified(terms, where)
    best = items[0]
    for item in items[1:]:
        new, old = text_of(item), text_of(best)
        better = new < old if least else new > old
        taken = best.expr.is_null() | better.fill_null(value=False)
        best = replace(item, expr=pl.when(taken).then(item.expr).otherwise(best.expr))
    return Term(best.expr, _widest(items), any_of(*(item.wrong for item in items)))


def case(branches: list[tuple[Term, Term]], default: Term, where: str) -> Term:
    """``CASE WHEN … THEN … ELSE … END``: only the branch taken can fail."""
    results = unified([*(result for _, result in branches), default], where)
    expr, wrong = results[-1].expr, results[-1].wrong
    for (condition, _), result in reversed(list(zip(branches, results, strict=False))):
        taken = condition.expr.fill_null(value=False)
        expr = pl.when(taken).then(result.expr).otherwise(expr)
        if wrong is not None or result.wrong is not None:
            nothing = pl.lit(value=False)
            inner = pl.when(taken).then(nothing if result.wrong is None else result.wrong)
            wrong = inner.otherwise(nothing if wrong is None else wrong)
        wrong = any_of(condition.wrong, wrong)
    return Term(expr, _widest(results), wrong)
