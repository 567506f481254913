"""The timers and workers that the scheduler has to watch, from the catalog."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime

from penstock.postgres import connect

__all__ = ["watched"]


def watched(dsn: str) -> tuple[dict[str, datetime], set[str]]:
    """Return the timers that have not fired, with their times, and the workers that are not lost."""
    with closing(connect(dsn, "penstock:watch")) as session:
        timers = session.execute("SELECT timer, due FROM catalog.timers WHERE fired_at IS NULL").fetchall()
        workers = session.execute("SELECT worker FROM catalog.workers WHERE lost_at IS NULL").fetchall()
    return dict(timers), {row[0] for row in workers}
