"""Changes of a source since the last run, and types that its target cannot store: what the pipeline's rules do then.

Nothing that was written before becomes NULL in silence: a column that is gone fails the run, unless `schema.lost` says
to go on without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import Any, Final, NoReturn

from catalog.impact import columns_of
from catalog.renames import renames
from catalog.types import least_upper, widens
from dataflows.connectors.abilities import Filling, Growing, Native, OlderRows, Widening
from dataflows.connectors.contract import Source, Target
from dataflows.connectors.state import RunRow
from dataflows.data.cursors import cursor_column
from dataflows.data.tables import Column, Table
from dataflows.data.types import column_type, fits
from dataflows.runs.job import Job
from dataflows.runs.lost_columns import defaults
from dataflows.transforms.mapping import RulePlan, output_columns
from penstock.errors import (
    ColumnChanged,
    MissingColumn,
    PenstockError,
    SchemaBroken,
    SchemaMismatch,
    SchemaRenamed,
)
from penstock.models.domain import Field
from penstock.models.pipeline import SchemaAction
from penstock.models.proposals import Proposal

__all__ = [
    "Older",
    "as_ruled",
    "check_lost",
    "columns_before",
    "is_approved",
    "older_rows",
    "proposals",
    "propose",
    "widened",
]

SHOWN: Final = 3
"""Proposed changes that a hint names."""


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
    before = columns_before(target, known=True)
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
    return _lost(job, lost, None if reads is None else defaults(job, lost, before, there))


def widened(job: Job, made: tuple[Column, ...], there: Table, target: Target) -> tuple[Column, ...]:
    """Return the target's columns that have to change, with the type that stores old and new values, or with NULL.

    `made` are the columns as the run would create them.

    Raises:
        SchemaBroken: a type does not fit or NULL may come, and `schema.types` says to pause, or no type stores both.
        SchemaMismatch: a column should change, and the sink cannot do that.
    """
    rule, found = job.spec.schema_.types, []
    if rule not in {"apply", "pause"} and not job.spec.schema_.approved:
        return ()
    pairs = [(one, column) for one in made if (column := there.column(one.name)) is not None]
    keys = {*job.spec.sink.key, *(name for key in there.keys for name in key)}
    narrow = [(one, at) for one, at in pairs if _narrow(one, at) or (one.name not in keys and _loosened(one, at))]
    before = columns_before(target) if narrow else {}
    for one, column in narrow:
        loosened = one.name not in keys and _loosened(one, column) and _had_no_nulls(before, one)
        applies = rule == "apply" or _type_is_approved(job, one, column, target, loosened=loosened)
        if not applies and rule != "pause":
            continue
        nullable = column.nullable or (loosened and applies)
        kind = _grown(job, one, column, before, target, applies=applies)
        if not applies and loosened:
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


def is_approved(job: Job, rule: str, subject: str, to: str | None = None) -> bool:
    """True if somebody has approved this change, whatever its rule says."""
    return Proposal.parse({"rule": rule, "subject": subject, "to": to}).key in job.spec.schema_.approved


def proposals(job: Job, made: tuple[Column, ...], there: Table, target: Target) -> list[dict[str, Any]]:
    """Return the changes of the target that would let the run begin, if they were approved."""
    rules, found = job.spec.schema_, []
    if rules.additive in {"propose", "pause"} and isinstance(target, Growing):
        missing = [one for one in made if there.column(one.name) is None]
        missing = [one for one in missing if not is_approved(job, "additive", one.name, one.type)]
        found += [Proposal(rule="additive", subject=one.name, to=one.type) for one in missing]
    if rules.types in {"propose", "pause"} and isinstance(target, Widening):
        before = columns_before(target)
        for one in made:
            column = there.column(one.name)
            if column is None or _type_is_approved(job, one, column, target, loosened=True):
                continue
            loosened = rules.types == "pause" and _loosened(one, column) and _had_no_nulls(before, one)
            if _narrow(one, column) and not fits(column_type(one), column_type(column)):
                if _upper(column, one, target) is None:
                    continue
            elif not loosened:
                continue
            to = _new_type(one, column, target, loosened=loosened)
            found.append(Proposal(rule="types", subject=one.name, to=to))
    return [one.to_dict() for one in found]


def propose(job: Job, error: SchemaMismatch, found: list[dict[str, Any]]) -> None:
    """Let an error propose changes, and say in its hint how they are approved."""
    if not found:
        return
    made = [Proposal.parse(one) for one in found]
    rules = ", ".join(dict.fromkeys(f"{one.rule}: apply" for one in made if one.rule != "casts"))
    plans = ", ".join(map(str, made[:SHOWN])) + (f" and {len(made) - SHOWN} more" if len(made) > SHOWN else "")
    approved = f"`penstock approve {quote(job.pipeline)}` would {plans}"
    approved += f"; schema: {{{rules}}} always does" if rules else ""
    error.hint = f"{error.hint}; or {approved}" if error.hint else approved
    error.proposed = found


def _new_type(one: Column, column: Column, target: Target, *, loosened: bool) -> str:
    """Return what a proposal calls the type that the target's column would get."""
    upper = _upper(column, one, target) if _narrow(one, column) else None
    return f"{upper or column.type}{' NULL' if loosened else ''}"


