"""Locks of PostgreSQL sessions, by which processes of an installation exclude each other.

The log on PostgreSQL takes them on the session that also appends. A log without sessions, as Kafka's, takes them on a
session of the catalog's database (`SessionLocks`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, LiteralString

import psycopg

from penstock import postgres
from penstock.errors import Unavailable
from penstock.topics.log import lock_number

__all__ = ["HOLDER", "LOCK", "STAMP", "TRY_LOCK", "UNLOCK", "SessionLocks", "lost_session"]

_LOCKS: Final = """
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
STAMP: Final[LiteralString] = f"""
    CASE WHEN EXISTS ({_LOCKS} AND pid = pg_backend_pid() AND classid::bigint << 32 | objid::bigint = %(lock)s)
    THEN %(lock)s::bigint END
"""
"""The lock that the session says it holds, if it does; about 40 µs."""
HOLDER: Final = f"SELECT EXISTS ({_LOCKS} AND classid::bigint << 32 | objid::bigint = %s)"
LOCK: Final = "SELECT pg_advisory_lock(%s) IS NOT NULL"
TRY_LOCK: Final = "SELECT pg_try_advisory_lock(%s)"
UNLOCK: Final = "SELECT pg_advisory_unlock(%s)"


class SessionLocks:
    """Locks on a session at `dsn`, opened with the first use. When the session is lost, so is this object."""

    def __init__(self, dsn: str, *, name: str) -> None:
        self._dsn, self._name = dsn, name
        self._session: psycopg.Connection | None = None
        self._lock: int | None = None

    def lock(self, name: str, *, wait: bool) -> bool:
        """See `TopicLog.lock`."""
        with self._talking() as session:
            taken = session.execute(LOCK if wait else TRY_LOCK, [lock_number(name)]).fetchone()
        if taken and taken[0]:
            self._lock = lock_number(name)
        return bool(taken and taken[0])

    def unlock(self, name: str) -> None:
        """See `TopicLog.unlock`."""
        if self._session is None:
            return
        with self._talking() as session:
            session.execute(UNLOCK, [lock_number(name)])
        self._lock = None if self._lock == lock_number(name) else self._lock

    def holder(self, name: str) -> bool:
        """See `TopicLog.holder`."""
        with self._talking() as session:
            found = session.execute(HOLDER, [lock_number(name)]).fetchone()
        return bool(found and found[0])

    def stamp(self) -> int | None:
        """Return the number of the lock taken last, if the server says that the session still holds it.

        Raises:
            Unavailable: the session was lost, and with it its locks. Costs a query only if a lock was taken.
        """
        if self._lock is None:
            return None
        with self._talking() as session:
            found = session.execute(f"SELECT {STAMP}", {"lock": self._lock}).fetchone()
        return None if found is None else found[0]

    def check(self) -> None:
        """Raise Unavailable if the session was lost; a look at the socket, without a query."""
        if self._session is None:
            return
        try:
            self._session.pgconn.consume_input()
        except psycopg.OperationalError as error:
            raise lost_session(self._where) from error

    def close(self) -> None:
        """Release the locks."""
        if self._session is not None:
            self._session.close()

    @property
    def _where(self) -> str:
        return f"locks at {postgres.address(self._dsn)}"

    @contextlib.contextmanager
    def _talking(self) -> Iterator[psycopg.Connection]:
        if self._session is None:
            self._session = postgres.connect(self._dsn, f"penstock:{self._name}")
        try:
            yield self._session
        except psycopg.Error as error:
            found = postgres.translated(error, where=self._where)
            if self._session.closed and not isinstance(found, Unavailable):
                raise lost_session(self._where) from error
            raise found from error


def lost_session(where: str) -> Unavailable:
    """Return the error of a session that was lost with its locks."""
    return Unavailable("the session was lost", where=where, hint="connect again")
