"""Reading one partition of Kafka: a consumer with its own position, and messages that it has fetched in advance."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka import Message as Record

from penstock.errors import LogError
from penstock.topics.kafka_client import OF_GROUPS, translated

__all__ = ["PartitionReader"]

_NOT_THERE: Final = {
    KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001 - the library's names of its own errors
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - librdkafka's codes have no other name
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - as above
}
"""What was trimmed away, and what a broker that has just started does not know yet: whoever reads finds out which."""
_MOST: Final = 1024
"""Records of one call of the client."""


class PartitionReader:
    """A consumer assigned to one partition; reading on where the last read ended needs no query."""

    def __init__(self, connect: Callable[[], Consumer], name: str, partition: int, where: str) -> None:
        self._connect, self._name, self._partition, self._where = connect, name, partition, where
        self._consumer = connect()
        self._fresh = True
        self._kept: deque[Record] = deque()
        self._next: int | None = None

    def is_at(self, offset: int) -> bool:
        """True if the next record fetched has that offset, or a kept one."""
        while self._kept and (self._kept[0].offset() or 0) < offset:
            self._kept.popleft()
        first = self._kept[0].offset() if self._kept else self._next
        return first == offset

    @property
    def has_kept(self) -> bool:
        """True if it has a record that was not read yet."""
        return bool(self._kept)

    def move(self, offset: int) -> None:
        """Fetch from `offset` on, unless it does so already; it must not lie beyond the end.

        A consumer that waits at the end would first wait for its fetch, half a second: a new one is faster.
        """
        if not self.is_at(offset):
            self._kept.clear()
            self._next = offset
            if not self._fresh:
                self._consumer.close()
                self._consumer = self._connect()
            self._fresh = False
            self._consumer.assign([TopicPartition(self._name, self._partition, offset)])

    def fetch(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a record, unless one is kept; True if there is one."""
        end = time.monotonic() + timeout
        while not self._kept:
            self._keep(self._consumer.consume(1, timeout))
            timeout = end - time.monotonic()
            if timeout <= 0 or self._next is None:
                break
        return bool(self._kept)

    def take(self, most: int, size: int, timeout: float) -> list[Record]:
        """Return records from the position on: `most`, or about `size` bytes of them, or what arrives in `timeout`."""
        found: list[Record] = []
        end, count, left, largest = time.monotonic() + timeout, 1, size, 1
        while len(found) < most and left > 0:
            if not self._kept:
                chunk = max(1, min(most - len(found), count, left // largest))
                self._keep(self._consumer.consume(chunk, max(0.0, end - time.monotonic())))
                count = min(_MOST, 2 * count)
            if not self._kept:
                if self._next is None or time.monotonic() >= end:
                    break
                continue
            record = self._kept.popleft()
            largest = max(largest, len(record))
            left -= len(record)
            found.append(record)
        return found

    def _keep(self, records: list[Record]) -> None:
        """Keep the records; forget the position if it is not there."""
        for record in records:
            error = record.error()
            if error is None:
                self._check(record)
                self._kept.append(record)
                self._next = (record.offset() or 0) + 1
            elif error.code() in _NOT_THERE:
                self._next = None
            elif error.code() not in OF_GROUPS:
                raise translated(error, self._where)

    def _check(self, record: Record) -> None:
        if record.offset() != self._next:
            what = f"offset {self._next} is missing: a transaction or compaction has left a gap"
            raise LogError(what, where=self._where, hint="let nothing but Penstock write this topic or configure it")

    def close(self) -> None:
        """Close the consumer."""
        self._kept.clear()
        self._consumer.close()
