"""Pieces of a snapshot, read by several sessions at once, and passed on in the order of the table's blocks.

A piece is a range of row locations, exact within one snapshot. In order, since a target that is loaded as rows come
writes its index fast only if they come as one session would send them. What is read ahead is bounded.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.postgres.session import Session, one_row, translated
from dataflows.connectors.postgres.tables import TableName
from dataflows.data.splits import Split
from penstock.errors import Unavailable

__all__ = ["Pieces", "pieces"]

BLOCKS: Final = 512
"""Blocks of a piece: 4 MiB."""
AHEAD: Final = 2
"""Pieces for each session that are begun and not passed on; and parts of each piece that wait."""
POLL_SECONDS: Final = 0.2
END_SECONDS: Final = 2.0
"""Longest wait for a thread to end its query; after it, its session is closed."""


class _Stopped(Exception):
    """The consumer has stopped."""


def pieces(session: Session, table: TableName, where: str) -> Iterator[Split]:
    """Return the ranges of a table's row locations; the last one has no end.

    The table cannot become shorter, as the session has it locked.
    """
    query = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int"
    with translated(where):
        blocks = int(one_row(session, query, (table.sql,))[0])
    count = max(1, blocks // BLOCKS)
    return (Split(at, _place(at) if at else None, _place(at + 1) if at + 1 < count else None) for at in range(count))


def _place(piece: int) -> str:
    """Return the location before the first row of a piece: item numbers begin at 1."""
    return f"({piece * BLOCKS},0)"


_T = TypeVar("_T")
_Read = Callable[[Callable[[], None], Split], Iterator[Rows]]
_Piece = queue.Queue[Rows | None]


@dataclass(slots=True)
class Pieces:
    """Reads `splits` by the `readers`, each in a thread of its own; one reader needs none."""

    splits: Iterator[Split]
    readers: Sequence[_Read]
    check: Callable[[], None]
    _begun: queue.Queue[_Piece | None] = field(init=False)
    """The pieces that are read, in order; None at the end."""
    _next: threading.Lock = field(default_factory=threading.Lock, init=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)
    _error: BaseException | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._begun = queue.Queue(AHEAD * len(self.readers))

    @contextmanager
    def begun(self) -> Iterator[Iterator[Rows]]:
        """Return the rows; at the end of the context nothing is read any more.

        Raises:
            PenstockError: the first error of a reader, or that of `check`.
        """
        if len(self.readers) == 1:
            yield (part for split in self.splits for part in self.readers[0](self.check, split))
            return
        threads = [threading.Thread(target=self._run, args=(one,), daemon=True, name="piece") for one in self.readers]
        for one in threads:
            one.start()
        try:
            yield self._rows()
        finally:
            self._stopped.set()
            for one in threads:
                one.join(END_SECONDS)

    def _rows(self) -> Iterator[Rows]:
        while (piece := self._taken(self._begun)) is not None:
            while (part := self._taken(piece)) is not None:
                yield part

    def _taken(self, one: queue.Queue[_T]) -> _T:
        while True:
            if self._error is not None:
                raise self._error
            self.check()
            try:
                return one.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue

    def _run(self, read: _Read) -> None:
        try:
            while (begun := self._begin()) is not None:
                split, piece = begun
                for part in read(self._check, split):
                    self._put(piece, part)
                self._put(piece, None)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - whoever takes the rows raises it
            self._error = error

    def _begin(self) -> tuple[Split, _Piece] | None:
        """Begin the next piece; None if there is none."""
        with self._next:
            split = next(self.splits, None)
            piece: _Piece | None = None if split is None else queue.Queue(AHEAD)
            self._put(self._begun, piece)
        return None if split is None or piece is None else (split, piece)

    def _put(self, into: queue.Queue[_T], item: _T) -> None:
        while True:
            if self._stopped.is_set():
                raise _Stopped
            try:
                return into.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Unavailable("the snapshot is not read any more", where="snapshot", hint="nothing to do")
        self.check()
