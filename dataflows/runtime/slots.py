"""The flow of one process: its slots' readers and writers around one dataflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dataflows.chunks import Chunk
from dataflows.job import Job
from dataflows.pipeline import BatchPipelineEngine, FirstError
from dataflows.runtime.prepare import Prepared, positions_of
from dataflows.sinks.positions import Counters
from dataflows.sinks.postgres import PostgresWriter
from dataflows.sources.postgres import PostgresReader
from dataflows.splits import Split, of_slot

__all__ = ["run_slots"]


@dataclass(slots=True)
class _SlotReader:
    """All pending splits of a slot, one after the other."""

    slot: str
    splits: tuple[Split, ...]
    reader: PostgresReader

    def chunks(self) -> Iterator[Chunk]:
        for split in self.splits:
            yield from self.reader.read(self.slot, split)

    def close(self) -> None:
        self.reader.close()


def run_slots(
    job: Job, prepared: Prepared, numbers: list[int], first: FirstError, committed: Callable[[Counters], None]
) -> None:
    """Read, map and write the pending splits of these slots; slots without any are left out.

    Raises:
        PenstockError: the first error; what was committed before stays, and a resume goes on from there.
    """
    mine = {prepared.slots[number]: of_slot(prepared.pending, number, len(prepared.slots)) for number in numbers}
    mine = {slot: splits for slot, splits in mine.items() if splits}
    mapping = prepared.survey.mapping
    BatchPipelineEngine(
        {slot: _SlotReader(slot, splits, _reader(job, prepared, first)) for slot, splits in mine.items()},
        {slot: _writer(job, prepared, slot, first, committed) for slot in mine},
        (mapping.step,) if mapping.step else (),
        first,
    ).run()


def _reader(job: Job, prepared: Prepared, first: FirstError) -> PostgresReader:
    surveyed = prepared.survey
    mapping = surveyed.mapping
    where = f"{job.at_source}: {job.source}"
    return PostgresReader(
        job.source_dsn, surveyed.source, mapping.reads, surveyed.key, where, job.batch_rows, mapping.schema, first.check
    )


def _writer(
    job: Job, prepared: Prepared, slot: str, first: FirstError, committed: Callable[[Counters], None]
) -> PostgresWriter:
    mapping = prepared.survey.mapping
    where = f"{job.at_sink}: {job.sink}"
    return PostgresWriter(
        job.sink_dsn, prepared.into, mapping.targets, positions_of(job), job.run, prepared.generation, slot, where,
        not mapping.raw, first.check, committed,
    )  # fmt: skip
