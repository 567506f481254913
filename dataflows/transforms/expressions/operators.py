"""The operators of expressions, and CASE and CAST: from a node of the tree to a term."""

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
    "arithmetic",
    "between",
    "case",
    "cast",
    "comparison",
    "in_",
    "is_",
    "like",
    "logic",
    "negation",
    "noted",
    "same_digits",
]

Make = Callable[[Compiler, Any], Term]


def arithmetic(sign: str) -> Make:
    """``+ - * / %`` of numbers, and ``+ -`` of times."""

    def make(c: Compiler, node: Any) -> Term:
        if sign in "+-" and isinstance(node.expression, exp.Interval):
            return times.moved(sign, c(node.this), _interval(c, node.expression), c.where)
        left, right = c(node.this), c(node.expression)
        if sign in "+-" and (shifted := times.shifted(sign, left, right, c.where)):
            return shifted
        return f.arithmetic(sign, left, right, c.where)

    return make


def _interval(c: Compiler, node: exp.Interval) -> str:
    """The text of an interval as it was written: ``interval '1 day ago'``, or ``interval '1' day``."""
    if "written" not in node.meta:
        raise c.refused(node, "a computed interval")
    written, unit = node.meta["written"], node.args.get("unit")
    return f"{written} {unit.name}" if unit is not None and written.strip("+- ").isdigit() else written


def comparison(sign: str) -> Make:
    """``= <> < <= > >=``."""
    return lambda c, node: f.compare(sign, c(node.this), c(node.expression), c.where)


def logic(make: Callable[[Term, Term], Term], *, decided_by: bool) -> Make:
    """``AND`` and ``OR``; one that a constant on the right decides is that constant, as PostgreSQL's planner has it."""

    def made(c: Compiler, node: Any) -> Term:
        left, right = f.truth(c(node.this), c.where), f.truth(c(node.expression), c.where)
        constant = node.expression.unnest()
        decided = isinstance(constant, exp.Boolean) and bool(constant.this) == decided_by
        return right if decided else make(left, right)

    return made


def negation(c: Compiler, node: exp.Not) -> Term:
    """``NOT``."""
    return f.negated(f.truth(c(node.this), c.where))


def is_(c: Compiler, node: exp.Is) -> Term:
    """``IS [NOT] NULL``, ``TRUE`` and ``FALSE``."""
    value, against = c(node.this), node.expression
    if isinstance(against, exp.Null):
        found = Term(value.expr.is_null(), BOOLEAN, value.wrong)
    elif isinstance(against, exp.Boolean):
        known_ = f.truth(value, c.where)
        found = Term(known_.expr.eq_missing(pl.lit(bool(against.this))), BOOLEAN, known_.wrong)
    else:
        raise c.refused(node, "IS with this")
    return f.negated(found) if node.args.get("negate") else found


def in_(c: Compiler, node: exp.In) -> Term:
    """``IN`` with a list."""
    value, found = c(node.this), None
    for item in node.expressions:
        same = f.compare("=", value, c(item), c.where)
        found = same if found is None else f.either(found, same)
    if found is None:
        raise c.refused(node, "IN without a list")
    return found


def between(c: Compiler, node: exp.Between) -> Term:
    """``BETWEEN``, with both ends."""
    value = c(node.this)
    low, high = c(node.args["low"]), c(node.args["high"])
    return f.both(f.compare(">=", value, low, c.where), f.compare("<=", value, high, c.where))


def like(*, any_case: bool) -> Make:
    """``LIKE`` and ``ILIKE`` with a literal pattern."""

    def make(c: Compiler, node: Any) -> Term:
        pattern = texts.constant(c(node.expression), "the pattern", c.where)
        found = texts.like(c(node.this), pattern, c.where, any_case=any_case)
        return f.negated(found) if node.args.get("negate") else found

    return make


def case(c: Compiler, node: exp.Case) -> Term:
    """``CASE``, with a subject or without; the ELSE decides what type texts have."""
    subject = c.optional(node.this)
    branches = []
    for branch in node.args["ifs"]:
        if {key for key, value in branch.args.items() if value} - {"this", "true"}:
            raise c.refused(branch, "this form of CASE")
        condition = c(branch.this)
        test = f.truth(condition, c.where) if subject is None else f.compare("=", subject, condition, c.where)
        branches.append((test, c(branch.args["true"])))
    default = node.args.get("default")
    otherwise = Term(pl.lit(None), NULL) if default is None else c(default)
    return noted(c, node, f.case(branches, otherwise, c.where), [otherwise, *(result for _, result in branches)])


def cast(c: Compiler, node: exp.Cast) -> Term:
    """``CAST(x AS type)`` and ``x::type``; what it fails for is named when it does."""
    value = c(node.this)
    kind = cast_target(node.to.sql(dialect="postgres"), c.where)
    if kind.text:
        same_digits(c, value, node.this)
    made = casts.cast(value, kind, c.where)
    if made.wrong is not None and made is not value:
        c.failures.append(Failure(made.wrong, casts.shown(value), str(kind)))
    return made


def noted(c: Compiler, node: Any, term: Term, items: list[Term]) -> Term:
    """The term; if its numbers have other digits after the point in other rows, that is noted for `same_digits`."""
    scales = {one.literal if one.name == "unknown" else one.type.scale or 0 for one in items if one.name != "null"}
    if term.name == "numeric" and len(scales) > 1:
        c.mixed.add(id(node))
    return term


def same_digits(c: Compiler, term: Term, node: Any) -> None:
    """Refuse to write a number as a text where PostgreSQL would write other digits after the point in other rows."""
    if term.name != "numeric" or not c.mixed:
        return
    fixing = (exp.Cast, exp.Round, exp.Floor, exp.Ceil)
    if any(id(one) in c.mixed for one in node.walk(prune=lambda one: isinstance(one, fixing))):
        hint = f"write CAST(CAST(… AS numeric(p,{term.type.scale})) AS text) around it"
        what = "its values have different numbers of digits after the point"
        raise SchemaMismatch(what, where=f"{c.where}{place_of(node)}", hint=hint)
