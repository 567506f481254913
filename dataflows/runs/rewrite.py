"""Rewrite a split without the rows that its target has refused, which become dead letters.

This costs nothing as long as no row is refused. If one is, the split is rolled back, read again as decoded rows, and
tried in a transaction that is always rolled back, by halves, until each refused row is known. Then the letters are
stored, and the other rows are written in one commit as usual.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import IO, Any

import pyarrow as pa

from dataflows.connectors.contract import SplitReader, Writer
from dataflows.connectors.isolation import Attempt, RowRefused, refused_rows
from dataflows.connectors.writing import TrialSink
from dataflows.data.chunks import Chunk
from dataflows.data.splits import Split
from dataflows.data.state import StateChange
from dataflows.runs.dead_letters import LetterBox
from dataflows.runs.overtaking import BEHIND
from dataflows.transforms.chain import Chain
from dataflows.transforms.stateful import Replay
from penstock.errors import SchemaMismatch

__all__ = ["Decoded", "SplitRewriter"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Means to read, map and write a split as decoded rows; `finish` brings them to the form that the writer sends."""

    reader: Callable[[], SplitReader]
    chain: Chain | Replay
    finish: Callable[[pa.RecordBatch], pa.RecordBatch] | None
    writer: Callable[[], Writer]


@dataclass(slots=True)
class _Waiting:
    """A refused row that the target may accept once other rows are there."""

    row: pa.RecordBatch
    letter: pa.RecordBatch


@dataclass(slots=True)
class _Trial:
    """Result of a trial: rows to write, spooled to a file, and letters."""

    attempt: Attempt
    decoded: Decoded
    spool: IO[bytes]
    behind: Callable[[pa.RecordBatch], frozenset[int]]
    """Returns the numbers of rows of the source that are refused, whatever the target says."""
    letters: list[pa.RecordBatch] = field(default_factory=list)
    waiting: list[_Waiting] = field(default_factory=list)
    named: set[tuple[int, str]] = field(default_factory=set)
    read: int = 0
    numbered: int = 0
    state: tuple[StateChange, ...] = ()
    _file: Any = field(default=None, init=False)

    def take(self, chunk: Chunk, source: pa.RecordBatch) -> None:
        """Try the rows of a chunk that was read as `source`."""
        mapped = self.decoded.chain(chunk)
        if mapped.refused is not None:
            self.letters.append(self._at(mapped.refused))
        batch: Any = mapped.data if self.decoded.finish is None else self.decoded.finish(mapped.data)
        origins = range(batch.num_rows) if mapped.origins is None else mapped.origins.to_pylist()
        if aside := self.behind(source):
            self.letters += [self._letter(source, number, _behind()) for number in sorted(aside & set(origins))]
            places = [row for row, number in enumerate(origins) if number not in aside]
            batch, origins = batch.take(pa.array(places, pa.int64())), [origins[row] for row in places]
        keep = [True] * batch.num_rows
        for row, error in refused_rows(batch, self.attempt):
            keep[row] = False
            self._refuse(batch.take([row]), self._letter(source, origins[row], error), error)
        self._write(batch if all(keep) else batch.filter(pa.array(keep)))
        self.read += mapped.read
        self.numbered += chunk.read

    def end(self) -> None:
        """Retry the rows that depend on others, all at once and then one by one, until a pass accepts none of them."""
        if len(self.waiting) > 1 and self.attempt(rows := _joined([one.row for one in self.waiting])) is None:
            self._write(rows)
            self.waiting = []
        while self.waiting:
            still = [one for one in self.waiting if not self._taken(one)]
            if len(still) == len(self.waiting):
                break
            self.waiting = still
        self.letters += [one.letter for one in self.waiting]
        if self._file is not None:
            self._file.close()

    def _taken(self, late: _Waiting) -> bool:
        if self.attempt(late.row) is not None:
            return False
        self._write(late.row)
        return True

    def _refuse(self, row: pa.RecordBatch, letter: pa.RecordBatch, error: RowRefused) -> None:
        if error.waits:
            self.waiting.append(_Waiting(row, letter))
        else:
            self.letters.append(letter)

    def _letter(self, source: pa.RecordBatch, number: int, error: RowRefused) -> pa.RecordBatch:
        from dataflows.transforms.stages import Refusal

        refusal = Refusal([number], "target", error.state, error.what)
        return self._at(self.decoded.chain.dead_letters(source, [refusal]))

    def _at(self, letters: pa.RecordBatch) -> pa.RecordBatch:
        """Return the letters with rows numbered within the split; each part of an exploded row gets its own step."""
        rows = [row + self.numbered for row in letters.column("row").to_pylist()]
        steps = [self._step(row, step) for row, step in zip(rows, letters.column("step").to_pylist(), strict=True)]
        return pa.RecordBatch.from_arrays(
            [pa.array(rows), pa.array(steps), *letters.columns[2:]], schema=letters.schema
        )

    def _step(self, row: int, step: str) -> str:
        name, part = step, 1
        while (row, name) in self.named:
            part += 1
            name = f"{step} ({part})"
        self.named.add((row, name))
        return name

    def _write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._file = self._file or pa.ipc.new_stream(self.spool, batch.schema)
            self._file.write_batch(batch)


