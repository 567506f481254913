"""Changes of a source since the last run, and types that its target cannot store: what the pipeline's rules do then.

Nothing that was written before becomes NULL in silence: a column that is gone fails the run, unless `schema.lost` says
to go on without it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from catalog.impact import columns_of
from catalog.renames import renames
from catalog.types import least_upper, widens
from dataflows.connectors.abilities import Widening
from dataflows.connectors.contract import Target
from dataflows.data.tables import Column, Table
from dataflows.data.types import column_type, fits
from dataflows.runs.job import Job
from dataflows.transforms.mapping import output_columns
from penstock.errors import MissingColumn, MissingTable, PenstockError, SchemaBroken, SchemaMismatch, SchemaRenamed
from penstock.models.domain import Field
from penstock.models.pipeline import SchemaAction

__all__ = ["check_lost", "is_gone", "widened"]


def is_gone(job: Job, target: Target, error: MissingTable) -> SchemaBroken | None:
    """Return the error that pauses the pipeline, if a run has read the source before and `schema.tables` says so."""
    if job.spec.schema_.tables != "pause" or not target.state.exists() or target.state.finished() is None:
        return None
    return SchemaBroken(error.what, where=error.where, value=error.value, hint=error.hint)


def check_lost(job: Job, source: Table, there: Table, target: Target) -> tuple[str, ...]:
    """Refuse to run if a column that the last run read and wrote is gone from the source; return notes on the others.

    A pipeline that names its columns is asked about those only.

    Raises:
        SchemaRenamed: it was renamed, and `schema.renames` says to follow.
        SchemaBroken: the rule says to pause.
        MissingColumn: otherwise, by name.
    """
    before = _before(target)
    now = {one.name: Field(name=one.name, type=one.type, nullable=one.nullable) for one in source.columns}
    reads, _ = columns_of(job.spec)
    lost = [name for name in before if name not in now and _matters(job, name, reads, source, there)]
    if not lost:
        return ()
    rule = job.spec.schema_
    if rule.renames != "ignore":
        shown = [field for name, field in now.items() if name in before or not _hidden(source, name)]
        found = renames((), list(before.values()), shown, {})
        if named := {old: new for old, new in found.items() if old in lost}:
            _renamed(job, named)
    return _lost(job, lost, named=reads is not None)


def widened(job: Job, made: tuple[Column, ...], there: Table, target: Target) -> tuple[Column, ...]:
    """Return the target's columns whose type has to grow, with the type that stores old and new values.

    `made` are the columns as the run would create them.

    Raises:
        SchemaBroken: a type does not fit, and `schema.types` says to pause.
        SchemaMismatch: it should grow, and the sink cannot change types.
    """
    rule, found = job.spec.schema_.types, []
    narrow = [(one, column) for one in made if (column := there.column(one.name)) is not None and _narrow(one, column)]
    before = _before(target) if narrow and rule == "apply" else {}
    for one, column in narrow:
        fitting = fits(column_type(one), column_type(column))
        upper = least_upper(column_type(column), column_type(one))
        if rule == "apply" and upper is not None and (not fitting or _has_changed(before, one)):
            found.append(replace(column, type=str(upper)))
        elif fitting:
            continue
        elif rule == "pause":
            what = f"`{one.name}` is {one.type} now, which does not fit into {column.type}"
            hint = "cast it in the pipeline, or change the target's column; then `penstock resume`"
            raise SchemaBroken(what, where=f"{job.pipeline}: spec.schema.types", value=job.sink.object, hint=hint)
    if found and not isinstance(target, Widening):
        names = ", ".join(f"`{one.name}`" for one in found)
        hint = "cast them in the pipeline, or change the target by hand"
        what = f"types of {names} cannot be changed in {job.sink.settings.type}"
        raise SchemaMismatch(what, where=f"{job.pipeline}: spec.schema.types", hint=hint)
    return tuple(found)


def _narrow(made: Column, there: Column) -> bool:
    """True if the target's column does not store each value."""
    return not widens(column_type(made), column_type(there)) and not (there.label and column_type(made).text)


def _has_changed(before: dict[str, Field], now: Column) -> bool:
    """True if the column of the source had another type in the last run: what fits only mostly is left alone else."""
    return now.name in before and before[now.name].type != now.type


def _before(target: Target) -> dict[str, Field]:
    """Return the source's columns as the last finished run saw them."""
    last = target.state.finished()
    seen = ((last.result or {}).get("schemas") or {}).get("source", ()) if last else ()
    return {one["name"]: Field(name=one["name"], type=one["type"], nullable=one["nullable"]) for one in seen}


def _hidden(source: Table, name: str) -> bool:
    column = source.column(name)
    return column is not None and column.hidden


def _matters(job: Job, name: str, reads: set[str] | None, source: Table, there: Table) -> bool:
    if reads is not None:
        return name in reads
    return there.column(name) is not None and name not in _made(job, source)


def _made(job: Job, source: Table) -> set[str]:
    """Return the columns that the rules still produce; none if they name one that is gone."""
    try:
        return {one.name for one in output_columns(job.rules, source, job.pipeline)}
    except PenstockError:
        return set()


def _renamed(job: Job, named: dict[str, tuple[str, float]]) -> NoReturn:
    rule, where = job.spec.schema_.renames, f"{job.pipeline}: spec.source.object"
    pairs = ", ".join(f"`{old}` is called `{new}` now, {sure:.0%} sure" for old, (new, sure) in named.items())
    what = f"columns of {job.source.object} seem to be renamed: {pairs}"
    renamed = {old: new for old, (new, _) in named.items()}
    steps = ", ".join(f"{new}: {old}" for old, new in renamed.items())
    hint = f"add a first step `rename: {{{steps}}}`, or write schema: {{renames: apply}}"
    if rule == "apply":
        raise SchemaRenamed(what, where=where, hint="the pipeline gets a version that follows", renamed=renamed)
    raise (SchemaBroken if rule == "pause" else MissingColumn)(what, where=where, hint=hint)


def _lost(job: Job, lost: list[str], *, named: bool) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in lost)
    what = f"{names} came from {job.source.object} before, and has disappeared from it"
    rule: SchemaAction = job.spec.schema_.lost
    if rule in {"apply", "ignore"} and not named:
        note = f"{names} has disappeared from {job.source.object}: new rows have no value there"
        return (note,) if rule == "apply" else ()
    hint = "name the columns to copy in a mapping or a `select` step, or restore it"
    hint += "; then `penstock resume`" if rule == "pause" else "" if named else "; or schema: {lost: apply} goes on"
    raise (SchemaBroken if rule == "pause" else MissingColumn)(
        what, where=f"{job.pipeline}: spec.source.object", hint=hint
    )
