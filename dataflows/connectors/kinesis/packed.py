"""Records that Amazon's producer library has packed into one: a magic number, a message of Protocol Buffers, its MD5.

All are taken, also where a key's hash belongs to another shard. The library sends those again whose shard was split in
the meantime; but others, which pack records in the same way, do not, and theirs would be lost.
https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

__all__ = ["MAGIC", "Part", "parts_of"]

MAGIC: Final = b"\xf3\x89\x9a\xc2"
DIGEST_BYTES: Final = 16
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_KEYS, _RECORDS = 1, 3
_KEY_INDEX, _DATA = 1, 3


@dataclass(frozen=True, slots=True)
class Part:
    """One of the records in a packed one."""

    key: str
    data: bytes


@dataclass(slots=True)
class _Message:
    keys: list[str] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)


def parts_of(data: bytes) -> list[Part] | None:
    """Return the records in a packed one; None if it is none."""
    packed = data[len(MAGIC) : -DIGEST_BYTES]
    if not data.startswith(MAGIC) or _md5(packed) != data[-DIGEST_BYTES:]:
        return None
    try:
        message = _Message()
        for number, value in _fields(packed):
            if number == _KEYS:
                message.keys.append(_bytes(value).decode())
            elif number == _RECORDS:
                message.records.append(_bytes(value))
        return [_part(message, dict(_fields(one))) for one in message.records]
    except (ValueError, IndexError, KeyError, TypeError):
        return None


def _part(message: _Message, values: dict[int, int | bytes]) -> Part:
    return Part(message.keys[_int(values[_KEY_INDEX])], _bytes(values[_DATA]))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind)
        if kind == _BYTES:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            message = "not a message"
            raise ValueError(message)
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:  # noqa: PLR2004 - bits of the largest number
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:  # noqa: PLR2004 - the last byte has no eighth bit
            return value, at
    message = "not a number"
    raise ValueError(message)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError
    return value


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise TypeError
    return value


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
