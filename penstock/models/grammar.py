"""PostgreSQL's grammar of expressions: sqlglot's, without the forms that PostgreSQL refuses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final

from sqlglot import exp, tokenize
from sqlglot.dialects.postgres import Postgres
from sqlglot.generators.postgres import PostgresGenerator
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import Token, TokenType

__all__ = ["Expressions", "Positive", "check_tokens", "check_tree", "tokens_of", "trees_of"]

_SPELLINGS: Final = {
    TokenType.EQ: "=", TokenType.NOT: "NOT", TokenType.AND: "AND", TokenType.OR: "OR", TokenType.SLASH: "/",
    TokenType.MOD: "%",
}  # fmt: skip
"""Operators that sqlglot also accepts in the spelling of other systems, such as ``==`` and ``!``."""
_ELSEWHERE: Final = {
    TokenType.NULLSAFE_EQ: "IS NOT DISTINCT FROM", TokenType.DQMARK: "coalesce(…)",
    TokenType.UNKNOWN: 'IS NULL, or "unknown" for a column of that name',
}  # fmt: skip
_SIGNS: Final = {TokenType.PLUS, TokenType.DASH}
_LONGER: Final = {TokenType.MOD, TokenType.DPIPE}
"""Operators that a sign directly after them turns into another operator, such as ``%-``."""
_BEFORE_NOT: Final = {
    None, TokenType.L_PAREN, TokenType.COMMA, TokenType.AND, TokenType.OR, TokenType.NOT, TokenType.IS, TokenType.CASE,
    TokenType.WHEN, TokenType.THEN, TokenType.ELSE, TokenType.FROM,
}  # fmt: skip
"""Tokens that may precede ``NOT NULL``; sqlglot reads ``a NOT NULL`` as ``a IS NOT NULL``."""
_LEVELS: Final[dict[type[exp.Expr], int]] = {
    **dict.fromkeys((exp.Is, exp.NullSafeEQ, exp.NullSafeNEQ), 1),
    **dict.fromkeys((exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE), 2),
    **dict.fromkeys((exp.Like, exp.ILike, exp.Between, exp.In), 3),
}
"""Precedence of operators; those of one level do not associate."""
_STRONGEST: Final = 4


class Positive(exp.Unary):
    """``+a``, which sqlglot drops, and PostgreSQL accepts for numbers only."""


class _Parser(PostgresParser):
    """Keeps what sqlglot drops: ``ago`` and signs of intervals, ``+a``, and the parentheses as written."""

    UNARY_PARSERS: ClassVar = PostgresParser.UNARY_PARSERS | {
        TokenType.PLUS: lambda self: self.expression(Positive(this=self._parse_unary()))
    }

    def _parse_paren(self) -> Any:
        found = super()._parse_paren()
        if found is not None:
            found.meta["parentheses"] = True
        return found

    def _parse_interval_span(self, this: Any, parse_function_unit: bool = True) -> Any:  # noqa: FBT001, FBT002 - sqlglot's own signature
        span = super()._parse_interval_span(this, parse_function_unit=parse_function_unit)
        if isinstance(this, exp.Literal):
            span.meta["written"] = this.name
        return span


class _Generator(PostgresGenerator):
    """Writes what sqlglot has no node for."""

    TRANSFORMS: ClassVar = PostgresGenerator.TRANSFORMS | {Positive: lambda self, node: f"+{self.sql(node, 'this')}"}


class Expressions(Postgres):
    """Dialect of expressions."""

    Parser = _Parser
    Generator = _Generator


@lru_cache(maxsize=64)
def tokens_of(text: str) -> tuple[Token, ...]:
    """Return the tokens of an expression. Cached: tokenising takes longer than parsing, and several checks need it."""
    return tuple(tokenize(text, dialect=Expressions))


def trees_of(text: str) -> list[exp.Expr | None]:
    """Return the trees of the expressions in a text."""
    return Expressions().parser().parse(list(tokens_of(text)), text)


def check_tokens(tokens: Sequence[Token]) -> None:
    """Refuse words and signs that PostgreSQL does not have.

    Raises:
        ValueError: names the place, and what to write instead.
    """
    earlier: list[Token | None] = [None, None, *tokens]
    for before_it, before, token in zip(earlier, earlier[1:], tokens, strict=False):
        kind, last = token.token_type, before.token_type if before else None
        wanted = _SPELLINGS.get(kind)
        if wanted is not None and token.text.upper() != wanted:
            raise _refused(token, f"write {wanted}")
        if kind in _ELSEWHERE:
            raise _refused(token, f"write {_ELSEWHERE[kind]}")
        if kind == last == TokenType.STRING:
            raise _refused(token, "join texts with ||")
        first = before_it.token_type if before_it else None
        if kind == TokenType.NULL and last == TokenType.NOT and first not in _BEFORE_NOT:
            raise _refused(token, "write IS NOT NULL")
        if before and kind in _SIGNS and last in _LONGER and before.end + 1 == token.start:
            raise _refused(token, f"write a blank before {token.text}")


def _refused(token: Token, instead: str) -> ValueError:
    shown = f"'{token.text}'" if token.token_type == TokenType.STRING else token.text
    return ValueError(f"is not PostgreSQL's syntax: {shown} at character {token.start + 1}; {instead}")


def check_tree(tree: exp.Expr) -> None:
    """Refuse forms that PostgreSQL's precedence refuses or reads otherwise, such as ``a < b = c`` and ``a || NOT b``.

    Raises:
        ValueError: names the operand that needs parentheses.
    """
    for node in tree.walk():
        for operand, needed in _operands(node):
            if _level(operand) < needed:
                message = f"needs parentheses around {_bare(operand).sql(dialect=Expressions)[:60]}"
                raise ValueError(message)


def _operands(node: exp.Expr) -> list[tuple[Any, int]]:
    """Operands of an operator, each with the lowest level that it may have without parentheses."""
    above = _LEVELS.get(type(node), _STRONGEST - 1) + 1
    if isinstance(node, exp.Between):
        return [(node.this, above), (node.args["low"], _STRONGEST), (node.args["high"], above)]
    if isinstance(node, (exp.In, exp.Neg, Positive)):
        return [(node.this, above)]
    if isinstance(node, exp.Binary) and not isinstance(node, (exp.Connector, exp.Escape)):
        return [(node.this, above), (node.expression, above)]
    return []


def _level(operand: Any) -> int:
    inner = _bare(operand)
    if isinstance(inner, exp.Not):
        return _LEVELS.get(type(_bare(inner.this)), 0)
    return _LEVELS.get(type(inner), 0 if isinstance(inner, exp.Connector) else _STRONGEST)


def _bare(node: Any) -> Any:
    """A node without the parentheses that sqlglot has put around it itself."""
    while isinstance(node, exp.Paren) and not node.meta.get("parentheses"):
        node = node.this
    return node
