"""Trimming a topic on PostgreSQL: roll to a new segment when the open one is due, drop closed ones that expired."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg import sql

from penstock.topics.layout import COUNTERS, SEGMENTS, add_segment, segment_of
from penstock.topics.table import Topic

__all__ = ["trim"]

SHARE: Final = 8
"""A segment is closed at one SHARE-th of what the topic keeps, in time or bytes."""


@dataclass(frozen=True, slots=True)
class _Open:
    segment: int
    since: datetime | None
    newest: datetime | None
    bytes: int
    ends: list[int]


def trim(session: psycopg.Connection, topic: Topic, now: datetime) -> None:
    """Roll and drop, in the caller's transaction; raises LockNotAvailable when the table stays busy for 1 s."""
    session.execute("SET LOCAL lock_timeout = '1s'")
    session.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", [topic.name])
    if _due(topic, _open(session, topic), now):
        _roll(session, topic)
    dropped = _outdated(session, topic, now)
    if dropped:
        _drop(session, topic, dropped)


def _open(session: psycopg.Connection, topic: Topic, lock: str = "") -> _Open:
    rows = session.execute(
        sql.SQL("SELECT segment, since, newest, bytes, next FROM {} WHERE topic = %s ORDER BY part {}").format(
            COUNTERS, sql.SQL("FOR UPDATE" if lock else "")
        ),
        [topic.name],
    ).fetchall()
    since = [row[1] for row in rows if row[1]]
    newest = [row[2] for row in rows if row[2]]
    return _Open(
        segment=rows[0][0],
        since=min(since, default=None),
        newest=max(newest, default=None),
        bytes=sum(row[3] for row in rows),
        ends=[row[4] for row in rows],
    )


def _due(topic: Topic, counters: _Open, now: datetime) -> bool:
    aged = topic.retention_time and counters.since and now - counters.since >= topic.retention_time / SHARE
    full = topic.retention_bytes is not None and counters.bytes * SHARE >= topic.retention_bytes
    return counters.bytes > 0 and bool(aged or full)


def _roll(session: psycopg.Connection, topic: Topic) -> None:
    """Close the open segment: first the new table, which waits for appends to end, then the counters, locked."""
    segment = _open(session, topic).segment
    add_segment(session, topic, segment + 1)
    counters = _open(session, topic, lock="update")
    session.execute(
        sql.SQL("INSERT INTO {} (topic, segment, ends, newest, bytes) VALUES (%s, %s, %s, %s, %s)").format(SEGMENTS),
        [topic.name, segment, counters.ends, counters.newest, counters.bytes],
    )
    session.execute(
        sql.SQL("UPDATE {} SET segment = %s, since = NULL, newest = NULL, bytes = 0 WHERE topic = %s").format(COUNTERS),
        [segment + 1, topic.name],
    )


def _outdated(session: psycopg.Connection, topic: Topic, now: datetime) -> list[tuple[int, list[int]]]:
    """Return the closed segments to drop, oldest first, without a gap."""
    closed = session.execute(
        sql.SQL("SELECT segment, ends, newest, bytes FROM {} WHERE topic = %s ORDER BY segment").format(SEGMENTS),
        [topic.name],
    ).fetchall()
    total = sum(row[3] for row in closed) + _open(session, topic).bytes
    dropped = []
    for segment, ends, newest, size in closed:
        aged = topic.retention_time is not None and newest < now - topic.retention_time
        spare = topic.retention_bytes is not None and total - size >= topic.retention_bytes
        if not (aged or spare):
            break
        dropped.append((segment, ends))
        total -= size
    return dropped


def _drop(session: psycopg.Connection, topic: Topic, dropped: list[tuple[int, list[int]]]) -> None:
    for segment, _ in dropped:
        session.execute(sql.SQL("DROP TABLE {}").format(segment_of(topic, segment)))
    session.execute(
        sql.SQL("DELETE FROM {} WHERE topic = %s AND segment <= %s").format(SEGMENTS), [topic.name, dropped[-1][0]]
    )
    session.execute(
        sql.SQL("UPDATE {} SET start = (%s::bigint[])[part + 1] WHERE topic = %s").format(COUNTERS),
        [dropped[-1][1], topic.name],
    )
