"""Facts about a cursor from PostgreSQL's catalog: default, sequence, time zone, and open transactions."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import psycopg

from dataflows.connectors.postgres.locks import READ
from dataflows.connectors.postgres.session import CONNECT_SECONDS, Session, one_row, translated
from dataflows.connectors.postgres.tables import escaped
from dataflows.connectors.sql.names import quoted
from dataflows.connectors.windows import MAX_CLOCK_SETBACK, XMIN, Clock, Evidence, is_made
from dataflows.data.cursors import CursorRule
from dataflows.data.tables import Column, Table
from dataflows.data.types import parse_type
from penstock.errors import Refused, Unavailable

__all__ = ["XID", "evidence_of", "horizon", "key_sql"]

SETTLE_SECONDS: Final = 0.02
"""Wait until a transaction that has just begun is visible in pg_stat_activity, which takes microseconds."""
XID: Final = Column(XMIN, "bigint", nullable=False, hidden=True)
"""Id of the transaction that wrote a row, extended so that it does not wrap around."""
_XID: Final = """(xmin::text::bigint + ((SELECT txid_snapshot_xmax(txid_current_snapshot())) - xmin::text::bigint)
/ 4294967296 * 4294967296)"""
RANDOM: Final = ("gen_random_uuid", "uuid_generate_v4", "uuidv4")


def key_sql(column: Column) -> str:
    """Return the SQL expression of a key: its quoted name, or the one for `XID`."""
    return _XID if column.name == XMIN and column.hidden else quoted(column.name)


REACHABLE: Final = 10**15
"""A sequence with a greater maximum does not come to its end: this takes 30 years at a million numbers a second."""
_NEXT: Final = re.compile(r"nextval\('(?:[^']|'')+'::regclass\)")
_CATALOG: Final = f"""{READ}
SELECT coalesce(array_agg(DISTINCT pg_get_expr(d.adbin, d.adrelid)) FILTER (WHERE d.oid IS NOT NULL), '{{}}'),
  coalesce(max(s.seqcache), 1), coalesce(min(s.seqincrement), 1), bool_or(a.attidentity <> ''),
  bool_and(c.relkind IN ('r', 'p')), min(c.oid::regclass::text) FILTER (WHERE c.relkind IN ('m', 'f')),
  min(c.oid::regclass::text) FILTER (WHERE EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srrelid = c.oid)),
  pg_is_in_recovery(), (SELECT y.collname FROM pg_attribute x JOIN pg_collation y ON y.oid = x.attcollation
    WHERE x.attrelid = %(table)s::regclass AND x.attname = %(column)s AND NOT y.collisdeterministic),
  coalesce(bool_or(s.seqcycle AND s.seqmax < {REACHABLE}), false),
  max(CASE WHEN has_sequence_privilege(s.seqrelid, 'SELECT, USAGE')
    THEN coalesce(pg_sequence_last_value(s.seqrelid), s.seqstart - s.seqincrement) END)
FROM read JOIN pg_class c ON c.oid = read.id
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_depend p ON (p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
  AND p.refclassid = 'pg_class'::regclass)
  OR (p.classid = 'pg_class'::regclass AND p.deptype = 'i' AND p.refclassid = 'pg_class'::regclass
  AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum)
LEFT JOIN pg_sequence s ON s.seqrelid = CASE WHEN p.classid = 'pg_class'::regclass THEN p.objid ELSE p.refobjid END"""


def evidence_of(session: Session, table: Table, column: Column, rule: CursorRule, where: str, dsn: str) -> Evidence:
    """Return the facts about a cursor in the catalog; for a view, those of its tables' columns of the same name."""
    with translated(where):
        found = one_row(session, _CATALOG, {"table": table.name.sql, "column": column.name})
    defaults, cache, step, identity, plain, behind, subscribed, standby, alike, cycles, drawn = found
    hidden_writers = "the server is a hot standby" if standby else None
    hidden_writers = hidden_writers or (f"{subscribed} is filled by a subscription" if subscribed else None)
    hidden_writers = hidden_writers or (f"{behind} shows data stored elsewhere" if behind else None)
    default = ", ".join(defaults) or ("an identity" if identity else None)
    random = any(name in one for one in defaults for name in RANDOM)
    kind = parse_type(column.type).name
    if kind == "uuid" and not default:
        random = _is_random(session, table, column, where)
    zone = None
    if kind in {"date", "timestamp without time zone"}:
        zone = rule.timezone or " and ".join(zones_of(session, dsn, where))
    as_drawn = all(_NEXT.fullmatch(one) for one in defaults)  # not in an expression, such as nextval(…) * 1000
    client = bool(plain) and not is_made(default)
    evidence = Evidence(column, default, int(cache), int(step), random=random, zone=zone, client=client, alike=alike)
    return replace(evidence, hidden_writers=hidden_writers, cycles=cycles, drawn=drawn if as_drawn else None)


def _is_random(session: Session, table: Table, column: Column, where: str) -> bool:
    """True if some of the first rows have UUIDs of version 4."""
    name = escaped(quoted(column.name))
    query = (
        f"SELECT EXISTS (SELECT FROM (SELECT {name}::text AS u FROM {escaped(table.name.sql)} LIMIT 1000) sampled "
        "WHERE u ~ '^.{14}4.{4}[89ab]')"
    )
    with translated(where):
        return bool(one_row(session, query, {})[0])


_ROLES: Final = """
SELECT DISTINCT split_part(one, '=', 2) FROM pg_db_role_setting s, unnest(s.setconfig) one
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) AND s.setrole <> 0
AND one ILIKE 'timezone=%'"""


