"""Privileges of a connection's user, asked for before a run needs them, each with the GRANT that gives it.

The server reports what a user was granted, not what its roles were: with an active role nothing is reported as missing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from dataflows.connectors.contract import Owner
from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.tables import TableName, exists
from dataflows.connectors.sql.ledger import TABLES
from dataflows.data.tables import Column, Table
from penstock.errors import AccessDenied, Refused

__all__ = ["check_may_wait", "mark_unreadable", "may_not_wait", "missing_grants", "unreadable"]

UNSEEN: Final = "(a column that this user may not see)"
"""Name that stands for columns that the server does not list; a pipeline that maps all columns is refused by it."""
_SELECTABLE: Final = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = ? AND table_name = ? AND FIND_IN_SET('select', REPLACE(privileges, ' ', '')) > 0"""
_GRANTED: Final = """
SELECT privilege_type FROM information_schema.user_privileges WHERE grantee IN (?, 'PUBLIC')
UNION SELECT privilege_type FROM information_schema.schema_privileges
WHERE grantee IN (?, 'PUBLIC') AND ? LIKE table_schema
UNION SELECT privilege_type FROM information_schema.table_privileges
WHERE grantee IN (?, 'PUBLIC') AND table_schema = ? AND table_name = ?
UNION SELECT privilege_type FROM information_schema.column_privileges
WHERE grantee IN (?, 'PUBLIC') AND table_schema = ? AND table_name = ?"""
ROLES: Final = (8, 0, 0)
"""First version of MySQL with roles; MariaDB has had them for longer."""
_STATE: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")


def _grantee(session: Session) -> str:
    """Return the account that the server took the user for, as GRANT and the information schema write it."""
    user, _, host = str(session.value("SELECT CURRENT_USER()")).rpartition("@")
    return "@".join("'" + part.replace("'", "''") + "'" for part in (user, host))


def mark_unreadable(session: Session, table: Table, where: str) -> Table:
    """Return the table with the columns marked that this user may not read; the server has refused to read them all.

    Raises:
        AccessDenied: none may be read; names the GRANT.
    """
    name: TableName = table.name
    may = {str(row[0]) for row in session.rows(_SELECTABLE, (name.schema, name.name))}
    user = _grantee(session)
    if not may:
        raise unreadable(session, name, where)

    def marked(column: Column) -> Column:
        if column.name in may:
            return column
        grant = f"GRANT SELECT ({quoted(column.name)}) ON {name.sql} TO {user}"
        what = f"user {user} may not read column `{column.name}` of {name}"
        return replace(column, unreadable=f"{where}: {what}; {grant}, or map the other columns only")

    what = f"user {user} may not read every column of {name}"
    grant = f"GRANT SELECT ON {name.sql} TO {user}, or map the columns that it may read"
    unseen = Column(UNSEEN, "text", unreadable=f"{where}: {what}; {grant}")
    columns = tuple(map(marked, table.columns))
    more = () if any(one.unreadable for one in columns) else (unseen,)
    keys = tuple(key for key in table.keys if set(key) <= may)
    return replace(table, columns=(*columns, *more), keys=keys)


def unreadable(session: Session, name: TableName, where: str) -> AccessDenied:
    """Return the error for a table that this user may not read at all."""
    user = _grantee(session)
    what, hint = f"user {user} may not read {name}, or there is no such table", f"GRANT SELECT ON {name.sql} TO {user}"
    return AccessDenied(what, where=where, hint=hint)


def check_may_wait(session: Session, name: TableName, where: str, *, sees_transactions: bool) -> None:
    """Refuse a cursor of a user that can neither wait for the table's writers nor, for a time, see their transactions.

    Raises:
        Refused: with the GRANT.
    """
    if not _has_role(session):
        needed = {"LOCK TABLES", *(("PROCESS",) if sees_transactions else ())}
        if not needed & _granted(session, _grantee(session), name):
            raise may_not_wait(session, name, where)


def may_not_wait(session: Session, name: TableName, where: str) -> Refused:
    """Return the error of a run that may not wait for rows that are not committed yet."""
    user = _grantee(session)
    hint = f"GRANT LOCK TABLES ON {quoted(name.schema)}.* TO {user}; or, for a time, grant PROCESS or set a `lag`"
    return Refused(f"user {user} may not lock {name}: a run could not wait for late rows", where=where, hint=hint)


def missing_grants(
    session: Session, sink: TableName, state: str, owner: Owner, *, grows: bool
) -> Sequence[tuple[str, str]]:
    """Return what this user may not do at the sink that a run needs, each with the GRANT; `state` is its database."""
    if _has_role(session):
        return ()
    user = _grantee(session)
    found: list[tuple[str, str]] = []

    def check(name: TableName, needed: Collection[str]) -> None:
        have = _granted(session, user, name)
        if lacking := [one for one in needed if one not in have]:
            listed, of = ", ".join(lacking), TableName(name.schema, "*")
            grant = f"GRANT {listed} ON {quoted(name.schema)}.* TO {user}"
            found.append((f"user {user} may not {listed} in {of}", grant))

    new = [name for name in TABLES if not exists(session, TableName(state, name))]
    check(TableName(state, TABLES[0]), ("CREATE", *_STATE) if new else _STATE)
    check(sink, _needed(owner, there=exists(session, sink), grows=grows))
    return found


def _has_role(session: Session) -> bool:
    if not session.mariadb and session.version < ROLES:
        return False
    return session.value("SELECT CURRENT_ROLE()") not in {None, "NONE", ""}


def _granted(session: Session, user: str, name: TableName) -> set[str]:
    of = (user, name.schema, name.name)
    rows = session.rows(_GRANTED, (user, user, name.schema, *of, *of))
    return {str(row[0]).upper() for row in rows}


def _needed(owner: Owner, *, there: bool, grows: bool) -> tuple[str, ...]:
    """Return the privileges on the target's database that a run needs."""
    needed = {"append": ("INSERT",), "replace": ("SELECT", "INSERT", "DELETE")}.get(
        owner.write.write, ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TEMPORARY TABLES")
    )
    if owner.shadowed:
        needed = tuple(dict.fromkeys((*needed, "CREATE", "DROP", "ALTER", "SELECT", "DELETE")))
    if not there or owner.write.delete is not None:
        needed = (*needed, "CREATE")
    return tuple(dict.fromkeys((*needed, "ALTER") if grows else needed))
