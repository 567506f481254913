"""Swap of a `replace`: load a shadow table, then put it in the target's place.

One atomic ``RENAME TABLE`` does it if nothing would stay with the old table: foreign keys, triggers, versions of its
rows. Otherwise ``DELETE`` and ``INSERT … SELECT`` do it in the transaction that ends the run. Grants belong to a name
in MySQL and stay. A rename commits implicitly: the existence of the renamed old table shows that it was done.
"""

from __future__ import annotations

from typing import Final

from dataflows.connectors.contract import Method
from dataflows.connectors.mysql.interference import interferers
from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.tables import TableName, describe, exists, natives
from dataflows.connectors.sql.checks import interfered
from dataflows.connectors.sql.names import shadow_name
from penstock.errors import Refused

__all__ = ["aside_name", "check_unreferred", "drop_leftovers", "make_shadow", "refill", "rename", "replace_method"]


def aside_name(uid: str, run: str, sink: TableName) -> TableName:
    """Return the name of the old target once a run's shadow table has replaced it."""
    return sink.sibling(f"{shadow_name(uid, run, sink).name}_old")


_OBSTACLES: Final = """
SELECT 'triggers' FROM information_schema.triggers WHERE event_object_schema = ? AND event_object_table = ?
UNION SELECT 'foreign keys' FROM information_schema.key_column_usage
WHERE table_schema = ? AND table_name = ? AND referenced_table_name IS NOT NULL
UNION SELECT 'it is system-versioned' FROM information_schema.tables
WHERE table_schema = ? AND table_name = ? AND table_type <> 'BASE TABLE'"""
_REFERRERS: Final = """
SELECT constraint_name, table_name FROM information_schema.key_column_usage
WHERE referenced_table_schema = ? AND referenced_table_name = ? AND NOT (table_schema = ? AND table_name = ?) LIMIT 1"""


def check_unreferred(session: Session, sink: TableName, what: str, where: str, *, apart: bool = False) -> None:
    """Refuse to delete rows of a table that a foreign key refers to; `apart` allows one of its own.

    Raises:
        Refused: `what` would break the key.
    """
    own = (sink.schema, sink.name) if apart else ("", "")
    if found := session.rows(_REFERRERS, (sink.schema, sink.name, *own)):
        hint = "drop the key, or write to a table that nothing refers to"
        raise Refused(f"{what} would break foreign key {found[0][0]} of {found[0][1]}", where=where, hint=hint)


def replace_method(session: Session, sink: TableName, where: str) -> Method:
    """Return the method of a `replace` of this table.

    Raises:
        Refused: rows of another table refer to it.
    """
    of = (sink.schema, sink.name)
    check_unreferred(session, sink, "`replace`", where, apart=True)
    reasons = tuple(str(row[0]) for row in session.rows(_OBSTACLES, of * 3))
    return Method("refill", reasons) if reasons else Method("rename")


def drop_leftovers(session: Session, prefix: str, sink: TableName, keep: tuple[str, ...]) -> None:
    """Drop the tables in the sink's database whose names begin with `prefix`, except `keep`."""
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND LEFT(table_name, ?) = ?"
    for (name,) in session.rows(query, (sink.schema, len(prefix), prefix)):
        if name not in keep:
            session.change(f"DROP TABLE IF EXISTS {quoted(sink.schema, name)}")


def make_shadow(session: Session, sink: TableName, shadow: TableName) -> None:
    """Create the run's shadow table with the target's columns, defaults, checks and indexes, if it is missing."""
    session.change(f"CREATE TABLE IF NOT EXISTS {shadow.sql} LIKE {sink.sql}")


def rename(session: Session, sink: TableName, shadow: TableName, aside: TableName, where: str) -> None:
    """Swap the tables, unless an earlier attempt did.

    Raises:
        Refused: the target's columns or keys have changed.
    """
    if exists(session, aside):
        return
    there, made = (describe(session, one, where, sink=True) for one in (sink, shadow))
    if there is None or made is None or (there.columns, there.keys) != (made.columns, made.keys):
        raise Refused("the table was changed while the run loaded", where=where, value=str(sink), hint="run it again")
    session.change(f"RENAME TABLE {sink.sql} TO {aside.sql}, {shadow.sql} TO {sink.sql}")


def refill(session: Session, sink: TableName, shadow: TableName, columns: tuple[str, ...], where: str) -> None:
    """Replace the target's rows by the shadow's, inside the transaction that ends the run.

    Raises:
        SchemaMismatch: a trigger changed rows.
    """
    names = ", ".join(map(quoted, columns))
    session.change(f"DELETE FROM {sink.sql}")
    session.change(f"INSERT INTO {sink.sql} ({names}) SELECT {names} FROM {shadow.sql}")
    named = interferers(session, sink)
    if named and (count := int(session.value(_differing(session, sink, shadow, columns)))):
        raise interfered(f"{count} rows were changed", named, where)


def _differing(session: Session, sink: TableName, shadow: TableName, columns: tuple[str, ...]) -> str:
    """Return a query that counts the distinct rows of the shadow that occur less often in the target."""
    kinds = natives(session, sink)
    values = (quoted(name) + (" * 1e0" if kinds[name][0] == "float" else "") for name in columns)
    row = ", ".join(f"coalesce(SHA2(CAST({value} AS BINARY), 256), '-')" for value in values)
    each = (f"SELECT CONCAT_WS(',', {row}) d, {n} n FROM {of.sql}" for of, n in ((shadow, 1), (sink, -1)))
    return f"SELECT count(*) FROM (SELECT 1 FROM ({' UNION ALL '.join(each)}) u GROUP BY d HAVING sum(n) > 0) x"
