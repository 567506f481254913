"""Keys of rows that differ between both sides of a pipeline, in schema `ops`: kept for a time, and never on a log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
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

    def put(self, pipeline: str, found: Sequence[Mapping[str, Any]]) -> None:
        """Keep what differs in a pipeline, by its id, in place of earlier ones; those of others expire after 30 days.

        Raises:
            Unavailable: the catalog's database does not answer.
        """
        at = now()
        texts = json.loads(json.dumps(list(found), default=str), parse_constant=str)
        rows = json.dumps(storable({"differences": texts})["differences"])
        try:
            self._session.execute(_EXPIRE, (at - KEEP,))
            self._session.execute(_PUT, (pipeline, at, rows))
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error

    def get(self, pipeline: str) -> tuple[datetime, list[dict[str, Any]]] | None:
        """Return when they were kept, and what differs; None if nothing is kept. Raises Unavailable."""
        try:
            row = self._session.execute(_GET, (pipeline,)).fetchone()
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error
        return None if row is None else (row[0], list(row[1]))

    def close(self) -> None:
        """End the session."""
        self._session.close()


_PUT: Final = """INSERT INTO ops.differences (pipeline, at, rows) VALUES (%s, %s, %s::jsonb)
ON CONFLICT (pipeline) DO UPDATE SET at = EXCLUDED.at, rows = EXCLUDED.rows"""
_GET: Final = "SELECT at, rows FROM ops.differences WHERE pipeline = %s"
_EXPIRE: Final = "DELETE FROM ops.differences WHERE at < %s"
