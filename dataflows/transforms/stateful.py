"""The chain of a pipeline with steps that remember earlier rows: a chain before each of them, and one after the last.

It has a state, so that it must be given each chunk once, in order. What it made of the splits that are not committed
yet is kept, for a split that has to be written once more without the rows that its target refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from dataflows.data.chunks import Chunk
from dataflows.data.splits import Split
from dataflows.transforms.chain import Chain
from dataflows.transforms.kept import Kept

if TYPE_CHECKING:
    from dataflows.transforms.remembering import Aside, Passed, StatefulStep
    from dataflows.transforms.stages import Refusal

__all__ = ["KeptReader", "Replay", "StatefulChain"]

MADE: Final = 1 << 40
"""Rows that a step has made are numbered from here on: above all that a split can have read."""


@dataclass(slots=True)
class _Flow:
    """A chunk on its way: its rows, their numbers, and the dead letters so far.

    As long as rows come from `source`, the numbers are theirs in it; `first` is the chain that has read it.
    """

    first: Chain
    source: pa.RecordBatch | None
    batch: pa.RecordBatch
    numbers: pa.Array
    letters: list[pa.RecordBatch]
    added: int = 0

    def through(self, chain: Chain) -> None:
        """Pass the rows through a chain."""
        batch, refused, added, origins = chain.traced(self.batch)
        if refused is not None:
            self._keep(refused)
        self.batch, self.added = batch, self.added + added
        self.numbers = self.numbers if origins is None else self.numbers.take(origins)

    def set_aside(self, chain: Chain, refused: Sequence[Refusal]) -> None:
        """Make dead letters of rows; that they leave the chunk is up to the caller."""
        if refused:
            self._keep(chain.dead_letters(self.batch, refused))

    def _keep(self, letters: pa.RecordBatch) -> None:
        """Keep letters whose rows are numbered in the batch, with the values that the source sent, if they are its."""
        rows, values = self.numbers.take(letters.column("row")), letters.column("values")
        if self.source is not None:
            from dataflows.transforms.stages import Refusal

            sent = self.first.dead_letters(self.source, [Refusal(rows.to_pylist(), "", "", "")])
            values = sent.column("values")
        columns = [rows, *letters.columns[1:-1], values]
        self.letters.append(pa.RecordBatch.from_arrays(columns, schema=letters.schema))

    def made(self, batch: pa.RecordBatch, first: int) -> None:
        """Go on with new rows, numbered from `first`."""
        self.source = None
        self.batch, self.numbers = batch, pa.array(range(first, first + batch.num_rows), pa.int64())
        self.added += batch.num_rows

    def only(self, keep: pa.Array) -> None:
        """Go on with some of the rows."""
        self.batch, self.numbers = self.batch.take(keep), self.numbers.take(keep)


@dataclass(slots=True)
class StatefulChain:
    """`chains[0]`, then for each step the step and the next chain."""

    chains: Sequence[Chain]
    steps: Sequence[StatefulStep]
    partitions: Sequence[str] = ()
    """Columns of the source that name the partition of a row, if it has them."""
    kept: dict[int, Kept] = field(default_factory=dict, init=False)
    """The chunks that were made of each split that is not committed."""
    _made: int = field(default=0, init=False)
    """Rows that steps have made in the current split."""

    def __call__(self, chunk: Chunk) -> Chunk:
        if not isinstance(chunk.data, pa.RecordBatch):
            return chunk
        flow = self._mapped(chunk.data)
        letters = [self.chains[0].without_masked(chunk.refused)] if chunk.refused is not None else []
        refused = pa.concat_batches(letters + flow.letters) if letters or flow.letters else None
        rows, read, dead = flow.batch.num_rows, chunk.read + flow.added, 0 if refused is None else refused.num_rows
        done = replace(chunk, data=flow.batch, rows=rows, read=read, dead=dead, refused=refused, origins=None)
        self._keep(done)
        return done

    def _mapped(self, batch: pa.RecordBatch) -> _Flow:
        if self.partitions:
            from dataflows.transforms.remembering import partitions_of

            read = partitions_of(batch, self.partitions).unique().to_list()
            for step in self.steps:
                step.memory.watermark.read(read)
        flow = _Flow(self.chains[0], batch, batch, pa.array(range(batch.num_rows), pa.int64()), [])
        flow.through(self.chains[0])
        for step, chain in zip(self.steps, self.chains[1:], strict=True):
            self._pass(flow, step, chain, step(flow.batch))
        return flow

    def _pass(self, flow: _Flow, step: StatefulStep, chain: Chain, passed: Passed) -> None:
        """Go on with what a step has made of the chunk."""
        flow.set_aside(chain, [_refusal(step, one) for one in passed.aside])
        if passed.rows is not None:
            flow.batch, flow.numbers = passed.batch, flow.numbers.take(passed.rows)
        else:
            flow.made(passed.batch, MADE + self._made)
            self._made += passed.batch.num_rows
        if passed.unfit:
            flow.set_aside(chain, [_overflow(step, passed.unfit)])
            bad = set(passed.unfit)
            flow.only(pa.array([at for at in range(flow.batch.num_rows) if at not in bad], pa.int64()))
        flow.through(chain)

    def end(self, marker: Chunk) -> Chunk:
        """Return the marker with what its split has changed of the state."""
        self._made = 0
        changes = tuple(change for step in self.steps if (change := step.change()) is not None)
        done = replace(marker, state=changes)
        self._keep(done)
        return done

    def _keep(self, done: Chunk) -> None:
        if done.split not in self.kept:
            self.kept[done.split] = Kept()
        self.kept[done.split].add(done)

    def apply(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch | None, int]:
        """Return what the chain makes of all rows there are: windows that are still open end here."""
        flow = self._mapped(batch)
        batches, letters, added = [flow.batch], flow.letters, flow.added
        for at, step in enumerate(self.steps):
            passed = step.flush()
            if passed is None:
                continue
            rest = _Flow(self.chains[0], None, passed.batch, pa.array([], pa.int64()), [])
            self._pass(rest, step, self.chains[at + 1], passed)
            for later, chain in zip(self.steps[at + 1 :], self.chains[at + 2 :], strict=True):
                self._pass(rest, later, chain, later(rest.batch))
            batches, letters, added = [*batches, rest.batch], letters + rest.letters, added + rest.added
        whole = pa.concat_batches(batches)
        return whole, pa.concat_batches(letters) if letters else None, added

    def dead_letters(self, batch: pa.RecordBatch, refused: Sequence[Refusal]) -> pa.RecordBatch:
        """Return rows that the target refused as dead letters; their values are those that it was sent."""
        return self.chains[-1].dead_letters(batch, refused)

    @property
    def again(self) -> Replay:
        """Source of the chunks of a split that is written once more."""
        return Replay(self)

    # -- in a run --

    def load(self, pieces: Mapping[str, Sequence[tuple[int, str]]]) -> None:
        """Restore the state of the steps from their pieces at the sink.

        Raises:
            Refused: the state is of steps with other definitions.
        """
        for step in self.steps:
            step.load(pieces.get(step.name, ()))

    def start(self, partitions: Iterable[str], behind: Callable[[], Mapping[str, int]]) -> None:
        """Begin to read; `behind` returns how much each partition has that is not written yet."""
        names = list(partitions)
        for step in self.steps:
            step.memory.watermark.behind = behind
            if step.memory.by_partition:
                step.memory.watermark.only(names)
        self.begin(names)

    def begin(self, partitions: Iterable[str]) -> None:
        """Wait for rows of these partitions, too."""
        names = list(partitions)
        for step in self.steps:
            step.memory.watermark.begin(names if step.memory.by_partition else [""])

    def committed(self, number: int) -> None:
        """Forget what was made of a split."""
        if (kept := self.kept.pop(number, None)) is not None:
            kept.close()

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return what each step shows of itself."""
        from dataflows.transforms.remembering import shown

        return {
            step.name: {
                "counts": dict(step.counts()),
                "watermark": shown(step.memory.watermark.at),
            }
            for step in self.steps
        }


def _refusal(step: StatefulStep, aside: Aside) -> Refusal:
    from dataflows.transforms.stages import Refusal

    return Refusal(aside.rows, step.name, aside.code, aside.reason)


def _overflow(step: StatefulStep, rows: Sequence[int]) -> Refusal:
    from dataflows.transforms.stages import Refusal

    return Refusal(rows, step.name, "overflow", "a sum has more than 38 digits")


@dataclass(frozen=True, slots=True)
class Replay:
    """Stands for a chain whose chunks have been mapped before."""

    chain: StatefulChain

    def __call__(self, chunk: Chunk) -> Chunk:
        return chunk

    def dead_letters(self, batch: pa.RecordBatch, refused: Sequence[Refusal]) -> pa.RecordBatch:
        return self.chain.dead_letters(batch, refused)


@dataclass(frozen=True, slots=True)
class KeptReader:
    """Reads what a chain has made of a split, which must be complete."""

    chain: StatefulChain

    @classmethod
    def of(cls, chain: StatefulChain, _: object) -> KeptReader:
        """Return the reader, whatever columns are asked for."""
        return cls(chain)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield its chunks."""
        yield from self.chain.kept[split.number]

    def close(self) -> None:
        """Do nothing: there is no session."""
