"""Migrations of the catalog's schemas from one release to the next.

A migration of schema `catalog` need not keep rows: it may drop and recreate tables, since the projector replays the
topic. A migration of `ops` must keep them.
"""

from typing import Any, Final

import psycopg

__all__ = ["EMPTIED", "REVISIONS", "is_current"]

REVISIONS: Final = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0016",
    "0017",
    "0018",
    "0019",
    "0020",
    "0021",
    "0022",
    "0023",
    "0024",
    "0025",
    "0026",
    "0027",
    "0028",
    "0029",
    "0030",
)
"""All revisions, oldest first: known without loading Alembic, so that a start with nothing to do is quick."""

EMPTIED: Final = """
DO $$
DECLARE one text;
BEGIN
    FOR one IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'catalog' LOOP
        EXECUTE 'TRUNCATE catalog.' || one;
    END LOOP;
END $$;
"""
"""Empties the catalog: without rows and position the projector folds the whole log again, and fills what is new."""


def is_current(session: psycopg.Connection[Any]) -> bool:
    """True if the database is at this release's revision. One query."""
    try:
        row = session.execute("SELECT version_num FROM ops.alembic_version").fetchone()
    except psycopg.Error:  # such as no schema yet; its creation will report what is wrong
        return False
    return row is not None and row[0] == REVISIONS[-1]
