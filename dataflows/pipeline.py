"""`BatchPipelineEngine`: one Bytewax dataflow, source -> mapping -> sink, that reads, maps and writes concurrently.

Each slot has a reader thread and a writer thread with sessions of their own. Between them and the dataflow are
bounded queues that block when full: this is the backpressure. The first error of any thread stops the flow at once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import bytewax.operators as op
from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from dataflows.connectors.contract import Reader, Writer
from dataflows.connectors.tracing import Tracing
from dataflows.data.chunks import Chunk
from dataflows.data.movement import SINK, SLOW, SOURCE, Movement, eased
from penstock.errors import PenstockError
from penstock.topics.operators import ALWAYS

__all__ = ["BatchPipelineEngine", "FirstError"]

READ_AHEAD: Final = 3
WRITE_BEHIND: Final = 3
IDLE_SECONDS: Final = 0.2
QUIET_SECONDS: Final = 3.0
"""Seconds between two looks of a writer at its session, if no chunk has come for long."""
NAP: Final = 0.001
"""Seconds that the flow waits for a slot without chunks, before it turns to the next one."""
ALONE: Final = 0.1
"""The same where there is no next one: what Bytewax has begun goes on in between. The first error ends the wait."""
QUIET_ALONE: Final = 10.0
"""The same if no chunk has come for long."""
READER_SECONDS: Final = 2.0
"""Longest wait for a reader to cancel its query; a reader that hangs in a dead connection is abandoned."""
EPOCH: Final = timedelta(seconds=10)


@dataclass(slots=True)
class FirstError:
    """The first error of all threads of a flow; `check` raises it."""

    error: BaseException | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waiting: list[queue.Queue[Chunk | _End]] = field(default_factory=list)

    def put(self, error: BaseException) -> None:
        """Store the error if it is the first, and wake what waits for a queue."""
        with self._lock:
            self.error = self.error or error
            for one in self._waiting:
                with suppress(queue.Full):  # then nothing waits for it
                    one.put_nowait(_End())

    def wakes(self, waiting: queue.Queue[Chunk | _End]) -> None:
        """Let an error end the waits for this queue: after each, `check` comes before what was taken."""
        with self._lock:
            self._waiting.append(waiting)

    def check(self) -> None:
        """Raise the error, if any."""
        if self.error is not None:
            raise self.error


class _End:
    """The end of a slot's chunks."""


def _hand_over(to: queue.Queue[Chunk | _End], item: Chunk | _End, first: FirstError) -> None:
    """Put the item into a bounded queue; wait while it is full, and raise the flow's first error if there is one."""
    while True:
        first.check()
        try:
            return to.put(item, timeout=IDLE_SECONDS)
        except queue.Full:
            continue


@dataclass(slots=True)
class _ReaderThread:
    """Reads ahead into a bounded queue."""

    reader: Reader
    first: FirstError
    movement: Movement
    queue: queue.Queue[Chunk | _End] = field(default_factory=lambda: queue.Queue(READ_AHEAD))
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True, name="reader")
        self.thread.start()

    def _run(self) -> None:
        try:
            chunks = iter(self.reader.chunks())
            while not isinstance(item := self._next(chunks), _End):
                _hand_over(self.queue, item, self.first)
            _hand_over(self.queue, item, self.first)
        except BaseException as error:  # noqa: BLE001 - any error has to stop the flow
            self.first.put(error)
        finally:
            self.reader.close()

    def _next(self, chunks: Iterator[Chunk]) -> Chunk | _End:
        with self.movement.wait(SOURCE):
            return next(chunks, _End())


@dataclass(slots=True)
class _WriterThread:
    """Writes the chunks of a bounded queue, and watches its session while the queue is empty."""

    writer: Writer
    first: FirstError
    movement: Movement
    queue: queue.Queue[Chunk | _End] = field(default_factory=lambda: queue.Queue(WRITE_BEHIND))
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True, name="writer")
        self.thread.start()

    def put(self, item: Chunk | _End) -> None:
        _hand_over(self.queue, item, self.first)

    def _run(self) -> None:
        try:
            with self.movement.wait(SINK):
                self.writer.open()
            while not isinstance(item := self._next(), _End):
                with self.movement.wait(SINK, SLOW if item.last else 1.0):
                    self.writer.write(item)
            with self.movement.wait(SINK):
                self.writer.done()
        except BaseException as error:  # noqa: BLE001 - any error has to stop the flow
            self.first.put(error)
        finally:
            self.writer.close()

    def _next(self) -> Chunk | _End:
        began = time.monotonic()
        while True:
            self.first.check()
            try:
                item = self.queue.get(timeout=eased(IDLE_SECONDS, QUIET_SECONDS, time.monotonic() - began))
            except queue.Empty:
                self.writer.idle()
            else:
                self.first.check()
                return item


