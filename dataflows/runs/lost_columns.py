"""Proposals for a column that is gone from the source and that a pipeline names: NULL in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from dataflows.data.tables import Table
from dataflows.runs.job import Job
from dataflows.transforms.expressions.compiler import compile_expression
from penstock.errors import PenstockError
from penstock.models.domain import Field
from penstock.models.proposals import Proposal

__all__ = ["defaults"]


def defaults(job: Job, lost: Sequence[str], before: Mapping[str, Field], there: Table) -> list[Proposal]:
    """Return for each of `lost`, columns that the pipeline names, what would take its place; [] unless all have it.

    It is NULL, of the type that the column had. It is proposed only where nothing depends on its values: they go into
    columns of the target that take NULL and that no merge looks at, and no expression and no step uses them.
    """
    found = []
    for name in lost:
        targets = _targets(job, name)
        if job.streams or targets is None or any(not _takes_null(job, there, one) for one in targets):
            return []
        sql = f"CAST(NULL AS {before[name].type})"
        with suppress(PenstockError):
            compile_expression(sql, {}, "")
            found.append(Proposal(rule="defaults", subject=name, to=sql))
    return found if len(found) == len(lost) else []


def _targets(job: Job, name: str) -> list[str] | None:
    """Return the target's columns that a column of the source goes into as it is; None if anything else uses it."""
    spec = job.spec
    if any(step.to_dict().keys() - {"name", "select"} for step in spec.transforms):
        return None
    if spec.source.cursor is not None and spec.source.cursor.field == name:
        return None
    if spec.mapping is None:
        return [name]
    fields = spec.mapping.fields
    if fields is None or any(one.sql for one in fields):
        return None
    return [one.target for one in fields if one.from_ == name]


def _takes_null(job: Job, there: Table, name: str) -> bool:
    column = there.column(name)
    sink = job.spec.sink
    return column is not None and column.nullable and name not in {*sink.key, sink.version, sink.delete}
