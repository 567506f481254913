"""Inspect both sides of a run before anything is changed, and refuse what cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from shlex import quote

from dataflows.connectors.abilities import (
    ChangeTarget,
    Growing,
    LastKept,
    Locking,
    Native,
    Reloading,
    RiskReporting,
    RowPlaces,
    Shared,
    Unique,
    Windowed,
)
from dataflows.connectors.cataloguing import Inferring
from dataflows.connectors.contract import Method, Source, Target
from dataflows.connectors.history import check_validity, history_columns
from dataflows.connectors.publication import check_no_streams
from dataflows.connectors.state import Loaded, StreamState
from dataflows.connectors.streaming import Streaming
from dataflows.data.changes import COMMITTED_COLUMN
from dataflows.data.cursors import cursor_column
from dataflows.data.tables import Column, Table
from dataflows.data.types import parse_type, portable
from dataflows.runs.changes import check_mapped_log, check_mapping
from dataflows.runs.evolving import Older, check_lost, is_approved, older_rows, proposals, widened
from dataflows.runs.job import Job
from dataflows.runs.keys import NewKey, check_keyed, check_mark, new_key, no_version, version_of
from dataflows.runs.lookups import resources_of
from dataflows.runs.moving import gone
from dataflows.runs.past import begins_again
from dataflows.runs.proofs import proven
from dataflows.runs.remaking import check_not_dropped, must_remake
from dataflows.runs.remembering import check_kept
from dataflows.runs.samples import unsampled, with_columns
from dataflows.runs.sharing import check_apart, check_shared
from dataflows.runs.verdicts import judge
from dataflows.transforms.mapping import BoundMapping, RulePlan, bind, output_columns, plan_rules
from penstock.errors import MissingTable, Refused, SchemaBroken, SchemaMismatch

__all__ = [
    "Ends",
    "Forecast",
    "Plan",
    "Survey",
    "check_continued",
    "cursor_risks",
    "decoded_mapping",
    "forecast",
    "is_from",
    "opened",
    "stream_ends",
    "survey",
]


@dataclass(frozen=True, slots=True)
class Survey:
    """Both sides as they are now, and the mapping between them."""

    source: Table
    target: Table
    key: Column | None
    mapping: BoundMapping
    method: Method | None
    """Method by which the sink will publish a `replace`."""
    version: str | None
    """Column by which the newer of two rows with the same key is found."""
    whole: bool = False
    """True if all rows of the run must be committed together, in one split."""
    placed: bool = False
    """True if the key is the physical location of rows, which is valid in one snapshot only."""
    inferred: bool = False
    """True if the columns of the source were seen in a part of its rows: others may have more."""

    @property
    def split_key(self) -> str | None:
        """Name of the key."""
        return self.key.name if self.key is not None else None


@dataclass(frozen=True, slots=True)
class Ends:
    """Both sides of a run, connected."""

    source: Source
    target: Target

    @property
    def undecoded(self) -> bool:
        """True if both sides know the same form of rows, so that bytes can be copied undecoded."""
        return self.source.form is not None and self.source.form == self.target.form


@contextmanager
def opened(job: Job, generation: int = 0) -> Iterator[Ends]:
    """Connect both sides, for as long as the context lasts.

    Database files are opened in one order: runs that read and write two of them crosswise never wait in a circle.
    """
    files = [str(getattr(place.settings, "path", "")) for place in (job.source, job.sink)]
    with ExitStack() as stack:
        source = stack.enter_context(closing(job.open_source()))
        if all(files) and files[0] < files[1] and isinstance(source, Locking):
            stack.enter_context(source.lock())
        yield Ends(source, stack.enter_context(closing(job.open_target(generation=generation))))


@dataclass(frozen=True, slots=True)
class Plan:
    """The source, and the pipeline's rules over it."""

    source: Table
    rules: RulePlan

    @classmethod
    def of(cls, job: Job, source: Table) -> Plan:
        return cls(source, plan_rules(job.rules, source, job.pipeline, resources_of(job)))

    def output_columns(self, job: Job) -> tuple[Column, ...]:
        """Return the columns that the rules produce."""
        return output_columns(job.rules, self.source, job.pipeline, plan=self.rules)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecast of a run; `made` are the columns of the target that it would create, None if the target exists.

    `added` are those that it would add to an existing target.
    """

    survey: Survey
    plan: Plan
    made: tuple[Column, ...] | None
    added: tuple[Column, ...] = ()
    risks: tuple[str, ...] = ()
    """Risks of the cursor, for the user."""
    key: NewKey = field(default_factory=NewKey)
    """Key of the table that it would create."""
    remakes: bool = False
    """True if it would drop the table first, which an earlier run made for other columns and wrote nothing to."""
    widened: tuple[Column, ...] = ()
    """Columns of the target whose type it would change, with the new type."""
    notes: tuple[str, ...] = ()
    """Notes for the user on columns that are gone or new."""
    filled: Mapping[str, str] = field(default_factory=dict)
    """Values that rows of before get in added columns, by the column's name."""


