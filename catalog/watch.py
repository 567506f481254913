"""The timers and workers that the scheduler has to watch, from the catalog."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime

from penstock.postgres import connect

__all__ = ["watched"]


def watched(dsn: str) -> tuple[dict[str, tuple[datetime, datetime, int]], set[str]]:
    """Return the timers that have not fired, and the live workers.

    Of each timer: when it is due, when it was requested, and at which offset.
    """
    with closing(connect(dsn, "penstock:watch")) as session:
        query = "SELECT timer, due, requested_at, changed FROM catalog.timers WHERE fired_at IS NULL"
        timers = session.execute(query).fetchall()
        workers = session.execute("SELECT worker FROM catalog.workers WHERE lost_at IS NULL").fetchall()
    return {timer: (due, requested, offset) for timer, due, requested, offset in timers}, {row[0] for row in workers}
