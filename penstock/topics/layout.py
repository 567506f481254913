"""The tables of the log on PostgreSQL, created with a topic."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import psycopg
from psycopg import sql

from penstock.errors import LogError
from penstock.topics.table import TOPICS, Topic

__all__ = [
    "COUNTERS",
    "SCHEMA",
    "SEGMENTS",
    "add_segment",
    "adopt_identity",
    "create_topic",
    "has_topics",
    "identity_of",
    "listed_topics",
    "segment_of",
    "table_of",
]

SCHEMA: Final = "topics"
COUNTERS: Final = sql.Identifier(SCHEMA, "_counters")
SEGMENTS: Final = sql.Identifier(SCHEMA, "_segments")

_TABLES: Final = sql.SQL(
    """
    CREATE SCHEMA IF NOT EXISTS {schema};
    CREATE TABLE IF NOT EXISTS {counters} (
        topic text NOT NULL,
        part integer NOT NULL,
        start bigint NOT NULL DEFAULT 0,
        next bigint NOT NULL DEFAULT 0,
        segment integer NOT NULL DEFAULT 0,
        high timestamptz,
        newest timestamptz,
        since timestamptz,
        bytes bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (topic, part)
    ) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
    COMMENT ON TABLE {counters} IS 'next: the next offset; start: the first kept; high: the highest time ever;'
        ' newest, since, bytes: of the open segment';
    CREATE TABLE IF NOT EXISTS {segments} (
        topic text NOT NULL,
        segment integer NOT NULL,
        ends bigint[] NOT NULL,
        newest timestamptz NOT NULL,
        bytes bigint NOT NULL,
        PRIMARY KEY (topic, segment)
    );
    COMMENT ON TABLE {segments} IS 'closed segments; ends: the offset after the last, for each partition'
    """
)
_IDENTITY: Final = sql.Identifier(SCHEMA, "_identity")
_IDENTIFY: Final = sql.SQL(
    """
    CREATE TABLE {identity} (id uuid NOT NULL);
    INSERT INTO {identity} VALUES (gen_random_uuid());
    COMMENT ON TABLE {identity} IS 'one row: the id of this log, which a copy of it shares'
    """
)
_USERS: Final = sql.Identifier(SCHEMA, "_users")
_USED: Final = sql.SQL(
    """
    CREATE TABLE IF NOT EXISTS {users} (
        topic text PRIMARY KEY, id uuid NOT NULL DEFAULT gen_random_uuid(), time interval, bytes bigint);
    COMMENT ON TABLE {users} IS 'topics of users; id: made with the topic; time, bytes: how much of it is kept'
    """
)
_STAMPED: Final = sql.SQL("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS lock bigint DEFAULT 0")
"""Batches of a release that did not stamp them have the lock 0 (`UNSTAMPED`)."""
_BATCHES: Final = sql.SQL(
    """
    CREATE TABLE IF NOT EXISTS {table} (
        segment integer NOT NULL,
        part integer NOT NULL,
        first bigint NOT NULL,
        count integer NOT NULL,
        size integer NOT NULL,
        high timestamptz NOT NULL,
        body bytea NOT NULL,
        lock bigint DEFAULT 0,
        PRIMARY KEY ({key})
    ) {how};
    ALTER TABLE {table} ALTER COLUMN body SET STORAGE EXTERNAL;
    CREATE INDEX IF NOT EXISTS {by_time} ON {table} (part, high, first)
    """
)


def table_of(topic: Topic) -> sql.Identifier:
    """Return the table of a topic's batches."""
    return sql.Identifier(SCHEMA, topic.name)


def segment_of(topic: Topic, segment: int) -> sql.Identifier:
    """Return the table of one segment of a trimmed topic."""
    return sql.Identifier(SCHEMA, f"{topic.name}/{segment}")


def create_topic(session: psycopg.Connection, topic: Topic) -> None:
    """Create the topic's tables and counters in the caller's transaction; raises LogError if they exist and differ."""
    session.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{SCHEMA}:create"])
    if not session.execute("SELECT to_regclass(%s)", [f"{SCHEMA}._segments"]).fetchone()[0]:  # type: ignore[index]  # one row
        session.execute(_TABLES.format(schema=sql.Identifier(SCHEMA), counters=COUNTERS, segments=SEGMENTS))
    if identity_of(session) is None:
        _identify(session)
    found = session.execute(sql.SQL("SELECT count(*) FROM {} WHERE topic = %s").format(COUNTERS), [topic.name])
    partitions = (found.fetchone() or (0,))[0]
    if partitions:
        _compare(session, topic, partitions)
    else:
        _make(session, topic)


