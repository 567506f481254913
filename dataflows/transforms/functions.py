"""The functions and operators of expressions, on terms, with SQL's own rules for NULL, rounding and division."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import polars as pl

from dataflows.postgres.types import SqlType
from dataflows.transforms.casts import cast, rounded
from dataflows.transforms.terms import (
    BIGINT,
    BOOLEAN,
    DATE,
    INTEGER,
    INTEGERS,
    MAX_DIGITS,
    STAMP,
    STAMPTZ,
    TEXT,
    Term,
    any_of,
    as_double,
    as_number,
    common,
    is_number,
    is_text,
    minus,
    numeric,
    out_of_range,
    overflowing,
    physical,
    rescaled,
    text_of,
    when_null,
)
from penstock.errors import SchemaMismatch

__all__ = ["arithmetic", "both", "compare", "either", "first_known", "greatest", "like", "negated", "negative"]

ZERO: Final = pl.lit(0, dtype=pl.Int128)
COMPARISONS: Final[dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]]] = {
    "=": lambda a, b: a == b, "<>": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


# -- numbers ---------------------------------------------------------------------------------------------------------


def arithmetic(sign: str, left: Term, right: Term, where: str) -> Term:
    """``+ - * / %`` of two numbers.

    Raises:
        SchemaMismatch: something that is no number, or a division of numerics, whose digits SQL lets depend on values.
    """
    left, right = _numbers(left, right, sign, where)
    kind = common([left, right], where)
    if kind.name in {"real", "double precision"}:
        return _float(sign, cast(left, kind, where), cast(right, kind, where), where)
    if kind.name == "numeric":
        return _exact(sign, as_number(left), as_number(right), where)
    return _whole(sign, left, right, kind)


def _numbers(left: Term, right: Term, sign: str, where: str) -> tuple[Term, Term]:
    """Both as numbers; a NULL or a quoted literal takes the other's type."""
    pair = []
    for one, other in ((left, right), (right, left)):
        term = one
        if one.name in {"null", "unknown"}:
            kind = other.type if is_number(other.type) else INTEGER
            term = cast(one, _wide(kind), where)
        if not is_number(term.type):
            raise SchemaMismatch(f"`{sign}` does not take {one.type}", where=where, hint="write CAST(… AS …) around it")
        pair.append(term)
    return pair[0], pair[1]


def _wide(kind: SqlType) -> SqlType:
    return numeric(MAX_DIGITS, kind.scale or 0) if kind.name == "numeric" else kind


def _whole(sign: str, left: Term, right: Term, kind: SqlType) -> Term:
    carrier = pl.Int128 if kind == BIGINT else pl.Int64
    a, b = left.expr.cast(carrier), right.expr.cast(carrier)
    by_zero = None
    if sign in "/%":
        by_zero = (right.expr == 0) & left.expr.is_not_null()
        quotient = _towards_zero(a, b, carrier)
        wide = quotient if sign == "/" else a - quotient * b
    else:
        wide = {"+": a + b, "-": a - b, "*": a * b}[sign]
    found = wide.cast(physical(kind), strict=False)
    return Term(found, kind, any_of(left.wrong, right.wrong, by_zero, out_of_range(wide.cast(pl.Int128), kind)))


def _towards_zero(a: pl.Expr, b: pl.Expr, carrier: type[pl.DataType]) -> pl.Expr:
    zero = pl.lit(0, dtype=carrier)
    size = a.abs() // pl.when(b != zero).then(b.abs())
    return pl.when((a < zero) == (b < zero)).then(size).otherwise(pl.lit(0, dtype=carrier) - size)