def _type_is_approved(job: Job, one: Column, column: Column, target: Target, *, loosened: bool) -> bool:
    to = [_new_type(one, column, target, loosened=also) for also in {loosened, False}]
    return any(is_approved(job, "types", one.name, name) for name in to)


def _grown(job: Job, one: Column, column: Column, before: dict[str, Field], target: Target, *, applies: bool) -> str:
    """Return the type that the target's column needs.

    Raises:
        SchemaBroken: values do not fit, and the rule says to pause; or no type stores old and new values.
    """
    if not _narrow(one, column):
        return column.type
    fitting, changed = fits(column_type(one), column_type(column)), _has_changed(before, one)
    if fitting and not (applies and changed):
        return column.type
    upper = _upper(column, one, target)
    if applies and upper is not None:
        return upper
    if fitting or (applies and not changed):
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
    again = f"`penstock run {quote(job.pipeline)} --full` reads them again"
    return (f"rows that were written before have no value in {text}: {again}",) if names else ()


def _narrow(made: Column, there: Column) -> bool:
    """True if the target's column does not store each value."""
    return not widens(column_type(made), column_type(there)) and not (there.label and column_type(made).text)


def _has_changed(before: dict[str, Field], now: Column) -> bool:
    """True if the column of the source had another type in the last run: what fits only mostly is left alone else."""
    return now.name in before and before[now.name].type != now.type


def columns_before(target: Target, *, known: bool = False) -> dict[str, Field]:
    """Return the source's columns as the last finished run saw them; `known` says that the target has a state."""
    last = target.state.finished() if known or target.state.exists() else None
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
    approve = f"`penstock approve {quote(job.pipeline)}`"
    hint = f"add a first step `rename: {{{steps}}}`, or {approve}, or schema: {{renames: apply}}"
    if rule == "apply":
        raise SchemaRenamed(what, where=where, hint="the pipeline gets a version that follows", renamed=renamed)
    error = (SchemaBroken if rule == "pause" else MissingColumn)(what, where=where, hint=hint)
    made = [Proposal(rule="renames", subject=old, to=new, confidence=sure) for old, (new, sure) in named.items()]
    error.proposed = [one.to_dict() for one in made]
    raise error


def _lost(job: Job, lost: list[str], filled: list[Proposal] | None) -> tuple[str, ...]:
    """Return notes on lost columns that the runs may do without; `filled` are proposals for those that are named.

    Raises:
        SchemaBroken, MissingColumn: as `check_lost`.
    """
    named = filled is not None
    gone = f"has disappeared from {job.source.object}: new rows have no value there"
    approved = [name for name in lost if not named and is_approved(job, "lost", name)]
    notes = tuple(f"`{name}` {gone}" for name in approved)
    if not (lost := [name for name in lost if name not in approved]):
        return notes
    names = ", ".join(f"`{name}`" for name in lost)
    what = f"{names} came from {job.source.object} before, and has disappeared from it"
    rule: SchemaAction = job.spec.schema_.lost
    if rule in {"apply", "ignore"} and not named:
        return (*notes, f"{names} {gone}") if rule == "apply" else notes
    hint, approve = "restore it, or name the columns to copy without it", f"`penstock approve {quote(job.pipeline)}`"
    if filled is None:
        hint = "name the columns to copy in a mapping or a `select` step, or restore it"
        hint += f"; or {approve} goes on without it, and schema: {{lost: apply}} always does"
    else:
        hint += "; then `penstock resume`" if rule == "pause" else ""
        hint += f"; or {approve} would {', '.join(map(str, filled))}" if filled else ""
    kind: type[SchemaBroken | MissingColumn] = SchemaBroken if rule == "pause" else MissingColumn
    error = kind(what, where=f"{job.pipeline}: spec.source.object", hint=hint)
    proposed = filled if filled is not None else [Proposal(rule="lost", subject=name) for name in lost]
    error.proposed = [one.to_dict() for one in proposed]
    raise error
