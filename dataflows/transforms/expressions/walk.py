"""Walk over the tree of an expression: each node becomes a term by its entry in a table, or is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
from sqlglot import exp

from dataflows.data.types import SqlType
from dataflows.transforms.expressions.hints import hint_for
from dataflows.transforms.expressions.terms import Term
from penstock.errors import SchemaMismatch

__all__ = ["Compiler", "Entry", "Failure", "entry", "name_of", "place_of"]

MAX_COMPILED: Final = 100_000
"""Size limit of a compiled expression, in characters: functions that repeat an operand multiply when nested."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A CAST that can fail: the mask of rows where it does, the value as text, and the target type."""

    wrong: pl.Expr
    shown: pl.Expr
    kind: str


@dataclass(frozen=True, slots=True)
class Entry:
    """The handler of a kind of node, the parts of the node that it understands, and the parts that it needs."""

    make: Callable[[Compiler, Any], Term]
    parts: frozenset[str]
    needed: frozenset[str]


@dataclass(slots=True)
class Compiler:
    """One compilation of one expression."""

    nodes: Mapping[type[Any], Entry]
    columns: Mapping[str, SqlType]
    where: str
    used: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    mixed_scales: set[int] = field(default_factory=set)
    """Nodes (by `id`) whose numerics differ in scale between rows."""

    def __call__(self, node: Any) -> Term:
        """Return the term of a node.

        Raises:
            SchemaMismatch: the node is not allowed, lacks a part, or becomes too large.
        """
        rule = self.nodes.get(type(node))
        if rule is None:
            raise self.not_allowed(node, name_of(node))
        for name, value in node.args.items():
            if value and name not in rule.parts:
                raise self.not_allowed(node, f"{name_of(node)} with {name}")
        if missing := [name for name in sorted(rule.needed) if node.args.get(name) is None]:
            what = f"{name_of(node)} lacks its {missing[0].replace('_', ' ')}"
            hint = "see docs/expressions.md for what each function takes"
            raise SchemaMismatch(what, where=f"{self.where}{place_of(node)}", hint=hint)
        term = rule.make(self, node)
        if len(str(term.expr)) + (0 if term.wrong is None else len(str(term.wrong))) > MAX_COMPILED:
            hint = "compute a part of it in another field or an earlier step"
            raise SchemaMismatch("the expression is too large", where=f"{self.where}{place_of(node)}", hint=hint)
        return term

    def optional(self, node: Any) -> Term | None:
        """Return the term of an optional part."""
        return None if node is None else self(node)

    def all(self, nodes: list[Any]) -> list[Term]:
        """Return the terms of several nodes."""
        return [self(node) for node in nodes]

    def not_allowed(self, node: Any, what: str) -> SchemaMismatch:
        """Return the error for a node that has no entry."""
        name = node.name if isinstance(node, exp.Anonymous) else what
        place = f"{self.where}{place_of(node)}"
        return SchemaMismatch(f"{what} is not allowed in an expression", where=place, hint=hint_for(name, node))


def entry(make: Callable[[Compiler, Any], Term], *parts: str) -> Entry:
    """Return an entry; `parts` that end with a question mark are optional."""
    names = frozenset(part.rstrip("?") for part in parts)
    return Entry(make, names, names & set(parts))


_SIGNS: Final[dict[type[Any], str]] = {
    exp.JSONExtract: "`->`", exp.JSONExtractScalar: "`->>`", exp.JSONBExtract: "`#>`", exp.JSONBExtractScalar: "`#>>`",
    exp.RegexpLike: "`~`", exp.RegexpILike: "`~*`", exp.Bracket: "`[…]`", exp.Pow: "`^`", exp.Star: "`*`",
    exp.AtTimeZone: "AT TIME ZONE", exp.Alias: "a name (AS …)", exp.SimilarTo: "SIMILAR TO",
}  # fmt: skip


def name_of(node: Any) -> str:
    """Return the name of a node for an error."""
    if isinstance(node, exp.Anonymous):
        return f"the function {node.name}"
    if type(node) in _SIGNS:
        return _SIGNS[type(node)]
    return node.sql_name() if isinstance(node, exp.Func) else type(node).__name__


def place_of(node: Any) -> str:
    """Return the position of a node in the text, as a suffix for an error; empty if unknown."""
    parts = node.walk() if isinstance(node, exp.Expression) else ()
    starts = [part.meta["start"] for part in parts if "start" in part.meta]
    return f", at character {min(starts) + 1}" if starts else ""
