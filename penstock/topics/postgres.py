"""The topic log on PostgreSQL: a row for each appended batch, in one database of the log's own.

Each partition has a row of counters. An append reserves its offsets by ``UPDATE … RETURNING`` in the statement that
inserts the batch: the row's lock makes offsets visible in order, and a rollback leaves no gap. A
trimmed topic is a table partitioned by segment, and the counters say which segment is open; trimming rolls to a new
segment and drops whole old ones, because deleted rows would be left to the vacuum.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, LiteralString, Self

import msgspec
import psycopg
from psycopg import sql

from penstock import postgres
from penstock.errors import LogError, PenstockError, Unavailable
from penstock.topics import retention
from penstock.topics.layout import (
    COUNTERS,
    SCHEMA,
    adopt_identity,
    create_topic,
    has_topics,
    identity_of,
    listed_topics,
    table_of,
)
from penstock.topics.locks import HOLDER, LOCK, STAMP, TRY_LOCK, UNLOCK, lost_session
from penstock.topics.log import Message, Stored, check_restored, lock_number
from penstock.topics.partitioner import checked, grouped, numbered, places_of
from penstock.topics.table import Topic

__all__ = ["PostgresLog"]

APPEND_BYTES: Final = 256 * 1024 * 1024
"""The limit of one append to one partition."""
SCANNED: Final = 1000
"""Messages that a search for a time looks at together."""
READ_BYTES: Final = 32 * 1024 * 1024
"""The approximate limit of one read."""
POLL_SECONDS: Final = 1.0
"""Seconds between two polls of a waiting reader without a notification."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[Message]).decode

_APPEND: Final = """
    WITH head AS (
        UPDATE {counters}
        SET next = next + %(count)s, newest = greatest(newest, %(at)s), high = greatest(high, %(at)s),
            since = least(since, %(first_at)s), bytes = bytes + %(size)s
        WHERE topic = %(topic)s AND part = %(part)s
        RETURNING next - %(count)s AS first, segment, high
    )
    INSERT INTO {table} (segment, part, first, count, size, high, body, lock)
    SELECT segment, %(part)s, first, %(count)s, %(size)s, high, %(body)b, {stamp} FROM head
    RETURNING first, lock, pg_notify(%(channel)s, (first + %(count)s)::text)
"""
_AT_ONCE: Final = ", set_config('synchronous_commit', 'off', true)"
"""What `_APPEND` ends with for a topic that is not durable."""
_READ: Final = """
    SELECT head.start, head.next, batch.first, batch.body, batch.lock
    FROM {counters} AS head LEFT JOIN LATERAL (
        SELECT first, body, lock, sum(size) OVER (ORDER BY first ROWS UNBOUNDED PRECEDING) - size AS before
        FROM {table}
        WHERE part = %(part)s AND first < %(upto)s AND first >= coalesce(
            (SELECT first FROM {table} WHERE part = %(part)s AND first <= %(offset)s ORDER BY first DESC LIMIT 1), 0)
    ) AS batch ON batch.before < %(bytes)s
    WHERE head.topic = %(topic)s AND head.part = %(part)s
    ORDER BY batch.first
"""
_COUNTER: Final = "SELECT start, next FROM {counters} WHERE topic = %s AND part = %s"
_SEEK: Final = """
    SELECT first FROM {table} WHERE part = %(part)s AND high >= %(at)s ORDER BY high, first LIMIT 1
"""


