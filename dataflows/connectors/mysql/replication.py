"""Replication as a server reports it: whether its rows come from other servers, and how late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from dataflows.connectors.mysql.session import Session
from penstock.errors import AccessDenied, Refused, SchemaMismatch, Unavailable

__all__ = ["behind", "hidden_writers", "late", "short_lag"]

RIGHT: Final = "REPLICA MONITOR (REPLICATION CLIENT in MySQL and older MariaDB)"
_REPLICA: Final = "the server is a replica"
_UNSEEN: Final = f"the server has rows of another one, and without {RIGHT} this user cannot see if it is a replica"
Status = Sequence[Mapping[str, Any]]


def hidden_writers(session: Session) -> str | None:
    """Return why other servers' open transactions are invisible here; None if the rows are written on this server."""
    status = _status(session)
    if status:
        return _REPLICA
    if int(session.value("SELECT @@GLOBAL.read_only")):
        return "the server is read-only, as a replica is"
    return _UNSEEN if status is None and _has_replicated(session) else None


def behind(session: Session, where: str) -> timedelta:
    """Return how far the server's rows may be behind those of the servers that it replicates.

    Raises:
        Unavailable: a replication is not running.
        Refused: this user may not see the replication.
    """
    status = _status(session)
    if status is None and (_has_replicated(session) or int(session.value("SELECT @@GLOBAL.read_only"))):
        what = "the server may be a replica, and this user may not see how late its rows are"
        raise Refused(what, where=where, hint=f"grant {RIGHT}")
    return max((late(one, where) for one in status or ()), default=timedelta(0))


def short_lag(session: Session, lag: timedelta) -> str | None:
    """Return a note on a lag that is shorter than the time after which a replica notices a lost connection."""
    if not lag or not _status(session):
        return None
    found = session.rows("SHOW GLOBAL VARIABLES WHERE variable_name IN ('replica_net_timeout', 'slave_net_timeout')")
    seconds = max((int(row[1]) for row in found), default=0)
    if lag >= timedelta(seconds=seconds):
        return None
    return f"{_REPLICA}, and may notice a lost connection only after {seconds} s ({found[0][0]}): use a lag above that"


def late(source: Mapping[str, Any], where: str) -> timedelta:
    """Return how late a replication is, by its status.

    MySQL still reports seconds when the connection is lost, as long as it has something to apply.

    Raises:
        Unavailable: it is not running.
    """
    running = [_either(source, f"{one}_{part}_Running") for one in ("Replica", "Slave") for part in ("IO", "SQL")]
    seconds = _either(source, "Seconds_Behind_Source", "Seconds_Behind_Master")
    if seconds is None or any(one not in {None, "Yes"} for one in running):
        hint = "start the replication, or read from its source"
        raise Unavailable("the replica does not follow its source", where=where, hint=hint)
    return timedelta(seconds=int(seconds))


def _either(source: Mapping[str, Any], *names: str) -> Any:
    return next((source[name] for name in names if name in source), None)


def _status(session: Session) -> Status | None:
    """Return the status of each replication, running or not; None if this user may not see it."""
    ways = ("SHOW ALL SLAVES STATUS",) if session.mariadb else ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS")
    for statement in ways:
        try:
            return _named_rows(session, statement)
        except AccessDenied:
            return None
        except SchemaMismatch:  # an older server does not know the statement
            continue
    return None


def _named_rows(session: Session, statement: str) -> Status:
    with session.translated(), session.wire.cursor() as cursor:
        cursor.execute(statement)
        names = [one[0] for one in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _has_replicated(session: Session) -> bool:
    """True if the server has ever applied transactions of another one, as far as any user may see."""
    if session.mariadb:
        return bool(session.value("SELECT @@GLOBAL.gtid_slave_pos"))
    executed, own = session.rows("SELECT @@GLOBAL.gtid_executed, @@GLOBAL.server_uuid")[0]
    servers = {part.strip().partition(":")[0] for part in str(executed).split(",") if part.strip()}
    return bool(servers - {str(own)})
