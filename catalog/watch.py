"""The timers and workers that the scheduler has to watch, from the catalog."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime

import psycopg

from penstock.postgres import address, connect, translated

__all__ = ["watched"]


def watched(dsn: str) -> tuple[dict[str, tuple[datetime, datetime, int]], set[str]]:
    """Return the timers that have not fired, and the live workers.

    Of each timer: when it is due, when it was requested, and at which offset. Raises Unavailable.
    """
    with closing(connect(dsn, "penstock:watch")) as session:
        try:
            query = "SELECT timer, due, requested_at, changed FROM catalog.timers WHERE fired_at IS NULL"
            timers = session.execute(query).fetchall()
            workers = session.execute("SELECT worker FROM catalog.workers WHERE lost_at IS NULL").fetchall()
        except psycopg.Error as error:
            raise translated(error, where=address(dsn)) from error
    return {timer: (due, requested, offset) for timer, due, requested, offset in timers}, {row[0] for row in workers}
