"""State of a sink of files, kept in the log of the folder that it writes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from dataflows.connectors.files.log import FolderLog, folder_removed
from dataflows.connectors.files.manifest import Change, Entry, FolderState, Pipeline, StoredRun, row_entry
from dataflows.connectors.state import Claim, Loaded, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import Fenced
from penstock.failpoints import failpoint

__all__ = ["FilesState"]


@dataclass(slots=True)
class FilesState:
    """State of one pipeline between one source object and one folder.

    A run's rows become part of the folder when it finishes: an unfinished `append` that is abandoned leaves none.
    """

    uid: str
    source: str
    log: FolderLog
    where: str
    ending: str
    _changes: list[Change] | None = field(default=None, init=False)
    _seen: FolderState | None = field(default=None, init=False)

    def current(self) -> FolderState:
        """Return the current state; inside `owned`, with the pending changes."""
        return self._seen if self._seen is not None else self.log.refresh()

    def _pipeline(self) -> Pipeline:
        return self.current().pipelines.get(self.uid) or Pipeline()

    def _change(self, **change: Any) -> None:
        if self._changes is None or self._seen is None:
            message = "a change outside of `owned`"
            raise AssertionError(message)
        self._changes.append(change)
        self._seen.apply(Entry(self.uid, self._seen.pipeline(self.uid).generation, "", (change,)))

    def make(self) -> None:
        """Do nothing: the first entry creates the log."""

    def exists(self) -> bool:
        """True if the folder has a log."""
        return self.current().number > 0

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        """Raise the generation: from then on, no entry of an older one is written or counted."""
        ended: RunRow | None = None

        def decide(pipeline: Pipeline) -> tuple[Change, ...]:
            nonlocal ended
            if pipeline.dropped:
                hint = "nothing to do; a pipeline that is applied again starts from the beginning"
                raise Fenced("the pipeline was deleted", where=self.where, hint=hint)
            known = pipeline.runs.get(run)
            ended = known.row if known is not None and known.row.ended else None
            failpoint("prepare.claiming")
            return () if ended else ({"do": "claim"},)

        generation = self._append_as_latest(decide, raises=1)
        if ended is not None:
            return ended
        failpoint("prepare.generation_raised")
        self.log.trim()
        failpoint("prepare.sessions_ended")
        return Claim(generation, self.loaded())

    def _append_as_latest(self, decide: Callable[[Pipeline], tuple[Change, ...]], *, raises: int = 0) -> int:
        """Append what `decide` returns under the latest generation, plus `raises`; return that generation."""
        while True:
            generation = self.log.refresh().pipeline(self.uid).generation
            moved = False

            def decide_if_current(table: FolderState, base: int = generation) -> tuple[Change, ...]:
                nonlocal moved
                pipeline = table.pipeline(self.uid)
                moved = pipeline.generation != base
                return () if moved else decide(pipeline)

            self.log.append(self.uid, generation + raises, decide_if_current)
            if not moved:
                return generation + raises

    def loaded(self) -> Loaded:
        """Return what finished runs have loaded."""
        loaded = self._pipeline().source(self.source)
        return Loaded(loaded["write"], loaded["field"], loaded["cursor"])

    @contextmanager
    def owned(self, generation: int) -> Iterator[None]:
        """Collect changes, and append them as one entry at the end of the context.

        Raises:
            Fenced: a newer run has taken over.
        """
        self.check(self.log.refresh(), generation)
        self._seen, self._changes = deepcopy(self.log.table), []
        try:
            yield
            changes = tuple(self._changes)
        finally:
            self._seen, self._changes = None, None

        def decide(table: FolderState) -> tuple[Change, ...]:
            self.check(table, generation)
            return changes

        self.log.append(self.uid, generation, decide)

    def check(self, table: FolderState, generation: int) -> None:
        """Raise `Fenced` if the generation is not the latest, `Unavailable` if the log has lost it."""
        pipeline = table.pipeline(self.uid)
        if pipeline.generation < generation and not pipeline.dropped:
            raise folder_removed(self.where)
        if pipeline.dropped or pipeline.generation != generation:
            raise Fenced("a newer run took over", where=self.where, hint="nothing to do: the newer run carries on")

    def run(self, run: str) -> RunRow | None:
        """Return the run of that id, or None."""
        stored = self._pipeline().runs.get(run)
        return stored.row if stored else None

    def unfinished(self, run: str) -> RunRow | None:
        """Return another, unfinished run between the same source and folder."""
        runs = (
            one.row
            for name, one in reversed(self._pipeline().runs.items())
            if not one.row.ended and one.source == self.source and name != run
        )
        return next(runs, None)

    def finished(self) -> RunRow | None:
        """Return the latest finished run between the same source and folder."""
        runs = reversed(self._pipeline().runs.values())
        return next((one.row for one in runs if one.row.state == "finished" and one.source == self.source), None)

    def write_plan(self, plan: RunRow, splits: tuple[Split, ...]) -> None:
        """Store the plan of a run. Inside `owned`."""
        bounds = [[one.number, one.lower, one.upper] for one in splits]
        self._change(do="plan", source=self.source, row=row_entry(plan), splits=bounds)

    def take_over(self, older: str, run: str) -> None:
        """Move the splits of an unfinished run to another one, with their files. Inside `owned`."""
        self._change(do="take_over", older=older, run=run)

    def supersede(self, older: str, run: str) -> None:
        """Mark an unfinished run as superseded; its staged files become leftovers. Inside `owned`."""
        self._change(do="supersede", older=older, run=run)

    def mark_partial(self) -> None:
        """Do nothing: the rows of an abandoned run were never part of the folder."""

    def forget(self, run: str) -> None:
        """Delete a run's plan. Inside `owned`."""
        self._change(do="forget", run=run)

    def next_split(self, run: str) -> int:
        """Return the first unused split number of the run."""
        return max(self._stored(run).splits, default=-1) + 1

    def pending(self, run: str) -> tuple[tuple[Split, ...], int]:
        """Return the splits still to do, in order, and the number of all splits."""
        stored = self._stored(run)
        left = sorted(number for number in stored.splits if number not in stored.done)
        return tuple(Split(number, *stored.splits[number]) for number in left), len(stored.splits)

    def files(self, run: str) -> list[dict[str, Any]]:
        """Return the staged files of a run."""
        return self._stored(run).files

    def _stored(self, run: str) -> StoredRun:
        return self._pipeline().runs.get(run) or StoredRun(self.source, RunRow(run, "", None, None, None, Counters()))

    def counters(self) -> Counters:
        """Return the cumulative counters between this source and the folder."""
        return Counters(*self._pipeline().source(self.source)["counters"])

    def committed(self, run: str, generation: int | None) -> Counters | None:
        """Return what an unfinished run has committed so far."""
        pipeline = self._pipeline()
        stored = pipeline.runs.get(run)
        if stored is None or stored.row.ended or generation not in (None, pipeline.generation):
            return None
        return self.counters() - stored.row.base

    def commit(self, run: str, generation: int, split: int, counted: Counters, file: dict[str, Any] | None) -> None:
        """Mark a split as done, with its file and counters, by one entry under the generation.

        Raises:
            Fenced: a newer run has taken over, or has done the split.
        """
        numbers = [getattr(counted, name) for name in COUNTED]
        change: Change = {"do": "commit", "run": run, "split": split, "counted": numbers, "file": file}

        def decide(table: FolderState) -> tuple[Change, ...]:
            self.check(table, generation)
            stored = table.pipeline(self.uid).runs.get(run)
            if stored is None or stored.row.ended or split not in stored.splits or split in stored.done:
                raise Fenced("the split no longer belongs to this run", where=self.where, hint="nothing to do")
            return (change,)

        self.log.append(self.uid, generation, decide)

    def make_positions(self) -> None:
        """Do nothing: they are part of the log."""

    def positions(self) -> dict[str, str]:
        """Return the position of each partition that was begun."""
        return dict(self._pipeline().source(self.source).get("positions", {}))

    def last_split(self) -> int:
        """Return the number of the last committed split of the stream; 0 if there is none."""
        return int(self._pipeline().source(self.source).get("split", 0))

    def past_streams(self) -> dict[tuple[str, str | None], dict[str, str]]:
        """Return the positions of the pipeline's streams into this folder from other objects, by source."""
        sources = self._pipeline().sources.items()
        return {
            (name, None): dict(one["positions"])
            for name, one in sources
            if name != self.source and one.get("positions")
        }

    def begin(self, positions: Mapping[str, str]) -> None:
        """Store where partitions begin; those that have a position keep it. Inside `owned`."""
        self._change(do="begin", source=self.source, positions=dict(positions), anew=False)

    def restart(self, positions: Mapping[str, str]) -> None:
        """Store where partitions begin, in place of all positions so far. Inside `owned`."""
        self._change(do="begin", source=self.source, positions=dict(positions), anew=True)

    def other_streams(self) -> list[str]:
        """Return the other pipelines whose streams write to this folder."""
        found = [(uid, one) for uid, one in self.current().pipelines.items() if uid != self.uid and not one.dropped]
        return sorted(uid for uid, one in found if any("positions" in source for source in one.sources.values()))

    def move(
        self,
        run: str,
        generation: int,
        split: int,
        counted: Counters,
        file: dict[str, Any] | None,
        moves: Sequence[Move],
    ) -> None:
        """Add a split's file to the folder, and move the positions of its partitions, by one entry.

        Raises:
            Fenced: a newer run has taken over, or a partition does not stand at its move's start.
        """
        numbers = [getattr(counted, name) for name in COUNTED]
        parts = [[one.partition, one.start, one.end] for one in moves]
        change: Change = {"do": "move", "run": run, "split": split, "counted": numbers, "file": file, "moves": parts}

        def stands(table: FolderState) -> bool:
            pipeline = table.pipeline(self.uid)
            stored, known = pipeline.runs.get(run), pipeline.source(self.source).get("positions", {})
            here = all(known.get(one.partition) == one.start for one in moves)
            return here and stored is not None and not stored.row.ended

        def decide(table: FolderState) -> tuple[Change, ...]:
            self.check(table, generation)
            if not stands(table):
                raise Fenced("the positions were moved by another run", where=self.where, hint="nothing to do")
            return (change,)

        if not stands(self.log.table):  # another session of this run may have begun a partition
            self.log.refresh()
        self.log.append(self.uid, generation, decide)

    def make_table(self, columns: list[dict[str, Any]]) -> None:
        """Store the folder's columns. Inside `owned`."""
        self._change(do="make", columns=columns, ending=self.ending)

    def unmake_table(self) -> None:
        """Forget the folder's columns, if it has no rows. Inside `owned`."""
        if self.current().is_as_made(self.uid):
            self._change(do="unmake")

    def record_swept(self, paths: list[str]) -> None:
        """Record that replaced files were deleted. Inside `owned`."""
        self._change(do="swept", paths=paths)

    def finish(self, run: str, position: str | None, result: dict[str, Any]) -> None:
        """Add the run's files to the folder, move the cursor, record the result. Inside `owned`."""
        self._change(do="finish", run=run, cursor=position, result=result, ending=self.ending)

    def drop(self) -> None:
        """Delete the pipeline's state, and refuse every later claim."""
        self.drop_with(table=False)

    def drop_with(self, *, table: bool) -> None:
        """Delete the pipeline's state; with `table`, also the folder's rows and columns."""
        self._append_as_latest(lambda pipeline: () if pipeline.dropped else ({"do": "drop", "table": table},))
