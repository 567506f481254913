"""Reader of a table's changes as a stream: a snapshot first, then whole transactions, folded to splits.

A split ends with a commit, so that the target never has a part of a transaction. The slot moves only up to what the
sink has committed: also where nothing of ours has happened, the position moves there first, by a split without rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import pyarrow as pa

from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.postgres.cdc.company import Company
from dataflows.connectors.postgres.cdc.feed import Feed, FeedLost, Hello
from dataflows.connectors.postgres.cdc.fold import Fold, Layout
from dataflows.connectors.postgres.cdc.layouts import Layouts
from dataflows.connectors.postgres.cdc.log import History, Log
from dataflows.connectors.postgres.cdc.pgoutput import Begin, Change, Commit, Relation, Truncate, parse
from dataflows.connectors.postgres.cdc.positions import (
    HISTORY,
    LOG,
    MIRROR,
    PART,
    PENDING,
    REBUILD,
    Position,
)
from dataflows.connectors.postgres.cdc.replication import Replication, lsn_text
from dataflows.connectors.postgres.cdc.snapshot import Snapshot
from dataflows.connectors.postgres.reader import PostgresReader
from dataflows.connectors.reading import chunks
from dataflows.connectors.streaming import StreamOrder
from dataflows.data.changes import CHANGE, COMMITTED, of_table
from dataflows.data.chunks import Chunk
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import Refused
from penstock.failpoints import failpoint

__all__ = ["ChangeReader", "decoder_of"]

POLL_SECONDS: Final = 0.1
SPLIT_BYTES: Final = 16 << 20
TRANSACTION_BYTES: Final = 256 << 20
"""Longest transaction: it is kept in memory, as it is written whole."""
BLOCK_BYTES: Final = 4 << 20
"""Lines that are decoded at once."""
REPORT_SECONDS: Final = 1.0
"""Seconds between two reports to the server while nothing happens."""
QUIET_SECONDS: Final = 5.0
"""Seconds after which the position moves on although the table has not changed."""
JOINING_SECONDS: Final = 0.5
"""The same on the way to the set's slot."""
JOIN_SECONDS: Final = 10.0
"""Longest wait for the process that reads the set's slot; after it, the slot is copied."""


