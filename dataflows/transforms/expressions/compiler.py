"""SQL scalar expressions, compiled to Polars by ONE table of what is allowed.

sqlglot parses, `NODES` says what each node becomes; a node, or a part of one, that has no entry is refused with its
name and place. No SQL text reaches any engine. The type of the result is known before a row is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import polars as pl
from sqlglot import exp

from dataflows.data.types import SqlType, carried
from dataflows.transforms.expressions import functions as f
from dataflows.transforms.expressions import texts, times
from dataflows.transforms.expressions.casts import cast, cast_target
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
    TEXT,
    UNKNOWN,
    Term,
    dated,
    frame_name,
    known,
    numeric,
    physical,
)
from penstock.errors import MissingColumn, SchemaMismatch, did_you_mean
from penstock.models.sql import parsed

__all__ = ["ALLOWED", "NODES", "Compiled", "compile_expression"]

MAX_GROWTH: Final = 1000
MAX_COMPILED: Final = 100_000
"""Characters of a compiled expression: some functions use an operand more than once, so that nesting multiplies."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """An expression ready to be evaluated: its type, the columns that it reads, and where it came from."""

    expr: pl.Expr
    type: SqlType
    wrong: pl.Expr | None
    columns: frozenset[str]
    where: str


@dataclass(slots=True)
class _Compiler:
    """One walk over one tree."""

    columns: Mapping[str, SqlType]
    where: str
    text: str
    used: set[str] = field(default_factory=set)

    def __call__(self, node: Any) -> Term:
        """The term of a node."""
        entry = NODES.get(type(node))
        if entry is None:
            raise self.refused(node, _name(node))
        for name, value in node.args.items():
            if value and name not in entry.parts:
                raise self.refused(node, f"{_name(node)} with {name}")
        if missing := [name for name in sorted(entry.needed) if node.args.get(name) is None]:
            what = f"{_name(node)} needs more: its {missing[0].replace('_', ' ')} is missing"
            raise SchemaMismatch(
                what, where=f"{self.where}{_place(node)}", hint="see the list of functions in the docs"
            )
        term = entry.make(self, node)
        if len(str(term.expr)) + (0 if term.wrong is None else len(str(term.wrong))) > MAX_COMPILED:
            hint = "compute a part of it in a field of its own"
            raise SchemaMismatch("the expression is too large", where=f"{self.where}{_place(node)}", hint=hint)
        return term

    def optional(self, node: Any) -> Term | None:
        return None if node is None else self(node)

    def all(self, nodes: list[Any]) -> list[Term]:
        return [self(node) for node in nodes]

    def refused(self, node: Any, what: str) -> SchemaMismatch:
        name = node.name if isinstance(node, exp.Anonymous) else what
        near = did_you_mean(name.lower(), ALLOWED)
        hint = near or "allowed: arithmetic, comparisons, CASE, COALESCE, CAST, LIKE and the functions of the docs"
        return SchemaMismatch(f"{what} is not allowed in an expression", where=f"{self.where}{_place(node)}", hint=hint)


@dataclass(frozen=True, slots=True)
class _Entry:
    make: Callable[[_Compiler, Any], Term]
    parts: frozenset[str]
    needed: frozenset[str]


def _name(node: Any) -> str:
    if isinstance(node, exp.Anonymous):
        return f"the function {node.name}"
    return node.sql_name() if isinstance(node, exp.Func) else type(node).__name__


def _place(node: Any) -> str:
    starts = (
        [part.meta["start"] for part in node.walk() if "start" in part.meta] if isinstance(node, exp.Expression) else []
    )
    return f", at character {min(starts) + 1}" if starts else ""


def compile_expression(text: str, columns: Mapping[str, SqlType], where: str) -> Compiled:
    """Compile `text` over `columns`.

    Raises:
        SchemaMismatch: it does not parse, is too large, or holds what is not allowed or does not fit together.
        MissingColumn: with the name that comes nearest.
    """
    tree = _parsed(text, where)
    if _growth(tree) > MAX_GROWTH:
        hint = "replace less by less, in steps of their own"
        raise SchemaMismatch(f"a text could grow {MAX_GROWTH} times as long", where=where, hint=hint)
    compiler = _Compiler(columns, where, text)
    try:
        term = compiler(tree)
    except SchemaMismatch as error:
        raise _placed(error, where) from None
    if term.name in {"null", "unknown"}:
        term = cast(term, TEXT, where)
    kind = SqlType("numeric") if term.type == ANY_SIZE else term.type
    compiled = Compiled(term.expr, kind, term.wrong, frozenset(compiler.used), where)
    _try_on_nothing(compiled, columns)
    return compiled


def _placed(error: SchemaMismatch, where: str) -> SchemaMismatch:
    return error if error.where else type(error)(error.what, where=where, value=error.value, hint=error.hint)


def _parsed(text: str, where: str) -> exp.Expression:
    try:
        return parsed(text)
    except ValueError as error:
        hint = "write one SQL expression over the columns, such as price * quantity"
        raise SchemaMismatch(f"the expression {error}", where=where, hint=hint) from None


def _growth(node: exp.Expression) -> float:
    """How many times as long as its longest column a text can at most become."""
    if isinstance(node, exp.Replace):
        old, new = (
            len(one.name) if isinstance(one, exp.Literal) else 1
            for one in (node.expression, node.args.get("replacement"))
        )
        return _growth(node.this) * max(1.0, new / max(old, 1))
    return max(1.0, sum(_growth(child) for child in node.iter_expressions()))


def _try_on_nothing(compiled: Compiled, columns: Mapping[str, SqlType]) -> None:
    """Type it on an empty frame: what Polars would refuse is refused now."""
    schema = {frame_name(name): _frame_type(columns[name]) for name in compiled.columns}
    frame = pl.DataFrame(schema=schema)
    try:
        made = frame.lazy().with_columns(compiled.expr.alias("_value")).collect_schema()["_value"]
    except pl.exceptions.PolarsError as error:
        raise SchemaMismatch(
            "the expression does not fit together", where=compiled.where, hint=str(error)[:200]
        ) from None
    if made != physical(compiled.type):
        message = f"{compiled.where}: compiled to {made} in place of {physical(compiled.type)}"
        raise AssertionError(message)


def _frame_type(kind: SqlType) -> pl.DataType:
    exact = kind.name == "numeric" and not carried(kind)
    return pl.Decimal(kind.precision, kind.scale or 0) if exact else physical(kind)


# -- leaves ----------------------------------------------------------------------------------------------------------


def _column(c: _Compiler, node: exp.Column) -> Term:
    identifier = node.this
    if not isinstance(identifier, exp.Identifier):
        raise c.refused(node, "*")
    written, folded = identifier.name, identifier.name.lower()
    name = written if identifier.args.get("quoted") or folded not in c.columns else folded
    if name not in c.columns:
        hint = did_you_mean(name, c.columns) or f"there are {', '.join(list(c.columns)[:12])}"
        raise MissingColumn("there is no such column", where=f"{c.where}{_place(node)}", value=name, hint=hint)
    kind = c.columns[name]
    if kind.name == "numeric" and carried(kind):
        kind = ANY_SIZE
    if not known(kind):
        what = f"`{name}` of type {kind} cannot be used in an expression"
        raise SchemaMismatch(what, where=f"{c.where}{_place(node)}", hint="leave it out of expressions")
    c.used.add(name)
    column = pl.col(frame_name(name))
    if kind in {DATE, STAMP, STAMPTZ}:
        return dated(Term(column, kind))
    return Term(column.to_physical() if kind.name == "numeric" else column, kind)


def _literal(c: _Compiler, node: exp.Literal) -> Term:
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


def _too_long(c: _Compiler) -> SchemaMismatch:
    return SchemaMismatch("a number has more than 38 digits", where=c.where, hint="write fewer, or a quoted text")


def _boolean(_: _Compiler, node: exp.Boolean) -> Term:
    return Term(pl.lit(bool(node.this), dtype=pl.Boolean), BOOLEAN)


def _null(_: _Compiler, __: exp.Null) -> Term:
    return Term(pl.lit(None), NULL)


# -- operators -------------------------------------------------------------------------------------------------------


def _arithmetic(sign: str) -> Callable[[_Compiler, Any], Term]:
    def make(c: _Compiler, node: Any) -> Term:
        if sign in "+-" and isinstance(node.expression, exp.Interval):
            return times.moved(sign, c(node.this), _interval(c, node.expression), c.where)
        left, right = c(node.this), c(node.expression)
        if sign in "+-" and (shifted := times.shifted(sign, left, right, c.where)):
            return shifted
        return f.arithmetic(sign, left, right, c.where)

    return make


def _interval(c: _Compiler, node: exp.Interval) -> str:
    if not isinstance(node.this, exp.Literal):
        raise c.refused(node, "a computed interval")
    unit = node.args.get("unit")
    return f"{node.this.this} {unit.name if unit is not None else ''}".strip()


def _comparison(sign: str) -> Callable[[_Compiler, Any], Term]:
    return lambda c, node: f.compare(sign, c(node.this), c(node.expression), c.where)


def _logic(make: Callable[[Term, Term], Term]) -> Callable[[_Compiler, Any], Term]:
    return lambda c, node: make(f.truth(c(node.this), c.where), f.truth(c(node.expression), c.where))


def _not(c: _Compiler, node: exp.Not) -> Term:
    return f.negated(f.truth(c(node.this), c.where))


def _is(c: _Compiler, node: exp.Is) -> Term:
    value, against = c(node.this), node.expression
    if isinstance(against, exp.Null):
        found = Term(value.expr.is_null(), BOOLEAN, value.wrong)
    elif isinstance(against, exp.Boolean):
        known_ = f.truth(value, c.where)
        found = Term(known_.expr.eq_missing(pl.lit(bool(against.this))), BOOLEAN, known_.wrong)
    else:
        raise c.refused(node, "IS with this")
    return f.negated(found) if node.args.get("negate") else found


def _in(c: _Compiler, node: exp.In) -> Term:
    value, found = c(node.this), None
    for item in node.expressions:
        same = f.compare("=", value, c(item), c.where)
        found = same if found is None else f.either(found, same)
    if found is None:
        raise c.refused(node, "IN without a list")
    return found


def _between(c: _Compiler, node: exp.Between) -> Term:
    value = c(node.this)
    low, high = c(node.args["low"]), c(node.args["high"])
    return f.both(f.compare(">=", value, low, c.where), f.compare("<=", value, high, c.where))


def _like(*, any_case: bool) -> Callable[[_Compiler, Any], Term]:
    def make(c: _Compiler, node: Any) -> Term:
        pattern = texts.constant(c(node.expression), "the pattern", c.where)
        found = texts.like(c(node.this), pattern, c.where, any_case=any_case)
        return f.negated(found) if node.args.get("negate") else found

    return make


def _case(c: _Compiler, node: exp.Case) -> Term:
    subject = c.optional(node.this)
    branches = []
    for branch in node.args["ifs"]:
        if {key for key, value in branch.args.items() if value} - {"this", "true"}:
            raise c.refused(branch, "this form of CASE")
        condition = c(branch.this)
        test = f.truth(condition, c.where) if subject is None else f.compare("=", subject, condition, c.where)
        branches.append((test, c(branch.args["true"])))
    default = node.args.get("default")
    return f.case(branches, Term(pl.lit(None), NULL) if default is None else c(default), c.where)


def _cast(c: _Compiler, node: exp.Cast) -> Term:
    return cast(c(node.this), cast_target(node.to.sql(dialect="postgres"), c.where), c.where)


# -- functions -------------------------------------------------------------------------------------------------------


def _texts(name: str, make: Callable[[pl.Expr], pl.Expr], kind: SqlType = TEXT) -> Callable[[_Compiler, Any], Term]:
    def made(c: _Compiler, node: Any) -> Term:
        value = texts.text(c(node.this), name, c.where)
        return Term(make(value.expr), kind, value.wrong)

    return made


def _trim(c: _Compiler, node: exp.Trim) -> Term:
    value = texts.text(c(node.this), "trim", c.where)
    signs = texts.constant(c(node.expression), "what trim takes off", c.where) if node.expression else " "
    side = str(node.args.get("position") or "BOTH").upper()
    strip = {
        "BOTH": value.expr.str.strip_chars,
        "LEADING": value.expr.str.strip_chars_start,
        "TRAILING": value.expr.str.strip_chars_end,
    }[side]
    return Term(strip(signs) if signs else value.expr, TEXT, value.wrong)


def _replace(c: _Compiler, node: exp.Replace) -> Term:
    value = texts.text(c(node.this), "replace", c.where)
    old = texts.constant(c(node.expression), "what replace looks for", c.where)
    new = texts.constant(c(node.args["replacement"]), "what replace puts in", c.where)
    return Term(value.expr.str.replace_all(old, new, literal=True) if old else value.expr, TEXT, value.wrong)


def _substring(c: _Compiler, node: exp.Substring) -> Term:
    return texts.substring(c(node.this), c(node.args["start"]), c.optional(node.args.get("length")), c.where)


def _whole_constant(c: _Compiler, node: Any, what: str) -> int:
    inner = node.this if isinstance(node, exp.Neg) else node
    text = texts.constant(c(inner), what, c.where)
    if not text.isdigit() or c(inner).name != "integer":
        raise SchemaMismatch(f"{what} must be a whole number", where=c.where, hint="write it out, such as 2")
    return -int(text) if isinstance(node, exp.Neg) else int(text)


def _split_part(c: _Compiler, node: exp.SplitPart) -> Term:
    delimiter = texts.constant(c(node.args["delimiter"]), "the delimiter", c.where)
    return texts.split_part(
        c(node.this), delimiter, _whole_constant(c, node.args["part_index"], "the part's number"), c.where
    )


def _pad(c: _Compiler, node: exp.Pad) -> Term:
    fill = node.args.get("fill_pattern")
    sign = texts.constant(c(fill), "what fills", c.where) if fill is not None else " "
    width = _whole_constant(c, node.expression, "the width")
    return texts.padded(c(node.this), width, sign, c.where, left=bool(node.args.get("is_left")))


def _left(c: _Compiler, node: exp.Left) -> Term:
    value = texts.text(c(node.this), "left", c.where)
    return Term(value.expr.str.head(_whole_constant(c, node.expression, "the length")), TEXT, value.wrong)


def _right(c: _Compiler, node: exp.Right) -> Term:
    value = texts.text(c(node.this), "right", c.where)
    return Term(value.expr.str.tail(_whole_constant(c, node.expression, "the length")), TEXT, value.wrong)


def _round(c: _Compiler, node: exp.Round) -> Term:
    places = node.args.get("decimals")
    return f.round_to(c(node.this), 0 if places is None else _whole_constant(c, places, "the digits"), c.where)


def _many(make: Callable[[list[Term], str], Term]) -> Callable[[_Compiler, Any], Term]:
    return lambda c, node: make([c(node.this), *c.all(node.expressions)], c.where)


def _concat_ws(c: _Compiler, node: exp.ConcatWs) -> Term:
    separator, *rest = c.all(node.expressions)
    return texts.concat(rest, separator, c.where)


def _entry(make: Callable[[_Compiler, Any], Term], *parts: str) -> _Entry:
    """`parts` that end with a question mark may be missing."""
    names = frozenset(part.rstrip("?") for part in parts)
    return _Entry(make, names, names & set(parts))


_PAIR: Final = ("this", "expression")
_LIST: Final = ("this", "expressions?")

NODES: Final[dict[type[Any], _Entry]] = {
    exp.Column: _entry(_column, "this"),
    exp.Literal: _entry(_literal, "this", "is_string"),
    exp.Boolean: _entry(_boolean, "this"),
    exp.Null: _entry(_null),
    exp.Paren: _entry(lambda c, node: c(node.this), "this"),
    exp.Add: _entry(_arithmetic("+"), *_PAIR),
    exp.Sub: _entry(_arithmetic("-"), *_PAIR),
    exp.Mul: _entry(_arithmetic("*"), *_PAIR),
    exp.Div: _entry(_arithmetic("/"), *_PAIR, "typed?", "safe?"),
    exp.Mod: _entry(_arithmetic("%"), *_PAIR),
    exp.Neg: _entry(lambda c, node: f.negative(c(node.this), c.where), "this"),
    exp.EQ: _entry(_comparison("="), *_PAIR),
    exp.NEQ: _entry(_comparison("<>"), *_PAIR),
    exp.LT: _entry(_comparison("<"), *_PAIR),
    exp.LTE: _entry(_comparison("<="), *_PAIR),
    exp.GT: _entry(_comparison(">"), *_PAIR),
    exp.GTE: _entry(_comparison(">="), *_PAIR),
    exp.NullSafeNEQ: _entry(lambda c, n: f.distinct(c(n.this), c(n.expression), c.where), *_PAIR),
    exp.NullSafeEQ: _entry(lambda c, n: f.negated(f.distinct(c(n.this), c(n.expression), c.where)), *_PAIR),
    exp.And: _entry(_logic(f.both), *_PAIR),
    exp.Or: _entry(_logic(f.either), *_PAIR),
    exp.Not: _entry(_not, "this"),
    exp.Is: _entry(_is, *_PAIR, "negate?"),
    exp.In: _entry(_in, *_LIST),
    exp.Between: _entry(_between, "this", "low", "high"),
    exp.Like: _entry(_like(any_case=False), *_PAIR, "negate?"),
    exp.ILike: _entry(_like(any_case=True), *_PAIR, "negate?"),
    exp.Case: _entry(_case, "this?", "ifs", "default?"),
    exp.Cast: _entry(_cast, "this", "to", "_type?"),
    exp.Coalesce: _entry(_many(f.first_known), *_LIST),
    exp.Nullif: _entry(lambda c, n: f.null_if(c(n.this), c(n.expression), c.where), *_PAIR),
    exp.Greatest: _entry(_many(f.greatest), *_LIST, "ignore_nulls?"),
    exp.Least: _entry(_many(lambda t, w: f.greatest(t, w, least=True)), *_LIST, "ignore_nulls?"),
    exp.DPipe: _entry(lambda c, n: texts.joined(c(n.this), c(n.expression), c.where), *_PAIR, "safe?"),
    exp.Concat: _entry(
        lambda c, n: texts.concat(c.all(n.expressions), None, c.where), "expressions", "safe?", "coalesce?"
    ),
    exp.ConcatWs: _entry(_concat_ws, "expressions", "safe?", "coalesce?"),
    exp.Lower: _entry(_texts("lower", lambda e: e.str.to_lowercase()), "this"),
    exp.Upper: _entry(_texts("upper", lambda e: e.str.to_uppercase()), "this"),
    exp.Length: _entry(_texts("length", lambda e: e.str.len_chars().cast(pl.Int32), INTEGER), "this"),
    exp.Trim: _entry(_trim, "this", "expression?", "position?"),
    exp.Replace: _entry(_replace, *_PAIR, "replacement"),
    exp.Substring: _entry(_substring, "this", "start", "length?"),
    exp.SplitPart: _entry(_split_part, "this", "delimiter", "part_index"),
    exp.Pad: _entry(_pad, *_PAIR, "fill_pattern?", "is_left?"),
    exp.Left: _entry(_left, *_PAIR),
    exp.Right: _entry(_right, *_PAIR),
    exp.Abs: _entry(lambda c, n: f.absolute(c(n.this), c.where), "this"),
    exp.Round: _entry(_round, "this", "decimals?"),
    exp.Floor: _entry(lambda c, n: f.whole_part("floor", c(n.this), c.where), "this"),
    exp.Ceil: _entry(lambda c, n: f.whole_part("ceil", c(n.this), c.where), "this"),
    exp.Extract: _entry(lambda c, n: times.extract(n.this.name.lower(), c(n.expression), c.where), *_PAIR),
    exp.TimestampTrunc: _entry(
        lambda c, n: times.truncated(n.args["unit"].name.lower(), c(n.this), c.where), "this", "unit"
    ),
}
"""What is allowed: each node with what it becomes, and the parts of it that are understood."""

ALLOWED: Final = tuple(sorted({_name(kind()).lower() for kind in NODES}))
"""The names of all of it."""
