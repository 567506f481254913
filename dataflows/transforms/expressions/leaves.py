"""Leaves of an expression: columns and constants."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import polars as pl
from sqlglot import exp

from dataflows.data.types import SqlType, carried
from dataflows.transforms.expressions.terms import (
    ANY_SIZE,
    BIGINT,
    BOOLEAN,
    DATE,
    INTEGER,
    MAX_DIGITS,
    NULL,
    STAMP,
    STAMPTZ,
    UNKNOWN,
    Term,
    frame_name,
    in_date_range,
    is_supported,
    numeric,
    physical,
)
from dataflows.transforms.expressions.walk import Compiler, place_of
from penstock.errors import MissingColumn, SchemaMismatch, did_you_mean

__all__ = ["boolean", "column", "literal", "null"]

_DATED: Final = {DATE.name, STAMP.name, STAMPTZ.name}


def column(c: Compiler, node: exp.Column) -> Term:
    """A column by name; unquoted names fold to lower case."""
    identifier = node.this
    if not isinstance(identifier, exp.Identifier):
        raise c.not_allowed(node, "*")
    written, folded = identifier.name, identifier.name.lower()
    name = written if identifier.args.get("quoted") or folded not in c.columns else folded
    if name not in c.columns:
        hint = did_you_mean(name, c.columns) or f"known are {', '.join(list(c.columns)[:12])}"
        raise MissingColumn("there is no such column", where=f"{c.where}{place_of(node)}", value=name, hint=hint)
    kind = c.columns[name]
    if kind.name == "numeric" and carried(kind):
        kind = ANY_SIZE
    if not is_supported(kind):
        what = f"`{name}` of type {kind} cannot be used in an expression"
        hint = f"map it as it is (from: {name}), or convert it in a view of the source"
        raise SchemaMismatch(what, where=f"{c.where}{place_of(node)}", hint=hint)
    c.used.add(name)
    value = pl.col(frame_name(name))
    if kind.name in _DATED:
        return in_date_range(Term(value, SqlType(kind.name)))
    return Term(value.to_physical() if kind.name == "numeric" else value, kind)


def literal(c: Compiler, node: exp.Literal) -> Term:
    """A number, or quoted text, which takes the type of the other operand."""
    text = node.this
    if node.is_string:
        return Term(pl.lit(text, dtype=pl.String), UNKNOWN, literal=text)
    value = Decimal(text)
    if "." not in text and "e" not in text.lower() and abs(value) < 1 << 63:
        kind = INTEGER if abs(value) < 1 << 31 else BIGINT
        return Term(pl.lit(int(text), dtype=physical(kind)), kind, literal=text)
    _, digits, exponent = value.as_tuple()
    more, scale = max(0, int(exponent)), max(0, -int(exponent))
    count = max(len(digits) + more, scale)
    if count > MAX_DIGITS:
        raise _too_long(c)
    whole = int("".join(map(str, digits)) + "0" * more)  # by its digits: Decimal's own arithmetic keeps 28 of them
    return Term(pl.lit(whole, dtype=pl.Int128), numeric(count, scale), literal=text)


def _too_long(c: Compiler) -> SchemaMismatch:
    return SchemaMismatch("a number has more than 38 digits", where=c.where, hint="write fewer, or quote it as text")


def boolean(_: Compiler, node: exp.Boolean) -> Term:
    """TRUE or FALSE."""
    return Term(pl.lit(bool(node.this), dtype=pl.Boolean), BOOLEAN)


def null(_: Compiler, __: exp.Null) -> Term:
    """NULL."""
    return Term(pl.lit(None), NULL)
