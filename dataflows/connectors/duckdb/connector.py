"""``type: duckdb``: tables of one DuckDB file, as sources and sinks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.duckdb.target import DuckdbTarget
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.source_catalog import SourceCatalog
from dataflows.connectors.sql.catalog import file_catalog
from dataflows.connectors.sql.database import DatabaseFile
from dataflows.connectors.sql.names import FileObjectName
from dataflows.connectors.sql.source import DatabaseSource
from penstock.errors import MissingTable, Unavailable
from penstock.models.connection import DuckdbConnection

if TYPE_CHECKING:
    from dataflows.connectors.duckdb.database import DuckDatabase

__all__ = ["DuckdbConnector"]


class DuckdbConnector:
    """``type: duckdb``; an object is ``schema.table``, or a bare name in schema `main`."""

    model = DuckdbConnection
    takes_format = False

    @staticmethod
    def named(place: Place) -> str:
        return str(_parsed(place.object))

    @staticmethod
    def source(place: Place) -> DatabaseSource:
        return DatabaseSource(place, _parsed(place.object), _duckdb(place, write=False))

    @staticmethod
    def catalog(place: Place) -> SourceCatalog:
        database = _duckdb(place, write=False)(lambda: None)
        return file_catalog(place, DuckdbConnector.source, database, _parsed, database.describe_all())

    @staticmethod
    def target(place: Place, owner: Owner) -> DuckdbTarget:
        session = _duckdb(place, write=True, patience=owner.patience)
        return DuckdbTarget.opened(place, owner, _parsed(place.object), session(lambda: None))

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:  # noqa: ARG004 - one query has them all
        from dataflows.connectors.sql.listing import objects_of

        yield from objects_of(_duckdb(place, write=False)(check), _LISTED, check)

    @staticmethod
    def references_of(
        place: Place,
        targets: Collection[str],  # noqa: ARG004 - one query has them all
        check: Callable[[], None],
    ) -> list[tuple[str, str]] | None:
        try:
            with closing(_duckdb(place, write=False, patience=BUSY_SECONDS)(check)) as database:
                return [(str(one), str(of)) for one, of in database.rows(_REFERENCES)]
        except MissingTable:  # the file will be made
            return []
        except Unavailable:
            return None


BUSY_SECONDS: Final = 1.0
"""Longest wait for a run that has locked the file, before its foreign keys count as not known."""
_NAMED: Final = (
    "CASE WHEN {0}.schema_name = 'main' AND NOT contains({1}, '.') THEN {1} ELSE {0}.schema_name || '.' || {1} END"
)
_LISTED: Final = rf"""
WITH tables AS (
  SELECT schema_name, table_name, false AS hidden FROM duckdb_tables() WHERE database_name = current_database()
    AND NOT internal AND NOT temporary
  UNION ALL
  SELECT schema_name, view_name, true FROM duckdb_views() WHERE database_name = current_database() AND NOT internal),
keys AS (SELECT * FROM duckdb_constraints() WHERE database_name = current_database())
SELECT {_NAMED.format("t", "t.table_name")}, t.schema_name, t.table_name, t.hidden,
  coalesce((SELECT to_json(first(k.constraint_column_names)) FROM keys k WHERE k.schema_name = t.schema_name
    AND k.table_name = t.table_name AND k.constraint_type = 'PRIMARY KEY'), '[]'),
  coalesce((SELECT to_json(list({_NAMED.format("k", "k.referenced_table")})) FROM keys k
    WHERE k.schema_name = t.schema_name AND k.table_name = t.table_name AND k.constraint_type = 'FOREIGN KEY'), '[]')
FROM tables t WHERE NOT contains(t.schema_name, '.') AND t.table_name NOT LIKE '\_penstock\_%' ESCAPE '\'"""
"""A schema with a dot in its name cannot be named by a pipeline; nor can a table of `main` with one, but in full."""


_REFERENCES: Final = f"""
SELECT DISTINCT {_NAMED.format("k", "k.table_name")}, {_NAMED.format("k", "k.referenced_table")}
FROM duckdb_constraints() k WHERE database_name = current_database() AND constraint_type = 'FOREIGN KEY'"""


def _parsed(text: str) -> FileObjectName:
    schema, dot, name = text.partition(".")
    return FileObjectName(schema, name) if dot else FileObjectName("main", text)


def _duckdb(
    place: Place, *, write: bool, patience: float | None = None
) -> Callable[[Callable[[], None]], DuckDatabase]:
    from dataflows.connectors.duckdb.database import DuckDatabase

    file = DatabaseFile.of(place, write=write, patience=patience)
    return lambda check: DuckDatabase(replace(file, check=check))
