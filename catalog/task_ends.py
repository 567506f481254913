"""Waiting for the end of a task, by psycopg alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import psycopg

from penstock.errors import Unavailable, error_from_report
from penstock.postgres import connect, translated

__all__ = ["wait_for"]

POLL_SECONDS: Final = 0.1
_TASK: Final = "SELECT status, error, reason FROM catalog.tasks WHERE id = %s"


def wait_for(dsn: str, task: str, where: str, look_after: Callable[[], None]) -> None:
    """Wait until a task has completed, however long that takes; `look_after` is called at each look.

    Raises:
        PenstockError: it has failed, with the error that its worker has reported.
        Unavailable: it was cancelled, or the catalog does not answer.
    """
    with closing(connect(dsn, "penstock:task")) as session:
        while (row := _row(session, task)) is None or row[0] not in {"completed", "failed", "cancelled"}:
            look_after()
            time.sleep(POLL_SECONDS)
    status, error, reason = row
    if status == "failed" and error:
        raise error_from_report(error)
    if status != "completed":
        raise Unavailable(f"its task was {status}: {reason or 'no reason is known'}", where=where, hint="try again")


def _row(session: psycopg.Connection[Any], task: str) -> tuple[Any, ...] | None:
    try:
        row: tuple[Any, ...] | None = session.execute(_TASK, (task,)).fetchone()
        session.rollback()
    except psycopg.Error as error:
        raise translated(error, where="catalog") from error
    return row
