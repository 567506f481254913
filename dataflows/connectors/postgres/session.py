"""Sessions with PostgreSQL: pinned settings that are checked, and bounded waits."""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import conninfo, pq, sql
from psycopg import errors as pg

from dataflows.connectors.idle_sessions import IDLE_SESSIONS
from dataflows.connectors.postgres.errors import (
    FENCED,
    NO_OPTIONS,
    result_error,
    state_error,
    translate,
    translated,
)
from penstock.errors import PenstockError, Refused, Unreachable
from penstock.postgres import KEEPALIVE

__all__ = [
    "CONNECT_SECONDS",
    "FENCED",
    "FORM",
    "IDLE_SECONDS",
    "LOCK_NOT_AVAILABLE",
    "NOT_WAITED_FOR",
    "PINNED",
    "Session",
    "ask",
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
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "gin_fuzzy_search_limit": "0",
    "client_min_messages": "error",
    "xmloption": "content",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "idle_in_transaction_session_timeout": "0",
}
"""Settings that determine how values are written and read, and which rows; the defaults of a role or database must not
change them.

Locks that are waited for mean nothing to a transaction that still sees the rows of before, and a transaction that holds
a snapshot for others has nothing to do meanwhile.
"""

UNNAMED: Final = "penstock"
"""The application name of a session that belongs to no run."""
CONNECT_SECONDS: Final = 10
WATCHFUL_VERSION: Final = 140000
PLANNING_VERSION: Final = 120000
"""First server version with `plan_cache_mode`."""
PATIENT_VERSION: Final = 170000
"""First server version with `transaction_timeout`."""
WATCH: Final = "2s"
IDLE_SECONDS: Final = 0.2


def connect(  # noqa: PLR0913 - one for each property of the session
    dsn: str,
    *,
    where: str,
    name: str,
    lock: float = 10.0,
    statement: float = 0.0,
    seconds: float = CONNECT_SECONDS,
    whole: bool = False,
    planned_once: bool = False,
) -> Session:
    """Open a session in autocommit with the pinned settings.

    `lock` and `statement` are time-outs in seconds, 0 for none; `seconds` is the time-out for each host tried. With
    `whole`, the server refuses a table of which a policy would hide rows. With `planned_once`, it plans the queries of
    `ask` once for all values, as is right where single rows are looked up. The DSN's own options stay unless they are
    pinned here. A lost peer is detected within about a minute. The server detects within seconds that this process
    died, even during a statement, and releases its locks for the next attempt.

    Raises:
        AccessDenied: wrong password, unknown user, missing right to connect.
        NotFound: no such database.
        Unreachable: no server answers.
    """
    key = (dsn, lock, statement, seconds, whole)
    with translated(where):
        kept = IDLE_SESSIONS.take(key)
        if isinstance(kept, _Reusable):
            try:
                return _named(kept, name, planned_once=planned_once)
            except psycopg.OperationalError:  # the server has ended it
                kept.close()
        limits = {"lock_timeout": f"{int(lock * 1000)}", "statement_timeout": f"{int(statement * 1000)}"}
        session = _opened(dsn, seconds, PINNED | limits | ({"row_security": "off"} if whole else {}))
        session.key = key
        return _pinned(_named(session, name, planned_once=planned_once), where)


class _Reusable(psycopg.Connection[Any]):
    """Session with the parameters it was opened with, by which it can be reused."""

    key: Hashable = None
    pinned: Mapping[str, str] = PINNED
    again: Callable[[], psycopg.Connection[Any]]
    """Opens another session with the same parameters."""


def _opened(dsn: str, seconds: float, pinned: Mapping[str, str]) -> _Reusable:
    """Open a session with the settings as options; without options if a pooler refuses them."""
    own = conninfo.conninfo_to_dict(dsn).get("options") or ""
    texts = " ".join(f"-c {key}={value.replace(' ', chr(92) + ' ')}" for key, value in pinned.items())
    connect = partial(
        _Reusable.connect,
        dsn,
        autocommit=True,
        application_name=UNNAMED,
        client_encoding="UTF8",
        connect_timeout=int(seconds),
        prepare_threshold=sys.maxsize,
        **KEEPALIVE,  # type: ignore[arg-type]  # options of libpq, which psycopg passes on
    )
    again = partial(connect, options=f"{own} {texts}".lstrip())
    try:
        session = again()
    except psycopg.OperationalError as error:
        if NO_OPTIONS not in str(error):
            raise
        again = partial(connect, options="")
        session = again()
    session.pinned, session.again = pinned, again
    return session


def _named(session: _Reusable, name: str, *, planned_once: bool) -> _Reusable:
    """Give the session the name of its run, and what cannot be set by options."""
    named = f"SET application_name = {sql.Literal(name).as_string(None)}"
    if planned_once and session.info.server_version >= PLANNING_VERSION:
        named += "; SET plan_cache_mode = force_generic_plan"
    if session.info.server_version < WATCHFUL_VERSION:
        session.execute(named)
        return session
    named += "; SET idle_session_timeout = 0"
    if session.info.server_version >= PATIENT_VERSION:
        named += "; SET transaction_timeout = 0"
    # A server on a platform that cannot watch its sockets refuses the last setting, and works as before.
    with contextlib.suppress(psycopg.DataError):
        session.execute(f"{named}; SET client_connection_check_interval = '{WATCH}'")
        return session
    session.execute(named)
    return session


