"""First phase of a run: inspect both sides, raise the generation, make the plan. Idempotent: a repeat resumes.

A finished run returns its recorded result. A new run that finds an unfinished older one between the same objects
supersedes it: with a cursor it reads the older plan's open splits and the rows since, so that nothing is lost or
duplicated; a full read starts over. The older run, if it comes back after that, is fenced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from dataflows.connectors.abilities import Filling, Growing, Keyed, Remaking, Shared, Widening
from dataflows.connectors.contract import Source, Target
from dataflows.connectors.publication import recorded
from dataflows.connectors.state import Claim, Loaded, RunRow, State
from dataflows.data.counters import Counters
from dataflows.data.cursors import Window, window_between
from dataflows.data.splits import Split, slot_names
from dataflows.runs.dataset_rules import check_rules
from dataflows.runs.identity import check_identity, remember_identity
from dataflows.runs.job import SPLIT_ROWS, Job
from dataflows.runs.keys import MIXED, made_by
from dataflows.runs.moving import SourceIgnored
from dataflows.runs.remaking import give_up_plans, made_for
from dataflows.runs.survey import Ends, Forecast, Survey, check_continued, forecast, is_from, survey
from penstock.errors import Refused, Unavailable
from penstock.failpoints import failpoint

if TYPE_CHECKING:
    from catalog.overtaken import Aside

__all__ = ["Finished", "Prepared", "joined", "prepare", "rows_of_split", "with_target"]

_log = logging.getLogger(__name__)

ONE_SPLIT: Final = 1 << 50
"""Rows of a split larger than any table."""
COPIED: Final = 500_000
"""Rows of a split that is copied into a shadow table, unless the task says how many."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Recorded result of a run that was finished before."""

    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Run that owns its pipeline at the sink, and has a plan."""

    survey: Survey
    generation: int
    into: str
    slots: tuple[str, ...]
    pending: tuple[Split, ...]
    planned: int
    upper: str | None
    token: str | None = None
    """Token to add dead letters; None if the run cannot refuse a row, or has no place to store it."""
    held: str | None = None
    """Snapshot that all readers use, if the source can hold one."""
    released: bool = False
    """True if the snapshot was released before everything was read."""
    notes: tuple[str, ...] = ()
    """Notes for the user on rows that the run does not read."""
    keys: str | None = None
    """How the keys of all rows in the target are made, once the run has ended: a digest."""
    asides: tuple[Aside, ...] = ()
    """Of a stream of changes: its dead letters that no later change has overtaken."""

    @property
    def resumed(self) -> bool:
        """True if rows come from several points in time: splits of an earlier attempt, or a released snapshot."""
        return self.released or len(self.pending) < self.planned


def _ignore() -> None:
    """Default check; does nothing."""


def prepare(job: Job, ends: Ends, check: Callable[[], None] = _ignore) -> Prepared | Finished:
    """Check, claim and plan.

    `check` raises if the run was asked to stop; it is called right before the claim, so that a run that was stopped
    cannot take over from the one that follows it.

    An incremental run continues only from rows that a run of the same mode loaded by the same cursor. A source that is
    gone ends a run without rows, if `schema.tables` says to ignore that.

    Raises:
        Refused, MissingTable, MissingColumn, SchemaMismatch: the pipeline does not fit its tables; nothing was changed.
        Fenced: a newer run took over.
    """
    failpoint("prepare.begin")
    target, state = ends.target, ends.target.state
    check_identity(job, state)
    if kept := state.exists():
        if (run := state.run(job.run)) is not None and run.ended:
            return Finished(recorded(run, job.at_sink))
        if job.write == "append":
            check_continued(job, state.loaded())
    try:
        found = forecast(job, ends, known=kept)
    except SourceIgnored as error:
        return Finished({**Counters().as_dict(), "notes": [f"{error.what}, so nothing was read: {error.hint}"]})
    check_rules(job, found)
    if not kept:
        state.make()
    failpoint("prepare.state_made")
    slots = slot_names(job.workers)
    check()
    claim = state.claim(slots, job.run)
    if isinstance(claim, RunRow):
        return Finished(recorded(claim, job.at_sink))
    remember_identity(job, state)
    check_continued(job, claim.loaded)
    given_up = state.unfinished(job.run) if found.remakes else None
    surveyed = with_target(job, ends, found, claim)
    run, older = state.run(job.run), state.unfinished(job.run)
    token = _take_letters(job, target, surveyed, run, older, given_up)
    known = _resumable(target, job, claim, surveyed, run)
    row, notes = (known, ()) if known is not None else _plan(job, ends, claim, surveyed, older)
    notes = (*found.notes, *((found.key.note,) if found.key.note else ()), *notes)
    keys = _keys_of(job, state, surveyed, row)
    failpoint("prepare.planned")
    into = target.create_load_table(job.run, claim.generation)
    pending, planned = state.pending(job.run)
    held = ends.source.hold(surveyed.source, job.spec.limits.snapshot) if pending else None
    return Prepared(
        surveyed,
        claim.generation,
        into,
        slots,
        pending,
        planned,
        _reached(job, claim, row),
        token,
        held,
        notes=notes,
        keys=keys,
    )


def _keys_of(job: Job, state: State, surveyed: Survey, run: RunRow) -> str | None:
    """Return how the keys of all rows are made once the run has ended; None if the target has no key."""
    if job.write != "merge":
        return None
    keys, last = made_by(job, surveyed.mapping), state.finished() if run.lower is not None else None
    before = RunRow.noted(last, "keys")
    return keys if before in {None, keys} else MIXED


def _reached(job: Job, claim: Claim, run: RunRow) -> str | None:
    """Return the cursor position after the run: unchanged if nothing was new or a window was read again."""
    if job.reload is None:
        return run.upper if run.upper is not None else _last(job, claim.loaded)
    return claim.loaded.position if job.reload.is_window else run.upper


def with_target(job: Job, ends: Ends, found: Forecast, claim: Claim) -> Survey:
    """Create the target or its missing columns; return the survey."""
    target = ends.target
    if found.made is None and not found.added and not found.widened:
        return found.survey
    there = None
    with target.state.owned(claim.generation):
        if isinstance(target, Shared):
            target.begin()
        if found.remakes and isinstance(target, Remaking):
            give_up_plans(target, job.run)
            target.unmake()
        if found.made is not None and found.key.from_source and isinstance(target, Keyed):
            target.make_keyed(found.made, found.key.columns)
        elif found.made is not None:
            target.make(found.made)
        elif found.added and isinstance(target, Growing):
            _add_columns(found, target)
        if found.widened and isinstance(target, Widening):
            target.widen_columns(found.widened)
        if found.made is not None and isinstance(target, Remaking):
            there = target.describe()
            target.remember(made_for(found.made), there)
    return survey(job, ends, found.plan, there)


def _add_columns(found: Forecast, target: Growing) -> None:
    """Add the missing columns, with values where rows of before get one. Inside `owned`."""
    if empty := tuple(one for one in found.added if one.name not in found.filled):
        target.add_columns(empty)
    for one in found.added:
        if one.name in found.filled and isinstance(target, Filling):
            target.add_filled(one, found.filled[one.name])


def _take_letters(
    job: Job, target: Target, surveyed: Survey, run: RunRow | None, older: RunRow | None, given_up: RunRow | None
) -> str | None:
    """Take over the pipeline's dead letters, and delete those of splits that will be read again."""
    if job.letters is None:
        return None
    state = target.state
    stale: dict[str, Sequence[int] | None] = {job.run: None, **({given_up.run: None} if given_up else {})}
    if run is not None and _resumes(job, target, run, surveyed):
        stale[job.run] = [split.number for split in state.pending(job.run)[0]]
    if older is not None:
        stale[older.run] = [split.number for split in state.pending(older.run)[0]] if _carries(job, older) else None
    with closing(job.open_letters()) as letters:
        return letters.begin(stale, job.spec.errors.dead_letter.keep)