def forecast(job: Job, ends: Ends, *, known: bool) -> Forecast:
    """Return what a run would do, without changing anything; `known` is true if the sink keeps any state.

    Raises:
        Refused, MissingTable, MissingColumn, SchemaMismatch: the error that a run would be refused with.
    """
    if job.streams:
        _, state = stream_ends(job, ends)
        if known:
            begins_again(job, ends.source, state)
    elif known and job.shadowed and not isinstance(ends.target, Shared):  # its `check` does it
        check_no_streams(ends.target.state, job.sink)
    target, there = ends.target, ends.target.describe()
    if known and there is None:
        check_not_dropped(job, target)
    try:
        source = ends.source.describe()
    except MissingTable as error:
        found = gone(job, ends.source, target, error)
        if found is error:
            raise
        raise found from error
    notes = check_lost(job, source, there, target) if known and there is not None else ()
    risks = cursor_risks(job, ends.source, source)
    plan = Plan.of(job, source)
    remakes = known and there is not None and must_remake(target, there, partial(_made_columns, job, plan, target))
    there = None if remakes else there
    _check_unique(job, there, target)
    if there is None:
        columns = _made_columns(job, plan, target)
        target.check(None, columns)
        surveyed = _surveyed(job, ends, plan, Table(job.sink.object, "r", columns), None)
        key = new_key(job, plan.source, plan.rules, columns, target)
        return Forecast(surveyed, plan, columns, (), risks, key, remakes=remakes)
    if job.streams and (more := unsampled(job.rules, plan.source, plan.output_columns(job), there)):
        plan = Plan.of(job, with_columns(plan.source, more))
    return _into_existing(job, ends, plan, there, risks, notes, known=known)


def _into_existing(
    job: Job, ends: Ends, plan: Plan, there: Table, risks: tuple[str, ...], notes: tuple[str, ...], *, known: bool
) -> Forecast:
    """Return what a run into an existing target would do."""
    target, older, before = ends.target, Older(), there
    try:
        added = _added_columns(job, plan, there, target)
        if known and not job.streams:
            older = older_rows(job, ends.source, plan.source, plan.rules, added, target)
        wider = widened(job, _made_columns(job, plan, target), there, target)
        types = {one.name: one for one in wider}
        there = replace(there, columns=(*(types.get(one.name, one) for one in there.columns), *added))
        surveyed = _surveyed(job, ends, plan, there, target.check(there, plan.output_columns(job)))
    except SchemaMismatch as error:
        found = proposals(job, _made_columns(job, plan, target), before, target)
        lower = target.state.loaded().position if known else None
        tried = partial(proven, job, ends.source, plan.rules, plan.source, there, lower)
        judge(job, error, found, plan.source, tried)
        raise
    notes += older.notes
    return Forecast(surveyed, plan, None, added, risks, widened=wider, notes=notes, filled=older.values)


def stream_ends(job: Job, ends: Ends) -> tuple[Streaming, StreamState]:
    """Return source and state as a stream needs them.

    Raises:
        Refused: one of them cannot.
    """
    if not isinstance(ends.source, Streaming):
        what = f"a connection of type {job.source.settings.type} cannot be read as a stream"
        raise Refused(what, where=f"{job.pipeline}: spec.mode", hint="write mode: batch")
    state = ends.target.state
    if not isinstance(state, StreamState):
        what = f"a stream cannot be written to {job.sink.settings.type} yet"
        raise Refused(what, where=f"{job.pipeline}: spec.sink.connection", hint="write it to a database")
    check_apart(job, ends.source)
    check_shared(job, ends.source, state)
    check_kept(job, state)
    return ends.source, state


