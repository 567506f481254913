"""Write the splits of one slot, in any system: chunks in order, one commit for each split.

Each system provides a `SplitSink`, which lives as long as its session; `SplitWriter` is what all systems share.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.isolation import Attempt
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.positions import Move
from dataflows.data.state import StateChange
from penstock.errors import PenstockError
from penstock.failpoints import failpoint

__all__ = ["OpenSplit", "SplitSink", "SplitWriter", "TrialSink"]


class SplitSink(Protocol):
    """Takes the rows of one split at a time over an open session; its context manager drops what is uncommitted."""

    def begin(self, split: int, data: Any, /) -> None:
        """Begin the split of that number; `data` is that of its first chunk, None if the split has no rows."""

    def put(self, data: Any) -> None:
        """Send a chunk's rows: a batch, or undecoded bytes where the target's form allows them.

        Raises:
            RowRefused: the target refused a value.
        """

    def commit(self, split: OpenSplit) -> Counters:
        """Commit the rows, the mark that the split is done, and its counters, atomically; return the counters.

        It calls `split.counted` once all rows are sent, and `split.reached` before and after the fence.

        Raises:
            Fenced: a newer run took over.
            RowRefused: the target refused a row.
        """

    def idle(self) -> None:
        """Raise if the session was lost while waiting for a chunk."""


@runtime_checkable
class TrialSink(Protocol):
    """A sink that raises `RowRefused`, and can find the refused rows by trial."""

    def trial(self) -> AbstractContextManager[Attempt]:
        """Return a context for trial writes while no split is open; it rolls all of them back at its end."""


@dataclass(slots=True)
class OpenSplit:
    """The split being written: totals of its chunks so far, and the counts of its marker."""

    number: int
    where: str
    sequence: int = 0
    rows: int = 0
    bytes: int = 0
    read: int = 0
    dead: int = 0
    moves: tuple[Move, ...] = ()
    state: tuple[StateChange, ...] = ()

    def reached(self, point: str) -> None:
        """Mark a point of the commit, for tests that stop a process there."""
        failpoint(f"commit.{point}", self.number)

    def counted(self, written: int) -> Counters:
        """Return the counters of the split; `written` is the number of rows that the target reports.

        Raises:
            PenstockError: the counts do not add up, which is a defect.
        """
        filtered = self.read - self.dead - self.rows
        counted = Counters(self.read, written, filtered, self.dead, self.bytes)
        if written != self.rows or not counted.balanced or filtered < 0:
            raise PenstockError(
                f"split {self.number} does not add up: {self.read} rows read, {self.rows} sent, {written} written",
                where=self.where,
                hint="does a trigger or rule of the target drop or add rows? nothing of the split was committed",
            )
        return counted


@dataclass(slots=True)
class SplitWriter:
    """Writes the chunks of one slot; `connect` opens a session."""

    order: WriterOrder
    where: str
    connect: Callable[[], AbstractContextManager[SplitSink]]
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _sink: SplitSink | None = field(default=None, init=False)
    _split: OpenSplit | None = field(default=None, init=False)

    def open(self) -> None:
        """Connect."""
        self._sink = self._stack.enter_context(self.connect())

    def close(self) -> None:
        """End the session and drop what is not committed. The writer may be opened again."""
        self._sink = self._split = None
        self._stack.close()

    def trial(self) -> AbstractContextManager[Attempt]:
        """Return a context for trial writes, to find the rows that the target refuses; nothing is kept."""
        sink = self._live
        if not isinstance(sink, TrialSink):
            message = "a sink that refuses rows has no `trial`"
            raise TypeError(message)
        return sink.trial()

    def idle(self) -> None:
        """Check the session while waiting for a chunk."""
        self._live.idle()

    def write(self, chunk: Chunk) -> None:
        """Send a chunk; the last one of a split commits it.

        Raises:
            Fenced: a newer run took over.
            RowRefused: the target refused a value or a row.
        """
        split = self._split or self._begin_split(chunk)
        if (chunk.split, chunk.sequence) != (split.number, split.sequence):
            message = f"got chunk {chunk.split}.{chunk.sequence}, expected {split.number}.{split.sequence}"
            raise AssertionError(message)
        split.sequence += 1
        if chunk.data is not None:
            self._live.put(chunk.data)
            split.rows += chunk.rows
            split.bytes += chunk.size
            split.reached("mid_copy")
        if chunk.last:
            self._commit(split, chunk)

    def done(self) -> None:
        """Check that no split was left open when the stream ended."""
        if self._split is not None:
            message = f"the stream ended inside split {self._split.number}"
            raise AssertionError(message)

    @property
    def _live(self) -> SplitSink:
        if self._sink is None:
            message = "the writer is not open"
            raise AssertionError(message)
        return self._sink

    def _begin_split(self, chunk: Chunk) -> OpenSplit:
        self._live.begin(chunk.split, chunk.data)
        self._split = OpenSplit(chunk.split, self.where)
        self._split.reached("begin")
        return self._split

    def _commit(self, split: OpenSplit, marker: Chunk) -> None:
        split.read, split.dead = marker.read, marker.dead
        split.moves, split.state = marker.moves, marker.state
        if not self.order.arrow:  # undecoded chunks do not know how many rows they hold
            split.rows = marker.rows
        counted = self._live.commit(split)
        split.reached("done")
        self._split = None
        self.order.committed(counted)
