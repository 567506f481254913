"""``type: duckdb``: tables of one DuckDB file, as sources and sinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.duckdb.target import DuckdbTarget
from dataflows.connectors.sql.catalog import DatabaseCatalog
from dataflows.connectors.sql.database import Database, DatabaseFile
from dataflows.connectors.sql.names import FileObjectName
from dataflows.connectors.sql.source import DatabaseSource
from penstock.models.connection import DuckdbConnection

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
    def target(place: Place, owner: Owner) -> DuckdbTarget:
        session = _duckdb(place, write=True, patience=owner.patience)
        return DuckdbTarget.opened(place, owner, _parsed(place.object), session(lambda: None))

    @staticmethod
    def catalog(place: Place) -> DatabaseCatalog:
        return DatabaseCatalog(_duckdb(place, write=False)(lambda: None), _OBJECTS)


_OBJECTS: Final = r"""
SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = current_database()
AND table_name NOT LIKE '\_penstock\_%' ESCAPE '\' ORDER BY table_schema, table_name"""


def _parsed(text: str) -> FileObjectName:
    schema, dot, name = text.partition(".")
    return FileObjectName(schema, name) if dot else FileObjectName("main", text)


def _duckdb(place: Place, *, write: bool, patience: float | None = None) -> Callable[[Callable[[], None]], Database]:
    from dataflows.connectors.duckdb.database import DuckDatabase

    file = DatabaseFile.of(place, write=write, patience=patience)
    return lambda check: DuckDatabase(replace(file, check=check))
