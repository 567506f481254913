"""PostgreSQL as a sink: chunks by binary COPY, one commit for each split, fenced by the run's generation.

A split's rows, the mark that it is done and the counters are one transaction. Its last statement is the fence, sent in
one message with the COMMIT, so that no stopped or dead process can stand between them.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
from psycopg import pq

from dataflows.connectors.postgres.encodings import Encoder, encoder, has_binary_form
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
from dataflows.connectors.postgres.tables import TableName, quoted
from dataflows.connectors.postgres.wire import framed, plain, put_messages, unframed
from dataflows.connectors.publication import counted_split
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.tables import Column
from dataflows.data.types import as_text, column_type
from penstock.errors import Unreachable
from penstock.failpoints import failpoint

__all__ = ["PostgresWriter"]

LOCK_SECONDS: Final = 20.0
PIECE: Final = 1 << 20
EMPTY_COPY: Final = b"PGCOPY\n\xff\r\n\x00" + b"\x00" * 8 + b"\xff\xff"
"""Header and trailer of a binary COPY without rows."""


@dataclass(slots=True)
class _Open:
    """The split whose transaction is open."""

    split: int
    binary: bool = True
    sequence: int = 0
    rows: int = 0
    bytes: int = 0
    encoder: Encoder | None = None
    unframed: unframed = field(default_factory=unframed)


@dataclass(slots=True)
class PostgresWriter:
    """Writes the chunks of one slot over one session, which carries the generation in its name.

    `check` is called while the server keeps us waiting, and ends the write by raising.
    """

    dsn: str
    into: TableName
    columns: tuple[Column, ...]
    positions: PostgresState
    run: str
    generation: int
    slot: str
    where: str
    arrow: bool
    check: Callable[[], None]
    committed: Callable[[Counters], None]
    merge: Merge | None = None
    _session: Session | None = field(default=None, init=False)
    _plain: bool = field(default=False, init=False)
    _open: _Open | None = field(default=None, init=False)

    def open(self) -> None:
        """Connect."""
        name = session_name(self.positions.uid, self.generation)
        self._session = connect(self.dsn, where=self.where, name=name, lock=LOCK_SECONDS)
        self._plain = plain(self._session)

    def close(self) -> None:
        """End the session; what is not committed is rolled back by the server."""
        if self._session is not None:
            release(self._session)
            self._session = None

    def idle(self) -> None:
        """Called while no chunk comes: raise if the server has ended the session, or refused what it got.

        Inside a COPY the server says nothing unless something is wrong, and libpq reads what it says only when the COPY
        is ended: so the COPY is given up as soon as anything can be read. Only the first thing said is waited for: the
        server may be in the middle of a message, and then never says that it is ready again.
        """
        connection = self._live.pgconn
        if not select.select([connection.socket], [], [], 0)[0]:
            return
        with translated(self.where):
            connection.consume_input()
            if self._open is not None:
                connection.put_copy_end(b"given up: the server has something to say")
        if self._open is not None:
            self._flush()
            with translated(self.where):
                result = next_result(self._live, self.check)
            if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                raise result_error(result, self.where)
        if connection.status != pq.ConnStatus.OK or self._open is not None:
            raise Unreachable("the session was ended by the server", where=self.where, hint="try again")

    def write(self, chunk: Chunk) -> None:
        """Send a chunk; the last one of a split commits it.

        Raises:
            Fenced: a newer run took over.
            BadData: the target refused a value or a row.
        """
        current = self._open or self._begin(chunk)
        if (chunk.split, chunk.sequence) != (current.split, current.sequence):
            message = f"chunk {chunk.split}.{chunk.sequence} came where {current.split}.{current.sequence} was due"
            raise AssertionError(message)
        current.sequence += 1
        if chunk.data is not None:
            self._copy(current, chunk.data)
            current.rows += chunk.rows
            current.bytes += chunk.size
            failpoint("commit.mid_copy", chunk.split)
        if chunk.last:
            self._commit(current, chunk)

    def done(self) -> None:
        """Check that no split was left open when the stream ended."""
        if self._open is not None:
            message = f"the stream ended inside split {self._open.split}"
            raise AssertionError(message)

    @property
    def _loaded(self) -> TableName:
        """The table that the COPY goes to."""
        return self.into if self.merge is None else STAGE

    @property
    def _live(self) -> Session:
        if self._session is None:
            message = "the writer is not open"
            raise AssertionError(message)
        return self._session

    def _begin(self, chunk: Chunk) -> _Open:
        one_message(self._live, "BEGIN", self.where, check=self.check)
        failpoint("commit.begin", chunk.split)
        if self.merge is not None:
            one_message(self._live, self.merge.begin, self.where, check=self.check)
        names = ", ".join(quoted(column.name) for column in self.columns)
        form = self._form(chunk.data)
        statement = f"COPY {self._loaded.sql} ({names}) FROM STDIN (FORMAT {form})"
        send(self._live, statement, pq.ExecStatus.COPY_IN, self.where, self.check)
        self._live.pgconn.nonblocking = 1
        self._open = _Open(chunk.split, binary=form == "binary")
        return self._open

    def _form(self, data: pa.RecordBatch | memoryview | None) -> str:
        """Which of the forms of COPY the chunks of a split come in; its first one tells."""
        if not self.arrow:
            return "text" if any(map(as_text, self.columns)) else "binary"
        if data is None or isinstance(data, memoryview):
            return "binary"
        kinds = {column.name: column_type(column) for column in self.columns}
        return "binary" if has_binary_form(kinds, data.schema) else "csv"

    def _copy(self, current: _Open, data: pa.RecordBatch | memoryview) -> None:
        if isinstance(data, memoryview):
            if self._plain:
                put_messages(self._live, data, self.check, self.where)
            else:
                self._put(current.unframed(data))
            return
        if current.encoder is None:
            current.encoder = encoder(data.schema, binary=current.binary)
            self._put(current.encoder.write_header())
        self._put(current.encoder.write_batch(data))

    def _put(self, data: bytes) -> None:
        if self._plain:
            put_messages(self._live, framed(data), self.check, self.where)
            return
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            with translated(self.where):
                self._live.pgconn.put_copy_data(view[start : start + PIECE])
            self._flush()

    def _flush(self) -> None:
        """Wait until what was put has left, watching for an error of the server's meanwhile."""
        connection = self._live.pgconn
        while True:
            with translated(self.where):
                if not connection.flush():
                    return
            readable, writable, _ = select.select([connection.socket], [connection.socket], [], 0.2)
            if readable:
                with translated(self.where):
                    connection.consume_input()
            if not writable:
                self.check()

    def _commit(self, current: _Open, marker: Chunk) -> None:
        rows = self._end_copy(current)
        failpoint("commit.copied", current.split)
        sent = current.rows if self.arrow else marker.rows
        counted = counted_split(marker, sent, rows, current.bytes, self.where)
        if self.merge is not None:
            one_message(self._live, self.merge.end, self.where, check=self.check)
        failpoint("commit.before_fence", current.split)
        fence = self.positions.fence(self.slot, current.split, self.run, self.generation, counted)
        one_message(
            self._live,
            f"{fence}; COMMIT",
            self.where,
            check=self.check,
            sent=lambda: failpoint("commit.sent", current.split),
        )
        failpoint("commit.done", current.split)
        self._open = None
        self.committed(counted)

    def _end_copy(self, current: _Open) -> int:
        if current.encoder is not None:
            self._put(current.encoder.finish())
        elif self.arrow:
            self._put(EMPTY_COPY)
        connection = self._live.pgconn
        with translated(self.where):
            connection.put_copy_end()
        self._flush()
        connection.nonblocking = 0
        with translated(self.where):
            result = next_result(self._live, self.check)
        if result is None or result.status != pq.ExecStatus.COMMAND_OK:
            raise result_error(result, self.where) if result else Unreachable("no answer", where=self.where)
        rows = result.command_tuples or 0
        finish(self._live, self.where, self.check)
        return rows
