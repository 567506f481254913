"""A table in the server's catalog: whether its changes can be read, and the state that positions refer to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dataflows.connectors.postgres.cdc.names import Names
from dataflows.connectors.postgres.cdc.replication import lsn_number
from dataflows.connectors.postgres.session import Session, one_row, translated
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.names import quoted
from penstock.errors import AccessDenied, Refused

__all__ = ["Attribute", "Shape", "check_server", "check_table", "publish", "published", "shape", "withdraw"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column that is sent; `filled` is the value, as text, of rows that are older than it, None for NULL."""

    number: int
    type: str
    type_id: int
    modifier: int
    filled: str | None
    outside: bool
    """True if its values may be stored out of line, so that an update may leave them unsent."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The table as it is now."""

    id: int
    identity: tuple[str, ...] | None
    """Columns by which an update or delete names its row; None if it sends the whole row."""
    columns: Mapping[str, Attribute]
    numbered: int
    """Columns that it ever had: the number of the last one, which may be dropped or computed by the server."""
    gaps: frozenset[int]
    """Numbers of columns that were dropped."""
    keys: Mapping[int, tuple[str, ...]]
    """Columns that no two rows share, by the number of what ensures it at each statement."""
    parent: bool
    """True if other tables inherit from it, whose rows are sent as their own."""
    file: int
    """Number of its file: a new one after each command that rewrites all its rows, or empties it."""
    filed_by: frozenset[str] = field(compare=False)
    """Transactions that have made its indexes' entries in the catalog, the one that made the file among them."""
    written: int = field(compare=False)
    """Place in the WAL behind all of this."""

    def keys_of(self, columns: Sequence[str]) -> tuple[int, ...]:
        """Return the numbers of what ensures that these columns are unique."""
        return tuple(number for number, names in sorted(self.keys.items()) if set(names) == set(columns))

    @property
    def key(self) -> tuple[str, ...]:
        """Columns by which a change names its row, as well as it can be said: none of a table without a key."""
        return self.identity or next(iter(self.keys.values()), ())

    @property
    def unsent(self) -> frozenset[str]:
        """Columns whose values an update may leave out."""
        if self.identity is None:
            return frozenset()
        return frozenset(name for name, one in self.columns.items() if one.outside)

    @property
    def kept(self) -> dict[str, tuple[int, str]]:
        """Return number and type of each column."""
        return {name: (one.number, one.type) for name, one in self.columns.items()}


_SERVER: Final = """
SELECT current_setting('wal_level'), pg_is_in_recovery(), current_user::text,
  (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)
    OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname IN ('rds_replication', 'cloudsqlsuperuser', 'azure_pg_admin')
      AND pg_has_role(current_user, r.oid, 'MEMBER')),
  current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots),
  EXISTS (SELECT FROM pg_replication_slots WHERE starts_with(slot_name, %(slots)s) OR slot_name = %(shared)s),
  current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_stat_replication),
  EXISTS (SELECT FROM pg_stat_replication WHERE starts_with(application_name, %(name)s)),
  current_setting('server_encoding')"""


def check_server(session: Session, names: Names, where: str) -> None:
    """Refuse a server from which no changes can be read.

    Raises:
        Refused, AccessDenied: by the setting or the privilege, with the command that changes it.
    """
    with translated(where):
        level, standby, user, allowed, slots, used, has_slot, senders, sending, has_sender, encoding = one_row(
            session, _SERVER, {"slots": names.prefix, "shared": names.shared, "name": names.publication}
        )
    if standby:
        what = "the server is a standby: changes are read from the primary"
        raise Refused(what, where=where, hint="name the primary in the connection")
    if level != "logical":
        hint = "ALTER SYSTEM SET wal_level = 'logical', then restart the server"
        raise Refused(f"changes cannot be read while wal_level is {level}", where=where, hint=hint)
    if not allowed:
        what = f"user {user} may not read changes: it lacks REPLICATION"
        raise AccessDenied(what, where=where, hint=f"ALTER ROLE {quoted(user)} REPLICATION")
    if used >= slots and not has_slot:
        what = f"no replication slot is free: {used} of max_replication_slots = {slots} are used"
        hint = "drop one that nobody uses (pg_replication_slots), or raise max_replication_slots and restart the server"
        raise Refused(what, where=where, hint=hint)
    if sending >= senders and not has_sender:
        what = f"no replication connection is free: {sending} of max_wal_senders = {senders} are used"
        raise Refused(what, where=where, hint="end one, or raise max_wal_senders and restart the server")
    if encoding == "SQL_ASCII":
        what = "changes of a database with encoding SQL_ASCII cannot be read: its texts may be any bytes"
        raise Refused(what, where=where, hint="read it as a batch")


