"""Splits in every system: chunks in order, one commit for each split, and sessions that are always ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pytest

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.reading import chunks
from dataflows.connectors.writing import OpenSplit, SplitWriter
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.splits import Split, between
from penstock.errors import PenstockError, Unreachable

BATCH = pa.RecordBatch.from_pydict({"id": pa.array([1, 2, 3], pa.int32())})


@dataclass
class ListSink:
    """Keeps committed rows in a list, and reports `lost` rows fewer than it wrote."""

    rows: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    ended: int = 0
    lost: int = 0

    @contextmanager
    def opened(self) -> Iterator[ListSink]:
        try:
            yield self
        finally:
            self.ended += 1

    def begin(self, _split: int, _data: Any) -> None:
        self.rows = []

    def put(self, data: pa.RecordBatch) -> None:
        self.rows += data["id"].to_pylist()

    def idle(self) -> None:
        raise Unreachable("the session is gone")

    def commit(self, split: OpenSplit) -> Counters:
        counted = split.counted(len(self.rows) - self.lost)
        self.committed += self.rows
        return counted


def writer(sink: ListSink, reported: list[Counters], *, arrow: bool = True) -> SplitWriter:
    order = WriterOrder("t", (), arrow, "00", "run", 1, lambda: None, reported.append)
    made = SplitWriter(order, "p: connection c", sink.opened)
    made.open()
    return made


def test_a_split_is_committed_at_its_marker_and_counted_once() -> None:
    sink, reported = ListSink(), list[Counters]()
    writes = writer(sink, reported)
    for chunk in chunks("00", Split(4), iter([BATCH, BATCH])):
        assert not sink.committed
        writes.write(chunk)
    writes.done()
    assert (sink.committed, reported) == ([1, 2, 3] * 2, [Counters(6, 6, 0, 0, 2 * BATCH.nbytes)])


def test_a_split_has_no_rows_of_the_one_before() -> None:
    sink, reported = ListSink(), list[Counters]()
    writes = writer(sink, reported)
    for number in (4, 5):
        for chunk in chunks("00", Split(number), iter([BATCH])):
            writes.write(chunk)
    writes.done()
    assert (sink.committed, [one.rows_out for one in reported]) == ([1, 2, 3] * 2, [3, 3])


@pytest.mark.parametrize("wrong", [Chunk("00", 0, 2, BATCH, 3, read=3), Chunk("00", 1, 1, BATCH, 3, read=3)])
def test_a_chunk_out_of_its_order_is_a_defect(wrong: Chunk) -> None:
    sink = ListSink()
    writes = writer(sink, [])
    writes.write(Chunk("00", 0, 0, BATCH, 3, read=3))
    with pytest.raises(AssertionError, match=r"expected 0\.1"):
        writes.write(wrong)
    with pytest.raises(AssertionError, match="ended inside split 0"):
        writes.done()
    assert not sink.committed


@pytest.mark.parametrize(
    ("read", "dead", "lost"), [(3, 0, 1), (3, 0, -1), (2, 0, 0), (3, 1, 0)], ids=["fewer", "more", "read", "dead"]
)
def test_a_split_that_does_not_add_up_is_not_committed(read: int, dead: int, lost: int) -> None:
    sink, reported = ListSink(lost=lost), list[Counters]()
    writes = writer(sink, reported)
    writes.write(Chunk("00", 0, 0, BATCH, 3, read=3))
    with pytest.raises(PenstockError, match="split 0 does not add up"):
        writes.write(Chunk("00", 0, 1, None, 3, last=True, read=read, dead=dead))
    assert not sink.committed
    assert not reported


def test_rows_removed_by_steps_are_counted_as_filtered_or_dead() -> None:
    reported = list[Counters]()
    writes = writer(ListSink(), reported)
    writes.write(Chunk("00", 0, 0, BATCH, 3, read=7))
    writes.write(Chunk("00", 0, 1, None, 7, last=True, read=7, dead=1))
    assert reported == [Counters(7, 3, 3, 1, BATCH.nbytes)]


def test_a_session_is_checked_while_open_and_ended_once() -> None:
    sink = ListSink()
    writes = writer(sink, [])
    with pytest.raises(Unreachable):
        writes.idle()
    writes.close()
    writes.close()
    assert sink.ended == 1
    with pytest.raises(AssertionError, match="not open"):
        writes.idle()


def test_only_a_sink_that_can_be_tried_is_tried() -> None:
    sink = ListSink()
    with pytest.raises(TypeError, match="no `trial`"):
        writer(sink, []).trial()
    tried = sink.opened()
    sink.trial = lambda: tried  # type: ignore[attr-defined]
    assert writer(sink, []).trial() is cast("Any", tried)


def test_a_marker_carries_the_row_count_of_undecoded_splits() -> None:
    found = list(chunks("00", Split(2), iter([memoryview(b"ab"), memoryview(b"c"), 9])))
    assert [(one.sequence, one.rows, one.read, one.last) for one in found] == [
        (0, 0, 0, False),
        (1, 0, 0, False),
        (2, 9, 9, True),
    ]


def test_bounds_split_a_window_into_adjacent_ranges() -> None:
    assert between("a", ["c", "k"], None, 5) == (Split(5, "a", "c"), Split(6, "c", "k"), Split(7, "k", None))
    assert between(None, [], None, 0) == (Split(0),)
