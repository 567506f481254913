"""CAST as in PostgreSQL: numeric rounds half away from zero, floating point to integer rounds half to even."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import polars as pl

from dataflows.data.types import SqlType, parse_type
from dataflows.transforms.expressions import parsers
from dataflows.transforms.expressions.terms import (
    ANY_SIZE,
    BOOLEAN,
    BPCHAR,
    DATE,
    INTEGERS,
    MAX_DIGITS,
    STAMP,
    STAMPTZ,
    TEXT,
    UUID,
    Term,
    any_of,
    as_float,
    as_number,
    is_number,
    negate_int128,
    null_of,
    numeric,
    out_of_range,
    padded_text,
    physical,
    rescaled,
    text_of,
)
from penstock.errors import SchemaMismatch

__all__ = ["MAX_TEXT_LENGTH", "cast", "cast_target", "display_text", "rounded"]

_TRUE: Final = ["t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"]
_FALSE: Final = ["f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"]
MAX_TEXT_LENGTH: Final = 10_000
"""Longest text, in characters, that char(n), lpad and rpad may pad to."""
MAX_VARCHAR_LENGTH: Final = 10_485_760


def cast(term: Term, kind: SqlType, where: str) -> Term:
    """Cast `term` to `kind`.

    Raises:
        SchemaMismatch: the cast is not supported.
    """
    if term.type == kind:
        return term
    if term.name == "null":
        return null_of(kind)
    family = _family(term.type), _family(kind)
    cast_to = _CASTS.get(family)
    if cast_to is None or ("boolean" in family and {term.name, kind.name} & {"smallint", "bigint"}):
        raise SchemaMismatch(
            f"there is no cast from {term.type} to {kind}", where=where, hint="docs/expressions.md lists the casts"
        )
    made = cast_to(term, kind)
    plain = kind.name == "numeric" and kind.precision is None  # as many digits as the value has
    return replace(made, type=made.type if plain else kind, literal=None)


def _family(kind: SqlType) -> str:
    if kind.name in INTEGERS:
        return "integer"
    if kind.text or kind.name in {"unknown", ANY_SIZE.name}:
        return "text"
    return {"real": "float", "double precision": "float", STAMP.name: "stamp", STAMPTZ.name: "stamptz"}.get(
        kind.name, kind.name
    )


def rounded(term: Term, scale: int) -> Term:
    """Round a numeric half away from zero to `scale` digits after the point; missing digits are zeros."""
    less = (term.type.scale or 0) - scale
    if less <= 0:
        return rescaled(term, scale)
    unit = pl.lit(10**less, dtype=pl.Int128)
    size = term.expr.abs()
    up = (
        pl.when(size % unit * pl.lit(2, dtype=pl.Int128) >= unit)
        .then(pl.lit(1, dtype=pl.Int128))
        .otherwise(pl.lit(0, dtype=pl.Int128))
    )
    whole = size // unit + up
    signed = pl.when(term.expr < pl.lit(0, dtype=pl.Int128)).then(negate_int128(whole)).otherwise(whole)
    return replace(term, expr=signed, type=numeric((term.type.precision or MAX_DIGITS) - less + 1, scale), literal=None)


def _to_integer(term: Term, kind: SqlType) -> Term:
    wide = rounded(as_number(term), 0).expr
    return _narrowed(term, wide, kind)


def _narrowed(term: Term, wide: pl.Expr, kind: SqlType) -> Term:
    return Term(wide.cast(physical(kind), strict=False), kind, any_of(term.wrong, out_of_range(wide, kind)))


def _float_to_integer(term: Term, kind: SqlType) -> Term:
    whole = term.expr.cast(pl.Float64).round(0, mode="half_to_even")
    value = whole.cast(pl.Int64, strict=False).cast(physical(kind), strict=False)
    lost = value.is_null() & term.expr.is_not_null()
    return Term(value, kind, any_of(term.wrong, lost))


def _read(term: Term, reader: Callable[[pl.Series], pl.Series], kind: pl.DataType) -> Term:
    """Parse text; wrong where the parser returns NULL for a value."""
    texts = text_of(term)
    parsed = texts.map_batches(reader, return_dtype=kind, is_elementwise=True)
    return Term(parsed, TEXT, any_of(term.wrong, texts.is_not_null() & parsed.is_null()))


def _text_to_integer(term: Term, kind: SqlType) -> Term:
    read = _read(term, parsers.integers, pl.Int128())
    return _narrowed(read, read.expr, kind)


def _to_numeric(term: Term, kind: SqlType) -> Term:
    return _fit_precision(as_number(term), kind)


def _fit_precision(term: Term, kind: SqlType) -> Term:
    if kind.precision is None:
        return term
    value = rounded(term, kind.scale or 0)
    limit = pl.lit(10 ** min(kind.precision, MAX_DIGITS), dtype=pl.Int128)
    return value.also_wrong(value.expr.abs() >= limit)


def _float_to_numeric(term: Term, kind: SqlType) -> Term:
    if kind.precision is None:
        raise SchemaMismatch("a cast to numeric needs its digits", hint="write numeric(p, s)")
    digits = 15 if term.name == "double precision" else 6  # PostgreSQL rounds to that many digits first
    wide = term.expr.cast(pl.Float64)
    text = wide.map_batches(
        partial(parsers.significant_digits, digits=digits), return_dtype=pl.String, is_elementwise=True
    )
    return _text_to_numeric(Term(text, TEXT, term.wrong), kind)


def _text_to_numeric(term: Term, kind: SqlType) -> Term:
    if kind.precision is None:
        raise SchemaMismatch("a cast of text to numeric needs its digits", hint="write numeric(p, s)")
    scale = kind.scale or 0
    read = _read(term, partial(parsers.scaled_integers, scale=scale), pl.Int128())
    limit = pl.lit(10 ** min(kind.precision, MAX_DIGITS), dtype=pl.Int128)
    return Term(read.expr, kind, any_of(read.wrong, read.expr.abs() >= limit))


def _to_float(term: Term, kind: SqlType) -> Term:
    value = as_float(term, kind).expr
    if term.name != "double precision":
        return Term(value, kind, term.wrong)
    over = value.is_infinite() & term.expr.is_finite()
    return Term(value, kind, any_of(term.wrong, over, (value == 0.0) & (term.expr != 0.0)))


def _text_to_float(term: Term, kind: SqlType) -> Term:
    text = text_of(term).str.strip_chars(parsers.BLANKS).str.to_lowercase()
    plain = text.str.contains(r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?$")
    special = text.str.contains(r"^[+-]?(?:inf|infinity|nan)$")
    value = text.str.replace(r"^\+", "").str.replace(r"^-nan$", "nan").cast(physical(kind), strict=False)
    lost = (value == 0.0) & text.str.contains(r"^[+-]?[0.]*[1-9]")
    bad = ~plain | value.is_infinite() | value.is_null() | lost
    return Term(value, kind, any_of(term.wrong, text.is_not_null() & bad & ~special))


def _fit_length(text: pl.Expr, kind: SqlType) -> pl.Expr:
    if kind.precision is None or kind.name == "text":
        return text
    cut = text.str.slice(0, kind.precision)
    return cut.str.pad_end(kind.precision, " ") if kind.name == "character" else cut


def _text_to_text(term: Term, kind: SqlType) -> Term:
    whole = kind == BPCHAR and term.name == "character"
    return Term(padded_text(term) if whole else _fit_length(text_of(term), kind), kind, term.wrong)


def _as_text(make: Callable[[Term], pl.Expr]) -> Callable[[Term, SqlType], Term]:
    return lambda term, kind: Term(_fit_length(make(term), kind), kind, term.wrong)


def _numeric_text(term: Term) -> pl.Expr:
    scale = term.type.scale or 0
    number = term.expr.abs().cast(pl.Decimal(MAX_DIGITS, 0), strict=False)  # of more digits only in rows that are wrong
    digits = number.cast(pl.String).str.pad_start(scale + 1, "0")
    sign = pl.when(term.expr < pl.lit(0, dtype=pl.Int128)).then(pl.lit("-")).otherwise(pl.lit(""))
    if scale == 0:
        return sign + digits
    return sign + digits.str.head(-scale) + "." + digits.str.tail(scale)


def _stamp_text(term: Term) -> pl.Expr:
    shown = term.expr.dt.replace_time_zone(None) if term.name == STAMPTZ.name else term.expr
    text = shown.dt.strftime("%m-%d %H:%M:%S%.6f").str.replace(r"\.?0*$", "", literal=False)
    whole = shown.dt.strftime("%m-%d %H:%M:%S")
    text = pl.when(shown.dt.microsecond() == 0).then(whole).otherwise(text)
    return _with_year(shown, text + "+00" if term.name == STAMPTZ.name else text)


def _date_text(term: Term) -> pl.Expr:
    return _with_year(term.expr, term.expr.dt.strftime("%m-%d"))


def _with_year(times: pl.Expr, rest: pl.Expr) -> pl.Expr:
    """Prefix the year; year 0 is 1 BC, written as a suffix."""
    year = times.dt.year()
    shown = pl.when(year > 0).then(year).otherwise(1 - year).cast(pl.String).str.pad_start(4, "0")
    return shown + "-" + rest + pl.when(year > 0).then(pl.lit("")).otherwise(pl.lit(" BC"))


def _text_to_boolean(term: Term, kind: SqlType) -> Term:
    text = text_of(term).str.strip_chars(parsers.BLANKS).str.to_lowercase()
    true, false = text.is_in(_TRUE), text.is_in(_FALSE)
    return Term(pl.when(true | false).then(true), kind, any_of(term.wrong, text.is_not_null() & ~(true | false)))


def _text_to_date(term: Term, kind: SqlType) -> Term:
    return replace(_read(term, parsers.dates, pl.Date()), type=kind)


def _text_to_stamp(term: Term, kind: SqlType) -> Term:
    zone = kind == STAMPTZ
    read = _read(term, partial(parsers.times, zone=zone), pl.Datetime("us"))
    return replace(read, expr=read.expr.dt.replace_time_zone("UTC") if zone else read.expr, type=kind)


def _text_to_uuid(term: Term, kind: SqlType) -> Term:
    return replace(_read(term, parsers.uuids, pl.String()), type=kind)


def _to_stamp(term: Term, kind: SqlType) -> Term:
    expr = term.expr.cast(pl.Datetime("us")) if term.name == DATE.name else term.expr
    if term.name == STAMPTZ.name:
        expr = expr.dt.replace_time_zone(None)
    return Term(expr.dt.replace_time_zone("UTC") if kind == STAMPTZ else expr, kind, term.wrong)


def _to_date(term: Term, kind: SqlType) -> Term:
    return Term(term.expr.dt.date(), kind, term.wrong)


def _same(term: Term, kind: SqlType) -> Term:
    return Term(term.expr, kind, term.wrong)


_CASTS: Final[dict[tuple[str, str], Callable[[Term, SqlType], Term]]] = {
    ("integer", "integer"): _to_integer, ("numeric", "integer"): _to_integer, ("float", "integer"): _float_to_integer,
    ("text", "integer"): _text_to_integer, ("integer", "numeric"): _to_numeric, ("numeric", "numeric"): _to_numeric,
    ("float", "numeric"): _float_to_numeric, ("text", "numeric"): _text_to_numeric, ("integer", "float"): _to_float,
    ("numeric", "float"): _to_float, ("float", "float"): _to_float, ("text", "float"): _text_to_float,
    ("boolean", "integer"): lambda t, k: Term(t.expr.cast(physical(k)), k, t.wrong),
    ("integer", "boolean"): lambda t, k: Term(t.expr != 0, k, t.wrong), ("text", "uuid"): _text_to_uuid,
    ("text", "text"): _text_to_text, ("integer", "text"): _as_text(lambda t: t.expr.cast(pl.String)),
    ("numeric", "text"): _as_text(_numeric_text), ("boolean", "text"): _as_text(lambda t: t.expr.cast(pl.String)),
    ("date", "text"): _as_text(_date_text), ("stamp", "text"): _as_text(_stamp_text),
    ("stamptz", "text"): _as_text(_stamp_text), ("uuid", "text"): _text_to_text, ("label", "text"): _text_to_text,
    ("json", "text"): _text_to_text, ("text", "boolean"): _text_to_boolean, ("text", "date"): _text_to_date,
    ("text", "stamp"): _text_to_stamp, ("text", "stamptz"): _text_to_stamp, ("date", "stamp"): _to_stamp,
    ("date", "stamptz"): _to_stamp, ("stamp", "stamptz"): _to_stamp, ("stamptz", "stamp"): _to_stamp,
    ("stamp", "date"): _to_date, ("stamptz", "date"): _to_date, ("stamp", "stamp"): _same,
    ("stamptz", "stamptz"): _same,
}  # fmt: skip


def display_text(term: Term) -> pl.Expr:
    """Return a value as text, as errors show it."""
    text = _CASTS.get((_family(term.type), "text"))
    return term.expr.cast(pl.String) if text is None else text(term, TEXT).expr


def cast_target(text: str, where: str) -> SqlType:
    """Return the type that a CAST names.

    Raises:
        SchemaMismatch: the type is not supported, or its length or digits are invalid.
    """
    kind = parse_type(text)
    if kind.precision is not None and (wrong := _invalid_modifier(kind)):
        raise SchemaMismatch(f"there is no type {text}", where=where, hint=wrong)
    if kind in {BOOLEAN, DATE, STAMP, STAMPTZ, TEXT, UUID} or is_number(kind) or kind.text:
        return kind
    names = "smallint, integer, bigint, numeric(p,s), real, double precision, text, varchar(n), char(n)"
    hint = f"use one of {names}, boolean, date, timestamp, timestamptz, uuid"
    raise SchemaMismatch(f"a cast to {text} is not supported", where=where, hint=hint)


def _invalid_modifier(kind: SqlType) -> str | None:
    """Return a hint if the length or digits of a type are invalid, else None."""
    digits = kind.precision or 0
    if kind.name == "numeric":
        ok = 1 <= digits <= MAX_DIGITS and 0 <= (kind.scale or 0) <= digits
        return None if ok else f"write numeric(p, s) with 1 to {MAX_DIGITS} digits, s of them after the point"
    if kind.name not in {"character", "character varying"}:
        return f"write {kind.name} without a number"
    longest = MAX_TEXT_LENGTH if kind.name == "character" else MAX_VARCHAR_LENGTH
    return None if 1 <= digits <= longest else f"1 to {longest} characters"
