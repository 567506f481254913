"""Sessions with PostgreSQL: pinned settings, bounded waits, and errors that never repeat the driver's DETAIL.

psycopg's messages may hold row values (``Key (id)=(7) already exists``), and connection errors may hold addresses of
other systems; what leaves this module names objects and SQLSTATEs only.
"""

from __future__ import annotations

import contextlib
import re
import select
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import conninfo, pq, sql
from psycopg import errors as pg

from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.keeping import IDLE_SESSIONS
from penstock.errors import (
    AccessDenied,
    BadData,
    Fenced,
    MissingColumn,
    MissingTable,
    OutOfSpace,
    PenstockError,
    Unreachable,
)
from penstock.postgres import KEEPALIVE, by_state

__all__ = [
    "FENCED",
    "FORM",
    "IDLE_SECONDS",
    "LOCK_NOT_AVAILABLE",
    "Session",
    "connect",
    "copy_out",
    "finish",
    "next_result",
    "one_message",
    "one_row",
    "release",
    "result_error",
    "send",
    "state_error",
    "translate",
    "translated",
]

Session = psycopg.Connection[Any]

PINNED: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "client_min_messages": "error",
}
"""Settings that decide how values are written and read; a role's or database's own defaults must not change them."""

FENCED: Final = "penstock.fenced"
"""What a commit casts to a number where it finds a newer generation; the error's message holds it."""
UNNAMED: Final = "penstock"
"""The application name of a session that belongs to no run."""
CONNECT_SECONDS: Final = 10
WATCHFUL_VERSION: Final = 140000
WATCH: Final = "2s"
IDLE_SECONDS: Final = 0.2


def connect(
    dsn: str, *, where: str, name: str, lock: float = 10.0, statement: float = 0.0, seconds: float = CONNECT_SECONDS
) -> Session:
    """A session in autocommit with the pinned settings; `lock` and `statement` are time-outs in seconds, 0 for none.

    `seconds` is for each host tried. Options that the DSN has stay, where they are not about what is pinned here. A
    peer that vanishes is noticed within about a minute, and the server notices within seconds that this process died,
    also in the middle of a statement: what it held is free for the next attempt.

    Raises:
        AccessDenied: wrong password, unknown user, missing right to connect.
        NotFound: no such database.
        Unreachable: nothing answers.
    """
    key = (dsn, lock, statement, seconds)
    with translated(where):
        kept = IDLE_SESSIONS.take(key)
        if isinstance(kept, _Reusable):
            try:
                return _named(kept, name)
            except psycopg.OperationalError:  # it was ended meanwhile
                kept.close()
        limits = {"lock_timeout": f"{int(lock * 1000)}", "statement_timeout": f"{int(statement * 1000)}"}
        pinned = " ".join(f"-c {key}={value.replace(' ', chr(92) + ' ')}" for key, value in (PINNED | limits).items())
        own = conninfo.conninfo_to_dict(dsn).get("options") or ""
        session = _Reusable.connect(
            dsn,
            autocommit=True,
            application_name=UNNAMED,
            options=f"{own} {pinned}".lstrip(),
            client_encoding="UTF8",
            connect_timeout=int(seconds),
            prepare_threshold=None,
            **KEEPALIVE,  # type: ignore[arg-type]
        )
        session.key = key
        return _named(session, name)


class _Reusable(psycopg.Connection[Any]):
    """A session that knows what it was opened with."""

    key: Hashable = None


def _named(session: _Reusable, name: str) -> Session:
    """The session under the name of its run, with what cannot be set by options."""
    named = f"SET application_name = {sql.Literal(name).as_string(None)}"
    if session.info.server_version >= WATCHFUL_VERSION:
        # A server on a platform that cannot watch its sockets says so, and works as before.
        with contextlib.suppress(psycopg.DataError):
            session.execute(f"{named}; SET client_connection_check_interval = '{WATCH}'")
            return session
    session.execute(named)
    return session