def _pinned(session: _Reusable, where: str) -> Session:
    """Check all settings, and set those that a pooler has dropped; return the session.

    Raises:
        Refused: a pooler gives each transaction another session of the server.
    """
    names = list(session.pinned)
    query = (
        "SELECT pg_backend_pid(), ARRAY(SELECT current_setting(n) "
        "FROM unnest(%s::text[]) WITH ORDINALITY s(n, i) ORDER BY i)"
    )
    pid, found = one_row(session, query, (names,))
    if pid != session.info.backend_pid and _is_shared(session, pid):
        session.close()
        what = "a pooler in transaction mode keeps neither settings nor locks from one transaction to the next"
        hint = "connect to the server itself, or to a database whose pool_mode in PgBouncer is session"
        raise Refused(what, where=where, hint=hint)
    wrong = {n: session.pinned[n] for n, have in zip(names, found, strict=True) if not _same(session.pinned[n], have)}
    for setting, value in wrong.items():
        session.execute("SELECT set_config(%s, %s, false)", (setting, value))
    return session


def _same(wanted: str, have: str) -> bool:
    """True if a setting is as wanted; the server shows milliseconds in the largest unit that fits."""
    number = have.rstrip("dhimns")
    unit = _UNITS.get(have.removeprefix(number))
    return have == wanted or (unit is not None and number.isdigit() and wanted == str(int(number) * unit))


_UNITS: Final = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def _is_shared(session: _Reusable, pid: int) -> bool:
    """True if a pooler gives the server's session `pid` to other clients between this session's transactions."""
    with contextlib.closing(session.again()) as other:
        other.execute("BEGIN")
        taken = one_row(other, "SELECT pg_backend_pid()")[0]
        return bool(taken == pid or one_row(session, "SELECT pg_backend_pid()")[0] != pid)


def release(session: Session) -> None:
    """End a session, or reset it and keep it for the next run of this process."""
    if isinstance(session, _Reusable) and IDLE_SESSIONS.wanted and session.info.transaction_status in _QUIET:
        with contextlib.suppress(PenstockError):
            one_message(session, _RESET, "")
            IDLE_SESSIONS.put(session.key, session)
            return
    session.close()


_QUIET: Final = {pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS}
_RESET: Final = (
    "ROLLBACK; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; RESET ALL"
)
"""``DISCARD ALL`` but for the prepared statements, which cost more than the rest of a small run to plan."""


def _never_stop() -> None:
    """Default check; never interrupts."""


def one_message(
    session: Session,
    sql: str,
    where: str,
    *,
    sent: Callable[[], None] = _never_stop,
    check: Callable[[], None] = _never_stop,
) -> None:
    """Send `sql` (one or more statements) as one message, and wait for all of it.

    A stop or death of this process cannot separate its statements. `sent` is called when the message was sent. An
    error that `check` raises ends the wait; it is then unknown whether the message was executed.
    """
    connection = session.pgconn
    with translated(where):
        connection.send_query(sql.encode())
        while connection.flush():
            if not select.select([], [connection.socket], [], IDLE_SECONDS)[1]:
                check()
    sent()
    finish(session, where, check)


def next_result(session: Session, check: Callable[[], None] = _never_stop) -> pq.abc.PGresult | None:
    """Wait for the next result, calling `check` every 0.2 s, and return it; None after the last one.

    The driver's own `get_result` waits with the interpreter locked, so one writer that waits for a lock of the server
    would stop every other thread, including the one that watches for the parent's end.
    """
    connection = session.pgconn
    while connection.is_busy():
        if select.select([connection.socket], [], [], IDLE_SECONDS)[0]:
            connection.consume_input()
        else:
            check()
    return connection.get_result()


def finish(session: Session, where: str, check: Callable[[], None] = _never_stop) -> None:
    """Wait for all results; raise the first error."""
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


def send(
    session: Session, sql: str, wanted: pq.ExecStatus, where: str, check: Callable[[], None] = _never_stop
) -> None:
    """Start a COPY; `wanted` is COPY_IN or COPY_OUT. An error that `check` raises ends the wait."""
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
    """Yield blocks of whole rows, about `size` bytes and at most `rows` rows, of a ``COPY … TO STDOUT``.

    The last item is an int, the number of rows that the server counted. `check` is called every 0.2 s while it waits
    for the source; an error that it raises ends the read.
    """
    send(session, query, pq.ExecStatus.COPY_OUT, where, check)
    connection, waiting = session.pgconn, [session.pgconn.socket]
    get, consume = connection.get_copy_data, connection.consume_input
    parts: list[bytes | memoryview] = []
    held = count = 0
    while count >= 0:
        try:
            count, data = get(1)
            while count > 0:  # hot loop: once for each row
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


def ask(session: Session, query: str, values: Mapping[str, Any] | Sequence[Any]) -> psycopg.Cursor[Any]:
    """Run a query whose text is always the same: a session that is kept plans it only a few times."""
    return session.execute(query, values, prepare=True)


def one_row(
    session: Session, query: str, values: Mapping[str, Any] | Sequence[Any] | None = None, *, same: bool = False
) -> tuple[Any, ...]:
    """Return the only row of a query that always has one; `same`: see `ask`."""
    row: tuple[Any, ...] | None = session.execute(query, values, prepare=same or None).fetchone()
    if row is None:
        message = "a query that always returns a row returned none"
        raise AssertionError(message)
    return row


LOCK_NOT_AVAILABLE = pg.LockNotAvailable


NOT_WAITED_FOR: Final = "SET LOCAL synchronous_commit = off"
"""Statement for a transaction whose commit need not wait for the disk: a later one of the same server, which does,
makes it durable too, and nothing outside of the server depends on it until then.
"""
FORM: Final = "pgcopy"