def cursor_risks(job: Job, source: Source, table: Table) -> tuple[str, ...]:
    """Return the risks of the cursor that the source reports.

    Raises:
        Refused, SchemaMismatch, MissingColumn: a cursor by which rows would be lost.
    """
    if job.cursor is None:
        return ()
    column = cursor_column(table, job.cursor, job.at_source)
    return source.risks(table, column, job.rule) if isinstance(source, RiskReporting) else ()


def _added_columns(job: Job, plan: Plan, there: Table, target: Target) -> tuple[Column, ...]:
    """Return the missing columns of the target that `schema.additive` adds to it.

    Raises:
        SchemaBroken: the rule says to pause.
        Refused: the sink cannot add columns.
    """
    rule = job.spec.schema_.additive
    if rule not in {"apply", "pause"} and not job.spec.schema_.approved:
        return ()
    lacking = [one for one in _made_columns(job, plan, target) if there.column(one.name) is None]
    approved = [one for one in lacking if is_approved(job, "additive", one.name, one.type)]
    missing = lacking if rule in {"apply", "pause"} else approved
    if rule == "pause" and missing != approved:
        names = ", ".join(f"`{one.name}`" for one in missing)
        hint = "add it to the target, or leave it out by a `select` step; then `penstock resume`"
        what = f"{names} is new, and {job.sink.object} has no such column"
        raise SchemaBroken(what, where=f"{job.pipeline}: spec.schema.additive", hint=hint)
    if missing and not isinstance(target, Growing):
        names = ", ".join(f"`{one.name}`" for one in missing)
        hint = f"delete the pipeline and what it wrote, or leave {names} out by a `select` step"
        where = f"{job.pipeline}: spec.schema.additive"
        raise Refused(f"{names} cannot be added to what is there", where=where, hint=hint)
    return tuple(replace(one, nullable=True) for one in missing)


def _check_unique(job: Job, there: Table | None, target: Target) -> None:
    """Refuse `validate.unique` where it cannot be checked: only a shadow table holds all rows of a run."""
    unique = job.rules.validation.unique
    if not unique or (there is not None and any(set(key) == set(unique) for key in there.keys)):
        return
    if job.write != "replace" or not isinstance(target, Unique):
        hint = f"give {job.sink.object} a unique key over these columns, or write: replace"
        raise Refused("uniqueness cannot be checked there", where=f"{job.pipeline}: spec.validate.unique", hint=hint)


def check_continued(job: Job, loaded: Loaded) -> None:
    """Refuse to continue from rows loaded by another mode or cursor; a `replace` is always allowed."""
    if job.write != "append" or loaded.write is None or is_from(job, loaded) or (job.reload and job.shadowed):
        return
    ways = f"write: replace; or load everything again by `penstock run {quote(job.pipeline)} --full`"
    if loaded.write == job.write:
        what = f"{job.sink.object} was loaded by cursor `{loaded.cursor}`: `{job.cursor}` would lose or double rows"
        raise Refused(what, where=f"{job.pipeline}: spec.source.cursor", hint=f"keep `{loaded.cursor}`, or {ways}")
    what = f"{job.sink.object} was loaded by `{loaded.write}`: an `{job.write}` would add all its rows again"
    raise Refused(what, where=f"{job.pipeline}: spec.sink.write", hint=f"keep {ways}")


def survey(job: Job, ends: Ends, plan: Plan | None = None, there: Table | None = None) -> Survey:
    """Return both tables, the key to split by, the mapping, and the method of a `replace`.

    `plan` is the plan of `forecast`, if it ran before, and `there` the target, if it is known.

    Raises:
        MissingTable: the target does not exist.
    """
    there = there or ends.target.describe()
    if there is None:
        raise MissingTable("there is no such table", where=job.at_sink, value=job.sink.object, hint="was it dropped?")
    plan = plan or Plan.of(job, ends.source.describe())
    return _surveyed(job, ends, plan, there, ends.target.check(there, plan.output_columns(job)))


