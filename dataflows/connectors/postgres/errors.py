"""Translate errors of the server and of libpq into Penstock's errors, without row values.

psycopg's messages may contain row values (``Key (id)=(7) already exists``), and connection errors may contain
addresses of other systems. Penstock's errors contain only object names, SQLSTATEs and libpq's own reason.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Final

import psycopg
from psycopg import pq

from dataflows.connectors.isolation import RowRefused
from penstock.errors import (
    UNKNOWN_HOST,
    AccessDenied,
    BadData,
    Fenced,
    MissingColumn,
    MissingTable,
    NotFound,
    OutOfSpace,
    PenstockError,
    Refused,
    Unavailable,
    Unreachable,
)
from penstock.postgres import by_state

__all__ = ["FENCED", "NOT_KEPT", "NO_OPTIONS", "OLDER", "result_error", "state_error", "translate", "translated"]

FENCED: Final = "penstock.fenced"
"""Text that a commit casts to a number if there is a newer generation; the error's message contains it."""
NOT_KEPT: Final = "penstock.not_kept"
"""Text that a write casts to a number if the target has no row with the values that a change leaves as they are."""
OLDER: Final = "penstock.older"
"""Text that a write casts to a number if a change is older than the history that it belongs to."""
NO_OPTIONS: Final = "unsupported startup parameter"
"""Message of a pooler that refuses settings at connection."""


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise psycopg's errors as Penstock's, `where` naming the connection and object."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, where) from None


def translate(error: psycopg.Error, where: str) -> PenstockError:
    """Return Penstock's error for one of psycopg, without row values."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return _not_connected(error, where)
    said = error.diag
    place = _place(said.column_name, said.constraint_name, said.context)
    return state_error(error.sqlstate or "", str(said.message_primary or ""), where, place)


def _not_connected(error: psycopg.OperationalError, where: str) -> PenstockError:
    text = str(error)
    found = (row for row in _NOT_CONNECTED if any(re.search(sign, text) for sign in row[0]))
    _, kind, what, hint = next(found, _LOST)
    reason = _reason(text)
    return kind(f"{what}{f' ({reason})' if reason else ''}", where=where, hint=hint)


_Row = tuple[tuple[str, ...], type[PenstockError], str, str]
_LOST: Final[_Row] = (
    (),
    Unreachable,
    "no server answers, or the connection was lost",
    "is the server up, at the host and port in connections.yaml? `penstock doctor` tries every connection",
)
_NOT_CONNECTED: Final[tuple[_Row, ...]] = (
    (
        ("too many clients", "remaining connection slots", "too many connections"),
        Unavailable,
        *by_state("53300")[1:],
    ),
    (("is starting up", "is shutting down", "in recovery mode"), Unreachable, *by_state("57P03")[1:]),
    (
        ("password", "authentication", "no pg_hba.conf entry"),
        AccessDenied,
        "the server refuses this user or password",
        "check user and secret",
    ),
    (
        (r'role ".*" (?:does not exist|is not permitted)',),
        AccessDenied,
        "the server knows no such user",
        "check the user in the dsn",
    ),
    (
        (r'database ".*" does not exist', "no such database"),
        NotFound,
        "there is no such database",
        by_state("3D000")[2],
    ),
    (("permission denied",), AccessDenied, "the server refuses this user", "grant CONNECT on the database"),
    (
        UNKNOWN_HOST,
        NotFound,
        "there is no such host",
        "correct the host in the dsn",
    ),
    (
        ("server does not support SSL", "certificate verify failed", "does not match host name", NO_OPTIONS),
        Refused,
        "the server takes no such connection",
        "look at the dsn: its sslmode, certificates and options",
    ),
)
"""Errors of a failed connection by patterns in libpq's message; but for the first two, a retry would not help."""


