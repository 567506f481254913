"""Connections of the control plane to PostgreSQL (the data plane has its own), and the driver's errors as ours.

Catalog, log and embedded server share them, so that a wrong password reads the same everywhere and no message contains
a secret, a DETAIL or a row's value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg import conninfo
from psycopg.rows import class_row

from penstock.errors import (
    AccessDenied,
    BadData,
    MissingColumn,
    MissingTable,
    NotFound,
    OutOfSpace,
    PenstockError,
    Refused,
    SchemaMismatch,
    SettingsError,
    Unavailable,
    Unreachable,
)

__all__ = ["KEEPALIVE", "address", "by_state", "connect", "rows_as", "translated", "translating"]

T = TypeVar("T")
CONNECT_SECONDS: Final = 10
KEEPALIVE: Final = {
    "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000,
}  # fmt: skip
"""A peer that vanishes is noticed within about a minute."""

_BY_STATE: Final[dict[str, tuple[type[PenstockError], str, str]]] = {
    "08001": (Unreachable, "the server cannot reach another one", "is that server up? see CREATE SERVER there"),
    "22001": (BadData, "a text is longer than its column", "look at the mapped types"),
    "22003": (BadData, "a number is too large for its type", "look at the mapped types"),
    "22012": (BadData, "a division by zero", "look at views, computed columns and triggers"),
    "2200H": (Refused, "a sequence has no number left", "ALTER SEQUENCE … MAXVALUE, or give its column a larger type"),
    "22P05": (BadData, "a text has a character that the database's encoding lacks", "use a database in UTF8"),
    "23502": (BadData, "a row has no value where one is needed", "look at the NOT NULL columns"),
    "23503": (BadData, "a row refers to another one that is not there", "look at the foreign keys"),
    "23505": (BadData, "a row has the same key as another one", "look at the unique keys"),
    "23514": (BadData, "a row breaks a check", "look at the checks"),
    "23P01": (BadData, "a row excludes another one that is there", "look at the exclusion constraints"),
    "25006": (
        Refused,
        "the server takes no writes from this user",
        "connect to the primary (target_session_attrs=read-write), or set default_transaction_read_only off",
    ),
    "25P03": (
        Unavailable,
        "the server ended a session that waited within a transaction",
        "raise idle_in_transaction_session_timeout for this user",
    ),
    "25P04": (Unavailable, "the server ended a long transaction", "raise transaction_timeout for this user"),
    "28P01": (AccessDenied, "the server refuses this user or password", "check the user and the password"),
    "28000": (AccessDenied, "the server refuses this user", "check the user, and the server's pg_hba.conf"),
    "3D000": (NotFound, "there is no such database", "create the database, or correct its name"),
    "3F000": (SchemaMismatch, "there is no such schema", "create the schema, or correct its name"),
    "40001": (Unavailable, "the transaction conflicts with another one", "try again"),
    "40P01": (Unavailable, "the server ended a deadlock", "try again"),
    "42501": (AccessDenied, "a privilege is missing", "grant it to the connection's user"),
    "42P01": (MissingTable, "there is no such table", "was it dropped or renamed? create it, or correct its name"),
    "42703": (MissingColumn, "there is no such column", "was it dropped or renamed? correct its name"),
    "42883": (SchemaMismatch, "there is no such function", "was it dropped, or does a view call it with other types?"),
    "42704": (SchemaMismatch, "there is no such type", "was it dropped?"),
    "53100": (OutOfSpace, "the disk is full", "free some space and run again: nothing was partially applied"),
    "53200": (Unavailable, "the server is out of memory", "try again later"),
    "53300": (Unavailable, "the server has no free connection", "raise max_connections, or close other sessions"),
    "53400": (OutOfSpace, "a limit that is set at the server is reached", "raise it there, or read fewer rows"),
    "55P03": (Unavailable, "a lock was not granted in time", "another session locks the table; try again later"),
    "57014": (Unavailable, "a statement took too long or was cancelled", "try again"),
    "57P01": (Unavailable, "the session was ended by the server", "a newer run, or an administrator; try again"),
    "57P03": (Unreachable, "the server is starting or stopping", "wait a moment, then try again"),
    "XX001": (
        PenstockError,
        "data on the server's disk are damaged",
        "restore them from a backup; see the server's log",
    ),
    "XX002": (PenstockError, "an index on the server's disk is damaged", "make it again by REINDEX"),
}
_BY_CLASS: Final[dict[str, tuple[type[PenstockError], str, str]]] = {
    "08": (Unreachable, "the connection was lost", "check that the server runs and can be reached, and try again"),
    "22": (BadData, "a value does not fit its type", "look at the mapped types"),
    "23": (BadData, "a row breaks a constraint", "look at the table's keys, checks and NOT NULL columns"),
    "44": (BadData, "a view refuses a row", "look at its WITH CHECK OPTION"),
    "P0": (BadData, "a trigger or function refuses a row", "look at the triggers and functions"),
    "0A": (Refused, "the server does not support what is asked for", "look at its version and extensions"),
    "28": (AccessDenied, "the server refuses this user", "check the user and the password"),
    "40": (Unavailable, "the transaction was rolled back by the server", "try again"),
    "42": (SchemaMismatch, "the server cannot execute the statement", "check that the table still has its columns"),
    "53": (Unavailable, "the server is out of a resource", "try again later"),
    "54": (BadData, "a limit of the server is exceeded", "look at the size of the rows"),
    "57": (Unavailable, "the server interrupted the session", "try again"),
    "58": (Unavailable, "the server cannot access its files", "look at its log"),
    "XX": (PenstockError, "the server has an internal error, or damaged data", "look at its log"),
}
_BY_TEXT: Final[tuple[tuple[tuple[str, ...], type[PenstockError], str], ...]] = (
    (("No space left on device",), OutOfSpace, "free some space on the server's disk, then try again"),
    (
        ("authentication failed", "no password supplied", "pg_hba.conf", "role ", "permission denied for database"),
        AccessDenied,
        "check the user and the password",
    ),
    (("does not exist",), NotFound, "create the database, or correct its name"),
    (
        ("too many clients", "remaining connection slots", "too many connections"),
        Unavailable,
        "raise max_connections, or close other sessions",
    ),
    (("is starting up", "is shutting down", "in recovery mode"), Unavailable, "wait a moment, then try again"),
)
"""Errors by libpq's text while connecting, when it does not expose the SQLSTATE."""


