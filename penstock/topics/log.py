"""What a topic log is, whatever carries it: the messages, and the interface that every backend keeps.

One conformance suite (`tests/penstock/topics/test_conformance.py`) holds all backends to the promises written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

import msgspec

from penstock.topics.table import Topic

__all__ = ["Message", "Stored", "TopicLog"]


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is appended: bytes with an optional key, a time (UTC, to the microsecond) and headers in their order.

    A msgspec struct and not a dataclass, because the log's frames are decoded straight into it: five times faster.
    """

    key: bytes | None
    value: bytes
    at: datetime
    headers: tuple[tuple[str, bytes], ...] = ()


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A message in its place. Offsets of a partition increase by one for each message."""

    topic: Topic
    partition: int
    offset: int
    message: Message


class TopicLog(Protocol):
    """Named, partitioned, append-only logs.

    Promises: an acknowledged append is durable and is there exactly once; offsets of a partition have no gaps and no
    repeats; what one reader has seen at an offset every reader sees there; many writers and readers may work in many
    processes at once. One `TopicLog` object is used by one thread at a time.

    Every method raises Unavailable when the log cannot be used. An append that raises Unavailable may or may not have
    been taken: it is never repeated in silence. A caller that repeats it must carry ids by which readers drop repeats
    (commands and outcomes do), or read the end of the log first.
    """

    def create(self, topic: Topic) -> None:
        """Make the topic unless it is there. Raises LogError if it is there in another shape."""
        ...

    def append(
        self, topic: Topic, messages: Sequence[Message], *, partition: int | None = None
    ) -> list[tuple[int, int]]:
        """Append, and return each message's (partition, offset) in order. Raises LogError for a time without a zone.

        With `partition` the call is atomic and its messages are neighbours. Without, messages are spread by the hash
        of their key, atomically for each partition; those without a key go to one partition, another at each call.
        """
        ...

    def read(self, topic: Topic, partition: int, offset: int, limit: int) -> list[Stored]:
        """Messages from `offset` on: at most `limit`, perhaps fewer (a read is bounded in bytes); [] only at the end.

        Raises LogError if `offset` lies below the first kept one.
        """
        ...

    def begin(self, topic: Topic, partition: int) -> int:
        """The first kept offset."""
        ...

    def end(self, topic: Topic, partition: int) -> int:
        """The offset that the next message will get."""
        ...

    def seek_time(self, topic: Topic, partition: int, at: datetime) -> int:
        """The first kept offset whose message has a time of `at` or later; the end if there is none."""
        ...

    def trim(self, topic: Topic, now: datetime) -> None:
        """Drop what the topic's retention does not keep at `now`, by whole segments.

        Never drops a message younger than the retention time while the topic is below its size, keeps at least
        `retention_bytes`, and keeps at most about an eighth more than either.
        """
        ...

    def wait(self, topic: Topic, partition: int, offset: int, timeout: float) -> bool:
        """Whether a message at `offset` or above is there, at the latest after `timeout` seconds."""
        ...

    def close(self) -> None:
        """Give everything back; more than once is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