def release(session: Session) -> None:
    """End a session, or leave it to the next run of this process: as new, without a lock or a transaction."""
    if isinstance(session, _Reusable) and IDLE_SESSIONS.wanted and session.info.transaction_status in _QUIET:
        with contextlib.suppress(psycopg.Error):
            session.rollback()
            session.execute("DISCARD ALL")
            IDLE_SESSIONS.put(session.key, session)
            return
    session.close()


_QUIET: Final = {pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS}


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise psycopg's errors as Penstock's, `where` naming the connection and object."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, where) from None


def translate(error: psycopg.Error, where: str) -> PenstockError:
    """The error of Penstock's tree for one of psycopg, without row values."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return _not_connected(error, where)
    said = error.diag
    place = _place(said.column_name, said.constraint_name, said.context)
    return state_error(error.sqlstate or "", str(said.message_primary or ""), where, place)


def _not_connected(error: psycopg.OperationalError, where: str) -> PenstockError:
    text = str(error)
    if "password" in text or "authentication" in text or "no pg_hba.conf entry" in text:
        return AccessDenied("the server refuses this user or password", where=where, hint="check user and secret")
    if 'role "' in text and "does not exist" in text:
        return AccessDenied("the server knows no such user", where=where, hint="check the user in the dsn")
    if 'database "' in text and "does not exist" in text:
        kind, what, hint = by_state("3D000")
        return kind(what, where=where, hint=hint)
    if "permission denied" in text:
        return AccessDenied("the server refuses this user", where=where, hint="grant CONNECT on the database")
    return Unreachable("the connection cannot be made or was lost", where=where, hint="is the server up? try again")


def state_error(state: str, message: str, where: str, place: _Place = (None, "")) -> PenstockError:
    """The error for an SQLSTATE; of `message` only what names objects is kept."""
    if state == "22P02" and FENCED in message:
        return Fenced("a newer run took over", where=where, hint="nothing to do: the newer run carries on")
    if "No space left" in message:
        state = "53100"
    kind, what, hint = by_state(state)
    if kind is BadData:
        what, waits = f"{what}{place[1]} [SQLSTATE {state}]", state == "23503"
        return RowRefused(what, where=where, hint=hint, state=state, column=place[0], waits=waits)
    named = f" ({message})" if kind in {MissingTable, MissingColumn, AccessDenied, OutOfSpace} and message else ""
    return kind(f"{what}{named} [SQLSTATE {state or 'none'}]", where=where, hint=hint)


_Place = tuple[str | None, str]
"""The column that an error of a row is about, and what names it and the constraint."""
_COLUMN: Final = re.compile(r"^COPY .+?, line \d+, column ([^:\n]+)(?::|$)", re.MULTILINE)


def _place(column: str | None, constraint: str | None, context: str | None) -> _Place:
    if column is None and (found := _COLUMN.search(context or "")):
        column = found[1]
    named = [f"column `{column}`"] if column else []
    named += [f"constraint `{constraint}`"] if constraint else []
    return column, f" ({', '.join(named)})" if named else ""


def result_error(result: pq.abc.PGresult, where: str) -> PenstockError:
    """The error that a result of the C library holds."""

    def said(field: pq.DiagnosticField) -> str:
        return (result.error_field(field) or b"").decode(errors="replace")

    of = pq.DiagnosticField
    if not (state := said(of.SQLSTATE)):
        return Unreachable("the connection was lost", where=where, hint="try again")
    place = _place(said(of.COLUMN_NAME) or None, said(of.CONSTRAINT_NAME) or None, said(of.CONTEXT))
    return state_error(state, said(of.MESSAGE_PRIMARY), where, place)


def _go_on() -> None:
    """Nothing ends the wait."""


def one_message(
    session: Session, sql: str, where: str, *, sent: Callable[[], None] = _go_on, check: Callable[[], None] = _go_on
) -> None:
    """Send `sql` (one or more statements) as one message, and wait for all of it.

    A process that stops or dies cannot come between its statements. `sent` is called when it has left. What `check`
    raises ends the wait; whether the message was carried out is not known then.
    """
    connection = session.pgconn
    with translated(where):
        connection.send_query(sql.encode())
        while connection.flush():
            if not select.select([], [connection.socket], [], IDLE_SECONDS)[1]:
                check()
    sent()
    finish(session, where, check)


def next_result(session: Session, check: Callable[[], None] = _go_on) -> pq.abc.PGresult | None:
    """The next result of what was sent, None after the last; waits for it, and calls `check` each 0.2 s meanwhile.

    The driver's own `get_result` waits with the interpreter locked: one writer that waits for a lock at the server
    would keep every other thread from running, the one that watches for the parent's end too.
    """
    connection = session.pgconn
    while connection.is_busy():
        if select.select([connection.socket], [], [], IDLE_SECONDS)[0]:
            connection.consume_input()
        else:
            check()
    return connection.get_result()


def finish(session: Session, where: str, check: Callable[[], None] = _go_on) -> None:
    """Take all results of what was sent; raise the first error."""
    wrong = None
    with translated(where):
        while (result := next_result(session, check)) is not None:
            if result.status in {pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT}:
                message = "a COPY is still open"
                raise AssertionError(message)
            if result.status in {pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE}:
                wrong = wrong or result_error(result, where)
    if wrong is not None:
        raise wrong


def send(session: Session, sql: str, wanted: pq.ExecStatus, where: str, check: Callable[[], None] = _go_on) -> None:
    """Start a COPY; `wanted` is COPY_IN or COPY_OUT. What `check` raises ends the wait."""
    connection = session.pgconn
    with translated(where):
        connection.send_query(sql.encode())
        result = next_result(session, check)
    if result is None or result.status != wanted:
        wrong = result_error(result, where) if result is not None else Unreachable("no answer", where=where)
        with contextlib.suppress(PenstockError):
            finish(session, where, check)
        raise wrong


def copy_out(
    session: Session, query: str, size: int, check: Callable[[], None], where: str, rows: int = 1 << 60
) -> Iterator[bytes | int]:
    """Blocks of whole rows, about `size` bytes and at most `rows` rows, of a ``COPY … TO STDOUT``.

    At the end comes one int: the rows that the server counted.

    `check` is called whenever the source keeps us waiting, at least each 0.2 s; what it raises ends the read.
    """
    send(session, query, pq.ExecStatus.COPY_OUT, where, check)
    connection, waiting = session.pgconn, [session.pgconn.socket]
    get, consume = connection.get_copy_data, connection.consume_input
    parts: list[bytes | memoryview] = []
    held = count = 0
    while count >= 0:
        try:
            count, data = get(1)
            while count > 0:  # this loop is met once a row: nothing but what it must do
                parts.append(data)
                held += count
                if held >= size or len(parts) >= rows:
                    yield b"".join(parts)
                    parts, held = [], 0
                count, data = get(1)
            if count == 0:
                while not select.select(waiting, [], [], IDLE_SECONDS)[0]:
                    check()
                consume()
        except psycopg.Error as error:
            raise translate(error, where) from None
    if parts:
        yield b"".join(parts)
    yield _rows_counted(session, where, check)


def _rows_counted(session: Session, where: str, check: Callable[[], None]) -> int:
    with translated(where):
        result = next_result(session, check)
    if result is None or result.status != pq.ExecStatus.COMMAND_OK:
        raise result_error(result, where) if result is not None else Unreachable("no answer", where=where)
    rows = result.command_tuples or 0
    finish(session, where, check)
    return rows


def one_row(session: Session, query: str, values: Mapping[str, Any] | Sequence[Any] | None = None) -> tuple[Any, ...]:
    """The one row of a query that always has one."""
    row: tuple[Any, ...] | None = session.execute(query, values).fetchone()
    if row is None:
        message = "a query that always has a row had none"
        raise AssertionError(message)
    return row


LOCK_NOT_AVAILABLE = pg.LockNotAvailable


FORM: Final = "pgcopy"
