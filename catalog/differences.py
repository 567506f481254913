"""Keys of rows that differ between both sides of a pipeline, in schema `ops`: kept for a time, and never on a log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import psycopg

from catalog.rows import storable
from penstock.clock import now
from penstock.postgres import address, connect, translated

__all__ = ["Differences"]

KEEP: Final = timedelta(days=30)


class Differences:
    """What the last check of each pipeline has found, over a session of its own."""

    def __init__(self, dsn: str) -> None:
        """Connect to the catalog at `dsn`. Raises Unavailable."""
        self._where = address(dsn)
        self._session = connect(dsn, "penstock:differences", autocommit=True)

    def put(self, pipeline: str, found: Mapping[str, Any]) -> None:
        """Keep what a check has found, by the pipeline's id, in place of the one before; others expire after 30 days.

        Raises:
            Unavailable: the catalog's database does not answer.
        """
        at = now()
        rows = json.dumps(storable(json.loads(json.dumps(dict(found), default=str), parse_constant=str)))
        try:
            self._session.execute(_EXPIRE, (at - KEEP,))
            self._session.execute(_PUT, (pipeline, at, rows))
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error

    def get(self, pipeline: str) -> dict[str, Any] | None:
        """Return what the last check has found; None if it is not kept. Raises Unavailable."""
        try:
            row = self._session.execute(_GET, (pipeline,)).fetchone()
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error
        return None if row is None else dict(row[0])

    def close(self) -> None:
        """End the session."""
        self._session.close()


_PUT: Final = """INSERT INTO ops.differences (pipeline, at, rows) VALUES (%s, %s, %s::jsonb)
ON CONFLICT (pipeline) DO UPDATE SET at = EXCLUDED.at, rows = EXCLUDED.rows"""
_GET: Final = "SELECT rows FROM ops.differences WHERE pipeline = %s"
_EXPIRE: Final = "DELETE FROM ops.differences WHERE at < %s"