def _exact(sign: str, left: Term, right: Term, where: str) -> Term:
    if sign == "/":
        hint = "write CAST(a AS double precision) / b, or multiply by the reciprocal, such as a * 0.01"
        raise SchemaMismatch("a division of numerics has no fixed number of digits", where=where, hint=hint)
    if sign == "*":
        return _product(left, right)
    scale = max(left.type.scale or 0, right.type.scale or 0)
    a, b = rescaled(left, scale), rescaled(right, scale)
    if sign == "%":
        by_zero = (b.expr == ZERO) & a.expr.is_not_null()
        rest = a.expr - _towards_zero(a.expr, b.expr, pl.Int128) * b.expr
        return Term(rest, numeric(b.type.precision or MAX_DIGITS, scale), any_of(a.wrong, b.wrong, by_zero))
    digits = max(a.type.precision or MAX_DIGITS, b.type.precision or MAX_DIGITS) + 1
    floats = a.expr.cast(pl.Float64), b.expr.cast(pl.Float64)
    about = floats[0] + floats[1] if sign == "+" else floats[0] - floats[1]
    found = a.expr + b.expr if sign == "+" else a.expr - b.expr
    return Term(found, numeric(digits, scale), any_of(a.wrong, b.wrong, overflowing(digits, about)))


def _product(left: Term, right: Term) -> Term:
    digits = (left.type.precision or MAX_DIGITS) + (right.type.precision or MAX_DIGITS)
    about = left.expr.cast(pl.Float64) * right.expr.cast(pl.Float64) if digits > MAX_DIGITS else None
    kind = numeric(digits, (left.type.scale or 0) + (right.type.scale or 0))
    over = overflowing(digits, about) if about is not None else None
    return Term(left.expr * right.expr, kind, any_of(left.wrong, right.wrong, over))


def _float(sign: str, left: Term, right: Term, where: str) -> Term:
    a, b = left.expr, right.expr
    if sign == "%":
        raise SchemaMismatch("`%` does not take floating-point numbers", where=where, hint="cast to numeric(p, s)")
    found = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
    wrong = found.is_infinite() & a.is_finite() & b.is_finite()
    if sign == "/":
        wrong = wrong | ((b == 0.0) & a.is_not_null() & ~a.is_nan())
    if sign in "*/":
        wrong = wrong | (
            (found == 0.0) & (a != 0.0) & b.is_finite() & ((b != 0.0) if sign == "*" else pl.lit(value=True))
        )
    return Term(found, left.type, any_of(left.wrong, right.wrong, wrong))


def negative(term: Term, where: str) -> Term:
    """``-x``."""
    zero = Term(pl.lit(0, dtype=physical(term.type)), term.type) if is_number(term.type) else term
    if term.name in {"real", "double precision"}:
        return replace(term, expr=-term.expr, literal=None)
    if term.name == "numeric":
        return replace(term, expr=minus(term.expr), literal=None)
    return replace(arithmetic("-", zero, term, where), literal=None)


def absolute(term: Term, where: str) -> Term:
    """``abs(x)``; the least whole number has none."""
    _needs_number("abs", term, where)
    wrong = term.expr == -LIMITS_BY_NAME[term.name] if term.name in INTEGERS else None
    return replace(term, expr=term.expr.abs(), literal=None).also_wrong(wrong)


LIMITS_BY_NAME: Final = {"smallint": 1 << 15, "integer": 1 << 31, "bigint": 1 << 63}


def round_to(term: Term, places: int, where: str) -> Term:
    """``round(x, n)`` of a numeric, half away from zero; of a double only to a whole number, half to even."""
    _needs_number("round", term, where)
    if term.name in {"real", "double precision"}:
        if places:
            raise SchemaMismatch("round(double, n) does not exist", where=where, hint="cast to numeric(p, s) first")
        return replace(as_double(term), expr=as_double(term).expr.round(0, mode="half_to_even"), literal=None)
    exact = as_number(term)
    if term.name in INTEGERS and places == 0:
        return replace(as_double(term), expr=as_double(term).expr.round(0, mode="half_to_even"), literal=None)
    if places < 0:
        raise SchemaMismatch("round to a negative number of digits is not supported", where=where)
    return replace(rounded(exact, places), literal=None)


