"""The steps from one release's schemas to the next.

A change of schema `catalog` need not carry rows over: it may drop and make the tables anew, and the projector replays
the topic. A change of `ops` must.
"""

from typing import Any, Final

import psycopg

__all__ = ["REVISIONS", "is_current"]

REVISIONS: Final = ("0001", "0002", "0003", "0004")
"""All revisions, oldest first: known without loading Alembic, so that a start with nothing to do is quick."""


def is_current(session: psycopg.Connection[Any]) -> bool:
    """True if the database is at this release's revision. One query."""
    try:
        row = session.execute("SELECT version_num FROM ops.alembic_version").fetchone()
    except psycopg.Error:  # such as no schema yet: whoever makes it says what is wrong
        return False
    return row is not None and row[0] == REVISIONS[-1]