def _surveyed(job: Job, ends: Ends, plan: Plan, there: Table, method: Method | None) -> Survey:
    table = plan.source
    key = cursor_column(table, job.cursor, job.at_source) if job.cursor else ends.source.split_key(table)
    place = _row_place(job, ends.source, table) if key is None else None
    mapping = bind(job.rules, table, there, job.pipeline, undecoded=ends.undecoded, plan=plan.rules)
    if job.rules.changes:
        if not isinstance(ends.target, ChangeTarget) or not ends.target.applies_changes:
            what = f"changes of a table cannot be written to {job.sink.settings.type} yet"
            raise Refused(what, where=f"{job.pipeline}: spec.sink.connection", hint="write them to a database")
        last = isinstance(ends.target, LastKept) and ends.target.keeps_last
        check_mapping(job.spec, job.pipeline, ends.source, table, mapping, keeps_values=not last)
    elif job.changes:
        check_mapped_log(job.pipeline, ends.source, table, there, mapping)
    check_mark(job, mapping.targets, there, ends.target)
    version = version_of(job, mapping)
    whole = job.write in {"merge", "scd2"} and check_keyed(job, mapping, table, key, version, ends.target)
    if job.write == "scd2" and version is not None:
        timed = replace(there, columns=(*there.columns, COMMITTED_COLUMN)) if job.changes else there
        check_validity(timed, version, f"{job.pipeline}: spec.sink")
    if job.reload is not None and job.shadowed:
        method = _reloading(job, ends.target, mapping, there, key) or method
    inferred = isinstance(ends.source, Inferring) and ends.source.looked_at() is not None
    return Survey(
        table, there, key or place, mapping, method, version, whole, placed=place is not None, inferred=inferred
    )


def decoded_mapping(job: Job, surveyed: Survey) -> BoundMapping:
    """Return the mapping for decoded rows, even if that of `surveyed` passes them undecoded.

    Raises:
        SchemaMismatch: a type whose values cannot be decoded.
    """
    if not surveyed.mapping.raw:
        return surveyed.mapping
    return bind(job.rules, surveyed.source, surveyed.target, job.pipeline, undecoded=False, resources=resources_of(job))


def _row_place(job: Job, source: Source, table: Table) -> Column | None:
    """Return the row location, to split a table without a key by; only a `replace` may, since it can start over."""
    return source.row_place(table) if job.write == "replace" and isinstance(source, RowPlaces) else None


def _reloading(job: Job, target: Target, mapping: BoundMapping, there: Table, key: Column | None) -> Method | None:
    """Return the method that replaces only a window of the target's rows; None to replace them all.

    Raises:
        Refused: the sink cannot do that, or the cursor is not among the columns that are written.
    """
    where = f"{job.pipeline}: {'backfill' if job.reload and job.reload.is_window else '--full'}"
    if not isinstance(target, Reloading) or job.write not in target.reloads:
        hint = f"`penstock delete {quote(job.pipeline)} --drop-table` and apply it again, to start over"
        raise Refused(f"an `{job.write}` into {job.sink.settings.type} cannot be read again", where=where, hint=hint)
    if job.reload is None or not job.reload.is_window or key is None:
        return None
    name = mapping.unchanged(key.name)
    column = there.column(name) if name else None
    if column is None or parse_type(column.type) != parse_type(key.type):
        hint = "write the cursor as it is, or reload everything by `penstock run --full`"
        what = f"the rows of a window cannot be found in the target: it does not hold cursor `{key.name}` unchanged"
        raise Refused(what, where=where, hint=hint)
    if not isinstance(target, Windowed):
        hint = "reload everything by `penstock run --full`"
        raise Refused(f"rows in {job.sink.settings.type} cannot be replaced by windows", where=where, hint=hint)
    return target.in_window(column)


def _made_columns(job: Job, plan: Plan, target: Target) -> tuple[Column, ...]:
    """Return the columns of a target to create, with those that the write mode adds."""
    made = plan.output_columns(job)
    made = (*made, Column(job.mark, "timestamp with time zone")) if job.mark else made
    columns = target.column_types(made) if isinstance(target, Native) else tuple(map(portable, made))
    if job.write != "scd2":
        return columns
    named = version_of(job, plan.rules)
    version = next((one for one in (*columns, COMMITTED_COLUMN) if one.name == named), None)
    if version is None:
        raise no_version(job)
    return (*columns, *history_columns(version))


def is_from(job: Job, loaded: Loaded) -> bool:
    """True if the target's rows were loaded by this cursor, which includes those of a reload."""
    return loaded.cursor == job.cursor and loaded.write in ({job.write, "replace"} if job.cursor else {job.write})