def whole_part(name: str, term: Term, where: str) -> Term:
    """``floor(x)`` and ``ceil(x)``: numeric for a numeric, else double."""
    _needs_number(name, term, where)
    if term.name != "numeric":
        found = as_double(term)
        return replace(found, expr=found.expr.floor() if name == "floor" else found.expr.ceil(), literal=None)
    scale = term.type.scale or 0
    unit = pl.lit(10**scale, dtype=pl.Int128)
    size = term.expr.abs() // unit
    rest = (term.expr.abs() % unit) != ZERO
    below = term.expr < ZERO
    away = (below if name == "floor" else ~below) & rest
    more = pl.when(away).then(pl.lit(1, dtype=pl.Int128)).otherwise(ZERO)
    whole = pl.when(below).then(minus(size + more)).otherwise(size + more)
    return Term(whole, numeric((term.type.precision or MAX_DIGITS) - scale + 1, 0), term.wrong)


def _needs_number(name: str, term: Term, where: str) -> None:
    if not is_number(term.type):
        raise SchemaMismatch(
            f"{name} takes a number, not {term.type}", where=where, hint="write CAST(… AS …) around it"
        )


# -- truth -----------------------------------------------------------------------------------------------------------


def truth(term: Term, where: str) -> Term:
    """A boolean, or the quoted literal or NULL of one."""
    if term.name in {"null", "unknown"}:
        return cast(term, BOOLEAN, where)
    if term.type != BOOLEAN:
        raise SchemaMismatch(f"a condition is needed, not {term.type}", where=where, hint="compare it with something")
    return term


def both(left: Term, right: Term) -> Term:
    """``AND``; where the left side is false, the right one is not looked at."""
    later = None if right.wrong is None else right.wrong & left.expr.fill_null(value=True)
    return Term(left.expr & right.expr, BOOLEAN, any_of(left.wrong, later))


def either(left: Term, right: Term) -> Term:
    """``OR``; where the left side is true, the right one is not looked at."""
    later = None if right.wrong is None else right.wrong & ~left.expr.fill_null(value=False)
    return Term(left.expr | right.expr, BOOLEAN, any_of(left.wrong, later))


def negated(term: Term) -> Term:
    """``NOT``."""
    return replace(term, expr=~term.expr, literal=None)


def brought(terms: list[Term], where: str) -> list[Term]:
    """All terms in their common type; numerics to one scale."""
    kind = common(terms, where)
    return [_brought(term, kind, where) for term in terms]


def _brought(term: Term, kind: SqlType, where: str) -> Term:
    if kind.name == "numeric":
        if term.name == "unknown":
            return cast(term, numeric(MAX_DIGITS, kind.scale or 0), where)
        return (
            replace(rescaled(as_number(term), kind.scale or 0), type=kind) if term.name != "null" else when_null(kind)
        )
    if kind == TEXT and term.name in {"text", "character varying", "unknown", "character"}:
        return replace(term, expr=text_of(term), type=TEXT)
    if term.name == "unknown" and kind.name in {"uuid", "label", "json", "jsonb"}:
        return replace(term, type=kind)
    return cast(term, kind, where)


def compare(sign: str, left: Term, right: Term, where: str) -> Term:
    """A comparison. Texts are compared by code points, as ``COLLATE "C"`` does."""
    a, b = brought([left, right], where)
    if a.name in {"json", "jsonb"} or (a.name == "label" and sign not in {"=", "<>"}):
        raise SchemaMismatch(f"`{sign}` does not take {left.type}", where=where)
    return Term(COMPARISONS[sign](a.expr, b.expr), BOOLEAN, any_of(a.wrong, b.wrong))


def distinct(left: Term, right: Term, where: str) -> Term:
    """``IS DISTINCT FROM``: never NULL."""
    a, b = brought([left, right], where)
    return Term(a.expr.ne_missing(b.expr), BOOLEAN, any_of(a.wrong, b.wrong))


def first_known(terms: list[Term], where: str) -> Term:
    """``COALESCE``: what stands behind the first value is not looked at."""
    items = brought(terms, where)
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


def null_if(left: Term, right: Term, where: str) -> Term:
    """``NULLIF``: the left side, unless both are equal."""
    same = compare("=", left, right, where)
    kept = cast(left, TEXT, where) if left.name == "unknown" else left
    kind = common([left, right], where)
    if not kind.integer and is_number(kind):  # the left side as the operator of `=` takes it
        kept = _brought(left, kind, where)
    expr = pl.when(~same.expr.fill_null(value=False)).then(kept.expr)
    return Term(expr, kept.type, same.wrong)


