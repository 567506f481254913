"""Description of PostgreSQL's tables: columns with the server's own type names, nullability, and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dataflows.connectors.postgres.session import Session, ask, one_row, translated
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.data.tables import Column, Table
from penstock.errors import MissingTable, Refused, SchemaMismatch, did_you_mean

__all__ = [
    "TableName",
    "check_exact_key",
    "check_updatable",
    "describe",
    "escaped",
    "find",
    "inherited",
    "repeats_keys",
]

FIRST_USER_OID: Final = 16384


def escaped(text: str) -> str:
    """Escape per cent signs in a part of a query with parameters."""
    return text.replace("%", "%%")


class TableName(ObjectName):
    """Name of a table with its schema."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Parse ``schema.table``, or a bare name in `public`; names are literal, without quotes."""
        schema, dot, name = text.partition(".")
        return cls(schema, name) if dot else cls("public", text)


def inherited(parent: str) -> str:
    """Return SQL that is true if tables inherit from `parent`, an expression for an oid; chunks do not count."""
    return f"""EXISTS (SELECT FROM pg_inherits h JOIN pg_class o ON o.oid = h.inhrelid
  WHERE h.inhparent = {parent} AND o.relnamespace IS DISTINCT FROM to_regnamespace('_timescaledb_internal'))"""


_TABLE: Final = """
SELECT c.oid::text, c.relkind::text, greatest(c.reltuples, 0)::bigint, coalesce((
  SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod), NOT (a.attnotnull OR t.typnotnull),
    a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, a.attgenerated <> '',
    greatest(t.oid, t.typelem, t.typbasetype) < %(user)s, t.typtype = 'e',
    CASE WHEN t.typtype = 'd' AND t.typbasetype < %(user)s THEN format_type(t.typbasetype, t.typtypmod) END)
    ORDER BY a.attnum)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'), coalesce((
  SELECT json_agg(names ORDER BY main DESC, id) FROM (
    SELECT array_agg(a.attname::text ORDER BY k.place) AS names, i.indisprimary AS main, i.indexrelid AS id
    FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, place), pg_attribute a
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
      AND i.indexprs IS NULL AND k.place <= i.indnkeyatts AND a.attrelid = i.indrelid AND a.attnum = k.attnum
    GROUP BY i.indexrelid, i.indisprimary HAVING bool_and(a.attnotnull)) unique_keys), '[]')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"""
_SHARED_KEYS: Final = f"SELECT {inherited('%s::regclass')}"
_NEIGHBOURS = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND c.relname NOT LIKE '\\_penstock\\_%%' LIMIT 5000"""


def describe(session: Session, name: TableName, where: str) -> Table:
    """Return the table as it is now.

    Raises:
        MissingTable: the hint has the most similar name.
        SchemaMismatch: a table without columns.
    """
    found = find(session, name, where)
    if found is None:
        with translated(where):
            known = [row[0] for row in session.execute(_NEIGHBOURS)]
        hint = did_you_mean(str(name), known) or "write it as schema.table; this user sees no similar name"
        raise MissingTable("there is no such table", where=where, value=str(name), hint=hint)
    return found


def find(session: Session, name: TableName, where: str) -> Table | None:
    """Return the table as it is now; None if there is none.

    Raises:
        SchemaMismatch: a table without columns.
    """
    with translated(where):
        values = {"schema": name.schema, "name": name.name, "user": FIRST_USER_OID}
        found = ask(session, _TABLE, values).fetchone()
    if found is None:
        return None
    oid, kind, rows, described, keys = found
    columns = tuple(replace(Column(*one[:-1]), base=one[-1]) for one in described)
    if not columns:
        raise SchemaMismatch("the table has no columns", where=where, value=str(name))
    return Table(name, kind, columns, tuple(map(tuple, keys)), rows, identity=oid)


def repeats_keys(session: Session, table: Table, where: str) -> bool:
    """True if other tables inherit from this one: their rows are read with its own, and may repeat its keys."""
    with translated(where):
        return (
            table.kind == "r"
            and bool(table.keys)
            and bool(one_row(session, _SHARED_KEYS, (table.name.sql,), same=True)[0])
        )


_INEXACT: Final = """
SELECT a.attname, coalesce(c.collname, t.typname) FROM pg_attribute a
JOIN pg_type t ON t.oid = coalesce(nullif((SELECT typbasetype FROM pg_type d WHERE d.oid = a.atttypid), 0), a.atttypid)
LEFT JOIN pg_collation c ON NOT c.collisdeterministic AND (c.oid = a.attcollation OR EXISTS (SELECT FROM pg_index x
  WHERE x.indrelid = a.attrelid AND x.indisunique AND a.attnum = ANY (x.indkey::int2[])
  AND c.oid = ANY (x.indcollation::oid[])))
WHERE a.attrelid = %(table)s::regclass AND a.attname = ANY (%(key)s) AND (c.oid IS NOT NULL OR t.typname = 'citext')
LIMIT 1"""


def check_exact_key(session: Session, table: TableName, key: Sequence[str], where: str) -> None:
    """Refuse a key whose collation or type treats different texts as equal: their rows would become one.

    Raises:
        Refused: by column and collation.
    """
    with translated(where):
        found = session.execute(_INEXACT, {"table": table.sql, "key": list(key)}).fetchone()
    if found is not None:
        what = f"the key `{found[0]}` treats different texts as equal ({found[1]}): their rows would become one"
        hint = f'ALTER TABLE {table.sql} ALTER {quoted(found[0])} TYPE text COLLATE "C"; or merge by another key'
        raise Refused(what, where=f"{where}.key", hint=hint)


_NOT_UPDATABLE: Final = """
SELECT attname FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attidentity = 'a' AND NOT attisdropped
AND attname = ANY (%(names)s) LIMIT 1"""


def check_updatable(session: Session, table: TableName, names: Sequence[str], where: str) -> None:
    """Refuse columns that the server lets nobody update, though rows may be inserted with values for them.

    Raises:
        Refused: the first of them.
    """
    with translated(where):
        found = session.execute(_NOT_UPDATABLE, {"table": table.sql, "names": list(names)}).fetchone()
    if found is not None:
        what = (
            f"`{found[0]}` of {table} is GENERATED ALWAYS AS IDENTITY: the server would refuse each row that is there"
        )
        hint = (
            f"leave it out of the mapping, or ALTER TABLE {table.sql} ALTER {quoted(found[0])} SET GENERATED BY DEFAULT"
        )
        raise Refused(what, where=where, hint=hint)
