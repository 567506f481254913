"""The partition of a key: murmur2, as Kafka's own producers use it, so that logs can be copied to Kafka."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from penstock.errors import LogError
from penstock.topics.log import Message
from penstock.topics.table import Topic

__all__ = ["checked", "grouped", "murmur2", "numbered", "partition_of", "places_of"]

_MASK: Final = 0xFFFFFFFF
_M: Final = 0x5BD1E995
_SEED: Final = 0x9747B28C


def murmur2(data: bytes) -> int:
    """Return the 32 bit murmur2 hash of `data`, unsigned (org.apache.kafka.common.utils.Utils.murmur2)."""
    h = _SEED ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        h = (h * _M & _MASK) ^ ((k ^ k >> 24) * _M & _MASK)
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=8192)
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of `key` among `partitions`, as Kafka's default partitioner does."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def places_of(topic: Topic, messages: Sequence[Message], partition: int | None, turn: Iterator[int]) -> list[int]:
    """Return each message's partition: `partition`, or that of its key; those without a key share the next in turn."""
    if partition is not None:
        return [checked(topic, partition)] * len(messages)
    loose = next(turn) % topic.partitions
    return [loose if m.key is None else partition_of(m.key, topic.partitions) for m in messages]


def grouped(places: Sequence[int], messages: Sequence[Message]) -> dict[int, list[Message]]:
    """Return the messages by partition, in order; partitions ascend, so that all writers take them in one order."""
    parts: dict[int, list[Message]] = {part: [] for part in sorted(set(places))}
    for part, message in zip(places, messages, strict=True):
        parts[part].append(message)
    return parts


def numbered(places: Sequence[int], first: Mapping[int, int]) -> list[tuple[int, int]]:
    """Return each message's (partition, offset), where its partition's first message has the offset `first`."""
    following, placed = dict(first), []
    for part in places:
        placed.append((part, following[part]))
        following[part] += 1
    return placed


def checked(topic: Topic, partition: int) -> int:
    """Return `partition`; raises LogError if the topic has none of that number."""
    if not 0 <= partition < topic.partitions:
        raise LogError("no such partition", where=topic.name, value=partition, hint=f"it has {topic.partitions}")
    return partition