def greatest(terms: list[Term], where: str, *, least: bool = False) -> Term:
    """``GREATEST`` and ``LEAST``: NULLs are passed by."""
    items = brought(terms, where)
    found = items[0].expr
    for item in items[1:]:
        better = item.expr < found if least else item.expr > found
        found = pl.when(found.is_null() | better.fill_null(value=False)).then(item.expr).otherwise(found)
    return Term(found, _widest(items), any_of(*(item.wrong for item in items)))


def case(branches: list[tuple[Term, Term]], default: Term, where: str) -> Term:
    """``CASE WHEN … THEN … ELSE … END``: only the branch that is taken can fail."""
    results = brought([*(result for _, result in branches), default], where)
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


# -- texts -----------------------------------------------------------------------------------------------------------


def text(term: Term, name: str, where: str) -> Term:
    """A text; a NULL becomes one."""
    if term.name == "null":
        return when_null(TEXT)
    if not is_text(term.type):
        raise SchemaMismatch(f"{name} takes a text, not {term.type}", where=where, hint="write CAST(… AS text)")
    return replace(term, expr=text_of(term), type=TEXT)


def joined(left: Term, right: Term, where: str) -> Term:
    """``||``: NULL if either side is. One side at least must be a text."""
    if not any(is_text(term.type) for term in (left, right)):
        raise SchemaMismatch("`||` takes texts", where=where, hint="write CAST(… AS text)")
    a, b = (cast(term, TEXT, where) for term in (left, right))
    return Term(a.expr + b.expr, TEXT, any_of(a.wrong, b.wrong))


def concat(terms: list[Term], separator: Term | None, where: str) -> Term:
    """``concat`` and ``concat_ws``: NULLs are passed by."""
    if any(term.type == BOOLEAN for term in terms):
        raise SchemaMismatch("concat writes a boolean as t or f", where=where, hint="write CAST(… AS text)")
    parts = [cast(term, TEXT, where) for term in terms]
    wrong = any_of(*(part.wrong for part in parts))
    if separator is None:
        return Term(pl.concat_str([part.expr.fill_null("") for part in parts]), TEXT, wrong)
    if separator.literal is None:
        raise SchemaMismatch("concat_ws needs a quoted separator", where=where)
    return Term(
        pl.concat_str([part.expr for part in parts], separator=separator.literal, ignore_nulls=True), TEXT, wrong
    )


def substring(term: Term, start: Term, length: Term | None, where: str) -> Term:
    """``substring(s FROM n FOR m)``, counted from 1; what lies before the text counts too. A negative length fails."""
    value = text(term, "substring", where)
    begin = _count(start, where)
    offset = pl.max_horizontal(begin, pl.lit(1, dtype=pl.Int64)) - 1
    known_start = begin.is_not_null()
    if length is None:
        expr = value.expr.str.slice(offset)
        return Term(pl.when(known_start).then(expr), TEXT, any_of(value.wrong, start.wrong))
    count = _count(length, where)
    size = pl.max_horizontal(begin + count - 1 - offset, pl.lit(0, dtype=pl.Int64))
    negative_ = (count < 0) & value.expr.is_not_null() & known_start
    expr = pl.when(known_start & count.is_not_null()).then(value.expr.str.slice(offset, size))
    return Term(expr, TEXT, any_of(value.wrong, start.wrong, length.wrong, negative_))


def _count(term: Term, where: str) -> pl.Expr:
    return (
        cast(term, INTEGER, where).expr.cast(pl.Int64) if term.name in {*INTEGERS, "null"} else _no_count(term, where)
    )


def _no_count(term: Term, where: str) -> pl.Expr:
    raise SchemaMismatch(f"a whole number is needed, not {term.type}", where=where)


def constant(term: Term | None, what: str, where: str) -> str:
    """The text of a literal.

    Raises:
        SchemaMismatch: it is computed.
    """
    if term is None or term.literal is None:
        raise SchemaMismatch(f"{what} must be written as a literal", where=where)
    return term.literal


