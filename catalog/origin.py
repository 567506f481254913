"""The log that a catalog was folded from, and how far: a catalog and another log, or an older copy, must not meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import psycopg

from penstock.errors import ForeignLog
from penstock.postgres import translated
from penstock.records.door import marks_of
from penstock.topics.log import TopicLog
from penstock.topics.table import CONTROL

__all__ = ["Origin", "adopt", "check_origin", "forget", "origin", "stands_on"]


@dataclass(frozen=True, slots=True)
class Origin:
    """The log's identity, if the catalog knows it yet; its position there, and the mark of the record before that."""

    log: str | None
    next: int
    last: str | None


def origin(session: psycopg.Connection[Any]) -> Origin:
    """Return what the catalog says about its log. One query.

    Raises:
        Unavailable, SchemaMismatch: the catalog cannot be read.
    """
    try:
        row = session.execute(_ORIGIN).fetchone()
    except psycopg.Error as error:
        raise translated(error, where="catalog") from error
    return Origin(*row) if row else Origin(None, 0, None)


def adopt(session: psycopg.Connection[Any], log: str) -> None:
    """Make `log` the catalog's log; in the caller's transaction."""
    session.execute(_ADOPT, [log])


def forget(session: psycopg.Connection[Any]) -> None:
    """Drop the agents' snapshots, which are a cache of the log that the catalog had."""
    session.execute("DELETE FROM ops.snapshots")


def check_origin(found: Origin, log: TopicLog, where: str) -> None:
    """Refuse a log that the catalog was not folded from, or that has lost what the catalog has.

    Raises:
        ForeignLog: the log is another one, ends before the catalog's position, or has another record there.
    """
    end = log.end(CONTROL, 0)
    if found.log not in {None, log.identity()}:
        hint = "if the topics moved, copy them first: `penstock topics copy`; else "
        raise _foreign("the catalog was made from another log", where, hint)
    if found.next > end:
        what = f"the catalog has {found.next} records of the log, which has only {end}: an older copy was restored"
        raise _foreign(what, where)
    if not stands_on(log, found.next, found.last):
        what = (
            f"the catalog has another record {found.next - 1} than the log: an older copy was restored and written to"
        )
        raise _foreign(what, where)


def stands_on(log: TopicLog, offset: int, last: str | None) -> bool:
    """True if the record before `offset` has the mark `last`, or if that is not known."""
    if last is None or offset == 0:
        return True
    stored = log.read(CONTROL, 0, offset - 1, 1)
    return bool(stored) and last in marks_of(stored[0])


def _foreign(what: str, where: str, hint: str = "") -> ForeignLog:
    hint += "`penstock catalog rebuild` makes the catalog from this log; what is only in the catalog is lost"
    return ForeignLog(what, where=where, hint=hint)


_ORIGIN: Final = """
    SELECT (SELECT value #>> '{}' FROM ops.settings WHERE name = 'log'), coalesce(p.next, 0), p.reading ->> 'last'
    FROM (SELECT) AS one LEFT JOIN catalog.position AS p ON p.id = 'control'
"""
_ADOPT: Final = """
    INSERT INTO ops.settings (name, value) VALUES ('log', to_jsonb(%s::text))
    ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value
"""
