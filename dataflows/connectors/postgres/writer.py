"""Writer that copies chunks by COPY, with one commit for each split, fenced by the run's generation.

A split's rows, its mark as done and its counters are one transaction. The last statement is the fence; it is sent in
one message with the COMMIT, so that a stop or death of this process cannot separate them.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
from psycopg import pq

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.isolation import Attempt, RowRefused
from dataflows.connectors.postgres.append import Append
from dataflows.connectors.postgres.encodings import Encoder, encoder, has_binary_form
from dataflows.connectors.postgres.interference import check_merged, interferers
from dataflows.connectors.postgres.merge import STAGE, Merge
from dataflows.connectors.postgres.session import (
    Session,
    connect,
    finish,
    next_result,
    one_message,
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
from dataflows.data.counters import Counters
from dataflows.data.types import as_text, column_type
from penstock.errors import PenstockError, Unreachable

__all__ = ["PostgresSink"]

LOCK_SECONDS: Final = 20.0
PIECE: Final = 1 << 20
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
    merge: Merge | Append | None
    plain: bool
    """True if rows may use the socket directly, bypassing libpq."""
    interferers: list[str] = field(default_factory=list)
    """Triggers and rules that may drop or change written rows."""
    _copy: _Copy | None = field(default=None, init=False)

    @classmethod
    @contextmanager
    def opened(
        cls, dsn: str, state: PostgresState, order: WriterOrder, where: str, merge: Merge | None
    ) -> Iterator[PostgresSink]:
        """Return a sink with a session of its own; at the end of the context an open transaction is rolled back."""
        name = session_name(state.uid, order.generation)
        session = connect(dsn, where=where, name=name, lock=LOCK_SECONDS)
        try:
            if merge is not None and merge.tombstones is not None:
                with translated(where), session.transaction():
                    session.execute("SELECT pg_advisory_xact_lock(hashtext('penstock.positions'))")
                    session.execute(merge.tombstones.make(order.columns, lambda column: column.type))
            into = TableName.parse(order.into)
            named = interferers(session, into, where, copies=merge is None)
            how = Append(into, order.columns) if named and merge is None else merge
            yield cls(session, state, order, where, into, how, plain(session), named)
        finally:
            release(session)

    def begin(self, split: int, data: pa.RecordBatch | memoryview | None) -> None:
        self._begin()
        self._begin_copy(data)

    def _begin(self) -> None:
        self._say("BEGIN")
        if self.merge is not None:
            self._say(self.merge.begin)

    def _begin_copy(self, data: pa.RecordBatch | memoryview | None) -> None:
        names = ", ".join(quoted(column.name) for column in self.order.columns)
        form = self._form(data)
        table = self.into if self.merge is None else STAGE
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
        written = self._end_copy()
        split.reached("copied")
        counted = split.counted(written)
        if self.merge is not None:
            self._say(self.merge.end)
            if self.interferers:
                check_merged(self.session, self.merge.unlike, self.interferers, self.where)
        split.reached("before_fence")
        order = self.order
        fence = self.state.fence(order.slot, split.number, order.run, order.generation, counted)
        statements, sent = f"{fence}; COMMIT", lambda: split.reached("sent")
        one_message(self.session, statements, self.where, check=order.check, sent=sent)
        return counted

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
        """Try rows; deferred constraints are checked at each attempt instead of at the COMMIT."""
        self._begin()
        self._say("SET CONSTRAINTS ALL IMMEDIATE")
        yield self._attempt
        self._say("ROLLBACK")

    def _attempt(self, data: pa.RecordBatch) -> RowRefused | None:
        self._say("SAVEPOINT attempt")
        try:
            self._begin_copy(data)
            self.put(data)
            self._end_copy()
            if self.merge is not None:
                self._say(f"{self.merge.end}; DELETE FROM {STAGE.sql}")
        except RowRefused as error:
            self._say("ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt")
            return error
        self._say("RELEASE SAVEPOINT attempt")
        return None
