"""Names of a MySQL server's tables with their keys and identities, in a few queries of its information schema."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from dataflows.connectors.listing import ListedObject
from dataflows.connectors.mysql.session import Session
from dataflows.connectors.mysql.tables import TableName, text_of
from penstock.errors import AccessDenied

__all__ = ["objects_of", "references_of"]

SYSTEM: Final = ("information_schema", "mysql", "performance_schema", "sys")
_DATABASES: Final = """
SELECT schema_name FROM information_schema.schemata WHERE locate('.', schema_name) = 0 ORDER BY schema_name"""
"""A database with a dot in its name cannot be named by a pipeline."""
_TABLES: Final = """
SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = ? AND table_type <> 'SEQUENCE'
AND table_name NOT LIKE '\\_penstock\\_%'"""
_KEYS: Final = """
SELECT table_name, column_name, sub_part FROM information_schema.statistics
WHERE table_schema = ? AND index_name = 'PRIMARY' ORDER BY table_name, seq_in_index"""
_FOREIGN: Final = """
SELECT DISTINCT table_name, referenced_table_schema, referenced_table_name FROM information_schema.key_column_usage
WHERE table_schema = ? AND referenced_table_name IS NOT NULL"""

_IDENTITIES: Final = """
SELECT CONVERT(CONVERT(CAST(substring_index(name, '/', -1) AS BINARY) USING filename) USING utf8mb4), table_id
FROM information_schema.{table} WHERE name NOT LIKE '%#%'
AND CONVERT(CONVERT(CAST(substring_index(name, '/', 1) AS BINARY) USING filename) USING utf8mb4) = ?"""
"""InnoDB's names are those of files; a partitioned table has a number for each partition, and none of its own."""
_SERVER: Final = "SHOW GLOBAL VARIABLES LIKE 'server_u%id'"
"""Older releases of MariaDB have no such number."""


def objects_of(session: Session, database: str | None, check: Callable[[], None]) -> Iterator[ListedObject]:
    """Yield every table of a database, and every view as hidden; of all databases that the user sees if it is None."""
    found = [text_of(row[0]) for row in session.rows(_DATABASES)] if database is None else [database]
    for schema in found:
        if schema.lower() not in SYSTEM:
            check()
            yield from _of_database(session, schema)


def _of_database(session: Session, schema: str) -> Iterator[ListedObject]:
    keys: dict[str, list[str]] = defaultdict(list)
    partial: set[str] = set()
    for table, column, part in session.rows(_KEYS, (schema,)):
        keys[text_of(table)].append(text_of(column))
        partial |= {text_of(table)} if part is not None else set()
    references: dict[str, list[str]] = defaultdict(list)
    for table, other in references_of(session, [schema], lambda: None):
        references[table].append(other)
    tables = [tuple(map(text_of, row)) for row in session.rows(_TABLES, (schema,))]
    identities = _identities(session, schema)  # after the names: a table that is renamed in between has none this time
    for name, kind in tables:
        key = () if name in partial else tuple(keys[name])
        is_view = "VIEW" in kind
        yield ListedObject(
            str(TableName(schema, name)),
            schema,
            name,
            key,
            tuple(references[str(TableName(schema, name))]),
            hidden=is_view,
            kind="view" if is_view else "table",
            identity=identities.get(name),
        )


def _identities(session: Session, schema: str) -> dict[str, str]:
    """Return InnoDB's numbers of the tables, with the server's; none if the user may not see them (PROCESS).

    Without the server's number there are none either: another server gives the same numbers to other tables.
    A table keeps its number when it is renamed, and gets another one when it is truncated or copied by ALTER TABLE.
    """
    try:
        table = "innodb_sys_tables" if session.mariadb else "innodb_tables"
        rows = session.rows(_IDENTITIES.format(table=table), (schema,))
    except AccessDenied:
        return {}
    server = "/".join(text_of(row[1]) for row in session.rows(_SERVER))
    if not server:
        return {}
    return {text_of(name): f"{int(number)}@{server}" for name, number in rows}


def references_of(session: Session, databases: Iterable[str], check: Callable[[], None]) -> list[tuple[str, str]]:
    """Return each table of these databases with a foreign key, and the table that it refers to."""
    found = []
    for schema in databases:
        check()
        rows = (map(text_of, row) for row in session.rows(_FOREIGN, (schema,)))
        found += [(str(TableName(schema, table)), str(TableName(other, of))) for table, other, of in rows]
    return found
