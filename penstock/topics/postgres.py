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
from collections.abc import Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, LiteralString, Self

import msgspec
import psycopg
from psycopg import sql

from penstock import postgres
from penstock.errors import LogError, PenstockError, Unavailable
from penstock.topics import retention
from penstock.topics.layout import COUNTERS, SCHEMA, create_topic, identity_of, table_of
from penstock.topics.log import Message, Stored, lock_number
from penstock.topics.partitioner import partition_of
from penstock.topics.table import Topic

__all__ = ["PostgresLog"]

APPEND_BYTES: Final = 256 * 1024 * 1024
"""The limit of one append to one partition."""
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
_LOCKS: Final = """
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_STAMP: Final = f"""
    CASE WHEN EXISTS ({_LOCKS} AND pid = pg_backend_pid() AND classid::bigint << 32 | objid::bigint = %(lock)s)
    THEN %(lock)s::bigint END
"""
"""The lock that the appending session says it holds, if it does; about 40 µs, paid only by sessions with a lock."""
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
    SELECT first, body FROM {table} WHERE part = %(part)s AND high >= %(at)s ORDER BY high, first LIMIT 1
"""
_HOLDER: Final = f"SELECT EXISTS ({_LOCKS} AND classid::bigint << 32 | objid::bigint = %s)"


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
        self._statements: dict[tuple[str, str, bool], bytes] = {}
        self._lock: int | None = None
        self.stamp: int | None = None
        with self._talking():
            self._session.execute("SET synchronous_commit = on")

    def create(self, topic: Topic) -> None:
        """See TopicLog. Raises LogError if the topic exists with other partitions or another retention."""
        with self._talking(), self._session.transaction():
            create_topic(self._session, topic)

    def identity(self) -> str:
        """See TopicLog."""
        with self._talking():
            found = identity_of(self._session)
        return found if found is not None else self._nameless()

    def append(
        self, topic: Topic, messages: Sequence[Message], *, partition: int | None = None
    ) -> list[tuple[int, int]]:
        """See TopicLog. One statement and one row for each partition, all in one transaction."""
        if partition is not None or topic.partitions == 1:
            parts = {_checked(topic, partition or 0): list(messages)} if messages else {}
            first = self._append(topic, parts)
            return [(part, first[part] + n) for part, batch in parts.items() for n in range(len(batch))]
        loose = next(self._turn) % topic.partitions
        places = [loose if m.key is None else partition_of(m.key, topic.partitions) for m in messages]
        parts = {}
        for part, message in sorted(zip(places, messages, strict=True), key=lambda pair: pair[0]):
            parts.setdefault(part, []).append(message)
        following = self._append(topic, parts)
        placed = []
        for part in places:
            placed.append((part, following[part]))
            following[part] += 1
        return placed

    def _append(self, topic: Topic, parts: dict[int, list[Message]]) -> dict[int, int]:
        rows = {part: _row(topic, part, batch) for part, batch in parts.items()}
        statement = self._statement(_APPEND, topic)
        first = {}
        with self._talking(), self._session.transaction() if len(rows) > 1 else contextlib.nullcontext():
            for part, row in rows.items():
                done = self._session.execute(statement, row | {"lock": self._lock}).fetchone()
                first[part], self.stamp = (int(done[0]), done[1]) if done else (self._missing(topic), None)
        return first

    def read(self, topic: Topic, partition: int, offset: int, limit: int) -> list[Stored]:
        """See TopicLog. Fetches about 32 MB at most, but always at least one batch."""
        statement = self._statement(_READ, topic)
        values = {
            "topic": topic.name,
            "part": _checked(topic, partition),
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
                statement, {"part": _checked(topic, partition), "at": at}, binary=True
            ).fetchone()
        if found is None:
            return self.end(topic, partition)
        late = (n for n, message in enumerate(_decode(found[1])) if message.at >= at)
        return int(found[0]) + next(late, 0)

    def trim(self, topic: Topic, now: datetime) -> None:
        """See TopicLog. Returns without trimming when a long statement blocks the table; call it again later."""
        if topic.trimmed:
            with self._talking(), contextlib.suppress(psycopg.errors.LockNotAvailable), self._session.transaction():
                retention.trim(self._session, topic, now)

    def wait(self, topic: Topic, partition: int, offset: int, timeout: float) -> bool:
        """See TopicLog. Woken by NOTIFY, which is only a hint; also polls once a second.

        A reader at the end needs no query: the notification contains the new end.
        """
        deadline = time.monotonic() + timeout
        channel = _channel(topic, partition)
        self._listen(channel)
        while True:
            self._listen_in()
            end, looked = self._ends.get(channel, (-1, -POLL_SECONDS))
            if end > offset or self._heard.get(channel, -1) > offset:
                return True
            if time.monotonic() - looked >= POLL_SECONDS:
                if self.end(topic, partition) > offset:
                    return True
                looked = time.monotonic()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            select.select([self._session], [], [], max(0.0, min(left, looked + POLL_SECONDS - time.monotonic())))

    def lock(self, name: str, *, wait: bool) -> bool:
        """Take the lock of that name for as long as this object's session lives; False if it is taken and not `wait`.

        The session that appends holds it: a process that loses the lock can no longer append. From now on the appends
        are stamped with it, or with the next one that this object takes.
        """
        call = "SELECT pg_advisory_lock(%s) IS NOT NULL" if wait else "SELECT pg_try_advisory_lock(%s)"
        with self._talking():
            taken = self._session.execute(call, [lock_number(name)]).fetchone()
        if taken and taken[0]:
            self._lock = lock_number(name)
        return bool(taken and taken[0])

    def unlock(self, name: str) -> None:
        """Release the lock before the session ends; does nothing if it is not held."""
        with self._talking():
            self._session.execute("SELECT pg_advisory_unlock(%s)", [lock_number(name)])
        self._lock = None if self._lock == lock_number(name) else self._lock

    def holder(self, name: str) -> bool:
        """Return True if any session holds the lock of that name."""
        with self._talking():
            found = self._session.execute(_HOLDER, [lock_number(name)]).fetchone()
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

    def _statement(self, text: LiteralString, topic: Topic) -> bytes:
        key = (text, topic.name, self._lock is None)
        if key not in self._statements:
            stamp = sql.SQL("NULL" if self._lock is None else _STAMP)
            composed = sql.SQL(text).format(counters=COUNTERS, table=table_of(topic), stamp=stamp)
            self._statements[key] = composed.as_bytes(self._session)
        return self._statements[key]

    def _counter(self, topic: Topic, partition: int) -> tuple[int, int]:
        statement = self._statement(_COUNTER, topic)
        with self._looking(_channel(topic, partition)) as seen:
            found = self._session.execute(statement, [topic.name, _checked(topic, partition)]).fetchone()
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
        return Unavailable("the session was lost", where=self._where, hint="connect again")

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


def _checked(topic: Topic, partition: int) -> int:
    if not 0 <= partition < topic.partitions:
        raise LogError("no such partition", where=topic.name, value=partition, hint=f"it has {topic.partitions}")
    return partition


def _channel(topic: Topic, partition: int) -> str:
    return f"{SCHEMA}:{topic.name}/{partition}"
