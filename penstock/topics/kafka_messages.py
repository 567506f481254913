"""Messages of a log as records of Kafka.

The first header of a record is the log's own: the time to the microsecond, since Kafka's has milliseconds, and the
lock that the writer held. The message's headers follow in order.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from confluent_kafka import Message as Record

from penstock.topics.log import Message, Stored
from penstock.topics.table import Topic

__all__ = ["arguments_of", "milliseconds", "size_of", "stored_of"]

OWN: Final = "penstock"
_LAYOUT: Final = struct.Struct(">qq")
_NO_LOCK: Final = -1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def milliseconds(at: datetime) -> int:
    """Return Kafka's time of `at`: at least 1, because 0 means now to the client, and less is not allowed."""
    return max(1, (at - _EPOCH) // timedelta(milliseconds=1))


def size_of(message: Message) -> int:
    """Return the bytes of the message itself."""
    headers = sum(len(name.encode()) + len(value) for name, value in message.headers)
    return len(message.key or b"") + len(message.value) + headers


def arguments_of(message: Message, lock: int | None) -> dict[str, Any]:
    """Return the arguments of `Producer.produce` for a message and its stamp."""
    own = _LAYOUT.pack((message.at - _EPOCH) // _MICROSECOND, _NO_LOCK if lock is None else lock)
    return {
        "key": message.key,
        "value": message.value,
        "timestamp": milliseconds(message.at),
        "headers": [(OWN, own), *((_escaped(name), value) for name, value in message.headers)],
    }


def stored_of(topic: Topic, record: Record) -> Stored:
    """Return a record as a stored message; one that another program wrote has Kafka's time and no stamp."""
    headers = [(str(name), _bytes(value)) for name, value in cast("list[tuple[str, object]]", record.headers() or [])]
    partition, offset = record.partition(), record.offset()
    assert partition is not None  # noqa: S101 - a consumed record has a place
    assert offset is not None  # noqa: S101 - as above
    at, lock = _EPOCH + timedelta(milliseconds=max(0, record.timestamp()[1])), None
    if headers and headers[0][0] == OWN and len(headers[0][1]) == _LAYOUT.size:
        micros, stamp = _LAYOUT.unpack(headers.pop(0)[1])
        at, lock = _EPOCH + micros * _MICROSECOND, None if stamp == _NO_LOCK else stamp
    names = tuple((_unescaped(name), value) for name, value in headers)
    return Stored(topic, partition, offset, Message(record.key(), record.value() or b"", at, names), lock)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value or "").encode()


def _escaped(name: str) -> str:
    """Return a header's name without a NUL, at which the client would cut it."""
    return name.replace("%", "%25").replace("\0", "%00")


def _unescaped(name: str) -> str:
    return name.replace("%00", "\0").replace("%25", "%")
