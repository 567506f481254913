"""Flow of one process: a dataflow between the readers and writers of its slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import pyarrow as pa

from dataflows.connectors.contract import ReadOrder, SplitReader, Target, Writer, WriterOrder
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.movement import Movement
from dataflows.data.nulls import Nulls
from dataflows.data.splits import Split, of_slot
from dataflows.pipeline import BatchPipelineEngine, FirstError
from dataflows.runs.dead_letters import LetterBox, LetterWriter
from dataflows.runs.job import Job
from dataflows.runs.null_counts import counting
from dataflows.runs.overtaking import Overtaking
from dataflows.runs.prepare import Prepared
from dataflows.runs.rewrite import Decoded, SplitRewriter
from dataflows.runs.survey import Ends, decoded_mapping
from dataflows.transforms.chain import Chain
from dataflows.transforms.stateful import StatefulChain
from penstock.errors import BadData

__all__ = ["Reports", "Reread", "read_order", "run_slots", "steps", "writer"]


@dataclass(slots=True)
class _SlotReader:
    """Reader of the pending splits of a slot, one after the other."""

    slot: str
    splits: tuple[Split, ...]
    reader: SplitReader

    def chunks(self) -> Iterator[Chunk]:
        for split in self.splits:
            yield from self.reader.read(self.slot, split)

    def close(self) -> None:
        self.reader.close()


@dataclass(frozen=True, slots=True)
class Reports:
    """What a flow reports: each commit, the release of the common snapshot, each movement, and NULLs by column."""

    committed: Callable[[Counters], None]
    released: Callable[[], None] = lambda: None
    movement: Movement = field(default_factory=Movement)
    nulls: Nulls = field(default_factory=Nulls)


def run_slots(
    job: Job,
    prepared: Prepared,
    ends: Ends,
    numbers: list[int],
    first: FirstError,
    reports: Reports,
) -> None:
    """Read, map and write the pending splits of these slots; slots without any are left out.

    Raises:
        PenstockError: the first error; committed splits stay, and a resume continues from there.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # mimalloc keeps freed memory: 17 % more, and no faster
    mine = {prepared.slots[number]: of_slot(prepared.pending, number, len(prepared.slots)) for number in numbers}
    mine = {slot: splits for slot, splits in mine.items() if splits}
    source, order = ends.source, read_order(job, prepared, first.check, reports.released)

    def again(values: Prepared) -> SplitReader:
        return source.reader(read_order(job, values, first.check))

    BatchPipelineEngine(
        {slot: _SlotReader(slot, splits, source.reader(order)) for slot, splits in mine.items()},
        {
            slot: writer(
                job,
                prepared,
                ends,
                slot,
                Reread({one.number: one for one in splits}, again),
                first,
                reports,
                alone=len(mine) == 1,
                empties=job.shadowed and prepared.planned == 1 and _is_large(prepared),
            )
            for slot, splits in mine.items()
        },
        steps(prepared, ends.target, job.pipeline, reports.nulls),
        first,
        reports.movement,
    ).run()


LARGE: Final = 50_000
"""Rows from which it pays to empty the load table first, although that creates new files."""


def _is_large(prepared: Prepared) -> bool:
    return prepared.survey.source.estimated_rows >= LARGE


def _ignore() -> None:
    """Default callback; does nothing."""


def read_order(
    job: Job, prepared: Prepared, check: Callable[[], None], released: Callable[[], None] = _ignore
) -> ReadOrder:
    """Return the order for a reader of the run."""
    surveyed = prepared.survey
    mapping = surveyed.mapping
    return ReadOrder(
        surveyed.source,
        mapping.reads,
        surveyed.key,
        mapping.schema,
        job.batch_rows,
        check,
        prepared.held,
        mapping.as_text,
        released,
    )


def steps(prepared: Prepared, target: Target, pipeline: str, nulls: Nulls) -> tuple[Callable[[Chunk], Chunk], ...]:
    """Return the steps between reader and writer: mapping, transforms, checks, and the form that the writer sends.

    `nulls` counts those of each column that is written.
    """
    mapping = prepared.survey.mapping
    counts = counting(nulls, mapping.targets, text=mapping.as_text)
    if mapping.chain is None:
        return (counts,)
    finishing = target.finishing(mapping.columns)
    keeps = prepared.token is not None
    return (_CountingStep(mapping.chain, keeps, pipeline), counts, *((_on_batches(finishing),) if finishing else ()))