def _resumes(job: Job, target: Target, run: RunRow, surveyed: Survey) -> bool:
    if (run.write, run.cursor, run.split_key) != (job.planned_as, job.cursor, surveyed.split_key):
        return False
    if surveyed.placed and target.state.pending(job.run)[0]:
        return False
    return job.continued or target.can_go_on(job.run)


def _resumable(target: Target, job: Job, claim: Claim, surveyed: Survey, run: RunRow | None) -> RunRow | None:
    """Return the run's own plan from an earlier attempt, or delete it and return None.

    A `replace` starts over if its shadow table is gone or outdated, or if open splits are valid only in the snapshot of
    that attempt; every run does if its splits are ranges of another key.
    """
    state = target.state
    if run is None or _resumes(job, target, run, surveyed):
        return run
    with state.owned(claim.generation):
        if claim.loaded.partly and not job.continued:
            state.mark_partial()
        target.abandon(job.run)
        state.forget(job.run)
    return None


def _plan(job: Job, ends: Ends, claim: Claim, surveyed: Survey, older: RunRow | None) -> tuple[RunRow, tuple[str, ...]]:
    """Store the run's plan next to the positions; return it with the notes on its window."""
    failpoint("prepare.before_plan")
    source, state = ends.source, ends.target.state
    carried = older if older is not None and _carries(job, older) else None
    window = _window(job, source, claim, surveyed, carried)
    first = state.next_split(carried.run) if carried else 0
    splits: tuple[Split, ...] = ()
    if job.cursor is None or window.upper is not None:
        rows = ONE_SPLIT if surveyed.whole else rows_of_split(job, ends)
        first += -first % job.workers if surveyed.whole else 0  # one slot reads them all, in order
        splits = source.plan(surveyed.source, surveyed.key, window, rows, first)
    upper = window.position if window.upper is not None else carried.upper if carried else None
    with state.owned(claim.generation):
        if isinstance(ends.target, Shared):
            ends.target.begin()
        base = carried.base if carried else state.counters()
        lower = carried.lower if carried else window.lower
        plan = RunRow(job.run, job.planned_as, job.cursor, lower, upper, base, split_key=surveyed.split_key)
        state.write_plan(plan, splits)
        if claim.loaded.partly and not job.continued:
            state.mark_partial()
        if older is not None:
            (state.take_over if carried else state.supersede)(older.run, job.run)
    notes = (*window.notes, *_held_back(job, window))
    for note in notes:
        _log.warning("%s: %s", job.at_source, note)
    return plan, notes


