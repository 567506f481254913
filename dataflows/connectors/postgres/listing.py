"""Names of a PostgreSQL database's tables with their primary and foreign keys, in one query of its catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from dataflows.connectors.listing import ListedObject
from dataflows.connectors.postgres.identity import database_of
from dataflows.connectors.postgres.session import Session, translated
from dataflows.connectors.postgres.tables import inherited

__all__ = ["KINDS", "objects_of", "references_of"]

_OBJECTS: Final = f"""
SELECT n.nspname, c.relname, c.relkind::text, strpos(n.nspname, '.') = 0,
  has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT'), coalesce((
  SELECT json_agg(a.attname ORDER BY k.place) FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, place),
    pg_attribute a WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts
    AND (c.relkind = 'p' OR NOT {inherited("c.oid")})
    AND a.attrelid = i.indrelid AND a.attnum = k.attnum), '[]'), coalesce((
  SELECT json_agg(DISTINCT m.nspname || '.' || t.relname) FROM pg_constraint f JOIN pg_class t ON t.oid = f.confrelid
    JOIN pg_namespace m ON m.oid = t.relnamespace WHERE f.conrelid = c.oid AND f.contype = 'f'), '[]'), c.oid::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' AND c.relname NOT LIKE '\\_penstock\\_%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid
    AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')"""
"""Tables of extensions and partitions are left out; a schema with a dot in its name cannot be named.

Rows of tables that inherit from another are read with it, and may repeat its key.
"""
_REFERENCES: Final = """
SELECT n.nspname || '.' || c.relname, m.nspname || '.' || t.relname
FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class t ON t.oid = f.confrelid JOIN pg_namespace m ON m.oid = t.relnamespace
WHERE f.contype = 'f' AND EXISTS (SELECT FROM pg_trigger g WHERE g.tgconstraint = f.oid AND g.tgrelid = f.conrelid
  AND g.tgenabled IN ('O', 'A'))"""
"""A key that is not enforced has no triggers, and one whose triggers are disabled is not enforced either."""
KINDS: Final = {
    "r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "foreign table",
}  # fmt: skip


def objects_of(session: Session, where: str, check: Callable[[], None]) -> Iterator[ListedObject]:
    """Yield every table, and every view as hidden."""
    with translated(where):
        rows: list[Any] = list(session.execute(_OBJECTS))
    database = database_of(session, where)
    for schema, table, kind, nameable, readable, key, references, oid in rows:
        check()
        yield ListedObject(
            f"{schema}.{table}",
            schema,
            table,
            tuple(key),
            tuple(references),
            hidden=kind in {"v", "m"},
            kind=KINDS[kind],
            readable=readable,
            nameable=nameable,
            identity=f"{oid}@{database}",
        )


def references_of(session: Session, where: str) -> list[tuple[str, str]]:
    """Return each table with a foreign key that is enforced, and the table that it refers to."""
    with translated(where):
        return [(str(row[0]), str(row[1])) for row in session.execute(_REFERENCES)]
