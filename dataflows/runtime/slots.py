"""The flow of one process: its slots' readers and writers around one dataflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa

from dataflows.chunks import Chunk
from dataflows.connectors import ReadOrder, Source, SplitReader, Target, WriterOrder
from dataflows.job import Job
from dataflows.pipeline import BatchPipelineEngine, FirstError, Writer
from dataflows.runtime.prepare import Ends, Prepared
from dataflows.runtime.refused import LetterWriter
from dataflows.sinks.state import Counters
from dataflows.splits import Split, of_slot

__all__ = ["run_slots"]


@dataclass(slots=True)
class _SlotReader:
    """All pending splits of a slot, one after the other."""

    slot: str
    splits: tuple[Split, ...]
    reader: SplitReader

    def chunks(self) -> Iterator[Chunk]:
        for split in self.splits:
            yield from self.reader.read(self.slot, split)

    def close(self) -> None:
        self.reader.close()


def run_slots(
    job: Job, prepared: Prepared, ends: Ends, numbers: list[int], first: FirstError,
    committed: Callable[[Counters], None],
) -> None:  # fmt: skip
    """Read, map and write the pending splits of these slots; slots without any are left out.

    Raises:
        PenstockError: the first error; what was committed before stays, and a resume goes on from there.
    """
    mine = {prepared.slots[number]: of_slot(prepared.pending, number, len(prepared.slots)) for number in numbers}
    mine = {slot: splits for slot, splits in mine.items() if splits}
    BatchPipelineEngine(
        {slot: _SlotReader(slot, splits, _reader(job, prepared, ends.source, first)) for slot, splits in mine.items()},
        {slot: _writer(job, prepared, ends.target, slot, first, committed) for slot in mine},
        _steps(prepared, ends.target),
        first,
    ).run()


def _reader(job: Job, prepared: Prepared, source: Source, first: FirstError) -> SplitReader:
    surveyed = prepared.survey
    mapping = surveyed.mapping
    return source.reader(
        ReadOrder(
            surveyed.source, mapping.reads, surveyed.key, mapping.schema, job.batch_rows, first.check, prepared.held
        )
    )


def _steps(prepared: Prepared, target: Target) -> tuple[Callable[[Chunk], Chunk], ...]:
    surveyed = prepared.survey
    if surveyed.mapping.step is None:
        return ()
    finishing = target.finishing(surveyed.columns)
    return (_Summed(surveyed.mapping.step), *((_on_batches(finishing),) if finishing else ()))


@dataclass(slots=True)
class _Summed:
    """A step whose markers tell how many rows of their split the step refused."""

    step: Callable[[Chunk], Chunk]
    dead: dict[str, int] = field(default_factory=dict)

    def __call__(self, chunk: Chunk) -> Chunk:
        if chunk.last:
            return replace(chunk, dead=self.dead.pop(chunk.slot, 0))
        done = self.step(chunk)
        self.dead[chunk.slot] = self.dead.get(chunk.slot, 0) + done.dead
        return done


def _on_batches(change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> Callable[[Chunk], Chunk]:
    def step(chunk: Chunk) -> Chunk:
        return chunk if chunk.data is None else replace(chunk, data=change(chunk.data))

    return step


def _writer(
    job: Job, prepared: Prepared, target: Target, slot: str, first: FirstError, committed: Callable[[Counters], None]
) -> Writer:
    surveyed = prepared.survey
    encoded = not surveyed.mapping.raw
    order = WriterOrder(
        prepared.into, surveyed.columns, encoded, slot, job.run, prepared.generation, first.check, committed
    )
    writer = target.writer(order)
    if prepared.token is None or job.letters is None:
        return writer
    return LetterWriter(writer, job.open_letters, prepared.token, job.run)