def rows_of_split(job: Job, ends: Ends) -> int:
    """Return the rows of a split: more if one process copies undecoded rows, which a crash can only repeat."""
    copies = job.shadowed and job.workers == 1 and ends.undecoded
    return COPIED if copies and job.split_rows == SPLIT_ROWS else job.split_rows


def _held_back(job: Job, window: Window) -> tuple[str, ...]:
    """Tell why a first run may read nothing; later ones of a quiet source read nothing for good reason."""
    if job.rule.lag and job.reload is None and window.lower is None and window.upper is None:
        return (f"no row has a {job.cursor} older than the lag of {job.rule.lag}: newer ones are read by a later run",)
    return ()


def _window(job: Job, source: Source, claim: Claim, surveyed: Survey, carried: RunRow | None) -> Window:
    """Return the window of a run with a cursor; an open one if the run reads everything."""
    if job.cursor is None or surveyed.key is None:
        return Window(None, None)
    last = carried.upper if carried and carried.upper is not None else _last(job, claim.loaded)
    if job.reload is None:
        return source.window(surveyed.source, surveyed.key, last, job.rule)
    if not job.reload.is_window:
        return source.window(surveyed.source, surveyed.key, None, job.rule)
    where = f"{job.pipeline}: backfill"
    older = claim.loaded.partly
    if last is None or older:
        what = "an earlier run has not ended" if older else "nothing was read yet"
        what += ", and a backfill only reads rows again that runs have read before"
        raise Refused(what, where=where, hint=f"first penstock run {quote(job.pipeline)}, then the backfill")
    return window_between(job.reload, surveyed.key, last, where)


def _carries(job: Job, older: RunRow) -> bool:
    """True if a run takes over the open splits of an older one; a full read has no need to."""
    return (
        job.reload is None
        and job.continued
        and job.cursor is not None
        and (older.write, older.cursor) == (job.write, job.cursor)
    )


def _last(job: Job, loaded: Loaded) -> str | None:
    """Return the cursor's position, if it is a position of this cursor."""
    return loaded.position if is_from(job, loaded) else None


def joined(job: Job, ends: Ends, order: Mapping[str, Any]) -> Prepared:
    """Return the run for a child process, from the claim and plan that its launcher made and passes in `order`.

    Raises:
        Unavailable: the table gained or lost a key since the run was planned.
    """
    pending, planned = ends.target.state.pending(job.run)
    into = ends.target.load_table(job.run)
    surveyed = survey(job, ends)
    if surveyed.split_key != order["split_key"]:
        raise Unavailable("the table's keys were changed while the run began", where=job.at_source, hint="try again")
    return Prepared(
        surveyed,
        order["generation"],
        into,
        slot_names(job.workers),
        pending,
        planned,
        None,
        order["token"],
        order["held"],
    )
