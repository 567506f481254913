"""Queries of DuckDB files by one instance of the library, since a new one takes longer than all else in a short run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.duckdb.connector import DuckdbConnector
from dataflows.connectors.duckdb.target import DuckdbTarget

_lock = threading.Lock()


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:")


def query_file(path: Path, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one statement in a file and let go of it; a SELECT opens it for reading only."""
    session, name = _instance(), str(path).replace("'", "''")
    with _lock:
        session.execute(f"ATTACH '{name}' AS file{' (READ_ONLY)' if query.startswith('SELECT') else ''}")
        try:
            session.execute("USE file")
            return session.execute(query, values).fetchall()
        finally:
            session.execute("USE memory")
            session.execute("DETACH file")


class OpenDuckdb(DuckdbConnector):
    """DuckDB whose first file stays open to the end of the process."""

    first: DuckdbTarget | None = None

    @classmethod
    def target(cls, place: Place, owner: Owner) -> DuckdbTarget:
        if cls.first is None:
            cls.first = DuckdbConnector.target(place, owner)
            cls.first.database.make()
        return DuckdbConnector.target(place, owner)
