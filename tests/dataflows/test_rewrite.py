"""A split is written again without the rows that the target refuses, each of which is a letter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pyarrow as pa
import pytest

from dataflows.connectors.isolation import RowRefused
from dataflows.data.chunks import REFUSED, Chunk
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from dataflows.runs.rewrite import Decoded, SplitRewriter
from dataflows.transforms.stages import Refusal
from penstock.errors import SchemaMismatch

SPLIT = Split(7, moves=(Move("t/0", "1", "5"),))
FIRST = RowRefused("the first error", where="t")


def batch(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"n": pa.array(values, pa.int64())})


class Target:
    """Takes numbers from 0 on; one above 100 only once the one that is 100 less is there."""

    overtaking = None

    def __init__(self, *chunks: pa.RecordBatch) -> None:
        self.chunks, self.there, self.written, self.letters = chunks, set[int](), list[Chunk](), list[Any]()
        self.said: list[str] = []
        self.moved = 0

    # the reader
    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        for at, data in enumerate(self.chunks):
            yield Chunk(slot, split.number, at, data, data.num_rows, read=data.num_rows)
        rows = sum(one.num_rows for one in self.chunks)
        yield Chunk(slot, split.number, len(self.chunks), None, rows, last=True, read=rows)

    # the writer
    def open(self) -> None:
        self.said.append("open")

    @contextmanager
    def trial(self) -> Iterator[Callable[[pa.RecordBatch], RowRefused | None]]:
        yield self.attempt
        self.said.append("rolled back")

    def attempt(self, data: pa.RecordBatch) -> RowRefused | None:
        given = data["n"].to_pylist()
        for number in given:
            if number < 0 or (number > 100 and number - 100 not in self.there | set(given)):
                return RowRefused("no", where="t", waits=number > 100)
        self.there |= set(given)
        return None

    def write(self, chunk: Chunk) -> None:
        self.written.append(chunk)

    def done(self) -> None:
        self.said.append("done")

    def close(self) -> None:
        self.said.append("close")

    # the chain
    def __call__(self, chunk: Chunk) -> Chunk:
        return chunk

    def dead_letters(self, _source: pa.RecordBatch, refused: list[Refusal]) -> pa.RecordBatch:
        (one,) = refused
        return pa.RecordBatch.from_arrays(
            [
                pa.array(given, kind.type)
                for given, kind in zip((one.rows, [one.step], [one.code], ["r"], ["{}"]), REFUSED, strict=True)
            ],
            schema=REFUSED,
        )

    # the letters
    def put(self, split: int, found: pa.Table, *, instead: bool) -> None:
        self.letters.append((split, found["row"].to_pylist(), instead))

    def rewrite(self) -> None:
        this = cast("Any", self)
        decoded = Decoded(lambda: this, this, None, lambda: this)
        SplitRewriter("00", {7: SPLIT}, lambda: decoded, this, self._move)(7, FIRST)

    def _move(self) -> None:
        self.moved += 1


def rows(target: Target) -> list[int]:
    return [n for one in target.written if one.data is not None for n in cast("Any", one.data)["n"].to_pylist()]


def test_refused_rows_are_letters_and_the_others_are_written_in_one_split() -> None:
    target = Target(batch(1, -1, 2), batch(-2, 3))
    target.rewrite()
    assert (rows(target), target.letters) == ([1, 2, 3], [(7, [1, 3], True)])
    assert target.said == ["open", "close", "rolled back", "done", "close"], "first the reader"
    *chunks, marker = target.written
    assert [(one.slot, one.split, one.sequence, one.rows) for one in chunks] == [("00", 7, 0, 2), ("00", 7, 1, 1)]
    assert marker == Chunk("00", 7, 2, None, 3, last=True, read=5, dead=2, moves=SPLIT.moves)


def test_rows_that_depend_on_others_are_tried_again_as_long_as_one_is_taken() -> None:
    target = Target(batch(201, 101, 1, 301, 555))
    target.rewrite()
    assert (sorted(rows(target)), target.letters) == ([1, 101, 201, 301], [(7, [4], True)])
    target = Target(batch(102), batch(2))
    target.rewrite()
    assert (rows(target), target.letters) == ([2, 102], [])


class Doubling(Target):
    """Makes two rows of each, and refuses those of the number 50 itself."""

    def __call__(self, chunk: Chunk) -> Chunk:
        numbers = cast("Any", chunk.data)["n"].to_pylist()
        kept = [at for at, number in enumerate(numbers) if number != 50]
        wrong = [at for at, number in enumerate(numbers) if number == 50]
        refusals = [self.dead_letters(cast("Any", None), [Refusal([at], "s0", "code", "why")]) for at in wrong]
        return replace(
            chunk,
            data=batch(*(numbers[at] for at in kept for _ in range(2))),
            origins=pa.array([at for at in kept for _ in range(2)], pa.uint32()),
            read=2 * len(kept) + len(wrong),
            refused=pa.Table.from_batches(refusals).combine_chunks().to_batches()[0] if refusals else None,
        )

    def put(self, split: int, found: pa.Table, *, instead: bool) -> None:
        super().put(split, found, instead=instead)
        self.steps = list(zip(found["row"].to_pylist(), found["step"].to_pylist(), strict=True))


def test_each_part_of_a_row_is_a_letter_of_its_own_by_the_rows_number_in_the_split() -> None:
    target = Doubling(batch(50, 1, -1), batch(-2, 50))
    target.rewrite()
    assert rows(target) == [1, 1]
    assert target.steps == [(0, "s0"), (2, "target"), (2, "target (2)"), (4, "s0"), (3, "target"), (3, "target (2)")]
    assert (target.written[-1].read, target.written[-1].dead) == (8, 6)


def test_a_split_without_a_row_left_is_written_empty() -> None:
    target = Target(batch(-1))
    target.rewrite()
    assert target.written == [Chunk("00", 7, 0, None, 0, last=True, read=1, dead=1, moves=SPLIT.moves)]


def test_each_chunk_attempt_and_write_tells_that_it_moves() -> None:
    target = Target(batch(1), batch(2))
    target.rewrite()
    assert target.moved == 3 + 2 + 3


def test_what_cannot_be_decoded_or_tried_fails_with_the_targets_error() -> None:
    def no_values() -> Decoded:
        raise SchemaMismatch("no values")

    def no_trial() -> Decoded:
        this = cast("Any", Target())
        return replace(Decoded(lambda: this, this, None, lambda: this), writer=lambda: cast("Any", object()))

    for decoded in (no_values, no_trial):
        with pytest.raises(RowRefused, match="the first error"):
            SplitRewriter("00", {7: SPLIT}, decoded, cast("Any", None))(7, FIRST)