def split_part(term: Term, delimiter: str, part: int, where: str) -> Term:
    """``split_part(s, d, n)``: the n-th piece, from the end if n is negative; empty where there is none."""
    if part == 0:
        raise SchemaMismatch("split_part counts from 1", where=where)
    value = text(term, "split_part", where)
    if not delimiter:
        expr = value.expr if part in {1, -1} else pl.when(value.expr.is_not_null()).then(pl.lit(""))
        return replace(value, expr=expr)
    pieces = value.expr.str.split(delimiter)
    found = pieces.list.get(part - 1 if part > 0 else part, null_on_oob=True).fill_null("")
    return Term(pl.when(value.expr.is_not_null()).then(found), TEXT, value.wrong)


def padded(term: Term, width: int, fill: str, where: str, *, left: bool) -> Term:
    """``lpad`` and ``rpad``: to exactly `width` characters."""
    if len(fill) != 1:
        raise SchemaMismatch("lpad and rpad fill with one character here", where=where)
    value = text(term, "lpad", where)
    cut = value.expr.str.slice(0, max(width, 0))
    expr = cut.str.pad_start(max(width, 0), fill) if left else cut.str.pad_end(max(width, 0), fill)
    return replace(value, expr=expr, literal=None)


def like(term: Term, pattern: str, where: str, *, any_case: bool) -> Term:
    """``LIKE`` and ``ILIKE`` with a literal pattern; a backslash takes the next character as it is."""
    if term.name == "character":
        raise SchemaMismatch("LIKE on character(n) sees its padding", where=where, hint="write CAST(… AS text)")
    value = text(term, "LIKE", where)
    return Term(value.expr.str.contains(_regex(pattern, where, any_case=any_case)), BOOLEAN, value.wrong)


def _regex(pattern: str, where: str, *, any_case: bool) -> str:
    out, at = "", 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 1
            if at == len(pattern):
                raise SchemaMismatch("the pattern ends with its escape character", where=where)
            out += re.escape(pattern[at])
        else:
            out += {"%": ".*", "_": "."}.get(sign) or re.escape(sign)
        at += 1
    return f"(?s{'i' if any_case else ''})^{out}\\z"


# -- time ------------------------------------------------------------------------------------------------------------

TIMES: Final = {DATE.name, STAMP.name, STAMPTZ.name}
_PARTS: Final[dict[str, Callable[[pl.Expr], pl.Expr]]] = {
    "year": lambda e: e.dt.year(), "month": lambda e: e.dt.month(), "day": lambda e: e.dt.day(),
    "quarter": lambda e: e.dt.quarter(), "week": lambda e: e.dt.week(), "isodow": lambda e: e.dt.weekday(),
    "dow": lambda e: e.dt.weekday() % 7, "doy": lambda e: e.dt.ordinal_day(), "isoyear": lambda e: e.dt.iso_year(),
    "hour": lambda e: e.dt.hour(), "minute": lambda e: e.dt.minute(),
}  # fmt: skip
_UNITS: Final = {
    "microseconds": "us", "milliseconds": "ms", "second": "1s", "minute": "1m", "hour": "1h", "day": "1d", "week": "1w",
    "month": "1mo", "quarter": "1q", "year": "1y",
}  # fmt: skip


def extract(part: str, term: Term, where: str) -> Term:
    """``extract(part FROM x)``: a numeric, as in PostgreSQL."""
    value = _time(term, "extract", where)
    if part in {"hour", "minute", "second"} and value.name == DATE.name:
        raise SchemaMismatch(f"a date has no {part}", where=where)
    if part == "second":
        micros = value.expr.dt.second().cast(pl.Int128) * pl.lit(
            10**6, dtype=pl.Int128
        ) + value.expr.dt.microsecond().cast(pl.Int128)
        return Term(micros, numeric(8, 6), value.wrong)
    if part == "epoch":
        micros = value.expr.cast(pl.Datetime("us")) if value.name == DATE.name else value.expr
        return Term(micros.dt.timestamp("us").cast(pl.Int128), numeric(20, 6), value.wrong)
    if part not in _PARTS:
        raise SchemaMismatch(
            f"extract({part} …) is not supported", where=where, hint=f"one of {', '.join(_PARTS)}, second, epoch"
        )
    return Term(_PARTS[part](value.expr).cast(pl.Int128), numeric(10, 0), value.wrong)


