"""Tables of a DuckDB file as the pipeline sees them: one by one, or all at once.

DuckDB builds its own views for each query, with all tables of the file in them, so one query for all is much quicker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from dataflows.connectors.duckdb.types import source_column
from dataflows.connectors.sql.names import ObjectName
from dataflows.connectors.windows import is_made
from dataflows.data.tables import Table

__all__ = ["COLUMNS", "TABLES", "all_described", "described"]

Rows = Callable[..., Sequence[Sequence[Any]]]
"""Executes a query, perhaps with values, and returns its rows."""

TABLES: Final = """
SELECT table_name, table_type FROM information_schema.tables
WHERE table_catalog = current_database() AND table_schema = ?"""
COLUMNS: Final = """
SELECT column_name, data_type, is_nullable, column_default FROM duckdb_columns()
WHERE database_name = current_database() AND schema_name = ? AND table_name = ? ORDER BY column_index"""
_KEYS: Final = """
SELECT constraint_column_names FROM duckdb_constraints() WHERE database_name = current_database()
AND schema_name = ? AND table_name = ? AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') ORDER BY constraint_type"""
_ALL_TABLES: Final = """
SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_catalog = current_database()"""
_ALL_COLUMNS: Final = """
SELECT schema_name, table_name, column_name, data_type, is_nullable, column_default FROM duckdb_columns()
WHERE database_name = current_database() ORDER BY schema_name, table_name, column_index"""
_ALL_KEYS: Final = """
SELECT schema_name, table_name, constraint_column_names FROM duckdb_constraints()
WHERE database_name = current_database() AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') ORDER BY constraint_type"""


def described(rows: Rows, name: ObjectName, *, sink: bool) -> Table | None:
    """Return a table or view as it is now; None if there is none of that name."""
    kinds = {row[0]: row[1] for row in rows(TABLES, (name.schema,))}
    if name.name not in kinds:
        return None
    of = (name.schema, name.name)
    defaults = rows(f"DESCRIBE {name.sql}")
    return _table(name, kinds[name.name], (rows(COLUMNS, of), defaults, rows(_KEYS, of)), sink=sink)


def all_described(rows: Rows) -> Callable[[ObjectName], Table | None]:
    """Return a function that describes the tables and views that there are now."""
    kinds = {(schema, name): kind for schema, name, kind in rows(_ALL_TABLES)}
    columns, keys = _by_table(rows(_ALL_COLUMNS)), _by_table(rows(_ALL_KEYS))

    def one(name: ObjectName) -> Table | None:
        of = (name.schema, name.name)
        if of not in kinds:
            return None
        return _table(name, kinds[of], (columns[of], rows(f"DESCRIBE {name.sql}"), keys[of]), sink=False)

    return one


def _by_table(rows: Iterable[Sequence[Any]]) -> defaultdict[tuple[str, str], list[Sequence[Any]]]:
    found: defaultdict[tuple[str, str], list[Sequence[Any]]] = defaultdict(list)
    for schema, name, *row in rows:
        found[schema, name].append(row)
    return found


def _table(name: ObjectName, kind: str, found: tuple[Sequence[Sequence[Any]], ...], *, sink: bool) -> Table:
    """Return the table of rows of `COLUMNS`, DESCRIBE and `_KEYS`."""
    shown, described_, keyed = found
    defaults = {row[0]: row[4] for row in described_}
    columns = []
    for column, type_, nullable, default in shown:
        shape = source_column(type_, column, nullable=nullable, sink=sink)
        generated = default is not None and defaults.get(column) is None
        constant = default is not None and not is_made(default)
        made = replace(shape, default=default is not None, generated=generated, constant=constant)
        columns.append(made)
    filled = {column.name for column in columns if not column.nullable}
    keys = tuple(tuple(row[0]) for row in keyed if set(row[0]) <= filled)
    return Table(name, "r" if kind == "BASE TABLE" else "v", tuple(columns), keys)