@dataclass
class ChangeReader:
    """Reads one table. `kept` are the rows of splits that are not committed yet, shared by all readers of a run."""

    order: StreamOrder
    where: str
    snapshot: Snapshot
    layouts: Layouts
    decoder: PostgresReader
    kept: dict[int, list[Rows]]
    company: Company | None = None
    """The other members of its set."""
    splits: dict[int, Split] = field(default_factory=dict, init=False)
    _replication: Replication | Feed | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _confirmed: int = field(default=0, init=False)
    _drain: int | None = field(default=None, init=False)
    """End of the server's WAL when the reader was asked to drain."""
    _open: bool = field(default=False, init=False)
    """True within a transaction."""
    _xid: int = field(default=0, init=False)
    """Its number."""

    # -- the contract --

    def chunks(self) -> Iterator[Chunk]:
        number, at = self.order.first, Position.parse(self.order.positions[PART])
        if at is None:
            self.snapshot.take_turn(self.order.read.check, self.order.moved)
        self._replication = one = self.snapshot.connect(self.order.read.check)
        if at is None:
            at = self.snapshot.begin(one, self.order)
            split = self._opened(Split(number, moves=(Move(PART, PENDING, str(at)),)))
            yield from chunks(self.order.slot, split, self.snapshot.rows(self.order, self.decoder))
            self._await(number)
            self.snapshot.end()
            number += 1
        if at.kind != self._kind:
            what = f"the stream was begun as {at.kind}, and is {self._kind} now"
            raise Refused(what, where=self.where, hint=f"write as before; or {REBUILD}")
        self.layouts.begin(at)
        self.snapshot.check(one, at, self.order.generation, self.layouts.left_out)
        self._confirmed = self.snapshot.kept = at.lsn
        yield from self._changes(one, at, number)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        rows = self.kept.get(split.number)
        if rows is None:
            return chunks(slot, split, self.snapshot.rows(replace(self.order, readers=1), self.decoder))
        return chunks(slot, split, iter(rows))

    def changed(self, number: int) -> list[pa.RecordBatch] | None:
        rows = self.kept.get(number)
        return None if rows is None else [one.batch for one in rows]

    def place(self, number: int) -> str | None:
        at = Position.parse(self.splits[number].moves[0].end)
        return None if at is None else lsn_text(at.lsn)

    def committed(self, number: int) -> None:
        with self._lock:
            for one in [one for one in self.splits if one <= number]:
                at = Position.parse(self.splits[one].moves[0].end)
                self._confirmed = self.snapshot.kept = self._confirmed if at is None else at.lsn
                self.kept.pop(one, None)
                del self.splits[one]

    def close(self) -> None:
        if self._replication is not None:  # another one, which reads a split once more, leaves the snapshot open
            self.snapshot.end()
            self.snapshot.end_turn()
            self._replication.close()
            self._replication = None

    # -- changes --

    def _changes(self, own: Replication, at: Position, number: int) -> Iterator[Chunk]:
        one: Replication | Feed | None = None
        while not self._is_drained(at.lsn):
            self.order.read.check()
            if one is None:
                one = self._streamed(own, at)
            if one is None:
                at, number = yield from self._moved(at, self.snapshot.apart(at, self._confirmed, self.order), number)
                continue
            if self._may_join(at) and (feed := self._asked(at, number)) is not None:
                one.close()
                self._replication = one = feed
                at, number = yield from self._moved(at, replace(at, slot=self._shared), number)
                self._await(number - 1)
                self.snapshot.leave_own(self.order.generation)
                self.snapshot.end_turn()
            try:
                fold, upto = self._gathered(one, at)
            except FeedLost:
                one.close()
                self._open, one = False, None
                continue
            if upto <= at.lsn and not len(fold):
                continue
            moved = self.layouts.position.at(max(upto, at.lsn), fold.time if isinstance(fold, History) else None)
            split = Split(number, moves=(Move(PART, str(at), str(moved)),), times=fold.times)
            failpoint("cdc.gathered", number)
            rows = list(self._rows(fold)) if len(fold) else []
            yield from self._split(split, rows)
            at, number = moved, number + 1
        self._await(number - 1)
        if one is not None:
            with suppress(FeedLost):
                one.confirm(self._confirmed)

    def _split(self, split: Split, rows: list[Rows]) -> Iterator[Chunk]:
        with self._lock:
            self.kept[split.number] = rows
        return chunks(self.order.slot, self._opened(split), iter(rows))

    # -- one slot for several tables --

    @property
    def _shared(self) -> str:
        return self.company.slot if self.company is not None else ""

    def _streamed(self, own: Replication, at: Position) -> Replication | Feed | None:
        """Begin to stream behind a position; None if the shared slot is to be had by a copy only."""
        if at.slot != self._shared:
            one = own if own.fresh else self.snapshot.connect(self.order.read.check)
            self._replication = one
            self.snapshot.start(one, at)
            return one
        own.close()
        assert self.company is not None  # noqa: S101 - its slot is shared
        feed = self.company.joined(self._hello(at), self.order.read.check, JOIN_SECONDS)
        self._replication = feed
        return feed

    def _hello(self, at: Position) -> Hello:
        names = self.snapshot.names
        return Hello(names.uid, self.order.generation, self.snapshot.shape.id, at.lsn, self._confirmed)

    def _may_join(self, at: Position) -> bool:
        return self.company is not None and at.slot != self._shared and self.company.due

    def _asked(self, at: Position, number: int) -> Feed | None:
        """Ask to read from the shared slot, once the sink has all that was read."""
        assert self.company is not None  # noqa: S101 - checked by `_may_join`
        self._await(number - 1)
        found = self.company.asked(self._hello(at), self.order.read.check)
        if found is None:
            self.snapshot.end_turn()
        return found

    def _moved(self, at: Position, to: Position, number: int) -> Generator[Chunk, None, tuple[Position, int]]:
        """Take up the same place in another slot."""
        self.layouts.stream_from(to.slot)
        yield from self._split(Split(number, moves=(Move(PART, str(at), str(to)),)), [])
        return to, number + 1

    # -- transactions --

    def _is_drained(self, upto: int) -> bool:
        """True if the reader was asked to drain, and `upto` is behind all that the server had at that moment."""
        if not self.order.draining():
            return False
        if self._drain is None:
            self._drain = self.snapshot.written()
        return upto >= self._drain

    @property
    def _kind(self) -> str:
        columns = self.order.read.columns
        return LOG if CHANGE not in columns else HISTORY if COMMITTED in columns else MIRROR

    def _empty(self, at: Position) -> Fold | Log:
        """Return what the sink needs of changes, without any yet."""
        columns = self.order.read.columns
        if CHANGE not in columns:
            own = of_table(columns)
            return Log(own, columns[len(own) :])
        return History(self.where, time=at.time or 0) if COMMITTED in columns else Fold(self.where)

    def _gathered(self, one: Replication | Feed, at: Position) -> tuple[Fold | Log, int]:
        """Return the changes of whole transactions, and where the next one may begin."""
        fold, upto = self._empty(at), at.lsn
        entered = begun = time.monotonic()
        full, reported, told = False, 0.0, 0
        while True:
            now = time.monotonic()
            wait = POLL_SECONDS if not len(fold) else max(0.0, min(POLL_SECONDS, begun + self.order.linger - now))
            for data, place in one.messages(wait):
                if not len(fold):
                    begun = time.monotonic()
                upto, full = self._taken(fold, data, place, upto)
                if full:
                    return fold, upto
            self.order.read.check()
            if not (len(fold) or self._open or self.splits):
                self.snapshot.seen = upto
            now = time.monotonic()
            if told != self._confirmed or now - reported >= REPORT_SECONDS:
                told, reported = self._confirmed, now
                one.confirm(told, answer=not self._open)
            if self._open or self.layouts.doubted(upto):
                continue
            if self._is_drained(upto) or (len(fold) and now - begun >= self.order.linger):
                return fold, upto
            if not len(fold) and upto > at.lsn and now - entered >= self._quiet(at):
                self.layouts.check()
                return fold, upto

    def _quiet(self, at: Position) -> float:
        """Return after how many seconds the position moves on; it moves sooner on the way to the shared slot."""
        return QUIET_SECONDS if self.company is None or at.slot == self._shared else JOINING_SECONDS

    def _taken(self, fold: Fold | Log, data: bytes | None, place: int, upto: int) -> tuple[int, bool]:
        """Take one message; return where the next transaction may begin, and whether the split is full."""
        self.order.moved()
        if data is None:
            return (upto, False) if self._open else (max(upto, place), False)
        message = parse(data)
        if isinstance(message, Change):
            if (layout := self.layouts.of(message.relation)) is not None:
                self._add(fold, message, layout)
        elif isinstance(message, Commit):
            self._open = False
            if len(fold):
                fold.committed(message.at)
            full = len(fold) >= self.order.read.batch_rows or fold.size >= SPLIT_BYTES
            return message.end, full
        elif isinstance(message, Begin):
            self._open, self._xid = True, message.xid
            fold.begin(message)
        elif isinstance(message, Relation):
            self.layouts.add(message)
        elif isinstance(message, Truncate) and any(self.layouts.of(one) is not None for one in message.relations):
            fold.truncate()
            self.layouts.emptied(self._xid)
        return upto, False

    def _add(self, fold: Fold | Log, change: Change, layout: Layout) -> None:
        fold.add(change, layout)
        if fold.size > TRANSACTION_BYTES:
            what = f"a transaction has more than {TRANSACTION_BYTES >> 20} MiB of changes, and is written whole or not"
            raise Refused(what, where=self.where, hint=REBUILD)

    def _rows(self, fold: Fold | Log) -> Iterator[Rows]:
        names = of_table(self.order.read.columns)
        key = [names.index(name) for name in self.order.key if name in names]
        lines: list[bytes] = []
        size = 0
        for line in fold.rows() if isinstance(fold, Log) else fold.rows(names, key):
            lines.append(line)
            size += len(line)
            if size >= BLOCK_BYTES or len(lines) >= self.order.read.batch_rows:
                yield from self._decoded(lines)
                lines, size = [], 0
        if lines:
            yield from self._decoded(lines)

    def _decoded(self, lines: list[bytes]) -> Iterator[Rows]:
        return self.decoder.batches(b"\n".join(lines) + b"\n")

    # -- splits --

    def _opened(self, split: Split) -> Split:
        with self._lock:
            self.splits[split.number] = split
        return split

    def _await(self, number: int) -> None:
        """Wait until the sink has this split. The session that made the slot keeps its snapshot readable until then."""
        while any(one <= number for one in list(self.splits)):
            self.order.read.check()
            self.order.moved()
            time.sleep(POLL_SECONDS / 2)


def decoder_of(order: StreamOrder, dsn: str, where: str) -> PostgresReader:
    """Return what decodes lines of CSV as the order wants them."""
    read = order.read
    assert read.schema is not None  # noqa: S101 - changes are never passed undecoded
    return PostgresReader(dsn, read.table, read.columns, None, where, read.batch_rows, read.schema, read.check)
