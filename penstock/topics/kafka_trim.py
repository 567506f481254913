"""Which messages of a topic on Kafka are to be dropped: those too old, and the oldest beyond its size.

Kafka counts bytes for each partition on its disks; the table of topics means all partitions together. So the one that
trims counts what it reads, once, in buckets. Until it has counted everything it knows too few bytes, and drops less.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from penstock.errors import LogError
from penstock.topics.kafka_messages import size_of
from penstock.topics.log import TopicLog
from penstock.topics.table import Topic

__all__ = ["Trimmer"]

_SHARE: Final = 64
"""A bucket holds about one SHARE-th of what the topic keeps."""
_READ: Final = 10_000
_READS: Final = 4
"""Reads of a partition at one trim, each of about 32 MB at most: a trim must not block for long."""


@dataclass(slots=True)
class _Bucket:
    start: int
    end: int
    size: int
    newest: datetime


class Trimmer:
    """The bytes of one topic, counted by reading; for the one log that trims it."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._at: dict[int, int] = {}
        self._buckets: dict[int, deque[_Bucket]] = {part: deque() for part in range(topic.partitions)}

    def due(self, log: TopicLog, now: datetime) -> dict[int, int]:
        """Return the offset for each partition below which messages are to be dropped; of some partitions none."""
        before: dict[int, int] = {}
        begins = {part: log.begin(self._topic, part) for part in self._buckets}
        if self._topic.retention_time is not None:
            oldest = now - self._topic.retention_time
            for part, begin in begins.items():
                kept = log.seek_time(self._topic, part, oldest)
                if kept > begin:
                    begins[part] = before[part] = kept
        if self._topic.retention_bytes is not None:
            for part, begin in begins.items():
                self._count(log, part, begin)
            before |= self._beyond(self._topic.retention_bytes)
        return before

    def _count(self, log: TopicLog, part: int, begin: int) -> None:
        """Count what was appended since the last time, and forget what was dropped."""
        buckets, limit = self._buckets[part], (self._topic.retention_bytes or 0) // _SHARE
        while buckets and buckets[0].end <= begin:
            buckets.popleft()
        if buckets and buckets[0].start < begin:
            buckets[0].size = 0  # some of it was dropped: count too little rather than too much
        at = max(begin, self._at.get(part, 0))
        for _ in range(_READS):
            try:
                found = log.read(self._topic, part, at, _READ)
            except LogError:  # another one has trimmed it meanwhile: the next trim counts on
                break
            for one in found:
                size, time = size_of(one.message), one.message.at
                if not buckets or buckets[-1].size + size > limit:
                    buckets.append(_Bucket(one.offset, one.offset + 1, size, time))
                else:
                    last = buckets[-1]
                    last.end, last.size, last.newest = one.offset + 1, last.size + size, max(last.newest, time)
                at = one.offset + 1
            if not found:
                break
        self._at[part] = at

    def _beyond(self, limit: int) -> dict[int, int]:
        """Take the oldest buckets that are not needed to keep `limit` bytes."""
        total = sum(bucket.size for buckets in self._buckets.values() for bucket in buckets)
        before: dict[int, int] = {}
        while True:
            first = [(buckets[0].newest, part) for part, buckets in self._buckets.items() if buckets]
            if not first:
                return before
            _, part = min(first)
            bucket = self._buckets[part][0]
            if total - bucket.size < limit:
                return before
            self._buckets[part].popleft()
            total -= bucket.size
            before[part] = bucket.end
