"""Check a pipeline's expressions without a table: each may use only what is on the list."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from dataflows.transforms.expressions.compiler import NODES
from dataflows.transforms.expressions.hints import hint_for
from penstock.errors import InvalidDocument, Issue
from penstock.models.pipeline import Pipeline
from penstock.models.sql import parsed

__all__ = ["check_expressions"]

_REFUSED = (exp.Func, exp.Query, exp.Star, exp.Command, exp.Window)
_PARTS = (exp.If,)
"""Nodes that are part of an allowed node."""


def check_expressions(pipeline: Pipeline) -> None:
    """Refuse functions, subqueries and the like that the compiler has no entry for.

    Raises:
        InvalidDocument: lists every such place.
    """
    issues = []
    for path, text in _texts(pipeline):
        for node in parsed(text).walk():
            if isinstance(node, _REFUSED) and not isinstance(node, _PARTS) and type(node) not in NODES:
                name = node.name if isinstance(node, exp.Anonymous) else node.key
                issues.append(Issue(path, f"`{name}` is not allowed; {hint_for(name, node)}"))
    if issues:
        raise InvalidDocument(issues, where=f"pipeline {pipeline.name}")


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
