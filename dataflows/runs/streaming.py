"""The run of a stream: claim the pipeline, find its positions, and read on until it is stopped.

There is no plan and nothing to publish: each commit moves the positions. A run that is stopped, or dies, leaves the
positions exact, and the next one reads on from there.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from dataflows.connectors.abilities import ChangeTarget, Lingering, Shared
from dataflows.connectors.contract import Source
from dataflows.connectors.publication import recorded
from dataflows.connectors.state import ParallelState, RunRow, StreamState
from dataflows.connectors.streaming import (
    ChangeReading,
    LagReporting,
    Restartable,
    Restarted,
    Selective,
    Share,
    SlotHealth,
    Streaming,
    StreamOrder,
    StreamReader,
)
from dataflows.data.counters import Counters
from dataflows.data.movement import Movement
from dataflows.data.nulls import Nulls
from dataflows.data.splits import Split, slot_names
from dataflows.pipeline import FirstError
from dataflows.runs.changes import fills, numbers_of, source_key
from dataflows.runs.dataset_rules import check_rules
from dataflows.runs.dead_letters import LetterBox
from dataflows.runs.gauges import Gauges
from dataflows.runs.identity import check_identity, remember_identity
from dataflows.runs.job import Job
from dataflows.runs.overtaking import Changed, Overtaking
from dataflows.runs.prepare import Finished, Prepared, with_target
from dataflows.runs.publish import too_many_error
from dataflows.runs.remembering import forget, make_pieces, restore
from dataflows.runs.sharing import Numbers, processes
from dataflows.runs.slots import Reports, Reread, read_order, steps, writer
from dataflows.runs.survey import Ends, Forecast, check_continued, forecast, stream_ends
from dataflows.stream import StreamPipelineEngine
from dataflows.transforms.stateful import KeptReader, StatefulChain
from penstock.errors import Refused
from penstock.failpoints import failpoint
from penstock.models.domain import Beginning

if TYPE_CHECKING:
    from catalog.overtaken import Aside

__all__ = ["Positions", "Refusals", "Told", "begin_stream", "gauges_of", "restart_positions", "run_stream", "told_of"]

_log = logging.getLogger(__name__)

LINGER_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Positions:
    """Where a stream stands at its sink, and the number of its next split."""

    parts: Mapping[str, str]
    split: int


def begin_stream(job: Job, ends: Ends, check: Callable[[], None]) -> tuple[Prepared, Positions] | Finished:
    """Check, claim, and store where partitions begin that the stream has not read yet; `check` as in `prepare`.

    Raises:
        Refused, MissingTable, MissingColumn, SchemaMismatch: the pipeline does not fit its ends; nothing was changed.
        Refused: a position does not stand on what the source has now; nothing was changed but the generation.
        Fenced: a newer run took over.
    """
    failpoint("prepare.begin")
    source, state = stream_ends(job, ends)
    check_identity(job, ends.target.state)
    kept = ends.target.state.exists()
    if kept:
        if (run := ends.target.state.run(job.run)) is not None and run.ended:
            return Finished(recorded(run, job.at_sink))
        check_continued(job, ends.target.state.loaded())
    found = forecast(job, ends, known=kept)
    check_rules(job, found)
    if not kept:
        ends.target.state.make()
    state.make_positions()
    make_pieces(job, state)
    failpoint("prepare.state_made")
    restart = _restarted(job, source, state, ends)
    check()
    slots = slot_names(processes(job, ends.source))
    claim = ends.target.state.claim(slots, job.run)
    if isinstance(claim, RunRow):
        return Finished(recorded(claim, job.at_sink))
    remember_identity(job, ends.target.state)
    if kept and not restart:
        _fill(job, ends, found, claim.generation, state.positions())
    surveyed = with_target(job, ends, found, claim)
    if not restart:
        restore(job, state, surveyed.mapping.chain)
    numbers = Numbers(state.last_split() + 1, len(slots))
    known = state.positions()
    first = "earliest" if known else job.spec.source.from_ or "earliest"  # parts that were added meanwhile are new
    begins = {} if restart else source.beginnings(known, first)
    with ends.target.state.owned(claim.generation):
        # Nobody else commits meanwhile what it finds uncommitted.
        token, asides = _take_letters(job, ends, state, source_key(job.spec, surveyed.mapping))
        if isinstance(ends.target, Shared):
            ends.target.begin()
        if restart:
            state.restart(restart)
            forget(job, state)
        state.begin(begins)
        _write_plan(job, ends, numbers)
        failpoint("cdc.begun")
    failpoint("prepare.planned")
    into = ends.target.create_load_table(job.run, claim.generation)
    prepared = Prepared(surveyed, claim.generation, into, slots, (), 0, None, token, asides=asides)
    return prepared, Positions(_picked(source, state.positions()), numbers.first)


def _picked(source: Streaming, known: Mapping[str, str]) -> dict[str, str]:
    """Return the positions of the partitions that the source reads now; topics that were left out keep theirs."""
    return {part: at for part, at in known.items() if not isinstance(source, Selective) or source.picks(part)}


def _fill(job: Job, ends: Ends, found: Forecast, generation: int, known: Mapping[str, str]) -> None:
    """Give the rows of the target the values of columns that are new at the source."""
    target, surveyed = ends.target, found.survey
    if not job.rules.changes:  # what a log has stays as it was
        return
    values = fills(job.pipeline, ends.source, known, surveyed.mapping, surveyed.target)
    if values and isinstance(target, ChangeTarget):
        with target.state.owned(generation):
            for column, value in values:
                target.fill(column, value)


def _restarted(job: Job, source: Streaming, state: StreamState, ends: Ends) -> Mapping[str, str]:
    """Return the positions at which the run begins in place of those that the stream has; empty = it goes on.

    Raises:
        Refused: the stream has been read before, and the request does not say that this is meant.
    """
    if job.begin is None or ends.target.state.run(job.run) is not None:  # an earlier attempt has done it
        return {}
    begun = restart_positions(job, source, state.positions(), job.begin)
    for shift in begun.shifts:
        _log.warning("%s: %s", job.at_source, shift)
    return begun.positions


def restart_positions(job: Job, source: Source | Streaming, known: Mapping[str, str], begin: Beginning) -> Restarted:
    """Return where a stream that stands at `known` starts instead, and what that repeats or skips.

    Raises:
        Refused: its source cannot; or there are positions already, and `begin` does not reset them.
    """
    if not isinstance(source, Restartable):
        what = f"a connection of type {job.source.settings.type} has no positions to begin from"
        raise Refused(what, where=f"{job.pipeline}: spec.source", hint="run it without --from")
    found = source.restarted(known, begin.from_)
    if known and not begin.reset:
        shifts = "; ".join(found.shifts) or "it changes nothing"
        hint = f"`penstock run {quote(job.pipeline)} --from … --reset` if that is meant"
        raise Refused(f"the stream was read before: {shifts}", where=job.pipeline, hint=hint)
    return found


def _write_plan(job: Job, ends: Ends, numbers: Numbers) -> None:
    """Record the run at the sink, in place of an older one that never ends. Inside `owned`."""
    state = ends.target.state
    older, known = state.unfinished(job.run), state.run(job.run)
    row = replace(known or RunRow(job.run, job.write, None, None, None, state.counters()), lower=numbers.stored)
    if known is not None and known != row:
        state.forget(job.run)
    if known != row:
        state.write_plan(row, ())
    if older is not None:
        state.supersede(older.run, job.run)


def _take_letters(job: Job, ends: Ends, state: StreamState, key: Sequence[str]) -> tuple[str | None, tuple[Aside, ...]]:
    """Take over the pipeline's dead letters, and delete those of the splits that may not have been committed.

    Return the token to add letters, and those that are changes which no later one has overtaken. `key` are the columns
    of the key at the source.
    """
    if job.letters is None:
        return None, ()
    older = ends.target.state.unfinished(job.run)
    last = Numbers.of_run(ends.target.state.run(job.run) or older, state)
    splits = last.uncommitted(state.part_splits().values() if isinstance(state, ParallelState) else ())
    runs = {job.run, *((older.run,) if older is not None else ())}
    with closing(job.open_letters()) as letters:
        token = letters.begin(dict.fromkeys(runs, splits), job.spec.errors.dead_letter.keep)
        if not job.rules.changes:
            return token, ()
        from catalog.overtaken import Asides

        return token, tuple(Asides(letters, job.uid).begin(state.last_split(), key))


@dataclass(frozen=True, slots=True)
class Told:
    """Who learns of a stream's commits, with the process of each, of partitions that it begins, movements and NULLs."""

    committed: Callable[[Split, Counters, int], None]
    begun: Callable[[Mapping[str, str]], None]
    movement: Movement
    gauges: Gauges | None = None
    nulls: Nulls = field(default_factory=Nulls)

    def remembers(self, chain: StatefulChain, partitions: Iterable[str]) -> None:
        """Let the steps that remember rows begin, and the gauges show them."""
        chain.start(partitions, dict if self.gauges is None else self.gauges.lags)
        if self.gauges is not None:
            self.gauges.steps = chain.counts


