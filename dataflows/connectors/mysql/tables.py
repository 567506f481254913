"""MySQL tables as the pipeline sees them: names, columns and keys, read from the server's information schema."""

from __future__ import annotations

from typing import Any, Final

from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.types import ddl_type, spelled
from dataflows.connectors.sql.names import ObjectName
from dataflows.data.tables import Column, Table
from penstock.errors import MissingTable, Refused, SchemaMismatch, did_you_mean

__all__ = ["TableName", "describe", "exists", "modified", "natives", "text_of"]


class TableName(ObjectName):
    """Name of a table; `schema` is its database."""

    __slots__ = ()
    mark = "`"

    @classmethod
    def parse(cls, text: str, database: str | None, where: str) -> TableName:
        """Parse ``database.table``, or a bare name in the connection's database; names are literal.

        Raises:
            Refused: neither the name nor the connection has a database.
        """
        found, dot, name = text.partition(".")
        if dot:
            return cls(found, name)
        if database is None:
            raise Refused("no database is named", where=where, value=text, hint="write it as database.table")
        return cls(database, text)


_RELATION: Final = """
SELECT table_type, coalesce(table_rows, 0) FROM information_schema.tables
WHERE table_schema = ? AND table_name = ? AND table_type <> 'SEQUENCE'"""
_COLUMNS: Final = """
SELECT column_name, data_type, column_type, is_nullable = 'YES',
       column_default IS NOT NULL AND NOT (column_default = 'NULL' AND version() LIKE '%MariaDB%')
       OR extra LIKE '%auto_increment%',
       coalesce(generation_expression, '') <> ''
FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position"""
"""MariaDB writes a default of NULL, which any nullable column has, as an expression; a text would be in quotes."""
_KEYS: Final = """
SELECT index_name, column_name, nullable = 'YES' OR sub_part IS NOT NULL OR column_name IS NULL
FROM information_schema.statistics WHERE table_schema = ? AND table_name = ? AND non_unique = 0
ORDER BY index_name <> 'PRIMARY', index_name, seq_in_index"""
_JSON: Final = """
SELECT check_clause FROM information_schema.check_constraints WHERE constraint_schema = ? AND table_name = ?"""
_NEIGHBOURS: Final = """
SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_name NOT LIKE '\\_penstock\\_%'
LIMIT 5000"""


def exists(session: Session, name: TableName) -> bool:
    """True if the table exists."""
    return bool(session.rows(_RELATION, (name.schema, name.name)))


def natives(session: Session, name: TableName) -> dict[str, tuple[str, str]]:
    """Return DATA_TYPE and COLUMN_TYPE of each column; MariaDB's JSON is recognised by its check constraint."""
    of = (name.schema, name.name)
    checks = {str(row[0]) for row in session.rows(_JSON, of)} if session.mariadb else set()
    return {
        row[0]: ("json", "json") if f"json_valid({quoted(row[0])})" in checks else (text_of(row[1]), text_of(row[2]))
        for row in session.rows(_COLUMNS, of)
    }


def modified(session: Session, name: TableName, column: Column, where: str) -> str | None:
    """Return the part of ALTER TABLE that makes a column like this one; None if it is so.

    MODIFY COLUMN drops what it does not repeat, so the server's own declaration is repeated, with another type.

    Raises:
        SchemaMismatch: the declaration has an unknown form.
    """
    there = describe(session, name, where, sink=True)
    now = there.column(column.name) if there is not None else None
    if now is not None and now.type == column.type and now.nullable >= column.nullable:
        return None
    kind, head = natives(session, name).get(column.name, ("", ""))[1], f"  {quoted(column.name)} "
    table = text_of(session.rows(f"SHOW CREATE TABLE {name.sql}")[0][1])
    line = next((one for one in table.splitlines() if one.startswith(f"{head}{kind}")), None)
    if line is None or now is None:
        hint = "change the target by hand"
        raise SchemaMismatch(f"the type of `{column.name}` cannot be changed", where=where, value=str(name), hint=hint)
    rest = line.removeprefix(f"{head}{kind}").rstrip(",")
    rest = rest.replace(" NOT NULL", " NULL", 1) if column.nullable and not now.nullable else rest
    given = kind if now.type == column.type else ddl_type(column)
    return f"MODIFY COLUMN {quoted(column.name)} {given}{rest}"


def text_of(value: Any) -> str:
    """Return a text of the information schema, which is bytes for some of its types."""
    return value.decode() if isinstance(value, bytes) else str(value)


def describe(session: Session, name: TableName, where: str, *, sink: bool) -> Table | None:
    """Return the table as it is now; None if a sink's table is missing.

    Raises:
        MissingTable: a source's table is missing; the hint has the most similar name.
    """
    of = (name.schema, name.name)
    found = session.rows(_RELATION, of)
    if not found:
        if sink:
            return None
        known = [str(row[0]) for row in session.rows(_NEIGHBOURS, (name.schema,))]
        hint = did_you_mean(name.name, known) or "write it as database.table; this user sees no similar name"
        raise MissingTable("there is no such table", where=where, value=str(name), hint=hint)
    kinds = natives(session, name)
    parsed = sink and not session.mariadb  # MariaDB stores a document as the text that it gets
    columns = tuple(
        Column(row[0], spelled(*kinds[row[0]], sink=sink, parsed=parsed), bool(row[3]), bool(row[4]), bool(row[5]))
        for row in session.rows(_COLUMNS, of)
    )
    keys: dict[str, list[str] | None] = {}
    for index, column, loose in session.rows(_KEYS, of):
        so_far = keys.setdefault(index, [])
        keys[index] = None if loose or so_far is None else [*so_far, column]
    usable = tuple(tuple(key) for key in keys.values() if key)
    return Table(name, "v" if "VIEW" in found[0][0] else "r", columns, usable, int(found[0][1]))
