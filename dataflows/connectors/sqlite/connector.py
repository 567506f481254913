"""``type: sqlite``: tables of one SQLite file, as sources and sinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.sql.catalog import DatabaseCatalog
from dataflows.connectors.sql.database import Database, DatabaseFile
from dataflows.connectors.sql.names import FileObjectName
from dataflows.connectors.sql.source import DatabaseSource
from dataflows.connectors.sql.target import DatabaseTarget
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
    def target(place: Place, owner: Owner) -> DatabaseTarget:
        session = _sqlite(place, write=True, patience=owner.patience)
        return DatabaseTarget.opened(place, owner, FileObjectName("main", place.object), session(lambda: None))

    @staticmethod
    def catalog(place: Place) -> DatabaseCatalog:
        return DatabaseCatalog(_sqlite(place, write=False)(lambda: None), _OBJECTS)


_OBJECTS: Final = r"""
SELECT 'main', name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\_%' ESCAPE '\'
AND name NOT LIKE '\_penstock\_%' ESCAPE '\' ORDER BY name"""


def _sqlite(place: Place, *, write: bool, patience: float | None = None) -> Callable[[Callable[[], None]], Database]:
    from dataflows.connectors.sqlite.database import SqliteDatabase

    file = DatabaseFile.of(place, write=write, patience=patience)
    return lambda check: SqliteDatabase(replace(file, check=check))
