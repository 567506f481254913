"""A task of kind `deletes`: find the target's rows whose key the source does not have any more; delete or mark them.

The target's keys are listed first, then the source's by one statement, which sees them at one point in time: a row
that was written before the listing is at the source then, unless it was deleted there. No run of the pipeline works in
the meantime: the task has raised the generation, and its one transaction, in which rows are deleted and the result is
recorded, fails if a run has raised it again. A repeat after a crash returns what is recorded, or does all of it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from catalog.current import current_version
from dataflows.connectors.abilities import Pruning
from dataflows.connectors.contract import Target
from dataflows.connectors.publication import recorded
from dataflows.connectors.state import Claim, Loaded, RunRow
from dataflows.data.movement import SLOW
from dataflows.data.splits import slot_names
from dataflows.pipeline import FirstError
from dataflows.runs.comparison import last_run
from dataflows.runs.job import Job
from dataflows.runs.keys import made_by
from dataflows.runs.progress import Progress, telling
from dataflows.runs.publish import superseded
from dataflows.runs.sides import Sides
from dataflows.runs.spill import PARTS, Spill
from dataflows.runs.survey import opened
from penstock.clock import now
from penstock.errors import Fenced, Refused, Unavailable
from penstock.failpoints import failpoint

if TYPE_CHECKING:
    import polars as pl

__all__ = ["deleted", "may_be_gone", "percent"]

AT_ONCE: Final = 10_000
"""Keys that are deleted by one call."""
_MARKED: Final = "_penstock_marked"
_BY: Final = "_penstock_key_"


def deleted(job: Job, task: Mapping[str, Any], progress: Progress, first: FirstError) -> dict[str, Any]:
    """Compare the keys of both sides; return the numbers that go on the log.

    Raises:
        Refused: nothing was loaded yet, a run has not ended, another pipeline writes to the target, the keys of rows
            that the steps refuse are unknown, more keys are gone than may be, or a new version is applied.
        Fenced: a run took over; nothing was changed.
    """
    progress.phase = "deletes"
    with progress.movement.wait("neither source nor sink answered", SLOW), opened(job) as ends:
        sides = Sides.of(job, ends, telling(progress, first))
        first.check()
        claim = ends.target.state.claim(slot_names(job.workers), job.run)
        if isinstance(claim, RunRow):
            return dict(recorded(claim, job.at_sink)["deletes"])
        try:
            result = _compared(sides, ends.target, claim, task)
        except Unavailable as error:
            if superseded(job, claim.generation):  # its sessions were ended
                hint = "nothing was changed: the run carries on"
                raise Fenced("a run took over", where=job.at_sink, hint=hint) from error
            raise
    failpoint("deletes.done")
    return result


def _compared(sides: Sides, target: Target, claim: Claim, task: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the keys, and delete or mark rows."""
    job = sides.job
    _check_loaded(job, claim.loaded)
    _check_made(sides, target)
    _check_alone(job, target)
    if job.mark and sides.written.column(job.mark) is None:
        what, hint = f"the target has no column `{job.mark}` yet", f"penstock run {quote(job.pipeline)} adds it"
        raise Refused(what, where=f"{job.pipeline}: spec.deletes.mark", hint=hint)
    of_task = Path(task["result"]).parent
    for left in of_task.glob("keys-*"):  # of an attempt that was killed
        rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix="keys-", dir=of_task) as folder:
        found = _Keys.of(sides, Path(folder))
        found.check_limit(job, task.get("limit"))
        failpoint("deletes.compared")
        _check_version(job, task)
        return _applied(job, target, claim, found)


def _check_loaded(job: Job, loaded: Loaded) -> None:
    """Refuse a target that does not have all rows, or has some that were loaded in another way.

    Raises:
        Refused: by name.
    """
    where, hint = f"{job.pipeline}: spec.deletes", f"penstock run {quote(job.pipeline)}"
    if loaded.partly:
        raise Refused("the last run has not ended, so not all rows are in the target", where=where, hint=hint)
    if loaded.write not in {job.write, "replace"}:
        what = f"the target was loaded by write: {loaded.write}" if loaded.write else "the target was not loaded yet"
        raise Refused(what, where=where, hint=f"{hint} --full" if loaded.write else hint)


def _check_made(sides: Sides, target: Target) -> None:
    """Refuse to compare keys that are made otherwise than those of the target, since its file has changed.

    Raises:
        Refused: by name.
    """
    last, job = target.state.finished(), sides.job
    before = RunRow.noted(last, "keys")
    if before not in {None, made_by(job, sides.mapping)}:
        what = "the steps make the key otherwise than the runs that loaded the target, so all of it would be gone"
        hint = f"penstock run {quote(job.pipeline)}{' --full' if job.cursor else ''}"
        raise Refused(what, where=f"{job.pipeline}: spec.deletes", hint=hint)


