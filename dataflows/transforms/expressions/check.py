"""Check a pipeline's expressions without a table: each may use only what is on the list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlglot import exp

from dataflows.transforms.expressions.compiler import NODES
from dataflows.transforms.expressions.hints import check_names, hint_for
from penstock.errors import InvalidDocument, Issue, SchemaMismatch
from penstock.models.pipeline import Pipeline
from penstock.models.sql import parsed

__all__ = ["check_expressions"]

_REFUSED = (exp.Func, exp.Query, exp.Star, exp.Command, exp.Window)
SHOWN: Final = 60
"""Characters of a part that an error shows."""
_PARTS = (exp.If,)
"""Nodes that are part of an allowed node."""


def check_expressions(pipeline: Pipeline) -> None:
    """Refuse functions, subqueries and the like that the compiler has no entry for.

    Raises:
        InvalidDocument: lists every such place.
    """
    issues = []
    for path, text in _texts(pipeline):
        try:
            check_names(text, path)
        except SchemaMismatch as error:
            issues.append(Issue(path, f"{error.what}; {error.hint}"))
        else:
            issues += [Issue(path, f"`{_written(node)}` is not allowed; {hint_for('', node)}") for node in _wrong(text)]
    if issues:
        raise InvalidDocument(issues, where=f"pipeline {pipeline.name}")


def _wrong(text: str) -> Iterator[Any]:
    """Yield the parts of an expression that the compiler has no entry for."""
    for node in parsed(text).walk():
        if isinstance(node, _REFUSED) and not isinstance(node, _PARTS) and type(node) not in NODES:
            yield node


def _written(node: Any) -> str:
    """Return a part of an expression as its author knows it."""
    try:
        text = node.sql("postgres")
    except ValueError:  # SQLGlot parses some forms that it cannot write, such as a sign before a column
        text = type(node).__name__
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _texts(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Yield every expression of the pipeline, with its path."""
    spec = pipeline.spec
    for at, rule in enumerate(spec.mapping.fields if spec.mapping and spec.mapping.fields else ()):
        if rule.sql:
            yield f"spec.mapping.fields[{at}].sql", rule.sql
    for at, step in enumerate(spec.transforms):
        for part, text in (("when", step.when), ("filter", step.filter)):
            if text:
                yield f"spec.transforms[{at}].{part}", text
        for name, text in (step.set or {}).items():
            yield f"spec.transforms[{at}].set.{name}", text
    for name, text in spec.validate_.checks.items():
        yield f"spec.validate.checks.{name}", text
