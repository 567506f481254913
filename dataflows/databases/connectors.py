"""``type: sqlite`` and ``type: duckdb``: tables of one database file as sources and sinks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dataflows.connectors.contract import Owner, Place
from dataflows.databases.database import Database, ObjectName
from dataflows.databases.source import DatabaseSource
from dataflows.databases.target import DatabaseTarget
from penstock.models.connection import DuckdbConnection, SqliteConnection

__all__ = ["DuckdbConnector", "SqliteConnector"]


class SqliteConnector:
    """``type: sqlite``; an object is the name of a table or view."""

    model = SqliteConnection
    takes_format = False

    @staticmethod
    def named(place: Place) -> str:
        return place.object

    @staticmethod
    def source(place: Place) -> DatabaseSource:
        return DatabaseSource(place, ObjectName(place.object), _sqlite(place, write=False))

    @staticmethod
    def target(place: Place, owner: Owner) -> DatabaseTarget:
        session = _sqlite(place, write=True, patience=owner.patience)
        return DatabaseTarget.opened(place, owner, ObjectName(place.object), session(lambda: None))


class DuckdbConnector:
    """``type: duckdb``; an object is ``schema.table``, or a bare name in `main`."""

    model = DuckdbConnection
    takes_format = False

    @staticmethod
    def named(place: Place) -> str:
        return str(_parsed(place.object))

    @staticmethod
    def source(place: Place) -> DatabaseSource:
        return DatabaseSource(place, _parsed(place.object), _duckdb(place, write=False))

    @staticmethod
    def target(place: Place, owner: Owner) -> DatabaseTarget:
        session = _duckdb(place, write=True, patience=owner.patience)
        return DatabaseTarget.opened(place, owner, _parsed(place.object), session(lambda: None))


def _parsed(text: str) -> ObjectName:
    schema, dot, name = text.partition(".")
    return ObjectName(name, schema) if dot else ObjectName(text)


def _sqlite(place: Place, *, write: bool, patience: float | None = None) -> Callable[[Callable[[], None]], Database]:
    from dataflows.databases.sqlite import SqliteDatabase  # noqa: PLC0415 - only the one that is used

    path = Path(place.settings.path)
    return lambda check: SqliteDatabase(path, place.where, write=write, check=check, patience=patience)


def _duckdb(place: Place, *, write: bool, patience: float | None = None) -> Callable[[Callable[[], None]], Database]:
    from dataflows.databases.duck import DuckDatabase  # noqa: PLC0415

    path = Path(place.settings.path)
    return lambda check: DuckDatabase(path, place.where, write=write, check=check, patience=patience)