def _time(term: Term, name: str, where: str) -> Term:
    if term.name not in TIMES:
        raise SchemaMismatch(
            f"{name} takes a date or timestamp, not {term.type}", where=where, hint="write CAST(… AS timestamp)"
        )
    return term


def truncated(unit: str, term: Term, where: str) -> Term:
    """``date_trunc(unit, x)``, in UTC; a date becomes a timestamptz, as in PostgreSQL."""
    value = _time(term, "date_trunc", where)
    if unit not in _UNITS or unit in {"microseconds", "milliseconds"}:
        raise SchemaMismatch(
            f"date_trunc('{unit}', …) is not supported", where=where, hint=f"one of {', '.join(_UNITS)}"
        )
    value = cast(value, STAMPTZ, where) if value.name == DATE.name else value
    return replace(value, expr=value.expr.dt.truncate(_UNITS[unit]), literal=None)


def shifted(sign: str, left: Term, right: Term, where: str) -> Term | None:
    """``date ± whole number``, ``date - date``; None where neither side is a date."""
    if left.name == DATE.name and right.name in {"smallint", "integer"}:
        days = right.expr.cast(pl.Int64) * (1 if sign == "+" else -1)
        far = days.abs() > 3_000_000  # noqa: PLR2004 - beyond what a date here can hold
        moved = left.expr + pl.duration(days=pl.when(~far).then(days))
        return Term(moved, DATE, any_of(left.wrong, right.wrong, far & left.expr.is_not_null()))
    if sign == "+" and right.name == DATE.name and left.name in {"smallint", "integer"}:
        return shifted("+", right, left, where)
    if sign == "-" and DATE.name in {left.name, right.name}:
        a, b = brought([left, right], where)
        if a.name == DATE.name:
            return Term((a.expr - b.expr).dt.total_days().cast(pl.Int32), INTEGER, any_of(a.wrong, b.wrong))
    if left.name in TIMES or right.name in TIMES:
        raise SchemaMismatch(f"`{left.type} {sign} {right.type}` is not supported", where=where,
                             hint="add an interval, or a whole number of days to a date")  # fmt: skip
    return None


_INTERVAL: Final = re.compile(r"\s*([+-]?\d+)\s*(year|month|mon|week|day|hour|minute|min|second|sec)s?", re.IGNORECASE)
_OFFSETS: Final = {"year": "y", "mon": "mo", "month": "mo", "week": "w", "day": "d", "hour": "h", "minute": "m",
                   "min": "m",
                   "second": "s", "sec": "s"}  # fmt: skip
_ORDER: Final = ["y", "mo", "w", "d", "h", "m", "s"]


def moved(sign: str, term: Term, interval: str, where: str) -> Term:
    """A time plus or minus an interval such as ``1 month 2 days``: months first, within the month, then the rest."""
    value = _time(term, "an interval", where)
    parts = _INTERVAL.findall(interval)
    if not parts or re.sub(_INTERVAL, "", interval).strip():
        raise SchemaMismatch(
            "an interval of whole units is needed", where=where, value=interval, hint="such as '1 month 2 days'"
        )
    value = cast(value, STAMP, where) if value.name == DATE.name else value
    found = value.expr
    amounts: dict[str, int] = {}
    for number, unit in parts:
        short = _OFFSETS[unit.lower()]
        amounts[short] = amounts.get(short, 0) + int(number)
    months = amounts.pop("y", 0) * 12 + amounts.pop("mo", 0)
    steps = ([(months, "mo")] if months else []) + [(amounts[unit], unit) for unit in _ORDER if amounts.get(unit)]
    for number, unit in steps:
        number = number if sign == "+" else -number  # noqa: PLW2901
        found = found.dt.offset_by(f"{number}{unit}")
    return replace(value, expr=found, literal=None)
