"""The writer that keeps refused rows, and writes a split again of which the target refuses one."""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa
import pytest

from dataflows.connectors.isolation import RowRefused
from dataflows.data.chunks import Chunk
from dataflows.runs.dead_letters import LetterBox, LetterWriter, letters_of

DEAD = pa.record_batch(
    {"row": [3, 4], "step": ["s", "s"], "code": ["c", "d"], "reason": ["r", "q"], "values": ["{}", "[]"]}
)


class Target:
    """Keeps what is done to it; refuses chunks by number, and in its idle time."""

    def __init__(self, *refused: int, idle: bool = False) -> None:
        self.refused, self.refuses_idle = set(refused), idle
        self.done_: list[Any] = []

    def open(self) -> None:
        self.done_.append("open")

    def write(self, chunk: Chunk) -> None:
        if chunk.sequence in self.refused:
            raise RowRefused("no", where="t")
        self.done_.append(chunk.sequence)

    def idle(self) -> None:
        self.done_.append("idle")
        if self.refuses_idle:
            raise RowRefused("no", where="t")

    def done(self) -> None:
        self.done_.append("done")

    def close(self) -> None:
        self.done_.append("close")

    def put(self, token: str, run: str, split: int, found: Any, *, instead: bool) -> None:
        self.done_.append((token, run, split, [one.row for one in found], instead))


def chunk(sequence: int, refused: pa.RecordBatch | None = None, *, last: bool = False) -> Chunk:
    return Chunk("00", 7, sequence, None, 0, last, refused=refused)


def writer(target: Target, *, complete: bool = False) -> LetterWriter:
    box = LetterBox(cast("Any", lambda: target), "token", "run")
    return LetterWriter(
        cast("Any", target), box, lambda split, error: target.done_.append(("again", split, error.what)), complete
    )


def test_letters_are_kept_before_the_rows_and_sessions_are_closed() -> None:
    target = Target()
    tested = writer(target)
    assert not LetterWriter(tested.inner, tested.box, tested.rewrite).complete
    tested.open()
    for one in (chunk(0), chunk(1, DEAD), chunk(2, DEAD.slice(0, 0)), chunk(3, last=True)):
        tested.write(one)
    tested.idle()
    tested.done()
    tested.box.put(8, DEAD, instead=True)
    tested.close()
    tested.close()
    kept, instead = ("token", "run", 7, [3, 4], False), ("token", "run", 8, [3, 4], True)
    assert target.done_ == ["open", 0, kept, 1, 2, 3, "idle", "done", instead, "close", "close", "close"]


def test_a_split_is_written_again_at_once_and_its_other_chunks_are_skipped() -> None:
    target = Target(1)
    tested = writer(target)
    for one in (chunk(0), chunk(1), chunk(2, DEAD), chunk(3, last=True), chunk(4)):
        tested.write(one)
    assert target.done_ == [0, "close", ("again", 7, "no"), "open", 4]


def test_a_split_that_cannot_be_read_again_is_written_again_once_it_is_whole() -> None:
    target = Target(1)
    tested = writer(target, complete=True)
    for one in (chunk(0), chunk(1), chunk(2, DEAD)):
        tested.write(one)
        tested.idle()
    assert target.done_ == [0, "idle", "close"]
    tested.write(chunk(3, last=True))
    tested.write(chunk(4))
    assert target.done_ == [0, "idle", "close", ("again", 7, "no"), "open", 4]


@pytest.mark.parametrize("complete", [True, False])
def test_what_is_refused_while_it_waits_is_written_again(complete: bool) -> None:
    target = Target(idle=True)
    tested = writer(target, complete=complete)
    tested.write(chunk(0))
    tested.idle()
    again = ["close", ("again", 7, "no"), "open"]
    assert target.done_ == [0, "idle", *(["close"] if complete else again)]
    tested.write(chunk(1, last=True))
    assert target.done_ == [0, "idle", *again]


def test_each_refused_row_is_a_letter() -> None:
    assert [(one.row, one.step, one.code, one.reason, one.values) for one in letters_of(DEAD)] == [
        (3, "s", "c", "r", "{}"),
        (4, "s", "d", "q", "[]"),
    ]