_TABLE: Final = """
SELECT c.oid::bigint, c.relkind::text, c.relpersistence::text, c.relreplident::text, c.relispartition,
  EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid), pg_has_role(c.relowner, 'USAGE'),
  pg_get_userbyid(c.relowner)::text, has_database_privilege(current_database(), 'CREATE'), current_user::text,
  (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_index x
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (x.indkey::int2[])
    WHERE x.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN x.indisprimary ELSE x.indisreplident END)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"""
_COLUMNS: Final = """
SELECT a.attname::text, a.attnum::int, format_type(a.atttypid, a.atttypmod), a.atttypid::bigint, a.atttypmod,
  (a.attmissingval::text::text[])[1],
  t.typstorage <> 'p'
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %(id)s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum"""
_ROWS: Final = """
SELECT c.relnatts::int, pg_relation_filenode(c.oid)::bigint,
  ARRAY(SELECT a.attnum::int FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attisdropped),
  ARRAY(SELECT i.xmin::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid),
  EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) FROM pg_class c WHERE c.oid = %(id)s"""
_KEYS: Final = """
SELECT coalesce(k.oid, x.indexrelid)::bigint, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_index x
JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])
LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid AND k.contype IN ('p', 'u')
WHERE x.indrelid = %(id)s AND x.indisunique AND x.indisvalid AND x.indimmediate AND x.indpred IS NULL
  AND x.indexprs IS NULL GROUP BY 1 HAVING bool_and(a.attnotnull)"""
_WRITTEN: Final = "SELECT pg_current_wal_lsn()::text"
_KINDS: Final = {"p": "partitioned table", "v": "view", "m": "materialized view", "f": "foreign table"}


def shape(session: Session, table: TableName, where: str) -> Shape | None:
    """Return the table as it is now; None if there is none."""
    with translated(where):
        row = session.execute(_TABLE, {"schema": table.schema, "name": table.name}).fetchone()
        of = {"id": row[0] if row else 0}
        rows = session.execute(_ROWS, of).fetchone()
        columns = session.execute(_COLUMNS, of).fetchall()
        keys = {number: tuple(names) for number, names in session.execute(_KEYS, of).fetchall()}
        written = lsn_number(one_row(session, _WRITTEN)[0])
    if row is None or rows is None:
        return None
    identity = None if row[3] == "f" else tuple(row[10] or ())
    numbered, file, gaps, filed_by, parent = rows
    sent = {name: Attribute(*rest) for name, *rest in columns}
    return Shape(row[0], identity, sent, numbered, frozenset(gaps), keys, parent, file, frozenset(filed_by), written)