def told_of(job: Job, gauges: Gauges, reports: Reports) -> Told:
    """Return what tells gauges and reports, and raises `TooManyRefused` at the commit that is too much."""
    refusals = Refusals(job, time.monotonic())

    def committed(split: Split, counted: Counters, process: int) -> None:
        gauges.committed(split, counted.rows_in, process)
        reports.committed(counted)
        refusals.count(counted, time.monotonic())

    return Told(committed, gauges.begun, reports.movement, gauges, reports.nulls)


@dataclass(slots=True)
class _Commits:
    """Tells the reader which of its splits the sink has committed; they are committed in order."""

    reader: StreamReader
    told: Told
    share: Share
    next: int
    chain: StatefulChain | None = None

    def __call__(self, counted: Counters) -> None:
        split = self.reader.splits[self.next]
        self.reader.committed(self.next)
        if self.chain is not None:
            self.chain.committed(self.next)
        self.next += self.share.of
        self.told.committed(split, counted, self.share.number)


@dataclass(slots=True)
class Refusals:
    """Counts the rows of the pipeline's `dead_letter.window`, and those among them that became dead letters."""

    job: Job
    begin: float
    _counted: deque[tuple[float, Counters]] = field(default_factory=deque)
    _total: Counters = field(default_factory=Counters)

    def count(self, counted: Counters, at: float) -> None:
        """Add a commit at `at`, in seconds of a clock that is never set.

        What was committed stays. The share counts once there are enough rows for it, or a window has passed.

        Raises:
            TooManyRefused: more rows were refused than the pipeline allows.
        """
        rules = self.job.spec.errors.dead_letter
        window = rules.window.total_seconds()
        self._counted.append((at, counted))
        self._total += counted
        while self._counted[0][0] < at - window:
            self._total -= self._counted.popleft()[1]
        total, most = self._total, rules.fail_above
        if total.dead > most * total.rows_in and (most * total.rows_in >= 1 or at - self.begin >= window):
            raise too_many_error(self.job, total.as_dict(), None)


