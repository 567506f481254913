"""Names of a database file's tables with their primary and foreign keys, from one query of its own catalog."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing

from dataflows.connectors.listing import ListedObject
from dataflows.connectors.sql.database import Database

__all__ = ["objects_of"]


def objects_of(database: Database, query: str, check: Callable[[], None]) -> Iterator[ListedObject]:
    """Yield every table, and every view as hidden.

    Each row of the query is the name of an object as pipelines write it, its schema or an empty text, its own name, 1
    if it is hidden, and two JSON arrays: the columns of its primary key, and the objects that it refers to.
    """
    with closing(database):
        rows = database.rows(query)
    for name, schema, table, hidden, key, references in rows:
        check()
        kind = "view" if hidden else "table"
        yield ListedObject(
            name, schema, table, tuple(json.loads(key)), tuple(json.loads(references)), bool(hidden), kind
        )
