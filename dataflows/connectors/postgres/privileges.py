"""Privileges of a connection's user, asked for before a run needs them, each with the GRANT that gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from dataflows.connectors.contract import Owner
from dataflows.connectors.postgres.session import Session, one_row, translated
from dataflows.connectors.postgres.state import TABLES
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.names import quoted
from dataflows.data.tables import Column, Table
from penstock.errors import AccessDenied
from penstock.postgres import by_state

__all__ = ["mark_unreadable", "missing_grants"]

_READER: Final = """
SELECT current_user::text, has_schema_privilege(n.oid, 'USAGE'), (
  SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
  AND NOT a.attisdropped AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relname = %(name)s"""


def mark_unreadable(session: Session, table: Table, error: AccessDenied, where: str) -> Table:
    """Return the table with the columns marked that this user may not read, after the server refused to read them all.

    Raises:
        AccessDenied: none may be read; names the GRANT. Or `error`, if the reason is another one, as behind a view.
    """
    name: TableName = table.name
    with translated(where):
        user, uses, closed = one_row(session, _READER, {"schema": name.schema, "name": name.name})
    to = quoted(user)
    if not uses:
        what, hint = (
            f"user {user} may not use schema {name.schema}",
            f"GRANT USAGE ON SCHEMA {quoted(name.schema)} TO {to}",
        )
        raise AccessDenied(what, where=where, hint=hint)
    if not closed:
        raise error
    if len(closed) == len(table.columns):
        hint = f"GRANT SELECT ON {name.sql} TO {to}"
        raise AccessDenied(f"user {user} may not read {name}", where=where, hint=hint)

    def marked(column: Column) -> Column:
        if column.name not in closed:
            return column
        grant = f"GRANT SELECT ({quoted(column.name)}) ON {name.sql} TO {to}"
        what = f"user {user} may not read column `{column.name}` of {name}"
        return replace(column, unreadable=f"{where}: {what}; {grant}, or map the other columns only")

    keys = tuple(key for key in table.keys if not set(key) & set(closed))
    return replace(table, columns=tuple(map(marked, table.columns)), keys=keys)


_WRITER: Final = """
SELECT current_user::text, quote_ident(current_database()), has_database_privilege(current_database(), 'CREATE'),
  has_database_privilege(current_database(), 'TEMP'), n.oid IS NOT NULL, has_schema_privilege(n.oid, 'USAGE'),
  has_schema_privilege(n.oid, 'CREATE'), c.oid IS NOT NULL, pg_has_role(c.relowner, 'USAGE'),
  pg_get_userbyid(c.relowner)::text, ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
    WHERE CASE p WHEN 'DELETE' THEN has_table_privilege(c.oid, p) ELSE has_any_column_privilege(c.oid, p) END),
  ARRAY(SELECT t.relname::text FROM pg_class t WHERE t.relnamespace = n.oid AND t.relname = ANY(%(state)s)),
  ARRAY(SELECT t.relname::text FROM pg_class t WHERE t.relnamespace = n.oid AND t.relname = ANY(%(state)s)
    AND NOT (has_table_privilege(t.oid, 'SELECT') AND has_table_privilege(t.oid, 'INSERT')
    AND has_table_privilege(t.oid, 'UPDATE') AND has_table_privilege(t.oid, 'DELETE'))),
  current_setting('transaction_read_only') = 'on'
FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = %(schema)s
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = %(name)s AND c.relkind IN ('r', 'p')"""


def missing_grants(
    session: Session, sink: TableName, owner: Owner, where: str, *, grows: bool
) -> Sequence[tuple[str, str]]:
    """Return what this user may not do at the sink that a run needs, each with the GRANT."""
    values = {"schema": sink.schema, "name": sink.name, "state": list(TABLES)}
    with translated(where):
        row = one_row(session, _WRITER, values)
    user, database, creates, temporary, schema, uses, makes, there, owns, owned_by, may, state, closed, read_only = row
    found, to = _Found(user), quoted(sink.schema)
    if read_only:
        _, what, hint = by_state("25006")
        found.lacks.append((what, hint))
    if not schema:
        found.add(not creates, f"create schema {sink.schema}", f"CREATE ON DATABASE {database}")
        return found.lacks
    found.add(not uses, f"use schema {sink.schema}", f"USAGE ON SCHEMA {to}")
    if not (there and uses and len(state) == len(TABLES)) or owner.shadowed or owner.write.delete is not None:
        found.add(not makes, f"create tables in schema {sink.schema}", f"CREATE ON SCHEMA {to}")
    for name in closed:
        what = f"read and write {sink.schema}.{name}, which keeps the positions"
        found.add(True, what, f"SELECT, INSERT, UPDATE, DELETE ON {quoted(sink.schema, name)}")  # noqa: FBT003 - missing
    if there:
        needed = [one for one in _needed(owner, owns=owns and makes) if one not in may]
        found.add(bool(needed), f"{', '.join(needed)} on {sink}", f"{', '.join(needed)} ON {sink.sql}")
        if grows and not owns:
            what = f"user {user} may not add columns to {sink}, since {owned_by} owns it"
            found.lacks.append((what, f"GRANT {quoted(owned_by)} TO {quoted(user)}, or add the columns yourself"))
    if owner.write.write in {"merge", "scd2"}:
        found.add(not temporary, "create temporary tables", f"TEMPORARY ON DATABASE {database}")
    return found.lacks


def _needed(owner: Owner, *, owns: bool) -> tuple[str, ...]:
    """Return the privileges on the target that a run needs; one that may rename another table to it needs no more."""
    if owner.shadowed:
        return ("SELECT",) if owns else ("SELECT", "INSERT", "DELETE")
    gone = ("DELETE",) if owner.deletes else ()
    return {"append": ("INSERT",), "merge": ("SELECT", "INSERT", "UPDATE", *gone)}.get(
        owner.write.write, ("SELECT", "INSERT", "UPDATE")
    )


class _Found:
    """Missing privileges of one user."""

    def __init__(self, user: Any) -> None:
        self.lacks: list[tuple[str, str]] = []
        self._user = str(user)

    def add(self, missing: bool, what: str, grant: str) -> None:  # noqa: FBT001 - the condition of one row
        if missing:
            self.lacks.append((f"user {self._user} may not {what}", f"GRANT {grant} TO {quoted(self._user)}"))
