"""The snapshot that a stream of changes begins with: the rows as they were just before the slot's first change.

The server makes the slot and the snapshot together, so that nothing is missing between them and nothing comes twice.
Several sessions may read it, and one transaction writes it, in place of all rows that the target had: whoever reads the
target sees it as it was, then as the snapshot; and a crash in between leaves nothing to clean up but the slot.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import psycopg
import pyarrow as pa

from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.postgres.cdc.catalog import Shape, publish, published, shape
from dataflows.connectors.postgres.cdc.layouts import check_columns, check_rows, no_key
from dataflows.connectors.postgres.cdc.log import microseconds
from dataflows.connectors.postgres.cdc.names import Names
from dataflows.connectors.postgres.cdc.pieces import Pieces, pieces
from dataflows.connectors.postgres.cdc.positions import PART, PENDING, REBUILD, Position
from dataflows.connectors.postgres.cdc.replication import Replication
from dataflows.connectors.postgres.cdc.slots import check_slot, copy_slot, drop_slot, drop_slots, find, free, written
from dataflows.connectors.postgres.locks import share
from dataflows.connectors.postgres.reader import LOCK_SECONDS, PLACE, PostgresReader
from dataflows.connectors.postgres.session import Session, connect, one_row, release, translated
from dataflows.connectors.postgres.snapshots import GONE, limits
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.streaming import StreamOrder
from dataflows.data.changes import CHANGE, COMMITTED, REPLACE, TRUNCATE, of_table
from dataflows.data.splits import Split
from penstock.errors import Fenced, MissingTable, Refused, Unavailable
from penstock.failpoints import failpoint

__all__ = ["Snapshot"]

_log = logging.getLogger(__name__)

SORTED: Final = 0.9
"""Least correlation of a table's order and its key's with which rows need not be sorted to be written fast."""
SNAPSHOTS: Final = 2
"""Members of a set that read their snapshots at once: each has a slot of its own until then."""
TURN_SECONDS: Final = 0.2
_CORRELATION: Final = "SELECT correlation FROM pg_stats WHERE (schemaname, tablename, attname) = (%s, %s, %s)"


@dataclass
class Snapshot:
    """Beginning of a stream, and the state that it refers to; shared by the readers of a run."""

    dsn: str
    table: TableName
    names: Names
    where: str
    shape: Shape
    kept: int = field(default=0, init=False)
    """Place up to which the sink has the changes."""
    seen: int = field(default=0, init=False)
    """End of what was read when nothing of it was left to write; the position follows now and then."""
    _exported: str = field(default="", init=False)
    """Name of the snapshot: sessions can join it until the one that made it streams changes."""
    _idle: list[Session] = field(default_factory=list, init=False)
    """Sessions that have joined it, and keep the table locked: what they read must not be emptied before `end`."""
    _busy: list[Session] = field(default_factory=list, init=False)
    """Those of them that read."""
    _turn: Session | None = field(default=None, init=False)
    """Session that holds this member's place among those that begin."""
    _marker: str = field(default=TRUNCATE, init=False)
    """Change that begins the rows."""
    _added: dict[str, Any] = field(default_factory=dict, init=False)
    """Values of the columns that each row has in addition to the table's own."""

    def connect(self, check: Callable[[], None]) -> Replication:
        """Return a session for replication."""
        return Replication.connected(self.dsn, self.where, self.names.publication, check)

    def begin(self, one: Replication, order: StreamOrder) -> Position:
        """Make the slot, and open the snapshot that belongs to it; return the position behind it."""
        system, now, columns = one.identify(), self.shape, order.read.columns
        keys = now.keys_of(order.key) if CHANGE in columns else ()
        if CHANGE in columns and not keys:
            raise no_key(self.where)
        with closing(self._connected()) as session:
            drop_slots(session, self.names.uid, None, order.generation, self.where)
            row = publish(session, self.table, self.shape.id, self.names, self.where)
            self._check_same(session)
            name = self.names.slot(order.generation)
            failpoint("cdc.before_slot")
            order.begin({PART: PENDING})  # fails if a newer run has taken over
            lsn, snapshot = one.create(name)
            failpoint("cdc.slot_made")
            try:
                order.begin({PART: PENDING})
            except Fenced:
                drop_slot(session, name, self.where)
                raise
            # No lock is held until here: it would wait with the slot for all open transactions, and block those that
            # wait for it. So what rewrites or empties the table may have come before the snapshot, or after it.
            self._exported, joined = snapshot, self._joined(snapshot)
            self._idle.append(joined)
            for seen_by in (joined, session):  # as the snapshot sees the table, and as it is now
                self._check_same(seen_by)
            self._marker = REPLACE if self._is_sorted(session, order.key) else TRUNCATE
            with translated(self.where):
                at = one_row(session, "SELECT clock_timestamp()")[0]
        self._added = {"_op": "snapshot", "_lsn": lsn, "_seq": 0, "_committed_at": at, COMMITTED: at}
        return Position(
            lsn, system.id, system.timeline, name, now.id, row, now.kept, tuple(of_table(columns)), now.numbered, keys,
            now.file, time=microseconds(at) if COMMITTED in columns else None,
        )  # fmt: skip

    def _check_same(self, session: Session) -> None:
        if shape(session, self.table, self.where) != self.shape:
            raise Unavailable("the table was changed while the stream began", where=self.where, hint="try again")

    def _is_sorted(self, session: Session, key: Sequence[str]) -> bool:
        """True unless rows are known to come in another order than that of the key: a sink has to sort these first.

        In random order, each row would go to another page of the target's index.
        """
        with translated(self.where):
            row = (
                session.execute(_CORRELATION, (self.table.schema, self.table.name, *key[:1])).fetchone()
                if key
                else None
            )
        return row is None or row[0] is None or abs(row[0]) >= SORTED

    def _connected(self) -> Session:
        return connect(self.dsn, where=self.where, name="penstock:source", lock=LOCK_SECONDS, whole=True)

    def _joined(self, snapshot: str) -> Session:
        session = self._connected()
        with translated(self.where):
            try:
                begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
                session.execute(f"{begin}; SET TRANSACTION SNAPSHOT '{snapshot}'")
            except psycopg.Error as error:
                if error.sqlstate not in GONE:
                    raise
                what = "the snapshot that the stream began with is lost"
                raise Unavailable(what, where=self.where, hint="try again") from None
        share(session, self.table, self.where, limits(session, 0))
        with translated(self.where):
            session.execute("SAVEPOINT penstock")
        return session

    def rows(self, order: StreamOrder, decoder: PostgresReader) -> Iterator[Rows]:
        """Yield the rows, behind one that empties the target; also while another pass reads them."""
        assert self._exported  # noqa: S101 - set by `begin`
        schema = decoder.schema
        assert schema is not None  # noqa: S101 - changes are never passed undecoded
        if CHANGE in schema.names:
            yield Rows(pa.RecordBatch.from_pylist([self._added | {CHANGE: self._marker}], schema=schema))
        names = of_table(order.read.columns)
        decoder = replace(decoder, columns=names, schema=pa.schema([schema.field(name) for name in names]), key=PLACE)
        with ExitStack() as passes:
            sessions = [passes.enter_context(self._pass())]
            sessions += self._more(order.readers - 1, passes)
            splits = pieces(sessions[0], self.table, self.where)
            with Pieces(splits, [partial(_read, decoder, one) for one in sessions], decoder.check).begun() as read:
                for part in read:
                    order.moved()
                    yield Rows(self._whole(part.batch, schema), part.refused)

    def _whole(self, rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return rows of the table with the columns that are added to them."""
        count, added = rows.num_rows, schema.names[rows.num_columns :]
        arrays = [pa.repeat(pa.scalar(self._added.get(name), schema.field(name).type), count) for name in added]
        return pa.RecordBatch.from_arrays([*rows.columns, *arrays], schema=schema)

    def _more(self, count: int, passes: ExitStack) -> list[Session]:
        """Return up to `count` more sessions for the same pass: what the server gives, less one that stays free."""
        while len(self._idle) < count:
            try:
                self._idle.append(self._joined(self._exported))
            except Unavailable as error:
                if self._idle:
                    self._idle.pop().close()
                count = len(self._idle)
                told = "%s: the snapshot is read by %d sessions, as the server gives no more: %s"
                _log.warning(told, self.where, count + 1, error.what)
        return [passes.enter_context(self._pass()) for _ in range(count)]

    @contextmanager
    def _pass(self) -> Iterator[Session]:
        """Return a session for one pass: a refused row is looked for in a second pass before the first one has ended.

        One that has not ended leaves its session busy: rows may still arrive.
        """
        session = self._idle.pop() if self._idle else self._joined(self._exported)
        self._busy.append(session)
        yield session
        self._busy.remove(session)
        self._idle.append(session)

    def end(self) -> None:
        """Let the snapshot go."""
        while self._idle:
            release(self._idle.pop())
        while self._busy:
            self._busy.pop().close()

    def start(self, one: Replication, at: Position) -> None:
        """Begin to stream the changes behind a position from its own slot."""
        with closing(self._connected()) as session:
            free(session, at.slot, self.where)
        one.start(at.slot, at.lsn, self.names.publication)

    def check(self, one: Replication, at: Position, generation: int, left_out: Callable[[str], bool]) -> None:
        """Check that the slot of a position still has all that comes next, and drop older ones.

        Raises:
            Refused: the position does not stand on what the server has now; says how much is lost.
        """
        system = one.identify()
        if at.system != system.id:
            what = f"this is another server: the position is one of system {at.system}, this is {system.id}"
            raise Refused(what, where=self.where, hint=REBUILD)
        if at.timeline != system.timeline:
            what = (
                f"the server is on timeline {system.timeline}, and the position on {at.timeline}: it was restored, or "
                "a standby was promoted, and what was written last may be lost"
            )
            raise Refused(what, where=self.where, hint=REBUILD)
        with closing(self._connected()) as session:
            slot = find(session, at.slot, self.where)
            check_slot(slot, at.slot, at.lsn, system.written, self.where, shared=at.slot == self.names.shared)
            now = self._same(session, at)
            check_columns(at, now, self.where, left_out)
            check_rows(at, now, self.where)
            drop_slots(session, self.names.uid, at.slot, generation, self.where)

    def apart(self, at: Position, kept: int, order: StreamOrder) -> Position:
        """Return the same position in a slot of its own, a copy of the shared one, that has all from `kept` on.

        Raises:
            Refused: the shared one does not have it any more.
        """
        name = self.names.slot(order.generation)
        with closing(self._connected()) as session:
            order.begin({PART: str(at)})  # fails if a newer run has taken over
            self._check_kept(session, at.slot, at.slot, kept)
            copy_slot(session, at.slot, name, self.where)
            try:
                self._check_kept(session, name, at.slot, kept)
                order.begin({PART: str(at)})
            except (Fenced, Refused):
                drop_slot(session, name, self.where)
                raise
        return replace(at, slot=name)

    def _check_kept(self, session: Session, name: str, told: str, kept: int) -> None:
        there = written(session, self.where)
        check_slot(find(session, name, self.where), told, kept, there, self.where, shared=True)

    def leave_own(self, generation: int) -> None:
        """Drop the own slots of a stream that reads from the shared one."""
        with closing(self._connected()) as session:
            drop_slots(session, self.names.uid, None, generation + 1, self.where)

    def take_turn(self, check: Callable[[], None], waits: Callable[[], None]) -> None:
        """Wait until few enough members of the set have slots of their own, for their snapshots."""
        if self.names.shared is None:
            return
        self._turn = session = connect(self.dsn, where=self.where, name="penstock:source")
        query = "SELECT pg_try_advisory_lock(hashtext(%s), %s)"
        while True:
            for place in range(SNAPSHOTS):
                with translated(self.where):
                    if one_row(session, query, (self.names.shared, place))[0]:
                        return
            check()
            waits()
            time.sleep(TURN_SECONDS)

    def end_turn(self) -> None:
        """Let the next member begin its snapshot."""
        if self._turn is not None:
            self._turn.close()
            self._turn = None

    def look(self, at: Position) -> Shape:
        """Return the table as it is now.

        Raises:
            Refused, MissingTable: it is another one than that of the position, or is not published as it was.
        """
        with closing(self._connected()) as session:
            return self._same(session, at)

    def written(self) -> int:
        """Return how far the server's WAL is written."""
        with closing(self._connected()) as session:
            return written(session, self.where)

    def _same(self, session: Session, at: Position) -> Shape:
        now = shape(session, self.table, self.where)
        if now is None:
            what = "there is no such table"
            raise MissingTable(what, where=self.where, value=str(self.table), hint="was it dropped?")
        if now.id != at.table:
            raise Refused("the table was dropped and made again", where=self.where, hint=REBUILD)
        if published(session, now.id, self.names, self.where) != at.published:
            what = f"publication {self.names.publication} was dropped, or the table was taken out of it"
            raise Refused(f"{what}: changes since may be lost", where=self.where, hint=REBUILD)
        return now


def _read(decoder: PostgresReader, session: Session, check: Callable[[], None], split: Split) -> Iterator[Rows]:
    """Yield the rows of a piece."""
    for part in replace(decoder, check=check).in_session(session, split):
        assert isinstance(part, Rows)  # noqa: S101 - with a schema, rows are decoded
        yield part
