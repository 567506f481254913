"""The first step of a run: look at both sides, take the fence, make the plan. Idempotent: a repeat resumes.

A run whose id is finished returns its recorded result. A new run that finds an unfinished older one between the same
objects takes its place: in `append` it does the older plan's open splits and what has come since, so that nothing is
lost or doubled; in `replace` it starts anew. An older run that comes back after that is fenced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dataflows.job import Job
from dataflows.postgres.session import Session, connect, translated
from dataflows.postgres.tables import Column, Table, TableName, describe, exists, quoted
from dataflows.sinks.positions import Claim, Loaded, Positions, RunRow, session_name
from dataflows.sinks.swap import Method, drop_leftovers, make_shadow, replace_method, shadow_name
from dataflows.sources.postgres import Window, cursor_column, cursor_window, plan_splits, split_key
from dataflows.splits import Split, slot_names
from dataflows.transforms.mapping import Mapping, bind, outputs
from penstock.errors import Fenced, Refused
from penstock.failpoints import failpoint

__all__ = ["Finished", "Prepared", "Survey", "joined", "positions_of", "prepare", "recorded", "survey"]

PLAN_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Survey:
    """Both sides as they are now, and the mapping between them."""

    source: Table
    target: Table
    key: Column | None
    mapping: Mapping
    method: Method | None


@dataclass(frozen=True, slots=True)
class Finished:
    """The run was finished before; its recorded result."""

    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that owns its pipeline at the sink, and has a plan."""

    survey: Survey
    generation: int
    into: TableName
    slots: tuple[str, ...]
    pending: tuple[Split, ...]
    planned: int
    upper: str | None

    @property
    def resumed(self) -> bool:
        """Whether splits were done by an earlier attempt; then the rows come from more than one point in time."""
        return len(self.pending) < self.planned


def positions_of(job: Job) -> Positions:
    """What the sink remembers of this job's pipeline."""
    return Positions(job.uid, str(job.source), job.sink, job.at_sink)


def prepare(job: Job) -> Prepared | Finished:
    """Check, claim and plan.

    An `append` goes on only from rows that an `append` by the same cursor loaded.

    Raises:
        Refused, MissingTable, MissingColumn, SchemaMismatch: the pipeline does not fit its tables; nothing was changed.
        Fenced: a newer run has taken this one's place.
    """
    failpoint("prepare.begin")
    with (
        connect(job.source_dsn, where=job.at_source, name="penstock:source", statement=PLAN_SECONDS) as source,
        connect(job.sink_dsn, where=job.at_sink, name=session_name(job.uid, 0)) as sink,
        translated(job.at_sink),
    ):
        return _prepare(job, source, sink)


def _prepare(job: Job, source: Session, sink: Session) -> Prepared | Finished:
    positions = positions_of(job)
    found = describe(source, job.source, job.at_source)
    if finished := _finished(positions, sink, job):
        return finished
    _check(job, found, sink)
    positions.make(sink)
    failpoint("prepare.state_made")
    slots = slot_names(job.workers)
    claim = positions.claim(sink, slots, job.run)
    if isinstance(claim, RunRow):
        return _ended(claim, job)
    _check_continued(job, claim.loaded)
    with translated(job.at_sink):
        sink.execute("SELECT set_config('application_name', %s, false)", (session_name(job.uid, claim.generation),))
    if not exists(sink, job.sink):
        with positions.owned(sink, claim.generation):
            _make_target(sink, job, found)
    surveyed = survey(job, source, sink)
    run = _resumable(positions, sink, job, claim) or _plan(job, positions, source, sink, claim, surveyed)
    failpoint("prepare.planned")
    into = _into(job, positions, sink, claim.generation)
    pending, planned = positions.pending(sink, job.run)
    return Prepared(surveyed, claim.generation, into, slots, pending, planned, run.upper)


def _finished(positions: Positions, sink: Session, job: Job) -> Finished | None:
    if not exists(sink, TableName(job.sink.schema, "_penstock_runs")):
        return None
    run = positions.run(sink, job.run)
    return _ended(run, job) if run is not None and run.ended else None


def _ended(run: RunRow, job: Job) -> Finished:
    return Finished(recorded(run, job.at_sink))


def recorded(run: RunRow, where: str) -> dict[str, Any]:
    """The result of a run that has ended.

    Raises:
        Fenced: a newer one took its place.
    """
    if run.state == "superseded":
        hint = "nothing to do: the newer run carries on"
        raise Fenced(f"run {run.taken_over_by} has taken this run's place", where=where, hint=hint)
    return run.result or {}


def _check(job: Job, source: Table, sink: Session) -> None:
    """Everything that can be told before anything is changed."""
    if job.cursor is not None:
        cursor_column(source, job.cursor, job.at_source)
    if exists(sink, TableName(job.sink.schema, "_penstock_splits")):
        _check_continued(job, positions_of(job).loaded(sink))
    if exists(sink, job.sink):
        target = describe(sink, job.sink, job.at_sink)
        if target.kind not in {"r", "p"}:
            raise Refused("rows can only be written to a table", where=job.at_sink, value=str(job.sink))
        bind(job.fields, source, target, job.pipeline)
        if job.write == "replace":
            replace_method(sink, job.sink, job.at_sink)
    else:
        outputs(job.fields, source, job.pipeline)


