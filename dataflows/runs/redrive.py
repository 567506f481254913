"""Redrive of dead letters: a run of its own, whose source is letters, through the pipeline's steps as they are now.

It has its own state at the sink, so that the pipeline's runs go on next to it. Its positions are committed with the
rows, and its splits never change: whichever process dies, each letter is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from shlex import quote
from typing import Any

from catalog.redrives import SPLIT_ROWS, Redrives
from dataflows.connectors.abilities import LastKept, Lockable
from dataflows.connectors.contract import Standing, Target
from dataflows.connectors.state import ParallelState, RunRow, State, StreamState
from dataflows.connectors.streaming import ChangeSource
from dataflows.data.splits import slot_names
from dataflows.data.tables import Table
from dataflows.runs.job import Job
from dataflows.runs.keys import version_of
from dataflows.runs.letter_changes import ChangeLetters, Fates
from dataflows.runs.letter_source import LettersSource
from dataflows.runs.lookups import resources_of
from dataflows.runs.sharing import Numbers
from dataflows.runs.survey import Plan
from penstock.errors import Refused
from penstock.failpoints import failpoint
from penstock.models.letters import LetterChoice, LetterFix, LettersOrder, LettersSettled, redrive_uid

__all__ = ["RedriveJob", "forget_letters", "free_letters", "redrive_job", "refuse_redrive", "settled"]

Run = Callable[[Job], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class RedriveJob(Job):
    """Job of a redrive: the pipeline's, but for its source, its state and its dead letters."""

    redrive: str = ""
    pipeline_uid: str = ""
    table: Table = field(default_factory=lambda: Table("", "r", ()))
    """What the pipeline's source is now."""
    fix: LetterFix | None = None
    identity: tuple[str, ...] | None = None
    """Of changes: what the pipeline's source says of itself, as `unsent`."""
    unsent: AbstractSet[str] = frozenset()
    fates: Fates | None = None
    """Of changes of rows: what is decided of each."""

    def open_source(self) -> LettersSource:
        """Return the letters as a source."""
        given = (self.table, self.redrive, self.open_letters, self.fix, resources_of(self), self.fates)
        if not self.changes:
            return LettersSource(*given)
        return ChangeLetters(*given, identity=self.identity, unsent=self.unsent)

    def open_target(self, *, generation: int = 0, patience: float | None = None) -> Target:
        """Connect to the sink, with the state of the pipeline's redrives."""
        return self.owned_target(generation, patience, redrives=self.pipeline_uid)

    @property
    def standing(self) -> Standing | None:
        """Let no later change of the pipeline's stream be undone."""
        return None if self.fates is None else Standing(self.pipeline_uid, self._check_fates)

    def _check_fates(self, split: int) -> None:
        assert self.fates is not None  # noqa: S101 - asked by `standing`
        with closing(self.open_letters()) as letters:
            self.fates.check(split, letters)

    def open_letters(self) -> Redrives:
        """Open what keeps the letters that are refused again."""
        return Redrives(self.letters or "", self.pipeline_uid, self.pipeline)


