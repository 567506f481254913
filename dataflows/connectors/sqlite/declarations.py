"""Columns in SQLite's own text of a table, ``CREATE TABLE …``, with another type, or without NOT NULL.

Only the words in question change: constraints, defaults, collations and comments stay as they were written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

__all__ = ["Declared", "redeclared"]

_TOKEN: Final = re.compile(
    r"""(?P<gap>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))|(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*')"""
    r"""|(?P<word>[^\W\d][\w$]*)|(?P<other>[\d.]+|.)""",
    re.DOTALL,
)
_OF_TABLE: Final = frozenset({"CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"})
_OF_COLUMN: Final = _OF_TABLE - {"FOREIGN"} | {"NOT", "NULL", "DEFAULT", "COLLATE", "REFERENCES", "GENERATED", "AS"}


@dataclass(frozen=True, slots=True)
class Declared:
    """How a column is declared from now on; without a type, as before."""

    type: str | None = None
    nullable: bool = False
    """True if its NOT NULL is taken away."""


@dataclass(frozen=True, slots=True)
class _Token:
    begin: int
    end: int
    text: str
    kind: str
    depth: int

    @property
    def keyword(self) -> str:
        """The word in capitals; empty if it is not a plain word."""
        return self.text.upper() if self.kind == "word" else ""

    @property
    def name(self) -> str:
        """The name that it is, without its quotes."""
        if self.kind != "quoted":
            return self.text
        return self.text[1:-1] if self.text[0] == "[" else self.text[1:-1].replace(self.text[0] * 2, self.text[0])


def redeclared(table: str, changes: Mapping[str, Declared]) -> str | None:
    """Return the text of a table with new declarations of columns, by their names; None if one of them is not in it."""
    edits: list[tuple[int, int, str]] = []
    left = dict(changes)
    for name, *more in _columns(table):
        if (change := left.pop(name.name, None)) is not None:
            edits += _edits(name, more, change)
    for begin, end, text in sorted(edits, reverse=True):
        table = table[:begin] + text + table[end:]
    return None if left else table


def _tokens(table: str) -> Iterator[_Token]:
    depth = 0
    for found in _TOKEN.finditer(table):
        kind = str(found.lastgroup)
        depth -= found[0] == ")"
        if kind != "gap":
            yield _Token(found.start(), found.end(), found[0], kind, depth)
        depth += found[0] == "("


def _columns(table: str) -> Iterator[list[_Token]]:
    """Yield the tokens of each column: its name first."""
    item: list[_Token] = []
    for one in _tokens(table):
        if one.depth == 0:
            if one.text == ")" and item and item[0].keyword not in _OF_TABLE:
                yield item
            item = []
        elif one.depth == 1 and one.text == ",":
            if item[0].keyword not in _OF_TABLE:
                yield item
            item = []
        else:
            item.append(one)


def _edits(name: _Token, more: list[_Token], change: Declared) -> Iterator[tuple[int, int, str]]:
    until = next((at for at, one in enumerate(more) if one.depth == 1 and one.keyword in _OF_COLUMN), len(more))
    typed = more[:until]
    if change.type is not None:
        if typed:
            yield typed[0].begin, typed[-1].end, change.type
        else:
            yield name.end, name.end, f" {change.type}"
    if change.nullable:
        yield from _without_not_null([one for one in more[until:] if one.depth == 1])


def _without_not_null(constraints: list[_Token]) -> Iterator[tuple[int, int, str]]:
    words = [one.keyword for one in constraints]
    for at, pair in enumerate(pairwise(words)):
        if pair != ("NOT", "NULL"):
            continue
        begin, end = at, at + 1
        if words[end + 1 : end + 3] == ["ON", "CONFLICT"]:
            end += 3
        if at >= 2 and words[at - 2] == "CONSTRAINT":  # noqa: PLR2004 - the word and the name
            begin -= 2
        yield constraints[begin].begin, constraints[end].end, ""
