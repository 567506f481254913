"""Parser of SQL expressions, the only one: any text yields a tree or a plain `ValueError`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlglot import exp
    from sqlglot.tokenizer_core import Token

__all__ = ["MAX_LENGTH", "parsed"]

MAX_LENGTH: Final = 4000
MAX_NODES: Final = 600
MAX_DEPTH: Final = 60
MAX_NESTING: Final = 3
"""Nested brackets, and parentheses after a type: the parser tries each twice, so that each level of
``date(date(date(…)))`` doubles its time.
"""


@lru_cache(maxsize=4096)
def parsed(text: str) -> exp.Expression:
    """Parse ONE expression; the compiler checks what it may contain. Callers must not change the tree.

    Cached: parsing costs more than all other checks of a pipeline, and new versions repeat old expressions.

    Raises:
        ValueError: it is not an expression, or it is too large to be compiled.
    """
    if len(text) > MAX_LENGTH:
        message = f"is longer than {MAX_LENGTH} characters"
        raise ValueError(message)
    if not text.strip():
        message = "is an empty expression"
        raise ValueError(message)
    tree = _tree(text)
    if sum(1 for _ in tree.walk()) > MAX_NODES or _depth(tree) > MAX_DEPTH:
        message = "is too large; split it over several fields or steps"
        raise ValueError(message)
    return tree


def _tree(text: str) -> exp.Expression:
    import logging

    from penstock.models.grammar import check_tokens, check_tree, tokens_of, trees_of

    logging.getLogger("sqlglot").disabled = True  # it logs statements that it does not know; they are refused
    try:
        text.encode()
        tokens = tokens_of(text)
        if _nesting(tokens) > MAX_NESTING:
            raise RecursionError
        trees = trees_of(text)
    except RecursionError:
        message = "is too deep; split it over several fields or steps"
        raise ValueError(message) from None
    except UnicodeEncodeError:
        message = "contains half of a character (a lone surrogate)"
        raise ValueError(message) from None
    except Exception as error:  # sqlglot may raise anything on arbitrary text
        raise ValueError(_no_expression(error)) from error
    if len(trees) != 1 or trees[0] is None:
        message = "must be ONE SQL expression"
        raise ValueError(message)
    check_tokens(tokens)
    check_tree(trees[0])
    return cast("exp.Expression", trees[0])


def _no_expression(error: Exception) -> str:
    """Say where the parser stopped, and at which word; its own messages name its classes."""
    first = next(iter(getattr(error, "errors", ())), None)
    if not first or not first.get("col"):
        return "is not a SQL expression"
    return f"is not a SQL expression: error at column {first['col']}, near {first.get('highlight') or 'its end'!r}"


def _nesting(tokens: Sequence[Token]) -> int:
    from sqlglot.dialects.postgres import Postgres
    from sqlglot.tokenizer_core import TokenType

    opening = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE}
    closing = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE}
    found, open_, before = 0, [], None
    for token in tokens:
        kind = token.token_type
        if kind in opening:
            open_.append(kind != TokenType.L_PAREN or before in Postgres.Parser.TYPE_TOKENS)
            found = max(found, sum(open_))
        elif kind in closing and open_:
            open_.pop()
        before = kind
    return found


def _depth(tree: exp.Expression) -> int:
    level, depth = [tree], 0
    while level and depth <= MAX_DEPTH:
        level = [child for node in level for child in node.iter_expressions()]
        depth += 1
    return depth