class _SourcePartition(StatefulSourcePartition[tuple[str, Chunk], None]):
    """Takes the chunks of the reader thread; waits a moment if there are none."""

    def __init__(self, slot: str, ahead: _ReaderThread, first: FirstError, naps: tuple[float, float]) -> None:
        self._slot, self._first, self._ahead, self._naps = slot, first, ahead, naps
        self._came = time.monotonic()
        ahead.start()

    def next_batch(self) -> Iterable[tuple[str, Chunk]]:
        if self._first.error is not None:  # `run` raises it: Bytewax would report a panic, with a backtrace of Rust
            raise StopIteration
        try:
            item = self._ahead.queue.get(timeout=eased(*self._naps, time.monotonic() - self._came))
        except queue.Empty:
            return []
        self._came = time.monotonic()
        if isinstance(item, _End) or self._first.error is not None:
            raise StopIteration
        return [(self._slot, item)]

    def next_awake(self) -> datetime:
        return ALWAYS

    def snapshot(self) -> None:
        return None


class _Source(FixedPartitionedSource[tuple[str, Chunk], None]):
    def __init__(self, readers: Mapping[str, _ReaderThread], first: FirstError) -> None:
        self._readers, self._first = readers, first

    def list_parts(self) -> list[str]:
        return sorted(self._readers)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SourcePartition:
        naps = (NAP, NAP) if len(self._readers) > 1 else (ALONE, QUIET_ALONE)
        return _SourcePartition(for_part, self._readers[for_part], self._first, naps)


class _SinkPartition(StatefulSinkPartition[Chunk, None]):
    """Passes chunks to the writer thread; blocks while its queue is full."""

    def __init__(self, thread: _WriterThread) -> None:
        self._thread = thread

    def write_batch(self, values: list[Chunk]) -> None:
        try:
            for chunk in values:
                self._thread.put(chunk)
        except BaseException as error:  # noqa: BLE001 - `run` raises it, once the source has ended
            self._thread.first.put(error)

    def snapshot(self) -> None:
        return None


class _Sink(FixedPartitionedSink[Chunk, None]):
    def __init__(self, threads: Mapping[str, _WriterThread]) -> None:
        self._threads, self._slots = threads, sorted(threads)

    def list_parts(self) -> list[str]:
        return self._slots

    def part_fn(self, item_key: str) -> int:
        return self._slots.index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SinkPartition:
        self._threads[for_part].start()
        return _SinkPartition(self._threads[for_part])


@dataclass(slots=True)
class BatchPipelineEngine:
    """Runs all slots of one process.

    `readers` and `writers` have the same keys, the slots. `steps` are applied to each chunk in order: the mapping, then
    transforms. `first` may be given from outside, to stop the flow by putting `Stopped` into it; `movement`
    learns of each chunk that was read or written.
    """

    readers: Mapping[str, Reader]
    writers: Mapping[str, Writer]
    steps: Sequence[Callable[[Chunk], Chunk]] = ()
    first: FirstError = field(default_factory=FirstError)
    movement: Movement = field(default_factory=Movement)
    endless: ClassVar[bool] = False

    def dataflow(self, ahead: Mapping[str, _ReaderThread], behind: Mapping[str, _WriterThread]) -> Dataflow:
        """Build the Bytewax dataflow."""
        flow = Dataflow("batch")
        stream: Any = op.input("source", flow, _Source(ahead, self.first))
        for number, step in enumerate(self.steps):
            stream = op.map_value(f"step_{number:02d}", stream, step)
        op.output("sink", stream, _Sink(behind))
        return flow

    def run(self) -> None:
        """Run until every split is committed.

        Raises:
            PenstockError: the first error of any thread; what was committed before stays.
        """
        if not self.readers:
            return
        if (tracing := Tracing.begin(endless=self.endless)) is not None:
            self.readers = {slot: tracing.reader(one) for slot, one in self.readers.items()}
            self.steps = [tracing.step(number, one) for number, one in enumerate(self.steps)]
            self.writers = {slot: tracing.writer(one) for slot, one in self.writers.items()}
        behind = {slot: _WriterThread(writer, self.first, self.movement) for slot, writer in self.writers.items()}
        ahead = {slot: _ReaderThread(reader, self.first, self.movement) for slot, reader in self.readers.items()}
        for waiting in (*(one.queue for one in behind.values()), *(one.queue for one in ahead.values())):
            self.first.wakes(waiting)
        try:
            cli_main(self.dataflow(ahead, behind), epoch_interval=EPOCH)
            for writing in behind.values():
                writing.put(_End())
        except BaseException as error:  # noqa: BLE001 - Bytewax wraps it; its cause is reported
            self.first.put(_cause(error))
        for writing in behind.values():
            if writing.thread is not None:
                writing.thread.join()
        for reading in ahead.values():
            if reading.thread is not None:
                reading.thread.join(READER_SECONDS)
        self.first.check()


def _cause(error: BaseException) -> BaseException:
    """Return the error that Bytewax has wrapped in its own."""
    while error.__cause__ is not None and not isinstance(error, PenstockError):
        error = error.__cause__
    return error
