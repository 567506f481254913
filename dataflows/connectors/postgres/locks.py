"""Lock everything that a table or view reads, in the weakest mode, before a snapshot; name the session that blocks it.

TRUNCATE, an ALTER that rewrites, REFRESH and the like are not MVCC-safe: a transaction that takes its snapshot before
such a command and its lock after it sees an empty table. A statement takes its snapshot before its locks, so the lock
is taken by an earlier statement than the one whose snapshot is used.
"""

from __future__ import annotations

from typing import Final

from dataflows.connectors.postgres.session import LOCK_NOT_AVAILABLE, Session, translated
from dataflows.connectors.postgres.tables import TableName
from penstock.errors import Unavailable

__all__ = ["READ", "share"]

READ: Final = """
WITH RECURSIVE read(id) AS (SELECT to_regclass(%(table)s)::oid UNION
  SELECT n.id FROM read CROSS JOIN LATERAL (
    SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = read.id
    UNION ALL SELECT d.refobjid FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass
      AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
      JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm') WHERE r.ev_class = read.id) n(id))"""
"""All objects that a table or view reads: itself, partitions, children and tables in its query; not in functions."""
_SHARED: Final = "SELECT FROM {} LIMIT 0"
"""Take ACCESS SHARE on all of them without reading rows. LOCK TABLE would need a privilege on the whole table, and does
not accept a materialized view."""
_HOLDER: Final = f"""{READ}
SELECT c.oid::regclass::text, l.pid, a.application_name, a.usename FROM pg_locks l JOIN read ON read.id = l.relation
JOIN pg_class c ON c.oid = read.id LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY l.granted DESC LIMIT 1"""


def share(session: Session, table: TableName, where: str, before: str = "", after: str = "") -> None:
    """Lock everything that reading the table locks, in ACCESS SHARE, until the end of the transaction.

    `before` and `after` are statements that go in the same message.

    Raises:
        Unavailable: not within the session's lock time-out; names the session that holds it.
    """
    with translated(where):
        try:
            session.execute(f"{before}{_SHARED.format(table.sql)}{after}")
        except LOCK_NOT_AVAILABLE:
            session.rollback()
            raise _locked(session, table, where) from None


def _locked(session: Session, table: TableName, where: str) -> Unavailable:
    found = session.execute(_HOLDER, {"table": table.sql}).fetchone()
    if found is None:
        return Unavailable("a lock was not granted in time", where=where, value=str(table), hint="try again later")
    name, pid, application, user = found
    who = "a prepared transaction" if pid is None else f"session {pid}"
    who += f" ({application or 'no application name'}, user {user})" if user is not None else ""
    what = f"{name} is locked by {who}, or waits to be"
    hint = "end it, or let it end, and try again" if pid is None else f"end it by pg_terminate_backend({pid}), or wait"
    return Unavailable(f"{what} [SQLSTATE 55P03]", where=where, value=str(table), hint=hint)