def _reason(text: str) -> str:
    """Return libpq's reason for the last host tried, which contains neither addresses nor secrets."""
    lines = [line for line in text.splitlines() if line and not line.startswith(("\t", " "))]
    last = lines[-1].rpartition(" failed: ")[2] if lines else ""
    return re.sub(r"^(?:FATAL|ERROR):\s*", "", last).strip().rstrip(".")


def state_error(state: str, message: str, where: str, place: _Place = (None, "")) -> PenstockError:
    """Return the error for an SQLSTATE; of `message` only object names are kept."""
    if state == "22P02" and FENCED in message:
        return Fenced("a newer run took over", where=where, hint="nothing to do: the newer run carries on")
    if state == "22P02" and NOT_KEPT in message:
        what = "the update leaves out values that it did not change, and the target has no row with them"
        return RowRefused(what, where=where, hint="was the row refused before, or deleted there?", state="not_kept")
    if state == "22P02" and OLDER in message:
        what = "a change was committed before what the history has of its row: was the source's clock set back?"
        return Refused(what, where=where, hint="wait until it is past that time; or write to another table")
    if "No space left" in message:
        state = "53100"
    kind, what, hint = by_state(state)
    if message.startswith(_NO_PARTITION):
        what, hint = "no partition of the target takes a row", "create the partition, or a default one"
    if kind is BadData:
        what, waits = f"{what}{place[1]} [SQLSTATE {state}]", state == "23503"
        return RowRefused(what, where=where, hint=hint, state=state, column=place[0], waits=waits)
    if kind is AccessDenied and state == "42501":
        hint = "`penstock plan` names the GRANT for the connection's user"
    if "row-level security" in message:
        if message.startswith("COPY FROM"):
            what = "row-level security of the target holds for this user, and COPY cannot write then"
            return AccessDenied(what, where=where, hint="let the user own the table, or give it BYPASSRLS")
        hint = "let the user see all rows (BYPASSRLS or a policy), or read a view that selects the rows to copy"
        what = "row-level security would hide rows from this user"
    tells = kind in _NAMING or state[:2] in _WITHOUT_VALUES or state in _NAMING_STATES
    named = f"{f' ({message})' if tells and message else ''}{place[1]}"
    return kind(f"{what}{named} [SQLSTATE {state or 'none'}]", where=where, hint=hint)


_WITHOUT_VALUES: Final = {"0A", "25", "2B", "55", "58", "XX"}
"""Classes whose messages name objects and states of the server, and no values of rows."""
_NAMING: Final = {MissingTable, MissingColumn, AccessDenied, OutOfSpace}
_NAMING_STATES: Final = {"08001", "2200H", "42883"}
"""Errors and SQLSTATEs whose messages have names of objects, and no values of rows."""
_NO_PARTITION: Final = "no partition of relation"
_Place = tuple[str | None, str]
"""The column of a row's error, and a text that names the column and the constraint."""
_COLUMN: Final = re.compile(r"^COPY .+?, line \d+, column ([^:\n]+)(?::|$)", re.MULTILINE)


def _place(column: str | None, constraint: str | None, context: str | None) -> _Place:
    if column is None and (found := _COLUMN.search(context or "")):
        column = found[1]
    named = [f"column `{column}`"] if column else []
    named += [f"constraint `{constraint}`"] if constraint else []
    return column, f" ({', '.join(named)})" if named else ""


def result_error(result: pq.abc.PGresult, where: str) -> PenstockError:
    """Return the error in a result of libpq."""

    def said(field: pq.DiagnosticField) -> str:
        return (result.error_field(field) or b"").decode(errors="replace")

    of = pq.DiagnosticField
    if not (state := said(of.SQLSTATE)):
        return Unreachable("the connection was lost", where=where, hint="try again")
    place = _place(said(of.COLUMN_NAME) or None, said(of.CONSTRAINT_NAME) or None, said(of.CONTEXT))
    return state_error(state, said(of.MESSAGE_PRIMARY), where, place)
