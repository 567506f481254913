"""The engine of streams by itself, with sinks that are slow and fail as they like."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.data.chunks import Chunk
from dataflows.pipeline import READ_AHEAD, WRITE_BEHIND
from dataflows.stream import StreamPipelineEngine
from penstock.errors import Unavailable

IN_FLIGHT = READ_AHEAD + WRITE_BEHIND + 3
"""Chunks that are read and not written, at most: in both queues, at the reader, in the flow, at the writer."""


@dataclass
class Sink:
    """Keeps rows and position together, as a transaction does; a whim is how long a write takes, and if it fails."""

    whims: Iterator[tuple[float, bool]]
    rows: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    most: int = 0
    read: int = 0
    written: int = 0
    opened: int = 0
    closed: int = 0

    def begin(self) -> None:
        self.open, self.read, self.written = [], 0, 0


@dataclass
class SimulatedWriter:
    sink: Sink

    def open(self) -> None:
        self.sink.opened += 1

    def write(self, chunk: Chunk) -> None:
        seconds, fails = next(self.sink.whims, (0.0, False))
        time.sleep(seconds)
        if fails:
            raise Unavailable("the sink is away", where="sink")
        if isinstance(chunk.data, pa.RecordBatch):
            self.sink.open += chunk.data.column(0).to_pylist()
        else:
            self.sink.rows += self.sink.open
            self.sink.open = []
        self.sink.written += 1

    def idle(self) -> None:
        pass

    def done(self) -> None:
        assert not self.sink.open

    def close(self) -> None:
        self.sink.closed += 1


@dataclass
class SimulatedReader:
    """Reads on from the sink's position: splits of `size` rows, as fast as it may."""

    sink: Sink
    events: int
    size: int
    closed: bool = False

    def chunks(self) -> Iterator[Chunk]:
        for split, first in enumerate(range(len(self.sink.rows), self.events, self.size), 1):
            numbers = pa.array(range(first, min(first + self.size, self.events)), pa.int64())
            whole = Chunk("00", split, 0, pa.record_batch({"id": numbers}), len(numbers), read=len(numbers))
            for chunk in (whole, replace(whole, sequence=1, data=None, last=True)):
                self.sink.read += 1
                self.sink.most = max(self.sink.most, self.sink.read - self.sink.written)
                yield chunk

    def close(self) -> None:
        self.closed = True


def attempt(sink: Sink, events: int, size: int) -> None:
    """Run the engine from where the sink stands, until all is written or the sink fails."""
    sink.begin()
    reader = SimulatedReader(sink, events, size)
    try:
        StreamPipelineEngine({"00": reader}, {"00": SimulatedWriter(sink)}).run()
    finally:
        assert reader.closed
        assert sink.opened == sink.closed


slow = st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.02])
whims = st.lists(st.tuples(slow, st.sampled_from([False] * 9 + [True])), max_size=60)


@settings(max_examples=25, deadline=None)
@given(whims=whims, events=st.integers(0, 200), size=st.integers(1, 30))
def test_property_11_backpressure_loses_no_event_under_high_load(
    whims: list[tuple[float, bool]], events: int, size: int
) -> None:
    sink = Sink(iter(whims))
    for _ in range(len(whims) + 1):
        try:
            attempt(sink, events, size)
            break
        except Unavailable:
            continue
    assert sink.rows == list(range(events))
    assert sink.most <= IN_FLIGHT


def test_a_sink_that_stands_still_stops_the_reader() -> None:
    sink = Sink(iter([(0.5, False)]))
    attempt(sink, 10_000, 10)
    assert sink.most == pytest.approx(IN_FLIGHT, abs=1)
