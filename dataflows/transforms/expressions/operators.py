"""Operators in expressions, CASE and CAST: handlers from a node to a term."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
from sqlglot import exp

from dataflows.transforms.expressions import casts, texts, times
from dataflows.transforms.expressions import functions as f
from dataflows.transforms.expressions.casts import cast_target
from dataflows.transforms.expressions.terms import BOOLEAN, NULL, Term
from dataflows.transforms.expressions.walk import Compiler, Failure, place_of
from penstock.errors import SchemaMismatch

__all__ = [
    "Handler",
    "arithmetic",
    "between",
    "case",
    "cast",
    "check_same_scale",
    "comparison",
    "in_",
    "is_",
    "like",
    "logic",
    "negation",
    "note_mixed_scales",
]

Handler = Callable[[Compiler, Any], Term]


def arithmetic(sign: str) -> Handler:
    """``+ - * / %`` of numbers, and ``+ -`` of times."""

    def make(c: Compiler, node: Any) -> Term:
        if sign in "+-" and isinstance(node.expression, exp.Interval):
            return times.add_interval(sign, c(node.this), _interval(c, node.expression), c.where)
        left, right = c(node.this), c(node.expression)
        if sign in "+-" and (date_arithmetic := times.date_arithmetic(sign, left, right, c.where)):
            return date_arithmetic
        return f.with_null_literal(f.arithmetic(sign, left, right, c.where), left, right)

    return make


def _interval(c: Compiler, node: exp.Interval) -> str:
    """Return an interval as written: ``1 day ago`` for ``interval '1 day ago'``, ``1 day`` for ``interval '1' day``."""
    if "written" not in node.meta:
        raise c.not_allowed(node, "a computed interval")
    written, unit = node.meta["written"], node.args.get("unit")
    return f"{written} {unit.name}" if unit is not None and written.strip("+- ").isdigit() else written


def comparison(sign: str) -> Handler:
    """``= <> < <= > >=``."""
    return lambda c, node: f.compare(sign, c(node.this), c(node.expression), c.where)


def logic(make: Callable[[Term, Term], Term], *, decided_by: bool) -> Handler:
    """``AND`` and ``OR``; a constant on the right that decides the result replaces it, as in PostgreSQL's planner."""

    def made(c: Compiler, node: Any) -> Term:
        left, right = f.as_condition(c(node.this), c.where), f.as_condition(c(node.expression), c.where)
        literal_text = node.expression.unnest()
        decided = isinstance(literal_text, exp.Boolean) and bool(literal_text.this) == decided_by
        return right if decided else make(left, right)

    return made


def negation(c: Compiler, node: exp.Not) -> Term:
    """``NOT``."""
    return f.not_(f.as_condition(c(node.this), c.where))


def is_(c: Compiler, node: exp.Is) -> Term:
    """``IS [NOT] NULL``, ``TRUE`` and ``FALSE``."""
    value, against = c(node.this), node.expression
    if isinstance(against, exp.Null):
        test = Term(value.expr.is_null(), BOOLEAN, value.wrong)
    elif isinstance(against, exp.Boolean):
        condition = f.as_condition(value, c.where)
        test = Term(condition.expr.eq_missing(pl.lit(bool(against.this))), BOOLEAN, condition.wrong)
    else:
        raise c.not_allowed(node, "IS with this operand")
    return f.not_(test) if node.args.get("negate") else test


def in_(c: Compiler, node: exp.In) -> Term:
    """``IN`` with a list."""
    value, any_equal = c(node.this), None
    for item in node.expressions:
        same = f.compare("=", value, c(item), c.where)
        any_equal = same if any_equal is None else f.or_(any_equal, same)
    if any_equal is None:
        raise c.not_allowed(node, "IN without a list")
    return any_equal


def between(c: Compiler, node: exp.Between) -> Term:
    """``BETWEEN``, both ends included."""
    value = c(node.this)
    low, high = c(node.args["low"]), c(node.args["high"])
    return f.and_(f.compare(">=", value, low, c.where), f.compare("<=", value, high, c.where))


def like(*, any_case: bool) -> Handler:
    """``LIKE`` and ``ILIKE`` with a literal pattern."""

    def make(c: Compiler, node: Any) -> Term:
        pattern = texts.literal_text(c(node.expression), "the pattern", c.where)
        match = texts.like(c(node.this), pattern, c.where, any_case=any_case)
        return f.not_(match) if node.args.get("negate") else match

    return make


def case(c: Compiler, node: exp.Case) -> Term:
    """``CASE``, with or without an operand; among text types, that of the ELSE wins."""
    subject = c.optional(node.this)
    branches = []
    for branch in node.args["ifs"]:
        if {key for key, value in branch.args.items() if value} - {"this", "true"}:
            raise c.not_allowed(branch, "this form of CASE")
        condition = c(branch.this)
        test = f.as_condition(condition, c.where) if subject is None else f.compare("=", subject, condition, c.where)
        branches.append((test, c(branch.args["true"])))
    default = node.args.get("default")
    otherwise = Term(pl.lit(None), NULL) if default is None else c(default)
    return note_mixed_scales(
        c, node, f.case(branches, otherwise, c.where), [otherwise, *(result for _, result in branches)]
    )


def cast(c: Compiler, node: exp.Cast) -> Term:
    """``CAST(x AS type)`` and ``x::type``; recorded as a failure if it can fail, to show the value in the error."""
    value = c(node.this)
    kind = cast_target(node.to.sql(dialect="postgres"), c.where)
    if kind.text:
        check_same_scale(c, value, node.this)
    made = casts.cast(value, kind, c.where)
    if made.wrong is not None and made is not value:
        c.failures.append(Failure(made.wrong, casts.display_text(value), str(kind)))
    return made


def note_mixed_scales(c: Compiler, node: Any, term: Term, items: list[Term]) -> Term:
    """Return the term; note `node` for `check_same_scale` if the scale of its numerics differs between rows."""
    scales = {one.literal if one.name == "unknown" else one.type.scale or 0 for one in items if one.name != "null"}
    if term.name == "numeric" and len(scales) > 1:
        c.mixed_scales.add(id(node))
    return term


def check_same_scale(c: Compiler, term: Term, node: Any) -> None:
    """Refuse to convert a number to text if PostgreSQL would write a different number of decimals in some rows."""
    if term.name != "numeric" or not c.mixed_scales:
        return
    fixing = (exp.Cast, exp.Round, exp.Floor, exp.Ceil)
    if any(id(one) in c.mixed_scales for one in node.walk(prune=lambda one: isinstance(one, fixing))):
        hint = f"write CAST(CAST(… AS numeric(p,{term.type.scale})) AS text) around it"
        what = "its values have different numbers of digits after the point"
        raise SchemaMismatch(what, where=f"{c.where}{place_of(node)}", hint=hint)