def _check_alone(job: Job, target: Target) -> None:
    """Refuse a target to which another pipeline writes, too.

    Raises:
        Refused: by name.
    """
    where = f"{job.pipeline}: spec.deletes"
    assert isinstance(target, Pruning)  # noqa: S101 - `check_mark` has looked
    if others := target.others():
        what = f"another pipeline writes to {job.sink.object}, too: its rows would be found gone"
        raise Refused(what, where=where, value=others[0], hint="write to a table of its own, or leave `deletes` out")


def _check_version(job: Job, task: Mapping[str, Any]) -> None:
    """Refuse to delete by a file that has been replaced: a run of the new one may have loaded rows that it leaves out.

    Raises:
        Refused: as said.
    """
    mine, current = task.get("version"), current_version(job.letters, job.uid) if job.letters else None
    if mine is not None and current is not None and current > mine:
        what = f"version {current} is applied meanwhile, and the keys were compared by version {mine}"
        hint = f"nothing was changed; penstock deletes {quote(job.pipeline)}"
        raise Refused(what, where=f"{job.pipeline}: spec.deletes", hint=hint)


def _applied(job: Job, target: Target, claim: Claim, found: _Keys) -> dict[str, Any]:
    """Delete or mark rows, and record the result, in one transaction."""
    assert isinstance(target, Pruning)  # noqa: S101 - `check_mark` has looked
    state, at, last, loaded = target.state, now(), target.state.finished(), claim.loaded
    result = {"source_keys": found.source, "target_keys": found.target, "removed": 0, "returned": 0}
    with state.owned(claim.generation):
        _check_alone(job, target)  # one may have begun since the keys were listed
        for batch in found.gone.batches(AT_ONCE):
            result["removed"] += target.prune(batch, at)
        for batch in found.back.batches(AT_ONCE):
            result["returned"] += target.prune(batch, None)
        failpoint("deletes.pruned")
        plan = RunRow(job.run, loaded.write or job.write, loaded.cursor, None, None, state.counters())
        state.write_plan(plan, ())
        kept = {name: RunRow.noted(last, name) for name in ("schemas", "keys")}
        state.finish(job.run, loaded.position, kept | {"deletes": result, "run": last_run(last)})
        failpoint("deletes.applied")
    with state.owned(claim.generation):  # its commit is waited for, and with it the one before
        pass
    return result