def _check_continued(job: Job, loaded: Loaded) -> None:
    """Refuse an `append` to rows that were loaded otherwise; a `replace` may always follow."""
    if job.write != "append" or loaded.write is None or (loaded.write, loaded.field) == ("append", job.cursor):
        return
    ways = f"write: replace; or empty {job.sink}, `penstock delete` the pipeline and apply it again"
    if loaded.write == "append":
        what = f"{job.sink} was loaded by cursor `{loaded.field}`: by `{job.cursor}` rows would be lost or doubled"
        raise Refused(what, where=f"{job.pipeline}: spec.source.cursor", hint=f"keep `{loaded.field}`, or {ways}")
    what = f"{job.sink} was loaded by `replace`: an `append` would add all its rows again"
    raise Refused(what, where=f"{job.pipeline}: spec.sink.write", hint=f"keep {ways}")


def survey(job: Job, source: Session, sink: Session) -> Survey:
    """Both tables, the key to split by, the mapping, and how a `replace` would be published."""
    table = describe(source, job.source, job.at_source)
    target = describe(sink, job.sink, job.at_sink)
    key = cursor_column(table, job.cursor, job.at_source) if job.cursor else split_key(table)
    method = replace_method(sink, job.sink, job.at_sink) if job.write == "replace" else None
    return Survey(table, target, key, bind(job.fields, table, target, job.pipeline), method)


def _make_target(sink: Session, job: Job, source: Table) -> None:
    lines = [
        f"{quoted(column.name)} {column.type}{'' if column.nullable else ' NOT NULL'}"
        for column in outputs(job.fields, source, job.pipeline)
    ]
    if job.key:
        lines.append(f"PRIMARY KEY ({', '.join(quoted(name) for name in job.key)})")
    sink.execute(f"CREATE TABLE IF NOT EXISTS {job.sink.sql} ({', '.join(lines)})")


def _resumable(positions: Positions, sink: Session, job: Job, claim: Claim) -> RunRow | None:
    """The run's own plan from an earlier attempt; a `replace` whose shadow is gone or outdated begins again."""
    run = positions.run(sink, job.run)
    if run is None or _can_go_on(job, positions, sink, run):
        return run
    with positions.owned(sink, claim.generation):
        if claim.loaded.partly and job.write == "replace":
            positions.spoil(sink)
        sink.execute(f"DROP TABLE IF EXISTS {shadow_name(job.uid, job.run, job.sink).sql}")
        positions.forget(sink, job.run)
    return None


def _can_go_on(job: Job, positions: Positions, sink: Session, run: RunRow) -> bool:
    if (run.write, run.field) != (job.write, job.cursor):
        return False
    if job.write == "append":
        return True
    shadow = shadow_name(job.uid, job.run, job.sink)
    if exists(sink, shadow):
        have, want = describe(sink, shadow, job.at_sink), describe(sink, job.sink, job.at_sink)
        return have.columns == want.columns
    pending, planned = positions.pending(sink, job.run)
    return len(pending) == planned


def _plan(job: Job, positions: Positions, source: Session, sink: Session, claim: Claim, surveyed: Survey) -> RunRow:
    failpoint("prepare.before_plan")
    older = positions.unfinished(sink, job.run)
    alike = older is not None and (older.write, older.field) == (job.write, job.cursor)
    carried = older if alike and job.write == "append" else None
    last = carried.upper if carried and carried.upper is not None else claim.loaded.cursor
    window = Window(None, None)
    if job.cursor is not None and surveyed.key is not None:
        window = cursor_window(source, surveyed.source, surveyed.key, last, job.lag, job.at_source)
    first = positions.next_split(sink, carried.run) if carried else 0
    splits: tuple[Split, ...] = ()
    if job.write == "replace" or window.upper is not None:
        splits = plan_splits(source, surveyed.source, surveyed.key, window, job.split_rows, first, job.at_source)
    upper = window.upper if window.upper is not None else carried.upper if carried else None
    with positions.owned(sink, claim.generation):
        base = carried.base if carried else positions.counters(sink)
        plan = RunRow(job.run, job.write, job.cursor, carried.lower if carried else window.lower, upper, base)
        positions.write_plan(sink, plan, splits)
        if claim.loaded.partly and job.write == "replace":
            positions.spoil(sink)
        if older is not None:
            (positions.take_over if carried else positions.supersede)(sink, older.run, job.run)
    return plan


def _into(job: Job, positions: Positions, sink: Session, generation: int) -> TableName:
    """The table that rows are copied into."""
    if job.write == "append":
        with positions.owned(sink, generation):  # of a `replace` that this run has superseded
            drop_leftovers(sink, job.uid, job.sink, None, job.at_sink)
        return job.sink
    shadow = shadow_name(job.uid, job.run, job.sink)
    with positions.owned(sink, generation):
        drop_leftovers(sink, job.uid, job.sink, shadow, job.at_sink)
        make_shadow(sink, job.sink, shadow, job.at_sink)
    failpoint("prepare.shadow_made")
    return shadow


def joined(job: Job, generation: int) -> Prepared:
    """The run as a child of its launcher sees it: claimed and planned already, by `generation`."""
    positions = positions_of(job)
    with (
        connect(job.source_dsn, where=job.at_source, name="penstock:source") as source,
        connect(job.sink_dsn, where=job.at_sink, name=session_name(job.uid, generation)) as sink,
    ):
        surveyed = survey(job, source, sink)
        pending, planned = positions.pending(sink, job.run)
    into = job.sink if job.write == "append" else shadow_name(job.uid, job.run, job.sink)
    return Prepared(surveyed, generation, into, slot_names(job.workers), pending, planned, None)
