"""Spans of a flow's chunks: of some of them, when they were read, transformed, written and committed.

A trace stays small however long a run takes: of each slot the first `FIRST` chunks have spans, then those whose number
is a power of two. Of a stream, a split has a trace of its own, which names the run's: one in `SPLIT_SECONDS` at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from dataflows.connectors.contract import Reader, Writer
from dataflows.data.chunks import Chunk
from penstock.errors import PenstockError
from penstock.telemetry import Span, current_traceparent, exporting, open_span

__all__ = ["Tracing"]

FIRST: Final = 16
SPLIT_SECONDS: Final = 10.0

Key = tuple[str, int, int]
"""Slot, split, and the chunk's number in it."""


def is_picked(number: int) -> bool:
    """True if the chunk with this number, from 0, has spans."""
    return number < FIRST or number & (number - 1) == 0


@dataclass(slots=True)
class Tracing:
    """Wraps readers, steps and writers of a flow, so that the chunks that are picked get spans below `parent`."""

    parent: str
    endless: bool
    parents: dict[Key, str] = field(default_factory=dict)
    """Of the chunks that are picked and not yet written: the span that theirs are below."""
    splits: dict[tuple[str, int], Span] = field(default_factory=dict)
    """The open spans of splits of a stream."""

    @classmethod
    def begin(cls, *, endless: bool) -> Tracing | None:
        """Return what traces a flow below the current span; None if no spans are exported."""
        return cls(current_traceparent(), endless) if exporting() else None

    def reader(self, reader: Reader) -> Reader:
        """Return the reader with spans."""
        return _Reader(reader, self)

    def step(self, number: int, step: Callable[[Chunk], Chunk]) -> Callable[[Chunk], Chunk]:
        """Return the step with spans."""

        def traced(chunk: Chunk) -> Chunk:
            with self.of(f"transform {number}", chunk):
                return step(chunk)

        return traced

    def writer(self, writer: Writer) -> Writer:
        """Return the writer with spans."""
        return _Writer(writer, self)

    @contextmanager
    def of(self, name: str, chunk: Chunk, at: int | None = None) -> Iterator[None]:
        """Give what is done with a chunk a span, from `at` on, if the chunk is picked."""
        parent = self.parents.get(_key(chunk))
        opened = open_span(name, parent, at=at, **_about(chunk)) if parent is not None else None
        try:
            yield
        except BaseException as error:
            if opened is not None:
                opened.note(error=error.code if isinstance(error, PenstockError) else type(error).__name__)
            raise
        finally:
            if opened is not None:
                opened.close()

    def pick(self, chunk: Chunk, parent: str) -> None:
        """Let a chunk have spans below `parent`."""
        self.parents[_key(chunk)] = parent

    def written(self, chunk: Chunk) -> None:
        """Forget a chunk, and end its split if it is the last one."""
        self.parents.pop(_key(chunk), None)
        if chunk.last and (split := self.splits.pop((chunk.slot, chunk.split), None)) is not None:
            split.close()


def _key(chunk: Chunk) -> Key:
    return chunk.slot, chunk.split, chunk.sequence


def _about(chunk: Chunk) -> dict[str, str | int]:
    return {
        "slot": chunk.slot,
        "split": chunk.split,
        "chunk": chunk.sequence,
        "rows": chunk.rows,
        "bytes": chunk.size,
    }


@dataclass(slots=True)
class _Reader:
    inner: Reader
    tracing: Tracing
    numbers: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    """Of chunks with rows, and of markers."""
    next_split: float = 0.0

    def chunks(self) -> Iterator[Chunk]:
        chunks, at = iter(self.inner.chunks()), time.time_ns()
        for chunk in chunks:
            self._pick(chunk)
            with self.tracing.of("read", chunk, None if self.tracing.endless else at):
                pass
            yield chunk
            at = time.time_ns()

    def _pick(self, chunk: Chunk) -> None:
        tracing, place = self.tracing, (chunk.slot, chunk.split)
        if tracing.endless and chunk.sequence == 0:
            self.numbers = {False: 0, True: 0}
            self._begin(chunk)
        if tracing.endless and place not in tracing.splits:
            return
        number = self.numbers[chunk.last]
        self.numbers[chunk.last] += 1
        if is_picked(number):
            tracing.pick(chunk, tracing.splits[place].traceparent if tracing.endless else tracing.parent)

    def _begin(self, chunk: Chunk) -> None:
        """Give a split of a stream a trace of its own, if the last one that has is long enough ago."""
        if time.monotonic() < self.next_split:
            return
        opened = open_span("split", None, slot=chunk.slot, split=chunk.split)
        if opened is not None:
            self.next_split = time.monotonic() + SPLIT_SECONDS
            opened.link(self.tracing.parent)
            self.tracing.splits[chunk.slot, chunk.split] = opened

    def close(self) -> None:
        self.inner.close()


@dataclass(slots=True)
class _Writer:
    inner: Writer
    tracing: Tracing

    def open(self) -> None:
        self.inner.open()

    def write(self, chunk: Chunk) -> None:
        with self.tracing.of("commit" if chunk.last else "write", chunk):
            self.inner.write(chunk)
        self.tracing.written(chunk)

    def idle(self) -> None:
        self.inner.idle()

    def done(self) -> None:
        self.inner.done()

    def close(self) -> None:
        self.inner.close()