def settled(job: Job, task: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Do with dead letters what the task says; return what became of them.

    Raises:
        Refused: letters of this pipeline cannot be redriven.
    """
    order, mine = LettersOrder.parse(task["redrive"]), str(task["run"])
    with closing(Redrives(job.letters or "", job.uid, job.pipeline)) as redrives:
        if order.action != "replay":
            receipt = redrives.delete(mine, order.choice)
            return LettersSettled(action=order.action, chosen=receipt["deleted"], **receipt).to_dict()
        refuse_redrive(job)
        for older in redrives.open():
            if older != mine:
                _go_on(job, redrives, older, mine, run)
        held_back, made = 0, None
        if redrives.claimed(mine) is None:
            made = redrive_job(job, mine, order.fix)  # it may be refused, and then claims nothing
            ids, held_back = free_letters(job, redrives, order.choice)
            redrives.claim(mine, ids, order.fix, min(SPLIT_ROWS, job.split_rows))
        failpoint("redrive.claimed")
        receipt = _redriven(job, redrives, mine, run, made)
        chosen = redrives.claimed(mine) or 0
    return LettersSettled(action="replay", chosen=chosen, held_back=held_back, **receipt).to_dict()


def forget_letters(job: Job) -> None:
    """Erase the dead letters of a deleted pipeline, and what its redrives keep at the sink."""
    with closing(Redrives(job.letters or "", job.uid, job.pipeline)) as redrives:
        if redrives.exist():
            with closing(_target_of(job)) as target:
                target.drop(table=False)
        redrives.forget()
    with closing(job.open_letters()) as letters:
        letters.forget()


def _redriven(job: Job, redrives: Redrives, redrive: str, run: Run, made: RedriveJob | None = None) -> dict[str, Any]:
    """Redrive the letters that were claimed, by the job that is `made` for it or a new one; return the receipt."""
    if (known := redrives.receipt(redrive)) is not None:
        return known
    counted: Mapping[str, Any] = {"rows_out": 0, "filtered": 0, "dead": 0}
    if redrives.splits(redrive):
        counted = run(made or redrive_job(job, redrive, redrives.fix(redrive)))
    failpoint("redrive.written")
    named = {"written": counted["rows_out"], "filtered": counted["filtered"], "refused": counted["dead"]}
    if job.rules.changes:  # no step leaves out changes of rows
        named |= {"filtered": 0, "overtaken": counted["filtered"]}
    redrives.settle(redrive, named)
    failpoint("redrive.settled")
    return redrives.receipt(redrive) or {}


def _go_on(job: Job, redrives: Redrives, older: str, mine: str, run: Run) -> None:
    """End a redrive that was given up: give back its letters if none is written, else write the others."""
    with closing(_target_of(job)) as target:
        if not target.state.exists():
            redrives.release(older)
            return
        target.state.claim(slot_names(1), mine)  # whatever still works for the older one can write no more
        row = target.state.run(older)
        pending, planned = target.state.pending(older) if row is not None else ((), 0)
    if row is None or (not row.ended and len(pending) == planned):
        redrives.release(older)
    else:
        _redriven(job, redrives, older, run)


def _target_of(job: Job) -> Any:
    return replace(job, uid=redrive_uid(job.uid)).open_target()


def free_letters(job: Job, redrives: Redrives, choice: LetterChoice) -> tuple[list[str], int]:
    """Return the letters that can be redriven, and the number of others that match the choice.

    A split that is not committed will be read again, with its letters. So were all rows of before a reload. Of changes
    that earlier versions have kept it is not known which later ones came after them.

    Raises:
        Refused: none of the choice can be redriven, for that reason.
    """
    found = redrives.chosen(choice)  # before the sink is asked: a letter is kept before its split is committed
    open_ = _uncommitted(job)
    ids = {id_ for id_, run, split in found if split not in open_.get(run, ())}
    if job.rules.changes:
        ids -= _unknown(job, redrives, ids)
    for run, status, at in redrives.reloads():
        ids -= redrives.before(ids, at)
        if status != "completed":
            ids -= {id_ for id_, of, _ in found if of == run}
    return sorted(ids), len(found) - len(ids)


def _unknown(job: Job, redrives: Redrives, ids: AbstractSet[str]) -> AbstractSet[str]:
    """Return the letters of which nothing shows if later changes of their keys are written.

    Raises:
        Refused: these are all.
    """
    found = redrives.unknown(ids)
    if found and found == ids:
        what = "an earlier version has kept these changes, and nothing shows if later ones of their keys are written"
        hint = f"`penstock run {quote(job.pipeline)} --from earliest --reset` takes a new snapshot; then discard them"
        raise Refused(what, where=f"{job.pipeline}: dead letters", hint=hint)
    return found


def _uncommitted(job: Job) -> Mapping[str, frozenset[int]]:
    """Return the splits of the pipeline's open run that are not committed."""
    with closing(job.open_target()) as target:
        state: State = target.state
        if not state.exists() or (run := state.unfinished("")) is None:
            return {}
        if job.streams and isinstance(state, StreamState):
            return {run.run: frozenset(_of_stream(run, state))}
        return {run.run: frozenset(one.number for one in state.pending(run.run)[0])}


def _of_stream(run: RunRow, state: StreamState) -> list[int]:
    committed = state.part_splits().values() if isinstance(state, ParallelState) else ()
    return Numbers.of_run(run, state).uncommitted(committed)


def refuse_redrive(job: Job) -> None:
    """Refuse to redrive letters where that could undo what later rows have done, or write a part of a row twice.

    Raises:
        Refused: by name.
    """
    sink, steps = job.spec.sink, job.spec.transforms
    again = f"correct the step, or the rows at their source, then `penstock run {quote(job.pipeline)}`"
    wrong: tuple[tuple[bool, str, str, str], ...] = (
        (
            sink.write == "replace",
            "sink.write",
            "`replace` reads all rows at each run: a redriven one would not stay",
            again,
        ),
        (
            sink.write == "scd2" and not job.changes,
            "sink.write",
            "a history is written in order: an older version cannot be added",
            again,
        ),
        (sink.delete is not None, "sink.delete", "a row that was deleted meanwhile would come back", again),
        (any(one.remembers for one in steps), "transforms", "what a step remembered of a row is gone", again),
        (
            sink.write == "append" and any(one.explode for one in steps),
            "transforms",
            "parts of a refused row may be written already, and would be added again",
            again,
        ),
    )
    for holds, part, what, hint in wrong:
        if holds:
            raise Refused(what, where=f"{job.pipeline}: spec.{part}", hint=hint)


def redrive_job(job: Job, redrive: str, fix: LetterFix | None) -> RedriveJob:
    """Return the job of a redrive.

    Raises:
        Refused: a merge has no version to tell which of two rows is newer.
    """
    with closing(job.open_source()) as source:
        table = source.describe()
        sent = (source.identity, source.unsent) if isinstance(source, ChangeSource) else (None, frozenset[str]())
    if job.rules.changes:
        return _of_changes(job, redrive, table, fix, *sent)
    version = version_of(job, Plan.of(job, table).rules)
    if job.write == "merge" and version is None:
        hint = "name a `version`, or write the cursor as it is"
        what = "the target may have a newer row of the same key, and without a version nothing shows which is newer"
        raise Refused(what, where=f"{job.pipeline}: spec.sink.version", hint=hint)
    made = _made(job, redrive, table, fix, version)
    return replace(made, identity=sent[0], unsent=sent[1])


def _of_changes(
    job: Job, redrive: str, table: Table, fix: LetterFix | None, identity: Any, unsent: AbstractSet[str]
) -> RedriveJob:
    """Return the job of a redrive of changes of rows.

    Raises:
        Refused: the fix is for a column of the key, or nothing at the sink tells what its stream has written.
    """
    with closing(job.open_target()) as target:
        if (isinstance(target, LastKept) and target.keeps_last) or not (
            isinstance(target, Lockable) and target.locks_positions
        ):
            what = f"changes are not redriven into {job.sink.settings.type}: no commit can wait for the stream's there"
            hint = f"`penstock run {quote(job.pipeline)} --from earliest --reset` takes a new snapshot"
            raise Refused(what, where=f"{job.pipeline}: spec.sink.connection", hint=hint)
        state = target.state
        if not (state.exists() and isinstance(state, StreamState) and state.last_split()):
            what = "the stream has written nothing to this sink yet: its first snapshot has the rows as they are"
            raise Refused(what, where=f"{job.pipeline}: spec.sink", hint=f"`penstock run {quote(job.pipeline)}` first")
    rules = Plan.of(job, table).rules
    for name in fix.set if fix is not None else ():
        if rules.unchanged(name) in job.spec.sink.key:
            hint = "correct the step, or the row at its source"
            raise Refused("a column of the key says which row a change is of", where="--set", value=name, hint=hint)
    made = _made(job, redrive, table, fix, None)
    fates = Fates(redrive, job.write == "scd2", job.at_sink)
    return replace(made, identity=identity, unsent=unsent, fates=fates)


def _made(job: Job, redrive: str, table: Table, fix: LetterFix | None, version: str | None) -> RedriveJob:
    spec = job.spec.model_copy(
        update={
            "mode": "batch",
            "source": job.spec.source.model_copy(update={"cursor": None}),
            "sink": job.spec.sink.model_copy(update={"version": version}),
            "limits": job.spec.limits.model_copy(update={"workers": 1, "slot_drop": None}),
            "errors": job.spec.errors.model_copy(
                update={"dead_letter": job.spec.errors.dead_letter.model_copy(update={"fail_above": 1.0})}
            ),
            "check": None,
        }
    )
    values = {one.name: getattr(job, one.name) for one in fields(Job)}
    values |= {"uid": redrive_uid(job.uid), "run": redrive, "spec": spec, "drain": None, "begin": None}
    return RedriveJob(**values, redrive=redrive, pipeline_uid=job.uid, table=table, fix=fix)
