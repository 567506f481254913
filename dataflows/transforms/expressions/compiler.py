"""SQL scalar expressions, compiled to Polars by ONE table of what is allowed.

sqlglot parses; `NODES` says what each node becomes. A node, or a part of one, without an entry is refused with its
name and place. No SQL text reaches an engine. The type of the result is known before any row is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
from sqlglot import exp

from dataflows.data.types import SqlType, carried
from dataflows.transforms.expressions import calls, leaves, operators, texts, times
from dataflows.transforms.expressions import functions as f
from dataflows.transforms.expressions.casts import cast
from dataflows.transforms.expressions.hints import check_names
from dataflows.transforms.expressions.terms import ANY_SIZE, BPCHAR, INTEGER, TEXT, frame_name, physical
from dataflows.transforms.expressions.walk import Compiler, Entry, Failure, entry, name_of
from penstock.errors import SchemaMismatch
from penstock.models.grammar import Positive
from penstock.models.sql import parsed

__all__ = ["NODES", "Compiled", "compile_expression"]

MAX_GROWTH: Final = 1000
"""Limit of a text's length, as a multiple of its longest column."""
_PAIR: Final = ("this", "expression")
_LIST: Final = ("this", "expressions?")

NODES: Final[dict[type[Any], Entry]] = {
    exp.Column: entry(leaves.column, "this"),
    exp.Literal: entry(leaves.literal, "this", "is_string"),
    exp.Boolean: entry(leaves.boolean, "this"),
    exp.Null: entry(leaves.null),
    exp.Paren: entry(lambda c, node: c(node.this), "this"),
    exp.Add: entry(operators.arithmetic("+"), *_PAIR),
    exp.Sub: entry(operators.arithmetic("-"), *_PAIR),
    exp.Mul: entry(operators.arithmetic("*"), *_PAIR),
    exp.Div: entry(operators.arithmetic("/"), *_PAIR, "typed?", "safe?"),
    exp.Mod: entry(operators.arithmetic("%"), *_PAIR),
    exp.Neg: entry(lambda c, node: f.negate(c(node.this), c.where), "this"),
    Positive: entry(lambda c, node: f.positive(c(node.this), c.where), "this"),
    exp.EQ: entry(operators.comparison("="), *_PAIR),
    exp.NEQ: entry(operators.comparison("<>"), *_PAIR),
    exp.LT: entry(operators.comparison("<"), *_PAIR),
    exp.LTE: entry(operators.comparison("<="), *_PAIR),
    exp.GT: entry(operators.comparison(">"), *_PAIR),
    exp.GTE: entry(operators.comparison(">="), *_PAIR),
    exp.NullSafeNEQ: entry(lambda c, n: f.is_distinct(c(n.this), c(n.expression), c.where), *_PAIR),
    exp.NullSafeEQ: entry(lambda c, n: f.not_(f.is_distinct(c(n.this), c(n.expression), c.where)), *_PAIR),
    exp.And: entry(operators.logic(f.and_, decided_by=False), *_PAIR),
    exp.Or: entry(operators.logic(f.or_, decided_by=True), *_PAIR),
    exp.Not: entry(operators.negation, "this"),
    exp.Is: entry(operators.is_, *_PAIR, "negate?"),
    exp.In: entry(operators.in_, *_LIST),
    exp.Between: entry(operators.between, "this", "low", "high"),
    exp.Like: entry(operators.like(any_case=False), *_PAIR, "negate?"),
    exp.ILike: entry(operators.like(any_case=True), *_PAIR, "negate?"),
    exp.Case: entry(operators.case, "this?", "ifs", "default?"),
    exp.Cast: entry(operators.cast, "this", "to", "_type?"),
    exp.Coalesce: entry(calls.variadic(f.coalesce), *_LIST),
    exp.Nullif: entry(lambda c, n: f.nullif(c(n.this), c(n.expression), c.where), *_PAIR),
    exp.Greatest: entry(calls.variadic(f.greatest), *_LIST, "ignore_nulls?"),
    exp.Least: entry(calls.variadic(lambda t, w: f.greatest(t, w, least=True)), *_LIST, "ignore_nulls?"),
    exp.DPipe: entry(calls.concat_operator, *_PAIR, "safe?"),
    exp.Concat: entry(calls.concat, "expressions", "safe?", "coalesce?"),
    exp.ConcatWs: entry(calls.concat_ws, "expressions", "safe?", "coalesce?"),
    exp.Lower: entry(calls.text_function("lower", texts.lower), "this"),
    exp.Upper: entry(calls.text_function("upper", texts.upper), "this"),
    exp.Length: entry(calls.text_function("length", lambda e: e.str.len_chars().cast(pl.Int32), INTEGER), "this"),
    exp.Trim: entry(calls.trim, "this", "expression?", "position?"),
    exp.Replace: entry(calls.replace, *_PAIR, "replacement"),
    exp.Substring: entry(calls.substring, "this", "start", "length?"),
    exp.SplitPart: entry(calls.split_part, "this", "delimiter", "part_index"),
    exp.Pad: entry(calls.pad, *_PAIR, "fill_pattern?", "is_left?"),
    exp.Left: entry(calls.left, *_PAIR),
    exp.Right: entry(calls.right, *_PAIR),
    exp.Abs: entry(lambda c, n: f.absolute_value(c(n.this), c.where), "this"),
    exp.Round: entry(calls.rounded, "this", "decimals?"),
    exp.Floor: entry(lambda c, n: f.floor_or_ceil("floor", c(n.this), c.where), "this"),
    exp.Ceil: entry(lambda c, n: f.floor_or_ceil("ceil", c(n.this), c.where), "this"),
    exp.Extract: entry(lambda c, n: times.extract(n.this.name.lower(), c(n.expression), c.where), *_PAIR),
    exp.TimestampTrunc: entry(
        lambda c, n: times.truncated(n.args["unit"].name.lower(), c(n.this), c.where), "this", "unit"
    ),
}
"""The allowed nodes: the handler of each, and the parts of the node that it understands."""