def _identify(session: psycopg.Connection) -> None:
    """Give the log an identity, and the topics of an older release a column for stamps."""
    session.execute(_IDENTIFY.format(identity=_IDENTITY))
    for (name,) in session.execute(sql.SQL("SELECT DISTINCT topic FROM {}").format(COUNTERS)).fetchall():
        session.execute(_STAMPED.format(table=sql.Identifier(SCHEMA, name)))


def identity_of(session: psycopg.Connection[Any]) -> str | None:
    """Return the id of the log; None before `create_topic` has made one."""
    if not session.execute("SELECT to_regclass(%s)", [f"{SCHEMA}._identity"]).fetchone()[0]:  # type: ignore[index]  # one row
        return None
    row = session.execute(sql.SQL("SELECT id::text FROM {}").format(_IDENTITY)).fetchone()
    return None if row is None else str(row[0])


def adopt_identity(session: psycopg.Connection[Any], identity: str) -> None:
    """Give the log, which has an id, that of the log that it is a copy of; in the caller's transaction."""
    session.execute(sql.SQL("UPDATE {} SET id = %s").format(_IDENTITY), [identity])


def _make(session: psycopg.Connection, topic: Topic) -> None:
    key = "part, first, segment" if topic.trimmed else "part, first"
    how = "PARTITION BY RANGE (segment)" if topic.trimmed else ""
    by_time = sql.Identifier(f"{topic.name}/time")
    session.execute(_BATCHES.format(table=table_of(topic), key=sql.SQL(key), how=sql.SQL(how), by_time=by_time))
    if topic.trimmed:
        add_segment(session, topic, 0)
    counters = sql.SQL("INSERT INTO {} (topic, part) SELECT %s, generate_series(0, %s)").format(COUNTERS)
    session.execute(counters, [topic.name, topic.partitions - 1])
    if topic.name not in TOPICS:
        session.execute(_USED.format(users=_USERS))
        used = sql.SQL("INSERT INTO {} (topic, time, bytes) VALUES (%s, %s, %s)").format(_USERS)
        session.execute(used, [topic.name, topic.retention_time, topic.retention_bytes])


def listed_topics(session: psycopg.Connection[Any]) -> dict[str, tuple[Topic, str]]:
    """Return the topics of the log by name, and the id of each: its own, or the log's for those of Penstock."""
    found = session.execute("SELECT to_regclass(%s), to_regclass(%s)", [f"{SCHEMA}._counters", f"{SCHEMA}._users"])
    counters, users = found.fetchone() or (None, None)
    if counters is None:
        return {}
    query = sql.SQL("SELECT topic, count(*) FROM {} GROUP BY topic ORDER BY topic").format(COUNTERS)
    counts: dict[str, int] = dict(session.execute(query).fetchall())
    log = str(identity_of(session))
    topics = {name: (topic, log) for name, topic in TOPICS.items() if name in counts}
    if users is not None:
        query = sql.SQL("SELECT topic, id::text, time, bytes FROM {} ORDER BY topic").format(_USERS)
        for name, id_, time, size in session.execute(query).fetchall():
            topics[name] = Topic(name, "as its writers choose", counts.get(name, 1), time, size), id_
    return topics


def add_segment(session: psycopg.Connection, topic: Topic, segment: int) -> None:
    """Create the table of one more segment."""
    session.execute(
        sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
            segment_of(topic, segment), table_of(topic), sql.Literal(segment), sql.Literal(segment + 1)
        )
    )


def _compare(session: psycopg.Connection, topic: Topic, partitions: int) -> None:
    kind = session.execute("SELECT relkind = 'p' FROM pg_class WHERE oid = %s::regclass", [_quoted(topic)]).fetchone()
    if partitions != topic.partitions:
        hint = f"keep {partitions}, or copy it to a new topic"
        raise LogError(
            "the topic has a different number of partitions", where=topic.name, value=topic.partitions, hint=hint
        )
    if kind is not None and kind[0] != topic.trimmed:
        hint = "copy it to a new topic"
        raise LogError(
            "a topic that is kept for ever cannot become a trimmed one, or back", where=topic.name, hint=hint
        )


def _quoted(topic: Topic) -> str:
    return f'{SCHEMA}."{topic.name}"'


def has_topics(session: psycopg.Connection[Any], topics: Iterable[Topic]) -> bool:
    """True if all of `topics` are there with as many partitions, in this release's layout. One query."""
    query = sql.SQL("SELECT topic, count(*) FROM {} WHERE EXISTS (SELECT FROM {}) GROUP BY topic")
    try:
        rows = session.execute(query.format(COUNTERS, _IDENTITY)).fetchall()
    except psycopg.Error:  # such as no schema yet; its creation will report what is wrong
        return False
    return {topic.name: topic.partitions for topic in topics}.items() <= dict(rows).items()
