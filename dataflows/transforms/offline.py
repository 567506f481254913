"""What can be told of a pipeline's expressions without looking at a table: whether they use only what is allowed."""

from __future__ import annotations

import sqlglot
from sqlglot import exp

from dataflows.transforms.expressions import ALLOWED, NODES
from penstock.errors import InvalidDocument, Issue, did_you_mean
from penstock.models.pipeline import Pipeline

__all__ = ["check_expressions"]

_REFUSED = (exp.Func, exp.Query, exp.Star, exp.Command, exp.Window)
_PARTS = (exp.If,)
"""Nodes that are part of an allowed one."""


def check_expressions(pipeline: Pipeline) -> None:
    """Refuse functions, subqueries and the like that the compiler has no entry for.

    Raises:
        InvalidDocument: with every such place.
    """
    issues = []
    mapping = pipeline.spec.mapping
    for at, rule in enumerate(mapping.fields if mapping and mapping.fields else ()):
        for node in sqlglot.parse_one(rule.sql, dialect="postgres").walk() if rule.sql else ():
            if isinstance(node, _REFUSED) and not isinstance(node, _PARTS) and type(node) not in NODES:
                name = node.name if isinstance(node, exp.Anonymous) else node.key
                hint = did_you_mean(name.lower(), ALLOWED)
                issues.append(
                    Issue(f"spec.mapping.fields[{at}].sql", f"`{name}` is not allowed{f'; {hint}' if hint else ''}")
                )
    if issues:
        raise InvalidDocument(issues, where=f"pipeline {pipeline.name}")