def connect(
    dsn: str, application_name: str, *, autocommit: bool = True, timeout: int = CONNECT_SECONDS
) -> psycopg.Connection:
    """Open a session in UTF-8 on the database at `dsn` (a libpq conninfo or URL).

    `timeout` is in seconds, for each host tried. A peer that vanishes is noticed within about a minute. Raises
    Unreachable, AccessDenied, NotFound (no such database), Unavailable or SettingsError (a DSN that cannot be parsed).
    """
    where = address(dsn)
    try:
        return psycopg.connect(
            dsn,
            autocommit=autocommit,
            application_name=application_name,
            connect_timeout=timeout,
            client_encoding="utf8",
            **KEEPALIVE,  # type: ignore[arg-type]  # options of libpq, which psycopg passes on
        )
    except psycopg.Error as error:
        raise translated(error, where=where) from error


def address(dsn: str) -> str:
    """Return where `dsn` points, safe to show: ``user@host:port/database``, never a password."""
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # From None: the parser's own text quotes the DSN, and with it the password.
        raise SettingsError(
            "the DSN cannot be parsed", hint="write postgresql://user@host:5432/database, or host=… dbname=…"
        ) from None
    user = f"{parts['user']}@" if parts.get("user") else ""
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    port = "" if str(host).startswith("/") else f":{parts.get('port') or 5432}"
    return f"{user}{host}{port}/{parts.get('dbname') or parts.get('user') or ''}"


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Raise the errors of the driver as ours; see `translated`."""
    try:
        yield
    except psycopg.Error as error:
        raise translated(error, where=where) from error


def rows_as(
    session: psycopg.Connection[Any], kind: type[T], query: LiteralString, values: Mapping[str, Any]
) -> list[T]:
    """Return the rows of a query of the catalog as objects of a class. Raises our error for the driver's."""
    with translating("catalog"), session.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query, values).fetchall()


def translated(error: psycopg.Error, *, where: str | None = None) -> PenstockError:
    """Return our error for the driver's; raise it from that one.

    Never carries the server's DETAIL, a row's value or a password. `where` is the object or `address`; by default the
    table and column that the server names.
    """
    where = where or _object(error)
    state = error.sqlstate
    if state is None:
        return _while_connecting(error, where)
    kind, _, hint = by_state(state)
    if issubclass(kind, BadData):  # the server's own sentence quotes the value
        return kind(f"a value that the database refuses ({type(error).__name__}, SQLSTATE {state})", where=where)
    return kind(f"{_sentence(error)} (SQLSTATE {state})", where=where, hint=hint)


def by_state(state: str) -> tuple[type[PenstockError], str, str]:
    """Return the error class for an SQLSTATE, its meaning without any value, and the hint."""
    unknown = PenstockError, "the server reports an error", "look at its log"
    return _BY_STATE.get(state) or _BY_CLASS.get(state[:2]) or unknown


def _while_connecting(error: psycopg.Error, where: str | None) -> PenstockError:
    text = str(error)
    for signs, kind, hint in _BY_TEXT:
        if any(sign in text for sign in signs):
            return kind(_sentence(error), where=where, hint=hint)
    if isinstance(error, psycopg.OperationalError):
        return Unreachable(_sentence(error), where=where, hint="check that the server runs and can be reached")
    return PenstockError(_sentence(error), where=where)


def _sentence(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error).splitlines()[0] if str(error) else type(error).__name__
    _, _, fatal = text.partition("FATAL:")
    return (fatal or text).strip().rstrip(".")


def _object(error: psycopg.Error) -> str | None:
    named = [n for n in (error.diag.schema_name, error.diag.table_name, error.diag.column_name) if n]
    return ".".join(named) or None
