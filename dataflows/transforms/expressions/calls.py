"""Functions in expressions: handlers from a call's node to a term. Arguments that must be literals are checked here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
from sqlglot import exp

from dataflows.data.types import SqlType
from dataflows.transforms.expressions import functions as f
from dataflows.transforms.expressions import texts
from dataflows.transforms.expressions.operators import Handler, check_same_scale, note_mixed_scales
from dataflows.transforms.expressions.terms import TEXT, Term
from dataflows.transforms.expressions.walk import Compiler
from penstock.errors import SchemaMismatch

__all__ = [
    "concat",
    "concat_operator",
    "concat_ws",
    "left",
    "pad",
    "replace",
    "right",
    "rounded",
    "split_part",
    "substring",
    "text_function",
    "trim",
    "variadic",
]


def text_function(name: str, make: Callable[[pl.Expr], pl.Expr], kind: SqlType = TEXT) -> Handler:
    """Return the handler of a function of one text argument."""

    def made(c: Compiler, node: Any) -> Term:
        value = texts.text(c(node.this), name, c.where)
        return Term(make(value.expr), kind, value.wrong)

    return made


def trim(c: Compiler, node: exp.Trim) -> Term:
    """``trim``, ``btrim``, ``ltrim`` and ``rtrim``."""
    value = texts.text(c(node.this), "trim", c.where)
    signs = texts.literal_text(c(node.expression), "the characters to trim", c.where) if node.expression else " "
    side = str(node.args.get("position") or "BOTH").upper()
    strip = {
        "BOTH": value.expr.str.strip_chars,
        "LEADING": value.expr.str.strip_chars_start,
        "TRAILING": value.expr.str.strip_chars_end,
    }[side]
    return Term(strip(signs) if signs else value.expr, TEXT, value.wrong)


def replace(c: Compiler, node: exp.Replace) -> Term:
    """``replace`` of one literal by another."""
    value = texts.text(c(node.this), "replace", c.where)
    old = texts.literal_text(c(node.expression), "the text to replace", c.where)
    new = texts.literal_text(c(node.args["replacement"]), "the replacement", c.where)
    return Term(value.expr.str.replace_all(old, new, literal=True) if old else value.expr, TEXT, value.wrong)


def substring(c: Compiler, node: exp.Substring) -> Term:
    """``substring`` and ``substr``."""
    return texts.substring(c(node.this), c(node.args["start"]), c.optional(node.args.get("length")), c.where)


def _whole_constant(c: Compiler, node: Any, what: str) -> int:
    inner = node.this if isinstance(node, exp.Neg) else node
    term = c(inner)
    if term.literal is None or term.name != "integer":
        raise SchemaMismatch(f"{what} must be a whole number", where=c.where, hint="write it out, such as 2")
    return -int(term.literal) if isinstance(node, exp.Neg) else int(term.literal)


def split_part(c: Compiler, node: exp.SplitPart) -> Term:
    """``split_part`` with a literal delimiter and number."""
    delimiter = texts.literal_text(c(node.args["delimiter"]), "the delimiter", c.where)
    return texts.split_part(
        c(node.this), delimiter, _whole_constant(c, node.args["part_index"], "the part's number"), c.where
    )


def pad(c: Compiler, node: exp.Pad) -> Term:
    """``lpad`` and ``rpad`` to a literal width."""
    fill = node.args.get("fill_pattern")
    sign = texts.literal_text(c(fill), "the fill character", c.where) if fill is not None else " "
    width = _whole_constant(c, node.expression, "the width")
    return texts.padded(c(node.this), width, sign, c.where, left=bool(node.args.get("is_left")))


def left(c: Compiler, node: exp.Left) -> Term:
    """``left`` by a literal length."""
    value = texts.text(c(node.this), "left", c.where)
    return Term(value.expr.str.head(_whole_constant(c, node.expression, "the length")), TEXT, value.wrong)


def right(c: Compiler, node: exp.Right) -> Term:
    """``right`` by a literal length."""
    value = texts.text(c(node.this), "right", c.where)
    return Term(value.expr.str.tail(_whole_constant(c, node.expression, "the length")), TEXT, value.wrong)


def rounded(c: Compiler, node: exp.Round) -> Term:
    """``round``, to a literal number of digits."""
    places = node.args.get("decimals")
    return f.round_to(c(node.this), 0 if places is None else _whole_constant(c, places, "the digits"), c.where)


def variadic(make: Callable[[list[Term], str], Term]) -> Handler:
    """Return the handler of a function that picks one of any number of values of one type."""

    def made(c: Compiler, node: Any) -> Term:
        items = c.all([node.this, *node.expressions])
        return note_mixed_scales(c, node, make(items, c.where), items)

    return made


def concat_operator(c: Compiler, node: exp.DPipe) -> Term:
    """``||``."""
    left, right = _display_operands(c, [node.this, node.expression])
    return texts.concat_operator(left, right, c.where)


def concat(c: Compiler, node: exp.Concat) -> Term:
    """``concat``."""
    return texts.concat(_display_operands(c, node.expressions), None, c.where)


def concat_ws(c: Compiler, node: exp.ConcatWs) -> Term:
    """``concat_ws``, with a literal separator."""
    separator, *rest = _display_operands(c, node.expressions)
    return texts.concat(rest, separator, c.where)


def _display_operands(c: Compiler, nodes: list[Any]) -> list[Term]:
    terms = c.all(nodes)
    for term, node in zip(terms, nodes, strict=True):
        check_same_scale(c, term, node)
    return terms
