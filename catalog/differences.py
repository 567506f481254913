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
        """Keep what a check has found, by the pipeline's id, in place of the one before.

        What a check of all rows has found to differ stays next to what checks since a value find later.

        Raises:
            Unavailable: the catalog's database does not answer.
        """
        at = now()
        rows = json.dumps(storable(json.loads(json.dumps(dict(found), default=str), parse_constant=str)))
        self._do(_PUT, {"pipeline": pipeline, "at": at, "rows": rows})

    def get(self, pipeline: str) -> dict[str, Any] | None:
        """Return what is recorded as the result of the last check; None if it is not kept. Raises Unavailable."""
        found = self._found(pipeline)
        return found and {name: value for name, value in found.items() if name != _LATER}

    def last(self, pipeline: str) -> dict[str, Any] | None:
        """Return what the last check has found, of whatever rows; None if it is not kept. Raises Unavailable."""
        found = self._found(pipeline)
        return found and found.get(_LATER, found)

    def drop(self, pipeline: str) -> None:
        """Delete what is kept of a pipeline. Raises Unavailable."""
        self._do(_DROP, {"pipeline": pipeline})

    def expire(self) -> None:
        """Delete what is older than 30 days, which is not shown any more. Raises Unavailable."""
        self._do(_EXPIRE, {"before": now() - KEEP})

    def _found(self, pipeline: str) -> dict[str, Any] | None:
        row = self._do(_GET, {"pipeline": pipeline, "before": now() - KEEP}).fetchone()
        return None if row is None else dict(row[0])

    def _do(self, statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        try:
            return self._session.execute(statement, values)
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error

    def close(self) -> None:
        """End the session."""
        self._session.close()


_LATER: Final = "later"
_PUT: Final = """INSERT INTO ops.differences AS kept (pipeline, at, rows) VALUES (%(pipeline)s, %(at)s, %(rows)s::jsonb)
ON CONFLICT (pipeline) DO UPDATE SET at = EXCLUDED.at, rows = CASE
    WHEN EXCLUDED.rows ->> 'since' IS NOT NULL AND kept.rows ->> 'since' IS NULL AND kept.rows ->> 'agree' = 'false'
    THEN kept.rows || jsonb_build_object('later', EXCLUDED.rows) ELSE EXCLUDED.rows END"""
_GET: Final = "SELECT rows FROM ops.differences WHERE pipeline = %(pipeline)s AND at >= %(before)s"
_DROP: Final = "DELETE FROM ops.differences WHERE pipeline = %(pipeline)s"
_EXPIRE: Final = "DELETE FROM ops.differences WHERE at < %(before)s"