def _behind() -> RowRefused:
    return RowRefused(BEHIND, where="", state="not_kept")


def _none(source: pa.RecordBatch) -> frozenset[int]:  # noqa: ARG001 - whatever it is
    return frozenset()


@dataclass(frozen=True, slots=True)
class SplitRewriter:
    """Rewrites splits of `slot` without the rows that the target refuses."""

    slot: str
    splits: Mapping[int, Split]
    decoded: Callable[[], Decoded]
    box: LetterBox
    moved: Callable[[], None] = lambda: None
    """Called at each trial and each chunk: a rewrite may take long."""

    def __call__(self, number: int, error: RowRefused) -> None:
        """Rewrite the split of that number, which failed with `error`.

        Raises:
            RowRefused: `error`, if the rows cannot be decoded.
        """
        try:
            decoded = self.decoded()
        except SchemaMismatch:
            raise error from None
        writer = decoded.writer()
        if not isinstance(writer, TrialSink):
            raise error
        with ExitStack() as held:
            held.callback(writer.close)
            writer.open()
            spool = held.enter_context(tempfile.TemporaryFile())
            with writer.trial() as attempt:
                behind = _none if self.box.overtaking is None else self.box.overtaking.behind
                trial = self._tried(_Trial(self._moving(attempt), decoded, spool, behind), self.splits[number])
            if trial.letters:
                self.box.put(number, pa.Table.from_batches(trial.letters), instead=True)
            if self.box.overtaking is not None:
                self.box.overtaking.ends(number)
            for chunk in self._chunks(self.splits[number], trial):
                writer.write(chunk)
                self.moved()
            writer.done()

    def _moving(self, attempt: Attempt) -> Attempt:
        def moving(batch: pa.RecordBatch) -> RowRefused | None:
            found = attempt(batch)
            self.moved()
            return found

        return moving

    def _tried(self, trial: _Trial, split: Split) -> _Trial:
        with closing(trial.decoded.reader()) as reader:
            for chunk in reader.read(self.slot, split):
                self.moved()
                if isinstance(chunk.data, pa.RecordBatch):
                    trial.take(chunk, chunk.data)
                trial.state = chunk.state
            trial.end()
        return trial

    def _chunks(self, split: Split, trial: _Trial) -> Iterator[Chunk]:
        rows = sequence = 0
        for sequence, batch in enumerate(_spooled(trial.spool), start=1):
            yield Chunk(self.slot, split.number, sequence - 1, batch, batch.num_rows)
            rows += batch.num_rows
        dead = sum(one.num_rows for one in trial.letters)
        ends = Chunk(self.slot, split.number, sequence, None, rows, last=True, read=trial.read, dead=dead)
        yield replace(ends, moves=split.moves, state=trial.state)


def _spooled(spool: IO[bytes]) -> Iterator[pa.RecordBatch]:
    if not spool.tell():
        return
    spool.seek(0)
    with pa.ipc.open_stream(spool) as file:
        yield from file


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
