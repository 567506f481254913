"""One point in time for all readers of a run, kept by one session of its launcher and joined by each of them.

The keeper takes ACCESS SHARE first and exports a snapshot after that. A reader joins once and reads all its splits in
one transaction: it holds lock and snapshot itself, so neither a lost keeper nor a command that waits for its lock comes
between its splits. Both are held for a limited time. After that a table with a key is read on, each split at a point in
time of its own; rows that were found by where they stand cannot be found again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Final

import psycopg

from dataflows.connectors.postgres.locks import share
from dataflows.connectors.postgres.session import Session, one_row, translated
from dataflows.connectors.postgres.tables import TableName, describe
from dataflows.data.tables import Table
from penstock.errors import Refused, Unavailable

__all__ = ["MARK", "Moment", "hold"]

MARK: Final = "penstock"
"""A savepoint of each reading transaction: rolled back to, a session answers again after an error."""
LONGEST: Final = (1 << 31) - 1
"""Milliseconds: the longest time-out that a server knows."""
HOUR: Final = 3_600_000
"""Milliseconds for which a reader that stands still keeps what is its own."""
TIMED_VERSION: Final = 170000
"""Servers from here on can limit transactions too."""
_GONE: Final = {"22023", "42704", "55000"}
"""What a server says of a snapshot that it does not know, or whose keeper has ended."""
_KEPT: Final = """SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND locktype = 'relation'
AND relation = %s::regclass AND mode = 'AccessShareLock' AND granted)"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """An exported snapshot, the session that keeps it, and for how long, in milliseconds."""

    snapshot: str
    pid: int
    limit: int


def hold(session: Session, table: Table, limit: timedelta, where: str) -> str:
    """Keep the point in time that is now, in a transaction that the session stays in for at most `limit`.

    The server ends it then, also where this process is stopped.

    Raises:
        Unavailable: the table is locked, or has changed since it was described.
    """
    held = min(LONGEST, max(1, int(limit.total_seconds() * 1000)))
    begin = f"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {_limits(session, held)}"
    share(session, table.name, where, begin)
    now = describe(session, table.name, where)
    if (now.kind, now.columns) != (table.kind, tuple(one for one in table.columns if not one.hidden)):
        session.rollback()
        raise Unavailable("the table was changed while the run began", where=where, hint="try again")
    with translated(where):
        snapshot, pid = one_row(session, "SELECT pg_export_snapshot(), pg_backend_pid()")
    return json.dumps(asdict(_Held(snapshot, pid, held)))


def _limits(session: Session, idle: int) -> str:
    """Set what ends a transaction; a role's own limits are for those who forget theirs."""
    whole = "SET LOCAL transaction_timeout = 0; " if session.info.server_version >= TIMED_VERSION else ""
    return f"SET LOCAL idle_in_transaction_session_timeout = {idle}; {whole}"


@dataclass(slots=True)
class Moment:
    """The point in time at which one reader's session reads.

    With `lasting`, what is held must be there for all splits. Without, splits are read at points in time of their own
    once it is not, and `released` is called.
    """

    table: TableName
    held: str | None
    lasting: bool
    where: str
    released: Callable[[], None]
    _until: float | None = field(default=None, init=False)
    """Until when no more splits begin at the time that is held; None where it was not joined, or is let go."""

    @property
    def passed(self) -> bool:
        """Whether the time is over for which what was joined is held; the server may have ended the session by now."""
        return self._until is not None and time.monotonic() >= self._until

    def begin(self, session: Session) -> None:
        """Make the session ready to read a split.

        Raises:
            Unavailable: the table is locked, or the point in time is lost.
            Refused: its time has passed, and the rest cannot be read at another one.
        """
        if self._until is not None and not self.passed:
            return
        if self.held is not None:
            held, joined = _Held(**json.loads(self.held)), self._until is not None
            if not joined and self._join(session, held):
                self._until = time.monotonic() + held.limit / 1000
                return
            self._let_go(held, passed=joined)
        begin = f"ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {_limits(session, HOUR)}"
        share(session, self.table, self.where, begin)
        with translated(self.where):
            session.execute(f"SAVEPOINT {MARK}")

    def _join(self, session: Session, held: _Held) -> bool:
        begin = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{held.snapshot}'"
        with translated(self.where):
            try:
                session.execute(begin)
            except psycopg.Error as error:
                if error.sqlstate not in _GONE:
                    raise
                return False
        share(session, self.table, self.where, _limits(session, held.limit))
        with translated(self.where):
            # The keeper had its lock all the while until this session got its own.
            kept = bool(one_row(session, _KEPT, (held.pid, self.table.sql))[0])
            session.execute(f"SAVEPOINT {MARK}")
        return kept

    def _let_go(self, held: _Held, *, passed: bool) -> None:
        if self.lasting and passed:
            what = f"reading took longer than the {held.limit / 1000:g} s for which a snapshot is held"
            hint = "give the table a primary key, or raise limits.snapshot or limits.workers"
            raise Refused(
                f"{what}: rows of a table without a key are found in one snapshot only", where=self.where, hint=hint
            )
        if self.lasting:
            raise Unavailable("the snapshot that the run began with is lost", where=self.where, hint="run it again")
        why = "limits.snapshot has passed" if passed else "the snapshot that the run began with is lost"
        _log.warning("%s: %s: the splits from here on are read at points in time of their own", self.where, why)
        self.held, self._until = None, None
        self.released()