class _Keys:
    """The target's keys that are gone from the source, and marked ones that it has again; on disk."""

    def __init__(self, sides: Sides, folder: Path) -> None:
        self._sides, self._folder = sides, folder
        self._types: dict[Any, Any] = {}
        self.gone, self.back = Spill(folder, "gone"), Spill(folder, "back")
        self.source = self.target = 0
        """Number of keys at each side; at the target without marked ones."""

    @classmethod
    def of(cls, sides: Sides, folder: Path) -> _Keys:
        """List the keys of the target, then those of the source, and compare them."""
        found = cls(sides, folder)
        with Spill(folder, "target") as target:
            for batch, keys in found._target_keys():
                target.add(batch, keys.hash_rows(3).to_numpy())
        failpoint("deletes.listed")
        with Spill(folder, "source") as source:
            for keys in found._source_keys() if target.rows else ():
                source.add(_arrow(keys), keys.hash_rows(3).to_numpy())
        found.source = source.rows
        with found.gone, found.back:
            for part in range(PARTS):
                found._compare(part, target.part(part), source.part(part))
        return found

    def check_limit(self, job: Job, approved: float | None) -> None:
        """Refuse if more of the target's keys are gone than may be.

        Raises:
            Refused: with the numbers, and how to approve it.
        """
        deletes = job.spec.deletes
        limit = approved if approved is not None else deletes.limit if deletes is not None else 0
        gone = self.gone.rows
        if may_be_gone(gone, self.target, limit) and (self.source or not gone or limit >= 1):
            return
        share = gone / self.target
        what = f"{gone:,} of {self.target:,} keys ({share * 100:.3g} %) are gone from the source"
        what += ", which has no rows" if not self.source else f", more than {limit * 100:.3g} %"
        approved_by = f"penstock deletes {quote(job.pipeline)} --limit {percent(gone, self.target)}"
        hint = f"nothing was changed; if that is right: {approved_by}"
        raise Refused(what, where=f"{job.pipeline}: spec.deletes.limit", hint=hint)

    def _target_keys(self) -> Iterator[tuple[pa.RecordBatch, pl.DataFrame]]:
        """Yield the target's keys as they are, in one form to compare them by, and whether they are marked."""
        import polars as pl

        sides = self._sides
        key, mark = sides.job.spec.sink.key, sides.job.mark
        for batch in sides.target_batches((*key, *((mark,) if mark else ())), self._unread, at_once=True):
            keys = sides.canonical(pl.DataFrame(pl.from_arrow(batch.select(list(key)))))
            self._types = dict(keys.schema)
            marked = batch.column(mark).is_valid() if mark else pa.array([False] * batch.num_rows)
            self.target += batch.num_rows - (marked.true_count or 0)
            arrays = [*(batch.column(name) for name in key), *_arrow(keys).columns, marked]
            by = [f"{_BY}{number}" for number in range(len(key))]
            yield pa.RecordBatch.from_arrays(arrays, names=[*key, *by, _MARKED]), keys

    def _source_keys(self) -> Iterator[pl.DataFrame]:
        """Yield the keys that the target should have, and those of rows that the steps refuse today."""
        import polars as pl

        sides, key = self._sides, self._sides.job.spec.sink.key
        for batch in sides.source_batches(self._refused, at_once=True):
            made, refused, _ = sides.chain.apply(batch)
            yield self._alike(sides.written_rows(made, key))
            if refused is not None:
                taken = batch.take(refused.column("row"))
                arrays = [taken.column(self._origin(name, refused.num_rows)) for name in key]
                frame = pl.DataFrame(pl.from_arrow(pa.RecordBatch.from_arrays(arrays, names=list(key))))
                yield self._alike(sides.canonical(frame))

    def _alike(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the source's keys with the types of the target's.

        Raises:
            Refused: a value has no such type.
        """
        import polars as pl

        try:
            return keys.cast(dict(self._types.items()))
        except (pl.exceptions.PolarsError, ValueError, TypeError):
            what = "a key of the source is no value of the target's key"
            raise Refused(what, where=f"{self._sides.job.pipeline}: spec.deletes") from None

    def _origin(self, name: str, rows: int) -> str:
        """Return the source's column that a column of the key is a copy of."""
        lineage = self._sides.mapping.lineage.get(name, ((), ()))
        if len(lineage[0]) != 1 or lineage[1]:
            self._refused(rows)
        return lineage[0][0]

    def _unread(self, rows: int) -> None:
        """Refuse to go on without keys of the target.

        Raises:
            Refused: always.
        """
        what = f"{rows:,} rows of the target cannot be read, so nothing can be called gone"
        hint = "correct them there; `penstock check` needs them, too"
        raise Refused(what, where=f"{self._sides.job.pipeline}: spec.deletes", hint=hint)

    def _refused(self, rows: int) -> None:
        """Refuse to go on without the keys of rows.

        Raises:
            Refused: always.
        """
        name = self._sides.job.pipeline
        what = f"{rows:,} rows are refused, so their keys are unknown, and nothing can be called gone"
        raise Refused(what, where=f"{name}: spec.deletes", hint=f"penstock dlq list {quote(name)}")

    def _compare(self, part: int, target: pa.Table | None, source: pa.Table | None) -> None:
        """Keep what differs in one part."""
        import polars as pl

        if target is None:
            return
        by = [f"{_BY}{number}" for number in range(len(self._types))]
        mine = pl.DataFrame(pl.from_arrow(target.select([*by, _MARKED]))).with_row_index("_penstock_row")
        theirs = mine.clear() if source is None else pl.DataFrame(pl.from_arrow(source.rename_columns(by)))
        gone = mine.filter(~pl.col(_MARKED)).join(theirs, on=by, how="anti", nulls_equal=True)
        back = mine.filter(_MARKED).join(theirs, on=by, how="semi", nulls_equal=True)
        for spill, rows in ((self.gone, gone), (self.back, back)):
            if rows.height:
                chosen = target.select(list(self._types)).take(pa.array(rows["_penstock_row"].to_list()))
                for batch in chosen.combine_chunks().to_batches():
                    spill.put(part, batch)


def _arrow(frame: pl.DataFrame) -> pa.RecordBatch:
    (batch,) = frame.to_arrow().combine_chunks().to_batches() or [
        pa.RecordBatch.from_pylist([], schema=frame.to_arrow().schema)
    ]
    return batch


def may_be_gone(gone: int, keys: int, limit: float) -> bool:
    """True if so many of the keys may be gone; 29 of 100 are 29 %, whatever the rounding of 0.29."""
    return gone <= round(limit * keys, 6)


def percent(gone: int, keys: int) -> str:
    """Return the least whole percentage that allows so many of the keys."""
    return f"{-(-gone * 100 // keys)}%"
