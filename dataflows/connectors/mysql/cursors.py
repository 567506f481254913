"""Facts about a cursor from MySQL's and MariaDB's catalog: default, zone, and open transactions."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from dataflows.connectors.mysql.replication import behind, hidden_writers
from dataflows.connectors.mysql.session import Session
from dataflows.connectors.mysql.tables import TableName
from dataflows.connectors.windows import MAX_CLOCK_SETBACK, Clock, Evidence, ahead_of, is_made
from dataflows.data.cursors import CursorRule
from dataflows.data.tables import Column
from dataflows.data.types import parse_type
from penstock.errors import AccessDenied, SchemaMismatch, Unavailable

__all__ = ["NUMBERED", "drawn_number", "evidence_of", "greatest_of", "horizon"]

FRESH_SECONDS: Final = 5.0
"""Longest wait for a current list of transactions."""
CACHED_SECONDS: Final = 0.11
"""The server shows the same list again for 0.1 s after each time that anyone has read it."""
START_MARGIN: Final = timedelta(seconds=1)
"""Transactions are listed with the whole second in which they began, and may have begun up to 1 s earlier."""
EXACT: Final = ("_nopad_bin", "_0900_bin", "binary")
"""Ends of the names of collations in which only identical texts are equal; others ignore blanks at the end."""
NUMBERED: Final = "AUTO_INCREMENT"
"""Default of a column that the server numbers."""
CACHED_VERSION: Final = (8, 0, 0)
"""First version of MySQL that shows the next number of a table as it was up to a day ago."""
_COLUMN: Final = """
SELECT column_default, extra, column_type, data_type, collation_name FROM information_schema.columns
WHERE table_schema = ? AND table_name = ? AND column_name = ?"""
_OPEN: Final = """/* {mark} */ SELECT
max(IF(trx_mysql_thread_id IN (0, CONNECTION_ID()) OR trx_is_read_only, NULL,
  TIMESTAMPDIFF(SECOND, trx_started, CONVERT_TZ(NOW(), '+00:00', 'SYSTEM')))),
max(trx_mysql_thread_id = CONNECTION_ID() AND trx_query LIKE '/* {mark} %')
FROM information_schema.innodb_trx"""


def evidence_of(session: Session, name: TableName, column: Column, rule: CursorRule) -> Evidence:
    """Return the facts about a cursor in the catalog and the server's variables.

    Raises:
        SchemaMismatch: it is an enum or a set, which is ordered in one way and compared in another.
    """
    found = session.rows(_COLUMN, (name.schema, name.name, column.name))
    default, extra, _, kind, collation = found[0] if found else (None, "", "", "", None)
    if _text(kind) in {"enum", "set"}:
        what, hint = (
            f"`{column.name}` of type {_text(kind)} cannot be a cursor",
            "use a number or a time that only grows",
        )
        raise SchemaMismatch(what, where=str(name), hint=hint)
    numbered = "auto_increment" in _text(extra)
    said = NUMBERED if numbered else _text(default) if default is not None else None
    if said is not None and said.upper() == "NULL":
        said = None
    nodes = int(session.value("SELECT @@GLOBAL.auto_increment_increment")) if numbered else 1
    zone = None
    if parse_type(column.type).name in {"date", "timestamp without time zone"}:
        zone = rule.timezone or _zone(session)
    random = said is not None and "uuid()" in said.lower()
    alike = None if collation is None or _text(collation).endswith(EXACT) else _text(collation)
    evidence = Evidence(column, said, nodes=nodes, random=random, zone=zone, client=not is_made(said), alike=alike)
    return replace(evidence, hidden_writers=hidden_writers(session))


def drawn_number(session: Session, name: TableName) -> int | None:
    """Return the number below a table's next AUTO_INCREMENT; None if it has none."""
    if not session.mariadb and session.version >= CACHED_VERSION:
        session.change("SET SESSION information_schema_stats_expiry = 0")
    following = session.value(
        "SELECT auto_increment FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
        (name.schema, name.name),
    )
    return None if following is None else int(following) - 1


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _zone(session: Session) -> str:
    """Return the default time zone of sessions; ours is pinned to UTC."""
    own, system = session.rows("SELECT @@GLOBAL.time_zone, @@system_time_zone")[0]
    return f"{system} (the system's)" if own == "SYSTEM" else str(own)


def horizon(session: Session, evidence: Evidence, rule: CursorRule, where: str) -> tuple[Clock, bool]:
    """Return the server's clock and the oldest open transaction; False if this user may not see transactions.

    Raises:
        SchemaMismatch: the server does not know its own zone.
    """
    now = datetime.fromisoformat(str(session.value("SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)"))).replace(tzinfo=UTC)
    oldest, seen = None, True
    if rule.lag:
        now -= behind(session, where)
    else:
        oldest, seen = _oldest(session, now, where)
    if evidence.zone is None:
        return Clock(now, oldest), seen
    ahead = [
        _ahead(session, rule, at, where) for at in (min(now - rule.lag, oldest or now), now, now + MAX_CLOCK_SETBACK)
    ]
    return Clock(now, oldest, min(ahead), max(ahead)), seen


def _oldest(session: Session, now: datetime, where: str) -> tuple[datetime | None, bool]:
    """Return the start of the oldest open transaction, from a list that is newer than `now`.

    Only such a list shows this very query as a transaction's.

    Raises:
        Unavailable: others read the list so often that the server does not make a new one.
    """
    end = time.monotonic() + FRESH_SECONDS
    session.change("START TRANSACTION WITH CONSISTENT SNAPSHOT")
    try:
        while True:
            age, fresh = session.rows(_OPEN.format(mark=uuid4().hex))[0]
            if fresh:
                return (None if age is None else now - timedelta(seconds=int(age)) - START_MARGIN), True
            if time.monotonic() > end:
                what = (
                    "the server's list of transactions (information_schema.innodb_trx) is read too often to be current"
                )
                raise Unavailable(what, where=where, hint="stop whatever polls it, or set a `lag`")
            time.sleep(CACHED_SECONDS)
    except AccessDenied:
        return None, False
    finally:
        session.change("COMMIT")


def _ahead(session: Session, rule: CursorRule, at: datetime, where: str) -> timedelta:
    """Return by how much the column's clock is ahead of UTC at that time."""
    if rule.timezone:
        return ahead_of(rule.timezone, at)
    text = f"{at:%Y-%m-%d %H:%M:%S}"
    query = "SELECT TIMESTAMPDIFF(SECOND, ?, CONVERT_TZ(?, '+00:00', @@GLOBAL.time_zone))"
    seconds = session.value(query, (text, text))
    if seconds is None:
        hint = "load its time zone tables (mysql_tzinfo_to_sql), or set `cursor: {timezone: …}`"
        raise SchemaMismatch("the server does not know its own time zone", where=where, hint=hint)
    return timedelta(seconds=int(seconds))


_BITS: Final = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}


def greatest_of(session: Session, name: TableName, column: Column) -> str | None:
    """Return the greatest value of an integer type, which stands for "no end" and is not a position; else None."""
    found = session.rows(_COLUMN, (name.schema, name.name, column.name))
    bits = _BITS.get(_text(found[0][3])) if found else None
    if bits is None:
        return None
    return str((1 << bits) - 1 if "unsigned" in _text(found[0][2]) else (1 << (bits - 1)) - 1)
