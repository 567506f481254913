"""Rules of datasets: a run does not begin if a side of it has changed in a way that its dataset's rule forbids."""

from __future__ import annotations

from contextlib import closing
from shlex import quote

from catalog.rules import Ruled, ruled
from dataflows.data.tables import Column
from dataflows.runs.job import Job
from dataflows.runs.survey import Forecast
from penstock.errors import SchemaBroken
from penstock.models.domain import DatasetRef, Field, Schema

__all__ = ["check_rules"]


def check_rules(job: Job, found: Forecast) -> None:
    """Refuse a source that has changed against its dataset's rule, and a target that the run would change so.

    Columns that were inferred from a sample are not held against a rule: another sample shows others.

    Raises:
        SchemaBroken: with the path, the reason and the first version in conflict.
    """
    if job.letters is None:
        return
    read, written = DatasetRef.of(job.source), DatasetRef.of(job.sink)
    source = found.survey.source
    sides = {read: source.columns, written: found.made or found.survey.target.columns}
    with closing(job.open_letters()) as letters:
        rules = ruled(letters.session, sides.keys())
    for ref, rule in rules.items():
        if ref != read or not found.survey.inferred:
            _check(job, ref, rule, sides[ref])


def _check(job: Job, ref: DatasetRef, rule: Ruled, columns: tuple[Column, ...]) -> None:
    fields = tuple(Field(name=one.name, type=one.type, nullable=one.nullable) for one in columns if not one.hidden)
    broken = rule.conflict(Schema(fields=fields))
    if broken is not None:
        allow, resume = (
            f"penstock catalog compatibility {quote(str(ref))} none",
            f"penstock resume {quote(job.pipeline)}",
        )
        hint = f"undo the change, or `{allow}`; then `{resume}`"
        raise SchemaBroken(f"its rule does not allow the change: {broken}", where=f"dataset {ref}", hint=hint)
