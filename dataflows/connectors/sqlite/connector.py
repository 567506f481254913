"""``type: sqlite``: tables of one SQLite file, as sources and sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.source_catalog import SourceCatalog
from dataflows.connectors.sql.catalog import file_catalog
from dataflows.connectors.sql.database import Database, DatabaseFile
from dataflows.connectors.sql.names import FileObjectName
from dataflows.connectors.sql.source import DatabaseSource
from dataflows.connectors.sqlite.target import SqliteTarget
from penstock.models.connection import SqliteConnection

__all__ = ["SqliteConnector"]


class SqliteConnector:
    """``type: sqlite``; an object is the name of a table or view."""

    model = SqliteConnection
    takes_format = False

    @staticmethod
    def named(place: Place) -> str:
        return place.object

    @staticmethod
    def source(place: Place) -> DatabaseSource:
        return DatabaseSource(place, FileObjectName("main", place.object), _sqlite(place, write=False))

    @staticmethod
    def catalog(place: Place) -> SourceCatalog:
        database = _sqlite(place, write=False)(lambda: None)
        describe = partial(database.describe, sink=False)
        return file_catalog(place, SqliteConnector.source, database, lambda one: FileObjectName("main", one), describe)

    @staticmethod
    def target(place: Place, owner: Owner) -> SqliteTarget:
        session = _sqlite(place, write=True, patience=owner.patience)
        return SqliteTarget.opened(place, owner, FileObjectName("main", place.object), session(lambda: None))

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:  # noqa: ARG004 - one query has them all
        from dataflows.connectors.sql.listing import objects_of

        yield from objects_of(_sqlite(place, write=False)(check), _LISTED, check)


_LISTED: Final = r"""
SELECT m.name, '', m.name, m.type = 'view',
  (SELECT json_group_array(name) FROM (
    SELECT name FROM pragma_table_info(CASE m.type WHEN 'view' THEN '' ELSE m.name END) WHERE pk > 0 ORDER BY pk)),
  (SELECT json_group_array(DISTINCT o.name)
    FROM pragma_foreign_key_list(CASE m.type WHEN 'view' THEN '' ELSE m.name END) f
    CROSS JOIN sqlite_master o WHERE o.type = 'table' AND o.name = f."table" COLLATE NOCASE)
FROM pragma_table_list m WHERE m.schema = 'main' AND m.type <> 'shadow' AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\'
AND m.name NOT LIKE '\_penstock\_%' ESCAPE '\'"""
"""Shadow tables hold what a virtual table, such as one for full-text search, is made of."""


def _sqlite(place: Place, *, write: bool, patience: float | None = None) -> Callable[[Callable[[], None]], Database]:
    from dataflows.connectors.sqlite.database import SqliteDatabase

    file = DatabaseFile.of(place, write=write, patience=patience)
    return lambda check: SqliteDatabase(replace(file, check=check))
