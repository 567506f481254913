"""Write the splits of one slot, whatever the system: chunks in order, one commit for each split.

A system gives a `SplitSink`, which exists for as long as its session does; what is the same everywhere is here.
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
from penstock.errors import PenstockError
from penstock.failpoints import failpoint

__all__ = ["OpenSplit", "SplitSink", "SplitWriter", "TrialSink"]


class SplitSink(Protocol):
    """Takes the rows of one split at a time over an open session; its context manager gives up what is uncommitted."""

    def begin(self, split: int, data: Any, /) -> None:
        """Get ready for the split of that number; `data` is that of its first chunk, None where it has no rows."""

    def put(self, data: Any) -> None:
        """Send a chunk's rows: a batch, or undecoded bytes where the target's form allows them.

        Raises:
            RowRefused: the target refused a value.
        """

    def commit(self, split: OpenSplit) -> Counters:
        """Commit the rows, the mark that the split is done and its counters, together; those counters.

        It calls `split.counted` once all rows are sent, and `split.reached` before the fence and after it.

        Raises:
            Fenced: a newer run took over.
            RowRefused: the target refused a row.
        """

    def idle(self) -> None:
        """Raise if the session was lost while no chunk came."""


@runtime_checkable
class TrialSink(Protocol):
    """A sink that raises `RowRefused`, and with which the rows that are refused can be found."""

    def trial(self) -> AbstractContextManager[Attempt]:
        """Send rows on trial, while no split is open: all of them are rolled back at the end of the context."""


@dataclass(slots=True)
class OpenSplit:
    """The split that is being written: what its chunks held so far, and what its marker says."""

    number: int
    where: str
    sequence: int = 0
    rows: int = 0
    bytes: int = 0
    read: int = 0
    dead: int = 0

    def reached(self, point: str) -> None:
        """Name a point of the commit, for tests that stop a process there."""
        failpoint(f"commit.{point}", self.number)

    def counted(self, written: int) -> Counters:
        """The counters of the split: what its marker says was read against the rows that the target says it took.

        Raises:
            PenstockError: they do not add up, which is a defect.
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
    """Writes the chunks of one slot; `opened` connects."""

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
        """End the session; what is not committed is gone. The writer may be opened again."""
        self._sink = self._split = None
        self._stack.close()

    def trial(self) -> AbstractContextManager[Attempt]:
        """Send rows on trial, to find those that the target refuses; nothing of them stays."""
        sink = self._live
        if not isinstance(sink, TrialSink):
            message = "a sink that refuses rows has no `trial`"
            raise TypeError(message)
        return sink.trial()

    def idle(self) -> None:
        """Watch the session while no chunk comes."""
        self._live.idle()

    def write(self, chunk: Chunk) -> None:
        """Send a chunk; the last one of a split commits it.

        Raises:
            Fenced: a newer run took over.
            RowRefused: the target refused a value or a row.
        """
        split = self._split or self._begin_split(chunk)
        if (chunk.split, chunk.sequence) != (split.number, split.sequence):
            message = f"chunk {chunk.split}.{chunk.sequence} came where {split.number}.{split.sequence} was due"
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
        if not self.order.arrow:  # undecoded chunks do not know how many rows they hold
            split.rows = marker.rows
        counted = self._live.commit(split)
        split.reached("done")
        self._split = None
        self.order.committed(counted)
