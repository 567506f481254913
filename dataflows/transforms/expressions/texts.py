"""Text functions on terms, with SQL's rules."""

from __future__ import annotations

import re
from dataclasses import replace

import polars as pl

from dataflows.transforms.expressions.casts import MAX_TEXT_LENGTH, cast
from dataflows.transforms.expressions.terms import (
    BOOLEAN,
    INTEGER,
    TEXT,
    Term,
    any_of,
    is_text,
    null_of,
    padded_text,
    text_of,
)
from penstock.errors import SchemaMismatch


def text(term: Term, name: str, where: str) -> Term:
    """Return a term as text; a NULL becomes a NULL text.

    Raises:
        SchemaMismatch: it is not text; `name` is the function that needs it.
    """
    if term.name == "null":
        return null_of(TEXT)
    if not is_text(term.type):
        raise SchemaMismatch(f"{name} takes text, not {term.type}", where=where, hint="write CAST(… AS text)")
    return replace(term, expr=text_of(term), type=TEXT)


def concat_operator(left: Term, right: Term, where: str) -> Term:
    """``||``: NULL if either side is. At least one side must be text."""
    if not any(is_text(term.type) for term in (left, right)):
        raise SchemaMismatch("`||` takes text", where=where, hint="write CAST(… AS text)")
    a, b = (cast(term, TEXT, where) for term in (left, right))
    return Term(a.expr + b.expr, TEXT, any_of(a.wrong, b.wrong))


def concat(terms: list[Term], separator: Term | None, where: str) -> Term:
    """``concat`` and ``concat_ws``, which ignore NULLs."""
    parts = [_display_text(term, where) for term in terms]
    wrong = any_of(*(part.wrong for part in parts))
    if separator is None:
        return Term(pl.concat_str([part.expr.fill_null("") for part in parts]), TEXT, wrong)
    if separator.literal is None:
        raise SchemaMismatch("concat_ws needs a quoted separator", where=where, hint="such as concat_ws(', ', a, b)")
    return Term(
        pl.concat_str([part.expr for part in parts], separator=separator.literal, ignore_nulls=True), TEXT, wrong
    )


def _display_text(term: Term, where: str) -> Term:
    """Return a value as text as the server shows it: with the blanks of a character(n), and booleans as t and f."""
    if term.type == BOOLEAN:
        letter = pl.when(term.expr).then(pl.lit("t")).when(term.expr.is_not_null()).then(pl.lit("f"))
        return Term(letter, TEXT, term.wrong)
    return replace(term, expr=padded_text(term), type=TEXT) if term.name == "character" else cast(term, TEXT, where)


def substring(term: Term, start: Term, length: Term | None, where: str) -> Term:
    """``substring(s FROM n FOR m)``, counted from 1; positions before the text count, too. A negative length fails."""
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
        cast(term, INTEGER, where).expr.cast(pl.Int64)
        if term.name in {"smallint", "integer", "null"}
        else _no_count(term, where)
    )


def _no_count(term: Term, where: str) -> pl.Expr:
    raise SchemaMismatch(f"a whole number is needed, not {term.type}", where=where, hint="write CAST(… AS integer)")


def literal_text(term: Term | None, what: str, where: str) -> str:
    """Return the text of a quoted literal; `what` names the argument in the error.

    Raises:
        SchemaMismatch: it is computed, or a number.
    """
    if term is None or term.literal is None or not (term.name == "unknown" or is_text(term.type)):
        raise SchemaMismatch(f"{what} must be written as a literal", where=where, hint="write it out between quotes")
    return term.literal


def split_part(term: Term, delimiter: str, part: int, where: str) -> Term:
    """``split_part(s, d, n)``: the n-th piece, from the end if n is negative; empty if there is none."""
    if part == 0:
        raise SchemaMismatch("split_part counts from 1", where=where, hint="the first is 1, the last -1")
    value = text(term, "split_part", where)
    if not delimiter:
        expr = value.expr if part in {1, -1} else pl.when(value.expr.is_not_null()).then(pl.lit(""))
        return replace(value, expr=expr)
    pieces = value.expr.str.split(delimiter)
    piece = pieces.list.get(part - 1 if part > 0 else part, null_on_oob=True).fill_null("")
    return Term(pl.when(value.expr.is_not_null()).then(piece), TEXT, value.wrong)


def padded(term: Term, width: int, fill: str, where: str, *, left: bool) -> Term:
    """``lpad`` and ``rpad``: pad or cut to exactly `width` characters."""
    if width > MAX_TEXT_LENGTH:
        hint = f"{MAX_TEXT_LENGTH} characters at most"
        raise SchemaMismatch("lpad and rpad do not pad that far", where=where, value=width, hint=hint)
    if len(fill) != 1:
        raise SchemaMismatch("lpad and rpad fill with a single character", where=where, hint="such as '0'")
    value = text(term, "lpad", where)
    cut = value.expr.str.slice(0, max(width, 0))
    expr = cut.str.pad_start(max(width, 0), fill) if left else cut.str.pad_end(max(width, 0), fill)
    return replace(value, expr=expr, literal=None)


def like(term: Term, pattern: str, where: str, *, any_case: bool) -> Term:
    """``LIKE`` and ``ILIKE`` with a literal pattern; a backslash escapes the next character."""
    value = text(term, "LIKE", where)
    seen = padded_text(term) if term.name == "character" else value.expr
    if any_case:
        seen, pattern = lower(seen), pl.select(lower(pl.lit(pattern))).item()
    return Term(seen.str.contains(_regex(pattern, where)), BOOLEAN, value.wrong)


def lower(texts: pl.Expr) -> pl.Expr:
    """Lower case by Unicode's simple mapping, letter by letter, as in the collation ``pg_c_utf8``."""
    single = texts.str.replace_all("\u0130", "i", literal=True).str.replace_all("\u03a3", "\u03c3", literal=True)
    return single.str.to_lowercase()


def upper(texts: pl.Expr) -> pl.Expr:
    """Upper case by Unicode's simple mapping: ``ß``, which has no single capital letter, stays."""
    return texts.map_batches(_upper, return_dtype=pl.String, is_elementwise=True)


def _upper(texts: pl.Series) -> pl.Series:
    if not texts.str.contains(r"[^\x00-\x7F]").any():
        return texts.str.to_uppercase()
    return pl.Series([None if one is None else "".join(map(_capital, one)) for one in texts.to_list()], dtype=pl.String)


def _capital(letter: str) -> str:
    """Return the capital of a letter; the letter itself if its capital is several letters."""
    return next((one for one in (letter.upper(), letter.title()) if len(one) == 1), letter)


def _regex(pattern: str, where: str) -> str:
    out, at = "", 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 1
            if at == len(pattern):
                raise SchemaMismatch("the pattern ends with its escape character", where=where, hint="double it: \\\\")
            out += re.escape(pattern[at])
        else:
            out += {"%": ".*", "_": "."}.get(sign) or re.escape(sign)
        at += 1
    return f"(?s)^{out}\\z"