def _linger(job: Job, ends: Ends) -> float:
    """Return how many seconds a split waits for more rows."""
    if (given := job.spec.limits.linger) is not None:
        return given.total_seconds()
    return ends.target.linger if isinstance(ends.target, Lingering) else LINGER_SECONDS


def run_stream(
    job: Job,
    prepared: Prepared,
    positions: Positions,
    ends: Ends,
    first: FirstError,
    told: Told,
    share: Share | None = None,
) -> None:
    """Read, map and write until the flow is stopped, or drained: then all that was there has been committed.

    A `share` is that of one process of several.

    Raises:
        PenstockError: the first error, `Stopped` if it was asked to end; what was committed stays.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    source, _ = stream_ends(job, ends)
    chain = prepared.survey.mapping.chain
    chain = chain if isinstance(chain, StatefulChain) else None
    begin, linger = partial(_begin, job, prepared.generation, told.begun, chain), _linger(job, ends)
    share = share or Share()
    slot, number = prepared.slots[share.number], positions.split + share.number

    def opened(values: Prepared) -> StreamReader:
        read = read_order(job, values, first.check)
        return source.stream(
            StreamOrder(
                read,
                slot,
                number,
                positions.parts,
                linger,
                begin,
                told.movement.answered,
                prepared.generation,
                source_key(job.spec, values.survey.mapping),
                job.is_draining,
                job.rules.names_columns,
                share,
                job.workers,
            )
        )

    reader = opened(prepared)
    again = Reread(reader.splits, opened)
    if chain is not None:
        told.remembers(chain, positions.parts)
        again = Reread(reader.splits, partial(KeptReader.of, chain), complete=True)
    reports = Reports(_Commits(reader, told, share, number, chain), movement=told.movement)
    StreamPipelineEngine(
        {slot: reader},
        {slot: writer(job, prepared, ends, slot, again, first, reports, following=_following(job, prepared, reader))},
        steps(prepared, ends.target, job.pipeline, told.nulls),
        first,
        told.movement,
    ).run()


def _following(job: Job, prepared: Prepared, reader: StreamReader) -> Callable[[LetterBox], Overtaking] | None:
    """Return what makes a stream of changes look after those that are dead letters; None of another stream."""
    mapping, token = prepared.survey.mapping, prepared.token
    if not job.rules.changes or token is None or mapping.schema is None or not isinstance(reader, ChangeReading):
        return None
    from catalog.overtaken import Asides

    key = source_key(job.spec, mapping)
    changed = Changed(key, mapping.schema, numbers_of(job.spec, key, prepared.survey.target))
    return lambda box: Overtaking.of(
        changed, reader, job.run, token, lambda: Asides(box.letters, job.uid), job.at_sink, prepared.asides
    )


def gauges_of(
    ends: Ends, positions: Positions, movement: Movement, slot: Callable[[], SlotHealth | None] | None = None
) -> Gauges:
    """Return the gauges of a stream that stands at `positions`; `slot` looks after its slot, if it has one."""
    source = ends.source
    if not isinstance(source, LagReporting):
        return Gauges(movement, dict(positions.parts), slot=slot)
    return Gauges(movement, dict(positions.parts), source.behind, source.lag_unit, slot)


def _begin(
    job: Job,
    generation: int,
    begun: Callable[[Mapping[str, str]], None],
    chain: StatefulChain | None,
    begins: Mapping[str, str],
) -> None:
    """Store where partitions begin that were found while the stream runs."""
    with closing(job.open_target(generation=generation)) as target:
        state = target.state
        assert isinstance(state, StreamState)  # noqa: S101 - checked when the stream began
        with state.owned(generation):
            state.begin(begins)
    begun(begins)
    if chain is not None:
        chain.begin(begins)
