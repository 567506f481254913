"""Values that discovery has seen, in schema `ops`: kept for a time, erased on request, and never on a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
import psycopg

from catalog.dataset_folds import dataset_id
from catalog.rows import storable
from penstock.clock import now
from penstock.postgres import address, connect, translated

__all__ = ["Profiles"]


class Profiles:
    """The kept values of datasets, over a session of its own."""

    def __init__(self, dsn: str) -> None:
        """Connect to the catalog at `dsn`. Raises Unavailable."""
        self._where = address(dsn)
        self._session = connect(dsn, "penstock:profiles", autocommit=True)

    def put(self, connection: str, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the values of some objects of a connection, by object and column, instead of earlier ones."""
        at = now()
        rows = [
            (dataset_id(connection, name), connection, name, at, orjson.dumps(storable(dict(values))).decode())
            for name, values in found.items()
        ]
        self._do(_PUT, rows)

    def tries(self, connection: str, object_: str) -> None:
        """Note that a sample of an object begins; the values that are kept stay as old as they are."""
        at = now()
        self._do(_TRIES, [(dataset_id(connection, object_), connection, object_, at, at)])

    def get(self, connection: str, object_: str) -> tuple[datetime, dict[str, Any]] | None:
        """Return when values of an object were kept, and the values by column; None if there are none."""
        try:
            row = self._session.execute(_GET, (dataset_id(connection, object_),)).fetchone()
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error
        return None if row is None else (row[0], dict(row[1]))

    def ages(self, connection: str) -> dict[str, datetime]:
        """Return when each object of a connection was sampled last, or a sample of it was tried."""
        try:
            return dict(self._session.execute(_AGES, (connection,)).fetchall())
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error

    def erase(self, connection: str, object_: str) -> int:
        """Delete the values of an object; return the number of rows that were there."""
        try:
            return self._session.execute(_ERASE, (dataset_id(connection, object_),)).rowcount
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error

    def expire(self, keep: timedelta) -> None:
        """Delete values that are older than `keep`."""
        self._do(_EXPIRE, [(now() - keep,)])

    def _do(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        try:
            with self._session.cursor() as cursor:
                cursor.executemany(statement, rows)
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error

    def close(self) -> None:
        """End the session."""
        self._session.close()


_PUT: Final = """INSERT INTO ops.profiles (dataset, connection, object, at, columns) VALUES (%s, %s, %s, %s, %s::jsonb)
ON CONFLICT (dataset) DO UPDATE SET at = EXCLUDED.at, columns = EXCLUDED.columns"""
_TRIES: Final = """INSERT INTO ops.profiles (dataset, connection, object, at, tried, columns)
VALUES (%s, %s, %s, %s, %s, '{}'::jsonb) ON CONFLICT (dataset) DO UPDATE SET tried = EXCLUDED.tried"""
_GET: Final = "SELECT at, columns FROM ops.profiles WHERE dataset = %s AND columns <> '{}'::jsonb"
_AGES: Final = "SELECT object, greatest(at, tried) FROM ops.profiles WHERE connection = %s"
_ERASE: Final = "DELETE FROM ops.profiles WHERE dataset = %s"
_EXPIRE: Final = "DELETE FROM ops.profiles WHERE at < %s"