class PostgresLog:
    """A TopicLog in the database at `dsn`.

    It is one session, which appends, reads, listens and holds the locks; so the DSN must point to the server itself,
    not to a pool that shares sessions. When the session is lost the object stays unusable, because its locks are lost
    too: open a new one. An append that was under way may have succeeded; `TopicLog` says what a caller does then.
    """

    def __init__(self, dsn: str, *, name: str = "log") -> None:
        self._where = f"topic log {postgres.address(dsn)}"
        self._session = postgres.connect(dsn, f"penstock:{name}")
        self._session.add_notify_handler(self._hear)
        self._listened: set[str] = set()
        self._heard: dict[str, int] = {}
        self._ends: dict[str, tuple[int, float]] = {}
        self._turn = itertools.count()
        self._statements: dict[tuple[str, str, str], bytes] = {}
        self._lock: int | None = None
        self.stamp: int | None = None
        with self._talking():
            self._session.execute("SET synchronous_commit = on")

    def create(self, topic: Topic) -> None:
        """See TopicLog. Raises LogError if the topic exists with other partitions or another retention."""
        with self._talking(), self._session.transaction():
            create_topic(self._session, topic)

    def has(self, topics: Sequence[Topic]) -> bool:
        """See TopicLog."""
        return has_topics(self._session, topics)

    def topics(self) -> dict[str, tuple[Topic, str]]:
        """Return all topics by name, those of users too, each with an id that one that is made again has not.

        It is empty if there is no log in the database.
        """
        with self._talking():
            return listed_topics(self._session)

    def identity(self) -> str:
        """See TopicLog."""
        with self._talking():
            found = identity_of(self._session)
        return found if found is not None else self._nameless()

    def append(
        self, topic: Topic, messages: Sequence[Message], *, partition: int | None = None
    ) -> list[tuple[int, int]]:
        """See TopicLog. One statement and one row for each partition, all in one transaction."""
        places = places_of(topic, messages, partition, self._turn)
        return numbered(places, self._append(topic, grouped(places, messages)))

    def _append(self, topic: Topic, parts: dict[int, list[Message]]) -> dict[int, int]:
        rows = {part: _row(topic, part, batch) for part, batch in parts.items()}
        statement = self._statement(_APPEND if topic.durable else _APPEND + _AT_ONCE, topic)
        first = {}
        with self._talking(), self._session.transaction() if len(rows) > 1 else contextlib.nullcontext():
            for part, row in rows.items():
                done = self._session.execute(statement, row | {"lock": self._lock}).fetchone()
                first[part], self.stamp = (int(done[0]), done[1]) if done else (self._missing(topic), None)
        return first

    def restore(self, stored: Sequence[Stored]) -> None:
        """See TopicLog. A row for each run of messages with one stamp."""
        with self._talking(), self._session.transaction():
            for lock, group in itertools.groupby(stored, key=lambda one: one.lock):
                run = list(group)
                topic, part = run[0].topic, run[0].partition
                row = _row(topic, part, [one.message for one in run])
                statement = self._statement(_APPEND, topic, "%(lock)s::bigint")
                done = self._session.execute(statement, row | {"lock": lock}).fetchone()
                check_restored(run[0], done[0] if done else self._missing(topic))

    def adopt(self, identity: str) -> None:
        """See TopicLog."""
        with self._talking(), self._session.transaction():
            adopt_identity(self._session, identity)

    def read(self, topic: Topic, partition: int, offset: int, limit: int) -> list[Stored]:
        """See TopicLog. Fetches about 32 MB at most, but always at least one batch."""
        statement = self._statement(_READ, topic)
        values = {
            "topic": topic.name,
            "part": checked(topic, partition),
            "offset": offset,
            "upto": offset + limit,
            "bytes": READ_BYTES,
        }
        with self._looking(_channel(topic, partition)) as seen:
            rows = self._session.execute(statement, values, binary=True).fetchall()
            seen.extend(row[1] for row in rows[:1])
        if not rows:
            self._missing(topic)
        if offset < rows[0][0]:
            hint = f"read from {rows[0][0]} on"
            raise LogError("trimmed away", where=f"{topic.name}/{partition}", value=offset, hint=hint)
        return [
            Stored(topic, partition, at, message, lock)
            for _, _, first, body, lock in rows
            if first is not None
            for at, message in enumerate(_decode(body), first)
            if offset <= at < offset + limit
        ]

    def begin(self, topic: Topic, partition: int) -> int:
        """See TopicLog."""
        return self._counter(topic, partition)[0]

    def end(self, topic: Topic, partition: int) -> int:
        """See TopicLog."""
        return self._counter(topic, partition)[1]

    def seek_time(self, topic: Topic, partition: int, at: datetime) -> int:
        """See TopicLog. Times need not grow with the offsets: each batch keeps the highest up to it."""
        statement = self._statement(_SEEK, topic)
        with self._talking():
            found = self._session.execute(
                statement, {"part": checked(topic, partition), "at": at}, binary=True
            ).fetchone()
        if found is None:
            return self.end(topic, partition)
        first = max(int(found[0]), self.begin(topic, partition))
        while batch := self.read(topic, partition, first, SCANNED):
            if (late := next((one.offset for one in batch if one.message.at >= at), None)) is not None:
                return late
            first = batch[-1].offset + 1  # the highest time is that of a message which was trimmed away
        return first

    def trim(self, topic: Topic, now: datetime) -> None:
        """See TopicLog. Returns without trimming when a long statement blocks the table; call it again later."""
        if topic.trimmed:
            with self._talking(), contextlib.suppress(psycopg.errors.LockNotAvailable), self._session.transaction():
                retention.trim(self._session, topic, now)

    def wait(self, topic: Topic, partition: int, offset: int, timeout: float) -> bool:
        """See TopicLog. Woken by NOTIFY, which is only a hint; also polls once a second.

        A reader at the end needs no query: the notification contains the new end.
        """
        return self.await_any(topic, {partition: offset}, timeout)

    def await_any(self, topic: Topic, offsets: Mapping[int, int], timeout: float) -> bool:
        """Wait up to `timeout` seconds; True if a partition has a message at its offset or above."""
        deadline = time.monotonic() + timeout
        for part in offsets:
            self._listen(_channel(topic, part))
        while True:
            self._listen_in()
            waits = [self._wait(topic, part, offset) for part, offset in offsets.items()]
            if None in waits:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            due = min((one for one in waits if one is not None), default=left)
            select.select([self._session], [], [], max(0.0, min(left, due - time.monotonic())))

    def _wait(self, topic: Topic, part: int, offset: int) -> float | None:
        """Return None if there is a message at `offset`, else when to poll again; polls if it is time."""
        channel = _channel(topic, part)
        end, looked = self._ends.get(channel, (-1, -POLL_SECONDS))
        if end > offset or self._heard.get(channel, -1) > offset:
            return None
        if time.monotonic() - looked >= POLL_SECONDS:
            if self.end(topic, part) > offset:
                return None
            looked = time.monotonic()
        return looked + POLL_SECONDS

    def lock(self, name: str, *, wait: bool) -> bool:
        """See TopicLog. The session that appends holds it: a process that loses the lock can no longer append."""
        with self._talking():
            taken = self._session.execute(LOCK if wait else TRY_LOCK, [lock_number(name)]).fetchone()
        if taken and taken[0]:
            self._lock = lock_number(name)
        return bool(taken and taken[0])

    def unlock(self, name: str) -> None:
        """See TopicLog."""
        with self._talking():
            self._session.execute(UNLOCK, [lock_number(name)])
        self._lock = None if self._lock == lock_number(name) else self._lock

    def holder(self, name: str) -> bool:
        """See TopicLog."""
        with self._talking():
            found = self._session.execute(HOLDER, [lock_number(name)]).fetchone()
        return bool(found and found[0])

    def close(self) -> None:
        """See TopicLog. Releases the locks too."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    # -- inside --

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.UndefinedTable as error:
            raise self._unknown("no such topic") from error
        except psycopg.Error as error:
            found = postgres.translated(error, where=self._where)
            if self._session.closed and not isinstance(found, Unavailable):
                raise self._lost() from error
            raise found from error

    def _statement(self, text: LiteralString, topic: Topic, stamp: LiteralString | None = None) -> bytes:
        stamp = stamp or ("NULL" if self._lock is None else STAMP)
        key = (text, topic.name, stamp)
        if key not in self._statements:
            composed = sql.SQL(text).format(counters=COUNTERS, table=table_of(topic), stamp=sql.SQL(stamp))
            self._statements[key] = composed.as_bytes(self._session)
        return self._statements[key]

    def _counter(self, topic: Topic, partition: int) -> tuple[int, int]:
        statement = self._statement(_COUNTER, topic)
        with self._looking(_channel(topic, partition)) as seen:
            found = self._session.execute(statement, [topic.name, checked(topic, partition)]).fetchone()
            seen.extend(found[1:] if found else ())
        return (found[0], found[1]) if found else (self._missing(topic), 0)

    def _listen(self, channel: str) -> None:
        if channel not in self._listened:
            with self._talking():
                self._session.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            self._listened.add(channel)
            self._ends.pop(channel, None)

    @contextlib.contextmanager
    def _looking(self, channel: str) -> Iterator[list[int]]:
        """Around a query that puts the partition's end into the list. Notifications with the answer may be newer."""
        seen: list[int] = []
        self._heard.pop(channel, None)
        with self._talking():
            yield seen
        if seen:
            self._ends[channel] = seen[0], time.monotonic()

    def _listen_in(self) -> None:
        """Process notifications that arrived since the last query."""
        try:
            self._session.pgconn.consume_input()
        except psycopg.OperationalError as error:
            raise self._lost() from error
        while notify := self._session.pgconn.notifies():
            self._hear(psycopg.Notify(notify.relname.decode(), notify.extra.decode(), notify.be_pid))

    def _hear(self, notify: psycopg.Notify) -> None:
        if notify.payload.isdecimal():
            self._heard[notify.channel] = max(int(notify.payload), self._heard.get(notify.channel, -1))
        else:
            self._ends.pop(notify.channel, None)

    def _lost(self) -> Unavailable:
        return lost_session(self._where)

    def _nameless(self) -> str:
        raise self._unknown("it has no identity")

    def _missing(self, topic: Topic) -> int:
        raise self._unknown(f"no such topic: {topic.name}")

    def _unknown(self, what: str) -> PenstockError:
        return LogError(what, where=self._where, hint="create it first")


def _row(topic: Topic, part: int, batch: list[Message]) -> dict[str, object]:
    body = _encode(batch)
    if len(body) > APPEND_BYTES:
        hint = f"append at most {APPEND_BYTES} bytes at once"
        raise LogError("too much for one append", where=f"{topic.name}/{part}", value=len(body), hint=hint)
    times = [message.at for message in batch]
    if any(at.tzinfo is None for at in times):
        raise LogError("a message's time has no zone", where=f"{topic.name}/{part}", hint="give it in UTC")
    return {
        "topic": topic.name,
        "part": part,
        "count": len(batch),
        "size": len(body),
        "at": max(times),
        "first_at": min(times),
        "body": body,
        "channel": _channel(topic, part),
    }


def _channel(topic: Topic, partition: int) -> str:
    return f"{SCHEMA}:{topic.name}/{partition}"