def zones_of(session: Session, dsn: str, where: str) -> tuple[str, ...]:
    """Return the default time zones of sessions with this database: its own, then those set for roles.

    It asks a session of its own, since all others are pinned to UTC.
    """
    with translated(where):
        with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_SECONDS) as plain:
            own = str(one_row(plain, "SHOW TimeZone")[0])
        roles = [str(row[0]) for row in session.execute(_ROLES)]
    return tuple(dict.fromkeys((own, *sorted(roles))))


@dataclass(frozen=True, slots=True)
class _Open:
    """Open transactions: the start of the oldest one, and those whose start this user cannot see."""

    oldest: datetime | None
    hidden: dict[str, str]


_OPEN: Final = """
SELECT l.virtualtransaction, a.xact_start, a.pid || coalesce(' (user ' || a.usename || ')', '')
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
AND a.datname = current_database() AND a.usesysid IS NOT NULL
AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'walsender', 'parallel worker')
AND a.application_name IS DISTINCT FROM 'penstock:source'"""


def _open(session: Session) -> _Open:
    rows = session.execute(_OPEN).fetchall()
    return _Open(
        min((begun for _, begun, _ in rows if begun is not None), default=None),
        {name: who for name, begun, who in rows if begun is None},
    )


def _oldest(session: Session, where: str, seconds: float) -> datetime | None:
    """Return the start of the oldest open transaction, after waiting for those whose start is hidden.

    Raises:
        Unavailable: one of them is still open after `seconds`.
    """
    found = _open(session)
    oldest, waited, end = found.oldest, dict(found.hidden), time.monotonic() + seconds
    while waited:
        if time.monotonic() > end:
            who = next(iter(waited.values()))
            hint = "grant pg_read_all_stats to the connection's user, give the cursor a lag, or end the session"
            what = f"this user cannot see when the open transaction of session {who} began"
            raise Unavailable(f"{what}: rows of this window may be in it", where=where, hint=hint)
        time.sleep(SETTLE_SECONDS)
        now = _open(session)
        waited = {name: who for name, who in waited.items() if name in now.hidden}
        oldest = min((one for one in (oldest, now.oldest) if one is not None), default=None)
    return oldest


_STANDBY: Final = """
SELECT CASE WHEN w.latest_end_lsn <= pg_last_wal_replay_lsn()
THEN greatest(w.last_msg_send_time, pg_last_xact_replay_timestamp()) ELSE pg_last_xact_replay_timestamp() END
FROM (SELECT 1) one LEFT JOIN pg_stat_wal_receiver w ON true"""
_SUBSCRIBED: Final = f"""{READ}
SELECT bool_and(r.srsubstate IN ('r', 's') AND s.latest_end_time IS NOT NULL),
min(CASE WHEN EXISTS (SELECT FROM pg_locks l WHERE l.pid = s.pid AND l.locktype = 'virtualxid')
  THEN s.latest_end_time ELSE greatest(s.latest_end_time, s.last_msg_send_time) END)
FROM read JOIN pg_subscription_rel r ON r.srrelid = read.id
LEFT JOIN pg_stat_subscription s ON s.subid = r.srsubid AND s.relid IS NULL HAVING count(*) > 0"""


def _arrived(session: Session, table: Table, now: datetime, where: str) -> datetime:
    """Return the time up to which rows have arrived: now, or up to which a standby or subscription has caught up.

    Raises:
        Refused: the subscription is not running, or still copies its tables.
    """
    standby, replayed = one_row(session, f"SELECT pg_is_in_recovery(), ({_STANDBY}) AT TIME ZONE 'UTC'")
    if standby:
        if replayed is None:
            hint = "commit something on the primary, and try again"
            raise Unavailable("the standby does not report up to when it has replayed", where=where, hint=hint)
        return min(now, datetime.fromisoformat(f"{replayed}+00:00"))
    found = session.execute(_SUBSCRIBED, {"table": table.name.sql}).fetchone()
    if found is None:
        return now
    if not found[0]:
        hint = "look at pg_subscription_rel and pg_stat_subscription, and run again once it has caught up"
        raise Refused("the subscription is not running, or still copies its tables", where=where, hint=hint)
    return min(now, datetime.fromisoformat(str(found[1])))


def horizon(
    session: Session, table: Table, evidence: Evidence, rule: CursorRule, where: str, dsn: str, seconds: float
) -> Clock:
    """Return the source's clock, and the start of its oldest open transaction.

    Raises:
        Unavailable: a transaction whose start is hidden does not end.
    """
    with translated(where):
        now = _arrived(session, table, one_row(session, "SELECT clock_timestamp()")[0], where)
        oldest = None
        if not rule.lag:
            time.sleep(SETTLE_SECONDS)
            oldest = _oldest(session, where, seconds)
        if evidence.zone is None:
            return Clock(now, oldest)
        zones = [rule.timezone] if rule.timezone else list(zones_of(session, dsn, where))
        least, most = _ahead(session, zones, [min(now - rule.lag, oldest or now), now, now + MAX_CLOCK_SETBACK])
    return Clock(now, oldest, least, most)


def _ahead(session: Session, zones: list[str], times: list[datetime]) -> tuple[timedelta, timedelta]:
    """Return by how much the zones' clocks are ahead of UTC at these times: the least and the most."""
    query = (
        "SELECT min(o), max(o) FROM (SELECT (t AT TIME ZONE z) - (t AT TIME ZONE 'UTC') AS o "
        "FROM unnest(%s::timestamptz[]) t, unnest(%s::text[]) z) a"
    )
    least, most = one_row(session, query, (times, zones))
    return least, most
