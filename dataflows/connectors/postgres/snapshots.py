"""Share one snapshot among all readers of a run: a session of the launcher exports it, and each reader imports it.

The exporting session locks the table in ACCESS SHARE first. A reader imports the snapshot once and reads all its splits
in one transaction: it holds lock and snapshot itself, so that neither the loss of the exporting session nor a command
waiting for the lock comes between its splits. Both are held for a limited time. After that, the rest of a table with a
key is read with a snapshot for each split; rows split by their physical location cannot be located again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Final

import psycopg

from dataflows.connectors.postgres.locks import share
from dataflows.connectors.postgres.session import Session, one_row, translated
from dataflows.connectors.postgres.tables import TableName, describe
from dataflows.data.tables import Table
from penstock.errors import Refused, Unavailable

__all__ = ["GONE", "MARK", "Moment", "hold", "limits"]

MARK: Final = "penstock"
"""Savepoint of each reading transaction; after an error, rolling back to it makes the session usable again."""
_MARKED: Final = f"; SAVEPOINT {MARK}"
LONGEST: Final = (1 << 31) - 1
"""Longest time-out of a server, in milliseconds."""
HOUR: Final = 3_600_000
"""Time-out of an idle reader, in milliseconds."""
TIMED_VERSION: Final = 170000
"""First server version with `transaction_timeout`."""
GONE: Final = {"22023", "42704", "55000"}
"""SQLSTATEs of a snapshot that is unknown, or whose exporting session has ended."""
_KEPT: Final = """SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND locktype = 'relation'
AND relation = %s::regclass AND mode = 'AccessShareLock' AND granted)"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """Exported snapshot, its session, and the time limit in milliseconds."""

    snapshot: str
    pid: int
    limit: int


def hold(session: Session, table: Table, limit: timedelta, where: str) -> str:
    """Export a snapshot in a transaction that stays open for at most `limit`.

    The server ends it then, even if this process is stopped.

    Raises:
        Unavailable: the table is locked, or has changed since it was described.
    """
    held = min(LONGEST, max(1, int(limit.total_seconds() * 1000)))
    begin = f"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {limits(session, held)}"
    share(session, table.name, where, begin)
    now = describe(session, table.name, where)
    known = tuple(replace(one, unreadable=None) for one in table.columns if not one.hidden)
    if (now.kind, now.columns) != (table.kind, known):
        session.rollback()
        raise Unavailable("the table was changed while the run began", where=where, hint="try again")
    with translated(where):
        snapshot, pid = one_row(session, "SELECT pg_export_snapshot(), pg_backend_pid()", same=True)
    return json.dumps(asdict(_Held(snapshot, pid, held)))


def limits(session: Session, idle: int) -> str:
    """Return statements that set a transaction's time-outs in place of the role's defaults; `idle` 0 is none."""
    whole = "SET LOCAL transaction_timeout = 0; " if session.info.server_version >= TIMED_VERSION else ""
    return f"SET LOCAL idle_in_transaction_session_timeout = {idle}; {whole}"


@dataclass(slots=True)
class Moment:
    """Snapshot with which one reader's session reads.

    With `lasting`, all splits need the shared snapshot. Without, once it is lost, each split is read with a snapshot of
    its own, and `released` is called.
    """

    table: TableName
    held: str | None
    lasting: bool
    where: str
    released: Callable[[], None]
    _until: float | None = field(default=None, init=False)
    """Time after which no split begins with the shared snapshot; None if not imported, or released."""

    @property
    def passed(self) -> bool:
        """True if the time limit of the imported snapshot is over; the server may have ended the session by now."""
        return self._until is not None and time.monotonic() >= self._until

    def begin(self, session: Session) -> None:
        """Prepare the session to read a split.

        Raises:
            Unavailable: the table is locked, or the snapshot is lost.
            Refused: the time limit is over, and the rest cannot be read with another snapshot.
        """
        if self._until is not None and not self.passed:
            return
        if self.held is not None:
            held, joined = _Held(**json.loads(self.held)), self._until is not None
            if not joined and self._join(session, held):
                self._until = time.monotonic() + held.limit / 1000
                return
            self._let_go(held, passed=joined)
        begin = f"ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {limits(session, HOUR)}"
        share(session, self.table, self.where, begin, _MARKED)

    def _join(self, session: Session, held: _Held) -> bool:
        begin = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{held.snapshot}'"
        with translated(self.where):
            try:
                session.execute(begin)
            except psycopg.Error as error:
                if error.sqlstate not in GONE:
                    raise
                return False
        share(session, self.table, self.where, limits(session, held.limit), _MARKED)
        with translated(self.where):
            # The exporting session kept its lock until this session got its own.
            return bool(one_row(session, _KEPT, (held.pid, self.table.sql), same=True)[0])

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
