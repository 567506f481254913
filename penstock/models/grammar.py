"""PostgreSQL's grammar of expressions: sqlglot's, without the forms that sqlglot takes and PostgreSQL refuses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from sqlglot import exp, tokenize
from sqlglot.dialects.postgres import Postgres
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import Token, TokenType

__all__ = ["Expressions", "check_tokens", "check_tree", "tokens_of", "trees_of"]

_SPELLINGS: Final = {
    TokenType.EQ: "=", TokenType.NOT: "NOT", TokenType.AND: "AND", TokenType.OR: "OR", TokenType.SLASH: "/",
    TokenType.MOD: "%",
}  # fmt: skip
"""Operators that sqlglot also takes in the spelling of other systems, such as ``==`` and ``!``."""
_ELSEWHERE: Final = {TokenType.NULLSAFE_EQ: "IS NOT DISTINCT FROM", TokenType.DQMARK: "coalesce(…)"}
_NO_CHAIN: Final = (
    exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Is, exp.Like, exp.ILike, exp.Between, exp.In,
    exp.NullSafeEQ, exp.NullSafeNEQ,
)  # fmt: skip
"""What stands between two operands and needs parentheses as the operand of another."""


class _Parser(PostgresParser):
    """Keeps the text of intervals as it was written: sqlglot itself drops ``ago``, and a sign that stands apart."""

    def _parse_interval_span(self, this: Any, parse_function_unit: bool = True) -> Any:  # noqa: FBT001, FBT002 - sqlglot's own signature
        span = super()._parse_interval_span(this, parse_function_unit=parse_function_unit)
        if isinstance(this, exp.Literal):
            span.meta["written"] = this.name
        return span


class Expressions(Postgres):
    """The dialect of expressions."""

    Parser = _Parser


@lru_cache(maxsize=64)
def tokens_of(text: str) -> tuple[Token, ...]:
    """The tokens of an expression. Kept: this takes longer than parsing them, and several checks ask for them."""
    return tuple(tokenize(text, dialect=Expressions))


def trees_of(text: str) -> list[exp.Expr | None]:
    """The trees of the expressions in a text."""
    return Expressions().parser().parse(list(tokens_of(text)), text)


def check_tokens(tokens: Sequence[Token]) -> None:
    """Refuse words and signs that PostgreSQL does not have.

    Raises:
        ValueError: with the place, and with what to write instead.
    """
    before = None
    for token in tokens:
        wanted = _SPELLINGS.get(token.token_type)
        if wanted is not None and token.text.upper() != wanted:
            raise _refused(token, f"write {wanted}")
        if token.token_type in _ELSEWHERE:
            raise _refused(token, f"write {_ELSEWHERE[token.token_type]}")
        if token.token_type == before == TokenType.STRING:
            raise _refused(token, "join texts with ||")
        before = token.token_type


def _refused(token: Token, instead: str) -> ValueError:
    shown = f"'{token.text}'" if token.token_type == TokenType.STRING else token.text
    return ValueError(f"is not PostgreSQL's: at character {token.start + 1} stands {shown}; {instead}")


def check_tree(tree: exp.Expr) -> None:
    """Refuse chains such as ``a < b = c``, which PostgreSQL refuses, or reads in an order that few people expect.

    Raises:
        ValueError: with the inner part.
    """
    for node in tree.walk():
        if isinstance(node, _NO_CHAIN):
            inner = next((one for one in node.iter_expressions() if isinstance(one, (*_NO_CHAIN, exp.Not))), None)
            if inner is not None:
                message = f"needs parentheses around {inner.sql(dialect=Expressions)[:60]}"
                raise ValueError(message)
