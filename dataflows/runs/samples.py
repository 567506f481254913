"""Columns of messages that no sampled one had: the newest may lack what earlier and later ones have.

What the target has a column for is read all the same, so that its values arrive after each restart too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa

from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, column_type, fits, parse_type, portable
from dataflows.transforms.mapping import Rules

__all__ = ["unsampled", "with_columns"]

_NEW: Final = "is in no sampled message: apply the pipeline again, or declare the columns"


def unsampled(rules: Rules, source: Table, made: Sequence[Column], there: Table) -> tuple[Column, ...]:
    """Return the columns that the target has, and neither the sample nor the rules do.

    `made` are those that the rules make of the sample. Columns that the server fills if they are left out are hidden
    and unreadable, as are types that no JSON has: a message that has one is set aside, and one without it is written
    with the default, not with NULL.
    """
    if source.types_from is None or rules.fields is not None or any(step.select for step in rules.steps):
        return ()
    known = {one.name for one in (*source.columns, *made)} | rules.carried | rules.filled
    return tuple(_unsampled(one) for one in there.columns if one.name not in known and not one.generated)


def with_columns(source: Table, more: Sequence[Column]) -> Table:
    """Return the source with more columns, before the hidden ones."""
    return replace(source, columns=tuple(sorted((*source.columns, *more), key=lambda one: one.hidden)))


def _unsampled(column: Column) -> Column:
    """Return a column of the target as a source of JSON has it."""
    if column.default or not column.nullable:
        return Column(column.name, "text", hidden=True, unreadable=f"`{column.name}`, which the server fills, {_NEW}")
    kind = parse_type("text" if column.label else portable(column).type)
    decodes = arrow_type(column_type(column)) is not None and arrow_type(kind) not in {None, pa.binary()}
    if decodes and (column.label or fits(kind, column_type(column))):
        return Column(column.name, str(kind))
    return Column(column.name, "text", hidden=True, unreadable=f"`{column.name}` of type {column.type} {_NEW}")