ALLOWED: Final = tuple(sorted({name_of(kind()).lower() for kind in NODES}))
"""Names of the allowed nodes."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """An expression ready to be evaluated.

    `wrong` is true in the rows where SQL would raise, `columns` are the columns it reads, `where` is its place in the
    pipeline file, and `failures` are the casts that can fail.
    """

    expr: pl.Expr
    type: SqlType
    wrong: pl.Expr | None
    columns: frozenset[str]
    where: str
    failures: tuple[Failure, ...] = ()


def compile_expression(text: str, columns: Mapping[str, SqlType], where: str) -> Compiled:
    """Compile `text` over `columns`.

    Raises:
        SchemaMismatch: it does not parse, is too large, has a node that is not allowed, or its types do not match.
        MissingColumn: with the most similar name.
    """
    tree = _parsed(text, where)
    if _growth(tree) > MAX_GROWTH:
        hint = "split the replacements into several steps"
        raise SchemaMismatch(f"text could grow to more than {MAX_GROWTH} times its length", where=where, hint=hint)
    check_names(text, where)
    compiler = Compiler(NODES, columns, where)
    try:
        term = compiler(tree)
    except SchemaMismatch as error:
        raise _with_place(error, where) from None
    if term.name in {"null", "unknown"} or term.type == BPCHAR:
        term = cast(term, TEXT, where)
    kind = SqlType("numeric") if term.type == ANY_SIZE else term.type
    compiled = Compiled(term.expr, kind, term.wrong, frozenset(compiler.used), where, tuple(compiler.failures))
    _check_types(compiled, columns)
    return compiled


def _with_place(error: SchemaMismatch, where: str) -> SchemaMismatch:
    return error if error.where else type(error)(error.what, where=where, value=error.value, hint=error.hint)


def _parsed(text: str, where: str) -> exp.Expression:
    try:
        return parsed(text)
    except ValueError as error:
        hint = "write one SQL expression over the columns, such as price * quantity"
        raise SchemaMismatch(f"the expression {error}", where=where, hint=hint) from None


def _growth(node: exp.Expression) -> float:
    """Return how many times longer than its longest column the text of `node` can become, at most."""
    if isinstance(node, exp.Replace):
        old, new = (
            len(one.name) if isinstance(one, exp.Literal) else 1
            for one in (node.expression, node.args.get("replacement"))
        )
        return _growth(node.this) * max(1.0, new / max(old, 1))
    return max(1.0, sum(_growth(child) for child in node.iter_expressions()))


def _check_types(compiled: Compiled, columns: Mapping[str, SqlType]) -> None:
    """Type-check on an empty frame, so that Polars refuses now what it would refuse in the run."""
    schema = {frame_name(name): _frame_type(columns[name]) for name in compiled.columns}
    frame = pl.DataFrame(schema=schema)
    try:
        made = frame.lazy().with_columns(compiled.expr.alias("_value")).collect_schema()["_value"]
    except pl.exceptions.PolarsError as error:
        raise SchemaMismatch(
            "the types in the expression do not match", where=compiled.where, hint=str(error)[:200]
        ) from None
    if made != physical(compiled.type):
        message = f"{compiled.where}: compiled to {made} instead of {physical(compiled.type)}"
        raise AssertionError(message)


def _frame_type(kind: SqlType) -> pl.DataType:
    exact = kind.name == "numeric" and not carried(kind)
    return pl.Decimal(kind.precision, kind.scale or 0) if exact else physical(kind)
