"""Changes of a source since the last run, and types that its target cannot store: what the pipeline's rules do then.

Nothing that was written before becomes NULL in silence: a column that is gone fails the run, unless `schema.lost` says
to go on without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

from catalog.impact import columns_of
from catalog.renames import renames
from catalog.types import least_upper, widens
from dataflows.connectors.abilities import Filling, Native, OlderRows, Widening
from dataflows.connectors.contract import Source, Target
from dataflows.connectors.state import RunRow
from dataflows.data.cursors import cursor_column
from dataflows.data.tables import Column, Table
from dataflows.data.types import column_type, fits
from dataflows.runs.job import Job
from dataflows.transforms.mapping import RulePlan, output_columns
from penstock.errors import (
    ColumnChanged,
    MissingColumn,
    MissingTable,
    PenstockError,
    SchemaBroken,
    SchemaMismatch,
    SchemaRenamed,
)
from penstock.models.domain import Field
from penstock.models.pipeline import SchemaAction

__all__ = ["Older", "as_ruled", "check_lost", "is_gone", "older_rows", "widened"]


def is_gone(job: Job, target: Target, error: MissingTable) -> SchemaBroken | None:
    """Return the error that pauses the pipeline, if a run has read the source before and `schema.tables` says so."""
    if job.spec.schema_.tables != "pause" or not target.state.exists() or target.state.finished() is None:
        return None
    return SchemaBroken(error.what, where=error.where, value=error.value, hint=error.hint)


def as_ruled(job: Job, error: PenstockError) -> PenstockError:
    """Return the error that pauses the pipeline in place of one that refuses a changed column, if its rule says so."""
    if not isinstance(error, ColumnChanged) or getattr(job.spec.schema_, error.rule) != "pause":
        return error
    return SchemaBroken(error.what, where=error.where, value=error.value, hint=f"{error.hint}; then `penstock resume`")


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
    """Return the target's columns that have to change, with the type that stores old and new values, or with NULL.

    `made` are the columns as the run would create them.

    Raises:
        SchemaBroken: a type does not fit or NULL may come, and `schema.types` says to pause, or no type stores both.
        SchemaMismatch: a column should change, and the sink cannot do that.
    """
    rule, found = job.spec.schema_.types, []
    if rule not in {"apply", "pause"}:
        return ()
    pairs = [(one, column) for one in made if (column := there.column(one.name)) is not None]
    keys = {*job.spec.sink.key, *(name for key in there.keys for name in key)}
    narrow = [(one, at) for one, at in pairs if _narrow(one, at) or (one.name not in keys and _loosened(one, at))]
    before = _before(target) if narrow else {}
    for one, column in narrow:
        loosened = one.name not in keys and _loosened(one, column) and _had_no_nulls(before, one)
        nullable = column.nullable or (loosened and rule == "apply")
        kind = _grown(job, one, column, before, target)
        if rule == "pause" and loosened:
            what = f"`{one.name}` may be NULL now, and not in {job.sink.object}"
            raise _broken(job, what, "let the target's column be NULL, or fill it in the pipeline")
        if (kind, nullable) != (column.type, column.nullable):
            found.append(replace(column, type=kind, nullable=nullable))
    if found and not isinstance(target, Widening):
        names = ", ".join(f"`{one.name}`" for one in found)
        hint = "cast them in the pipeline, or change the target by hand"
        what = f"types of {names} cannot be changed in {job.sink.settings.type}"
        raise SchemaMismatch(what, where=f"{job.pipeline}: spec.schema.types", hint=hint)
    return tuple(found)


def _grown(job: Job, one: Column, column: Column, before: dict[str, Field], target: Target) -> str:
    """Return the type that the target's column needs.

    Raises:
        SchemaBroken: values do not fit, and the rule says to pause; or no type stores old and new values.
    """
    if not _narrow(one, column):
        return column.type
    fitting, changed = fits(column_type(one), column_type(column)), _has_changed(before, one)
    if fitting and not (job.spec.schema_.types == "apply" and changed):
        return column.type
    upper = _upper(column, one, target)
    if job.spec.schema_.types == "apply" and upper is not None:
        return upper
    if fitting or (job.spec.schema_.types == "apply" and not changed):
        return column.type
    what = f"`{one.name}` is {one.type} now, which does not fit into {column.type}"
    raise _broken(job, what, "cast it in the pipeline, or change the target's column")


def _upper(column: Column, made: Column, target: Target) -> str | None:
    """Return the least type that stores the values of both and that the target has; None if there is none."""
    upper = least_upper(column_type(column), column_type(made))
    if upper is None or not isinstance(target, Native):
        return None if upper is None else str(upper)
    (stored,) = target.column_types((Column(column.name, str(upper)),))
    return stored.type if widens(upper, column_type(stored)) and (upper.text or not column_type(stored).text) else None


def _broken(job: Job, what: str, hint: str) -> SchemaBroken:
    where = f"{job.pipeline}: spec.schema.types"
    return SchemaBroken(what, where=where, value=job.sink.object, hint=f"{hint}; then `penstock resume`")


def _loosened(made: Column, there: Column) -> bool:
    """True if NULL may come, and the target does not take it."""
    return made.nullable and not there.nullable


def _had_no_nulls(before: dict[str, Field], now: Column) -> bool:
    """True if the column of the source was NOT NULL in the last run: what a target never took is left alone."""
    return now.name in before and not before[now.name].nullable


@dataclass(frozen=True, slots=True)
class Older:
    """What rows of before get in columns that a run adds to its target: a value each, or a note for the user."""

    values: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def older_rows(
    job: Job, source: Source, table: Table, plan: RulePlan, added: tuple[Column, ...], target: Target
) -> Older:
    """Return what rows that earlier runs have written get in `added`; a run that writes all rows again asks for none.

    It is the value that all of them have at the source; where they may differ, a note says how to get them.
    """
    if not added or job.cursor is None or job.shadowed or (upto := target.state.loaded().position) is None:
        return Older()
    origins = {one.name: plan.origin(one.name) for one in added}
    asked = sorted({name for name in origins.values() if name is not None})
    known: Mapping[str, str | None] = {}
    if isinstance(source, OlderRows):
        known = source.older_values(table, cursor_column(table, job.cursor, job.at_source), upto, asked)
    values: dict[str, str] = {}
    lacking = []
    for into, name in origins.items():
        value = known.get(name) if name is not None else None
        if value is not None and isinstance(target, Filling):
            values[into] = value
        elif value is not None or name not in known:
            lacking.append(into)
    return Older(values, (*_filled_note(tuple(values)), *_lacking_note(job, lacking)))


def _filled_note(names: tuple[str, ...]) -> tuple[str, ...]:
    text = ", ".join(f"`{name}`" for name in names)
    what = f"rows that were written before get the value in {text} that all of them have at the source"
    return (what,) if names else ()


def _lacking_note(job: Job, names: list[str]) -> tuple[str, ...]:
    text = ", ".join(f"`{name}`" for name in names)
    again = f"`penstock run {job.pipeline} --full` reads them again"
    return (f"rows that were written before have no value in {text}: {again}",) if names else ()


def _narrow(made: Column, there: Column) -> bool:
    """True if the target's column does not store each value."""
    return not widens(column_type(made), column_type(there)) and not (there.label and column_type(made).text)


def _has_changed(before: dict[str, Field], now: Column) -> bool:
    """True if the column of the source had another type in the last run: what fits only mostly is left alone else."""
    return now.name in before and before[now.name].type != now.type


def _before(target: Target) -> dict[str, Field]:
    """Return the source's columns as the last finished run saw them."""
    last = target.state.finished()
    seen = (RunRow.noted(last, "schemas") or {}).get("source", ())
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
