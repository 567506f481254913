"""The partition of a key: murmur2, as Kafka's own producers use it, so that logs can be copied to Kafka."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

__all__ = ["murmur2", "partition_of"]

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