@dataclass(slots=True)
class _CountingStep:
    """Step that counts refused and added rows for the marker of each split, and numbers refused rows within it."""

    step: Chain | StatefulChain
    keeps: bool
    """True if refused rows can be stored; otherwise the first of them fails the run."""
    where: str
    seen: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Rows read, refused and added so far in the current split, by slot."""

    def __call__(self, chunk: Chunk) -> Chunk:
        read, dead, added = self.seen.pop(chunk.slot, (0, 0, 0))
        if chunk.last:
            return self.step.end(replace(chunk, read=chunk.read + added, dead=dead))
        done = self.step(chunk)
        if done.refused is not None:
            done = replace(done, refused=self._numbered(done.refused, read))
        self.seen[chunk.slot] = (read + chunk.read, dead + done.dead, added + done.read - chunk.read)
        return done

    def _numbered(self, refused: pa.RecordBatch, read: int) -> pa.RecordBatch:
        if not self.keeps:
            step, reason = refused.column("step")[0].as_py(), refused.column("reason")[0].as_py()
            reason = reason.partition(", got ")[0]  # a run's error contains no value of a row
            raise BadData(
                f"step `{step}` cannot take a row: {reason}", where=self.where, hint="look at the source's rows"
            )
        import pyarrow.compute as pc

        rows = pc.add(refused.column("row"), read)
        return pa.RecordBatch.from_arrays([rows, *refused.columns[1:]], schema=refused.schema)


def _on_batches(change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> Callable[[Chunk], Chunk]:
    def step(chunk: Chunk) -> Chunk:
        return chunk if chunk.data is None else replace(chunk, data=change(chunk.data))

    return step


@dataclass(frozen=True, slots=True)
class Reread:
    """Means to read a slot's splits once more, without the rows that the target refuses."""

    splits: Mapping[int, Split]
    reader: Callable[[Prepared], SplitReader]
    complete: bool = False
    """True if it gives what the flow has made of a split: all of it only once the split's marker was made."""


def writer(  # noqa: PLR0913 - what a slot consists of
    job: Job,
    prepared: Prepared,
    ends: Ends,
    slot: str,
    again: Reread,
    first: FirstError,
    reports: Reports,
    *,
    alone: bool = False,
    empties: bool = False,
    following: Callable[[LetterBox], Overtaking] | None = None,
) -> Writer:
    """Return the writer of a slot, which stores refused rows as dead letters if the run keeps any.

    `following` makes what a stream of changes has to know of those that are letters.

    It is `alone` if nothing else uses the target while it is open; for `empties` see `WriterOrder`.
    """
    plain = ends.target.writer(_order(job, prepared, slot, first, reports.committed, alone=alone, empties=empties))
    if prepared.token is None or job.letters is None:
        return plain
    box = LetterBox(job.open_letters, prepared.token, job.run)
    box.overtaking = None if following is None else following(box)

    def decoded() -> Decoded:
        surveyed = replace(prepared.survey, mapping=decoded_mapping(job, prepared.survey))
        values = replace(prepared, survey=surveyed)
        mapping, order = surveyed.mapping, _order(job, values, slot, first, reports.committed, alone=alone)
        assert mapping.chain is not None  # noqa: S101 - decoded rows are always mapped
        return Decoded(
            lambda: again.reader(values),
            mapping.chain.again,
            ends.target.finishing(mapping.columns),
            lambda: ends.target.writer(order),
        )

    rewriter = SplitRewriter(slot, again.splits, decoded, box, reports.movement.moved)
    return LetterWriter(plain, box, rewriter, again.complete)


def _order(
    job: Job,
    prepared: Prepared,
    slot: str,
    first: FirstError,
    committed: Callable[[Counters], None],
    *,
    alone: bool,
    empties: bool = False,
) -> WriterOrder:
    surveyed = prepared.survey
    arrow = not surveyed.mapping.raw
    return WriterOrder(
        prepared.into,
        surveyed.mapping.columns,
        arrow,
        slot,
        job.run,
        prepared.generation,
        first.check,
        committed,
        surveyed.version,
        {name: of[0] for name, (of, _) in surveyed.mapping.lineage.items() if len(of) == 1},
        alone,
        empties,
        job.standing,
    )