def check_table(session: Session, table: TableName, names: Names, where: str) -> None:
    """Refuse a table whose changes cannot be read.

    Raises:
        Refused: a view or the like, an unlogged table, one with children, or without a replica identity.
        AccessDenied: the publication is missing, and this user may not create it; names the statement.
    """
    with translated(where):
        row = one_row(session, _TABLE, {"schema": table.schema, "name": table.name})
    _, kind, persistence, identity, part, parent, owns, owner, creates, user, key = row
    if kind in _KINDS or part or parent:
        what = _KINDS.get(kind) or ("partition" if part else "table with children")
        hint = "read it as a batch, or read the changes of an ordinary table"
        raise Refused(f"the changes of a {what} cannot be read yet", where=where, value=str(table), hint=hint)
    if persistence != "p":
        hint = f"ALTER TABLE {table.sql} SET LOGGED"
        raise Refused("the server does not log changes of an unlogged table", where=where, value=str(table), hint=hint)
    if identity != "f" and not key:
        hint = f"add a primary key, or ALTER TABLE {table.sql} REPLICA IDENTITY FULL"
        what = "the table has no replica identity: an update or delete would not say which row it means"
        raise Refused(what, where=where, value=str(table), hint=hint)
    if _of_publication(session, names, where) is None and not (owns and creates):
        lacks = f"{table} belongs to {owner}" if not owns else "it may not create publications in this database"
        hint = f"{_creating(names, table)}, as a user who may"
        raise AccessDenied(f"user {user} may not publish the table: {lacks}", where=where, hint=hint)


def _creating(names: Names, table: TableName) -> str:
    return f"CREATE PUBLICATION {quoted(names.publication)} FOR TABLE ONLY {table.sql}"


_PUBLICATION: Final = """
SELECT p.oid::bigint, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, to_jsonb(p) ->> 'pubgencols'
FROM pg_publication p WHERE p.pubname = %(name)s"""
_MEMBER: Final = """
SELECT r.oid::bigint, coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NOT NULL
FROM pg_publication_rel r WHERE r.prpubid = %(publication)s AND r.prrelid = %(table)s"""


def _of_publication(session: Session, names: Names, where: str) -> tuple[int, bool, str | None] | None:
    with translated(where):
        return session.execute(_PUBLICATION, {"name": names.publication}).fetchone()


def publish(session: Session, table: TableName, id_: int, names: Names, where: str) -> int:
    """Create the publication if it is missing, or let it have this table; return what `published` does.

    That of a set has the tables of the other members, too, which may be about to do the same.

    Raises:
        Refused: it does not publish the table.
    """
    name = names.publication
    with translated(where), session.transaction():
        session.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (name,))
        if _of_publication(session, names, where) is None:
            session.execute(_creating(names, table))
        elif not published(session, id_, names, where):  # it had a table of that name before, or is the set's
            way = "SET" if names.whole is None else "ADD"
            session.execute(f"ALTER PUBLICATION {quoted(name)} {way} TABLE ONLY {table.sql}")
    if not (row := published(session, id_, names, where)):
        what = f"publication {name} does not publish {table}"
        raise Refused(what, where=where, hint=f"DROP PUBLICATION {quoted(name)}; the pipeline makes it as it needs it")
    return row


def withdraw(session: Session, table: TableName, names: Names, where: str) -> bool:
    """Take a table out of the publication; drop it with its last table, and return True if it is gone."""
    name = quoted(names.publication)
    with translated(where), session.transaction():
        session.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (names.publication,))
        if (found := _of_publication(session, names, where)) is None:
            return True
        now = shape(session, table, where)
        if now is not None and published(session, now.id, names, where):
            session.execute(f"ALTER PUBLICATION {name} DROP TABLE ONLY {table.sql}")
        (left,) = one_row(session, "SELECT count(*) FROM pg_publication_rel WHERE prpubid = %s", (found[0],))
        if not left:
            session.execute(f"DROP PUBLICATION {name}")
        return not left


def published(session: Session, table: int, names: Names, where: str) -> int:
    """Return the row of the system's catalog by which the publication has the table; 0 if it has it no more.

    Raises:
        Refused: the publication leaves out changes, rows or columns.
    """
    name = names.publication
    if (found := _of_publication(session, names, where)) is None:
        return 0
    with translated(where):
        row = session.execute(_MEMBER, {"publication": found[0], "table": table}).fetchone()
    if row is None:
        return 0
    if not found[1] or row[1]:
        what = f"publication {name} does not publish all changes of all rows and columns"
        raise Refused(what, where=where, hint=f"DROP PUBLICATION {quoted(name)}; the pipeline makes it as it needs it")
    return int(row[0])
