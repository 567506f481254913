"""Writer that copies chunks by COPY, with one commit for each split, fenced by the run's generation.

A split's rows, its mark as done and its counters are one transaction. The last statement is the fence; it is sent in
one message with the COMMIT, so that a stop or death of this process cannot separate them.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
from psycopg import pq

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.isolation import Attempt, RowRefused
from dataflows.connectors.postgres.append import Append
from dataflows.connectors.postgres.apply import Apply, new_rows, replaces
from dataflows.connectors.postgres.encodings import Encoder, encoder, has_binary_form
from dataflows.connectors.postgres.history import History
from dataflows.connectors.postgres.interference import Definition, check_merged
from dataflows.connectors.postgres.merge import STAGE, Merge
from dataflows.connectors.postgres.own_session import OwnSession
from dataflows.connectors.postgres.session import (
    NOT_WAITED_FOR,
    Session,
    connect,
    finish,
    next_result,
    one_message,
    one_row,
    release,
    result_error,
    send,
    translated,
)
from dataflows.connectors.postgres.state import PostgresState, session_name
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.postgres.wire import Deframer, framed, plain, put_messages
from dataflows.connectors.sql.names import quoted
from dataflows.connectors.writing import OpenSplit
from dataflows.data.changes import CHANGE
from dataflows.data.counters import Counters
from dataflows.data.types import as_text, column_type
from penstock.errors import PenstockError, Refused, Unreachable

__all__ = ["PostgresSink"]

LOCK_SECONDS: Final = 20.0
PIECE: Final = 1 << 20
_NOT_FREE: Final = {"23505", "23P01"}
"""States of a row whose value of a unique key another row has."""
EMPTY_COPY: Final = b"PGCOPY\n\xff\r\n\x00" + b"\x00" * 8 + b"\xff\xff"
"""Header and trailer of a binary COPY without rows."""


@dataclass(slots=True)
class _Copy:
    """Open COPY of a split."""

    binary: bool
    encoder: Encoder | None = None
    deframer: Deframer = field(default_factory=Deframer)


@dataclass(slots=True)
class PostgresSink:
    """Copies rows over one session, which has the generation in its name.

    The order's check is called while it waits for the server; an error that it raises ends the write.
    """

    session: Session
    state: PostgresState
    order: WriterOrder
    where: str
    into: TableName
    merge: Merge | Append | Apply | History | None
    plain: bool
    """True if rows may use the socket directly, bypassing libpq."""
    definition: Definition
    """The target as it was when the session began; its triggers and rules may drop or change written rows."""
    _copy: _Copy | None = field(default=None, init=False)
    _unlogged: bool = False
    """True if rows that go into a table which the same transaction has emptied need not go to the server's log, too."""
    _emptied: bool = field(default=False, init=False)
    """True if a trial has emptied the target."""
    _loads: bool = field(default=False, init=False)
    """True if the split's rows are new to a target without rows, and go there without being staged."""

    @classmethod
    @contextmanager
    def opened(
        cls,
        dsn: str,
        state: PostgresState,
        order: WriterOrder,
        where: str,
        merge: Merge | Apply | History | None,
        own: OwnSession | None,
    ) -> Iterator[PostgresSink]:
        """Return a sink with a session of its own, or with the target's: `own`, unless that is in use.

        At the end of the context an open transaction is rolled back.
        """
        name = session_name(state.uid, order.generation)
        with ExitStack() as stack:
            session = stack.enter_context(own.lent(name)) if own is not None else None
            if session is None:
                session = connect(dsn, where=where, name=name, lock=LOCK_SECONDS)
                stack.callback(release, session)
            if merge is not None and merge.tombstones is not None:
                with translated(where), session.transaction():
                    session.execute("SELECT pg_advisory_xact_lock(hashtext('penstock.positions'))")
                    session.execute(merge.tombstones.make(order.columns, lambda column: column.type))
            into = TableName.parse(order.into)
            there = Definition.of(session, into, order.columns, where, copies=merge is None)
            there.check_planned(order.columns, where)
            how = Append(into, order.columns) if there.interferers and merge is None else merge
            how = how.on(session, where) if isinstance(how, Apply) else how
            unlogged = order.empties and how is None and into != state.sink and _logs_little(session, where)
            yield cls(session, state, order, where, into, how, plain(session), there, unlogged)

    def begin(self, split: int, data: pa.RecordBatch | memoryview | None) -> None:
        self._begin()
        if self._unlogged:
            self._say(f"TRUNCATE {self.into.sql}")
        self._loads = self._can_load(data)
        self._begin_copy(data)

    def _begin(self) -> None:
        self._loads = False
        # What is in a shadow table counts once it is published, by a commit that waits.
        self._say("BEGIN" if self.into == self.state.sink else f"BEGIN; {NOT_WAITED_FOR}")
        if self.merge is not None:
            self._say(self.merge.begin)

    def _can_load(self, data: pa.RecordBatch | memoryview | None) -> bool:
        """True for a snapshot, if the target has neither rows nor triggers and rules, which need staged rows."""
        if not (isinstance(self.merge, Apply) and replaces(data)) or self.definition.interferers:
            return False
        return self.merge.is_empty(self.session, self.where)

    def _begin_copy(self, data: pa.RecordBatch | memoryview | None) -> None:
        copied = [one.name for one in self.order.columns if not (self._loads and one.name == CHANGE)]
        names = ", ".join(map(quoted, copied))
        form = self._form(data)
        table = self.into if self.merge is None or self._loads else STAGE
        statement = f"COPY {table.sql} ({names}) FROM STDIN (FORMAT {form})"
        send(self.session, statement, pq.ExecStatus.COPY_IN, self.where, self.order.check)
        self.session.pgconn.nonblocking = 1
        self._copy = _Copy(binary=form == "binary")

    def _say(self, statements: str) -> None:
        one_message(self.session, statements, self.where, check=self.order.check)

    def _form(self, data: pa.RecordBatch | memoryview | None) -> str:
        """Return the format of COPY for a split's chunks, by its first chunk."""
        if not self.order.arrow:
            return "text" if any(map(as_text, self.order.columns)) else "binary"
        if data is None or isinstance(data, memoryview):
            return "binary"
        kinds = {column.name: column_type(column) for column in self.order.columns}
        return "binary" if has_binary_form(kinds, data.schema) else "csv"

    def idle(self) -> None:
        """Raise if the server has ended the session, or refused data.

        During a COPY the server sends only errors, and libpq reads them only at its end, so the COPY is aborted as soon
        as there is anything to read. Only the first result is waited for: if a message was cut off, the server never
        becomes ready again.
        """
        connection = self.session.pgconn
        if not select.select([connection.socket], [], [], 0)[0]:
            return
        with translated(self.where):
            connection.consume_input()
            if self._copy is not None:
                connection.put_copy_end(b"aborted: the server has sent an error")
        if self._copy is not None:
            self._flush()
            with translated(self.where):
                result = next_result(self.session, self.order.check)
            if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                raise result_error(result, self.where)
        if connection.status != pq.ConnStatus.OK or self._copy is not None:
            raise Unreachable("the session was ended by the server", where=self.where, hint="try again")

    def put(self, data: pa.RecordBatch | memoryview) -> None:
        copy = self._copying
        if isinstance(data, memoryview):
            if self.plain:
                put_messages(self.session, data, self.order.check, self.where)
            else:
                self._put(copy.deframer(data))
            return
        data = new_rows(data) if self._loads else data
        if copy.encoder is None:
            copy.encoder = encoder(data.schema, binary=copy.binary)
            self._put(copy.encoder.write_header())
        self._put(copy.encoder.write_batch(data))

    @property
    def _copying(self) -> _Copy:
        if self._copy is None:
            message = "no COPY is open"
            raise AssertionError(message)
        return self._copy

    def _put(self, data: bytes) -> None:
        if self.plain:
            put_messages(self.session, framed(data), self.order.check, self.where)
            return
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            with translated(self.where):
                self.session.pgconn.put_copy_data(view[start : start + PIECE])
            self._flush()

    def _flush(self) -> None:
        """Wait until all data is sent; read what the server sends in the meantime."""
        connection = self.session.pgconn
        while True:
            with translated(self.where):
                if not connection.flush():
                    return
            readable, writable, _ = select.select([connection.socket], [connection.socket], [], 0.2)
            if readable:
                with translated(self.where):
                    connection.consume_input()
            if not writable:
                self.order.check()

    def commit(self, split: OpenSplit) -> Counters:
        written = self._end_copy() + int(self._loads)  # the row that began it
        split.reached("copied")
        counted = split.counted(written)
        if self.merge is not None and not self._loads:
            self._end_changes(self.merge, split.number)
            if self.definition.interferers:
                check_merged(self.session, self.merge.unlike, self.definition.interferers, self.where)
        self._check_unaltered()
        for statement in self.state.keeping(split.number, split.state):
            self._say(statement)
        split.reached("before_fence")
        order = self.order
        if order.standing is not None:
            self._say(self.state.holding(order.standing.uid))
            order.standing.check(split.number)
        fence = self.state.fence(order.slot, split.number, order.run, order.generation, counted, split.moves)
        statements, sent = f"{fence}; COMMIT", lambda: split.reached("sent")
        one_message(self.session, statements, self.where, check=order.check, sent=sent)
        return counted

    def _end_changes(self, merge: Merge | Append | Apply | History, split: int) -> None:
        """Move the staged rows into the target; a history does not take what a stream has overtaken meanwhile."""
        try:
            self._end_merge(merge)
        except Refused:
            if self.order.standing is not None:
                self.order.standing.check(split)
            raise

    def _check_unaltered(self) -> None:
        """Raise Unavailable if the target is not what the rows were made for."""
        copies = self.merge is None or isinstance(self.merge, Append)
        found = Definition.of(self.session, self.into, self.order.columns, self.where, copies=copies)
        self.definition.check(found, self.where)

    def _end_merge(self, merge: Merge | Append | Apply | History, *, trial: bool = False) -> None:
        """Move the staged rows into the target.

        Raises:
            RowRefused: the target refused a row.
            Refused: it cannot be emptied; rows that have to go would stay.
        """
        if isinstance(merge, Apply):
            try:
                self._say(merge.empty)
            except RowRefused as error:
                hint = "drop what refers to its rows, or write to another table"
                raise Refused(f"the target cannot be emptied: {error.what}", where=self.where, hint=hint) from None
        self._say(merge.end_trial if trial and isinstance(merge, Apply | History) else merge.end)

    def _end_copy(self) -> int:
        writes = self._copying.encoder
        if writes is not None:
            self._put(writes.finish())
        elif self.order.arrow:
            self._put(EMPTY_COPY)
        connection = self.session.pgconn
        with translated(self.where):
            connection.put_copy_end()
        self._flush()
        connection.nonblocking = 0
        with translated(self.where):
            result = next_result(self.session, self.order.check)
        self._copy = None
        if result is None or result.status != pq.ExecStatus.COMMAND_OK:
            with contextlib.suppress(PenstockError):
                finish(self.session, self.where, self.order.check)
            raise result_error(result, self.where) if result else Unreachable("no answer", where=self.where)
        rows = result.command_tuples or 0
        finish(self.session, self.where, self.order.check)
        return rows

    @contextmanager
    def trial(self) -> Iterator[Attempt]:
        """Try rows; deferred constraints are checked at each attempt instead of at the COMMIT.

        Of changes that empty the target they are checked at the COMMIT: others refer to rows that come again.
        """
        self._begin()
        self._check_unaltered()
        self._emptied = False
        self._say(
            self.merge.begin_trial if isinstance(self.merge, Apply | History) else "SET CONSTRAINTS ALL IMMEDIATE"
        )
        yield self._attempt
        self._say("ROLLBACK")

    @property
    def _has_history(self) -> bool:
        return isinstance(self.merge, History) or (isinstance(self.merge, Merge) and self.merge.history)

    def _attempt(self, data: pa.RecordBatch) -> RowRefused | None:
        self._say("SAVEPOINT attempt")
        try:
            self._begin_copy(data)
            self.put(data)
            self._end_copy()
            if self.merge is not None:
                if isinstance(self.merge, Apply):
                    self._emptied |= self.merge.has_truncate(self.session, self.where)
                self._end_merge(self.merge, trial=True)
                self._say(f"DELETE FROM {STAGE.sql}")
                if isinstance(self.merge, Apply) and not self._emptied:
                    self._say("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
        except RowRefused as error:
            # Another row of the same changes may free the value.
            error.waits |= isinstance(self.merge, Apply) and error.state in _NOT_FREE
            error.waits &= not self._has_history  # behind a later state of its key it would be ignored, not tried
            self._say("ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt")
            return error
        self._say("RELEASE SAVEPOINT attempt")
        return None


def _logs_little(session: Session, where: str) -> bool:
    """True if the server's log only has to repair it after a crash, as the embedded one's."""
    with translated(where):
        return bool(one_row(session, "SELECT current_setting('wal_level') = 'minimal'")[0])
