"""Mutations of SQL and of statements, next to cosmic-ray's own of Python's operators.

What keeps data here stands in SQL more often than in Python, and a check that is left out is the fault that a test must
notice.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from cosmic_ray.operators.operator import Operator
from parso.python.tree import Name
from parso.tree import NodeOrLeaf

__all__ = ["OPERATORS"]

Positions = Iterator[tuple[tuple[int, int], tuple[int, int]]]

_SQL: Final = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|WHERE|AND|FROM|SET|JOIN|ON CONFLICT|ORDER BY|VALUES|LOCK)\b")
_TERM: Final = r"[\w.%():]+"
_CHANGES: Final = [
    (re.compile(rf" AND (?:NOT )?{_TERM}(?: (?:=|<>|<|<=|>|>=) {_TERM})?(?=[ \"'])"), ""),
    (re.compile(r"\bAND\b"), "OR"),
    (re.compile(r"\bOR\b(?! REPLACE)"), "AND"),
    (re.compile(r"\bNOT (?!NULL\b|EXISTS \()"), ""),
    (re.compile(r"\bIS NOT\b"), "IS"),
    (re.compile(r"\bIS (?=NULL\b|DISTINCT\b)"), "IS NOT "),
    (re.compile(r" < "), " <= "),
    (re.compile(r" <= "), " < "),
    (re.compile(r" > "), " >= "),
    (re.compile(r" >= "), " > "),
    (re.compile(r"(?<=WHERE )(\S+) = "), r"\1 <> "),
    (re.compile(r" (?:DESC|NULLS FIRST|NULLS LAST|FOR UPDATE|FOR SHARE|DISTINCT ON|DISTINCT)\b(?! FROM)"), ""),
    (re.compile(r"\bcount\(\*\)"), "0"),
    (re.compile(r"\bgreatest\b"), "least"),
    (re.compile(r"\bmax\("), "min("),
]
"""Patterns of SQL and what each becomes; the first drops a condition."""


class ChangeSql(Operator):  # type: ignore[misc]  # cosmic-ray has no types
    """Change one word, sign or condition of a text that is SQL."""

    def mutation_positions(self, node: Any) -> Positions:
        for _ in _changed(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.value = list(_changed(node))[index]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def _changed(node: Any) -> Iterator[str]:
    """Each other text of a string's leaf."""
    if node.type not in {"string", "fstring_string"} or _is_docstring(node) or not _SQL.search(node.value):
        return
    for pattern, new in _CHANGES:
        for found in pattern.finditer(node.value):
            yield node.value[: found.start()] + found.expand(new) + node.value[found.end() :]


def _is_docstring(node: NodeOrLeaf) -> bool:
    return node.parent is not None and node.parent.type == "simple_stmt"


class DropStatement(Operator):  # type: ignore[misc]  # cosmic-ray has no types
    """Replace a call whose value is unused, or a `raise`, by `pass`."""

    def mutation_positions(self, node: Any) -> Positions:
        if node.type in {"atom_expr", "raise_stmt"} and node.parent.type == "simple_stmt" and not _is_idle(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002 - cosmic-ray's own signature
        return Name("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def _is_idle(node: Any) -> bool:
    """True for a pause, and for a failpoint, which does nothing unless a test asks for it."""
    return bool(
        node.get_code().strip().startswith(("time.sleep(", "failpoint(", "split.reached(", "self._split.reached("))
    )


OPERATORS: Final[dict[str, type[Operator]]] = {"ChangeSql": ChangeSql, "DropStatement": DropStatement}
