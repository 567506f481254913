"""The topic log: its messages, and the interface that every backend implements.

One conformance suite (`tests/penstock/topics/test_conformance.py`) tests the promises written here on all backends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, Protocol, Self

import msgspec

from penstock.errors import LogError
from penstock.topics.table import Topic

__all__ = ["UNSTAMPED", "Message", "Stored", "TopicLog", "check_restored", "lock_number", "read_between"]


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message to append: bytes with an optional key, a time (UTC, to the microsecond) and headers in order.

    A msgspec struct and not a dataclass, because the log's frames are decoded directly into it: five times faster.
    """

    key: bytes | None
    value: bytes
    at: datetime
    headers: tuple[tuple[str, bytes], ...] = ()


UNSTAMPED: Final = 0
"""The stamp of messages that were appended before logs stamped them."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A message with its place on the log. Offsets of a partition increase by one for each message.

    `lock` is the number of the lock that the appending session held (see `lock_number`), None for none. The log writes
    it, not the message's author.
    """

    topic: Topic
    partition: int
    offset: int
    message: Message
    lock: int | None = UNSTAMPED


def lock_number(name: str) -> int:
    """Return a lock's number: 63 bits of a digest, so that it does not collide with another program's locks."""
    return int.from_bytes(hashlib.sha256(f"penstock:{name}".encode()).digest()[:8]) >> 1


def check_restored(first: Stored, offset: int) -> None:
    """Raise LogError if the first message of a `restore` got another offset than it must have."""
    if not first.topic.trimmed and offset != first.offset:
        what = f"a copied message has another offset, {offset}: something else writes to the target"
        where = f"{first.topic.name}/{first.partition}"
        raise LogError(what, where=where, value=first.offset, hint="begin again with an empty log")


class TopicLog(Protocol):
    """Named, partitioned, append-only logs.

    Promises: an acknowledged append is durable, if its topic is, and exists exactly once; offsets of a partition have
    no gaps and no repeats; every reader sees the same message at an offset; many writers and readers may work in many
    processes at once. One `TopicLog` object is used by one thread at a time.

    Every method raises Unavailable when the log cannot be used. An append that raises Unavailable may have
    succeeded: it is never retried here. A caller that retries must use ids by which readers drop repeats
    (commands and outcomes do), or read the end of the log first.
    """

    stamp: int | None
    """The lock that the last append was stamped with."""

    def identity(self) -> str:
        """Return the id of this log: made with it, and copied with it. Raises LogError if it has none yet."""
        ...

    def create(self, topic: Topic) -> None:
        """Create the topic unless it exists. Raises LogError if it exists in another form."""
        ...

    def has(self, topics: Sequence[Topic]) -> bool:
        """True if all of `topics` are there with as many partitions, and an identity."""
        ...

    def append(
        self, topic: Topic, messages: Sequence[Message], *, partition: int | None = None
    ) -> list[tuple[int, int]]:
        """Append, and return each message's (partition, offset) in order. Raises LogError for a time without a zone.

        With `partition` the call is atomic and its messages are adjacent. Without, messages are spread by the hash
        of their key, atomically for each partition; those without a key go to one partition, a different one each call.
        """
        ...

    def restore(self, stored: Sequence[Stored]) -> None:
        """Append messages of one partition with the stamps that they have, whole or not at all for each 32 MB.

        For the copy of a log. Raises LogError if a topic that is kept for ever would give them other offsets.
        """
        ...

    def adopt(self, identity: str) -> None:
        """Take the identity of another log, after its messages: this log is its copy."""
        ...

    def read(self, topic: Topic, partition: int, offset: int, limit: int) -> list[Stored]:
        """Return messages from `offset` on: at most `limit`, or fewer (a read is bounded in bytes); [] only at the end.

        Raises LogError if `offset` lies below the first kept one.
        """
        ...

    def begin(self, topic: Topic, partition: int) -> int:
        """Return the first kept offset."""
        ...

    def end(self, topic: Topic, partition: int) -> int:
        """Return the offset that the next message will get."""
        ...

    def seek_time(self, topic: Topic, partition: int, at: datetime) -> int:
        """Return the first kept offset whose message has a time of `at` or later; the end if there is none."""
        ...

    def trim(self, topic: Topic, now: datetime) -> None:
        """Drop what the topic's retention does not keep at `now`, by whole segments.

        Never drops a message younger than the retention time while the topic is below its size, keeps at least
        `retention_bytes`, and keeps at most about an eighth more than either.
        """
        ...

    def wait(self, topic: Topic, partition: int, offset: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds; True if there is a message at `offset` or above."""
        ...

    def lock(self, name: str, *, wait: bool) -> bool:
        """Take the lock of that name for as long as this object lives; False if it is taken and not `wait`.

        From now on the appends are stamped with it, or with the next one that this object takes. An object that loses
        its locks can no longer append: each use raises Unavailable.
        """
        ...

    def unlock(self, name: str) -> None:
        """Release the lock before this object is closed; does nothing if it is not held."""
        ...

    def holder(self, name: str) -> bool:
        """Return True if any object holds the lock of that name."""
        ...

    def close(self) -> None:
        """Release everything, the locks too; may be called more than once."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def read_between(log: TopicLog, topic: Topic, partition: int, begin: int, end: int) -> list[Stored]:
    """Return all messages from `begin` to before `end`: one `read` may return fewer."""
    found: list[Stored] = []
    while begin < end and (more := log.read(topic, partition, begin, end - begin)):
        found += more
        begin = more[-1].offset + 1
    return found
