"""Messages of a topic: their metadata as hidden columns, and the order in which they came."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

import pyarrow as pa

from dataflows.data.tables import Column

__all__ = [
    "BUILT",
    "HIDDEN",
    "SAMPLE_MESSAGES",
    "Message",
    "in_turns",
    "place_of",
    "place_shown",
    "shown_bytes",
    "time_column",
    "times_of",
    "topic_columns",
    "turn_of",
    "turns_of",
    "unreadable",
]

SAMPLE_MESSAGES: Final = 1000
"""Messages from which columns are inferred, the newest of each partition."""
NO_TIME: Final = 0
"""The kind of a message's time if it has none."""
FIRST_TIME: Final = -62_135_596_800_000
LAST_TIME: Final = 253_402_300_799_999
"""Milliseconds of Unix time from the year 1 to 9999: every system has such times; a producer may set any other."""


class Message(Protocol):
    """A message that was read from a partition, such as a `confluent_kafka.Message`."""

    def value(self) -> bytes | None:
        """Return its value; None for a tombstone."""

    def key(self) -> bytes | None: ...

    def headers(self) -> Any:
        """Return its headers in order, as pairs of a name and bytes; None if it has none."""

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of its time (`NO_TIME`: none) and the time, in milliseconds of Unix time."""

    def topic(self) -> str | None: ...

    def partition(self) -> int | None: ...

    def offset(self) -> int | None: ...


_M = TypeVar("_M", bound=Message)
HIDDEN: Final = (
    Column("_key", "text", hidden=True),
    Column("_topic", "text", nullable=False, hidden=True),
    Column("_partition", "integer", nullable=False, hidden=True),
    Column("_offset", "bigint", nullable=False, hidden=True),
    Column("_timestamp", "timestamp with time zone", hidden=True),
    Column("_headers", "jsonb", hidden=True),
    Column("_deleted", "boolean", nullable=False, hidden=True),
)
"""Metadata of each message; read only if a mapping or a sink names it."""


def topic_columns(columns: tuple[Column, ...], hidden: tuple[Column, ...] = HIDDEN) -> tuple[Column, ...]:
    """Return the columns of a topic: those of its values, and the hidden ones whose names are free."""
    names = {one.name for one in columns}
    return columns + tuple(one for one in hidden if one.name not in names)


def unreadable(message: Message, hidden: Collection[str]) -> tuple[str, str] | None:
    """Say what of the key, the headers or the time cannot be a value, if these hidden columns are read."""
    if "_key" in hidden and not _is_text(message.key()):
        return "not_text", "its key is not text in UTF-8"
    if "_headers" in hidden and not all(_is_text(value) for _, value in headers_of(message)):
        return "not_text", "a header is not text in UTF-8"
    if "_timestamp" in hidden and not _is_time(*message.timestamp()):
        return "not_of_type", f"its time, {message.timestamp()[1]} ms, is none of the years 1 to 9999"
    return None


def place_shown(message: Message) -> tuple[str, dict[str, Any]]:
    """Return where a message is, in words and as values of a dead letter."""
    part, offset = message.partition(), message.offset()
    return f"offset {offset} of partition {part}", {
        "_topic": message.topic(),
        "_partition": part,
        "_offset": offset,
    }


def shown_bytes(data: bytes | None) -> str | None:
    """Return bytes as text; what is no text in hexadecimal, after a backslash."""
    if data is None:
        return None
    return data.decode() if _is_text(data) and b"\0" not in data else f"\\x{data.hex()}"


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="replace")


def place_of(message: Message) -> tuple[int, int]:
    """Return partition and offset of a message that was read."""
    part, offset = message.partition(), message.offset()
    assert part is not None  # noqa: S101 - only a message to be sent has none
    assert offset is not None  # noqa: S101 - as above
    return part, offset


def turn_of(message: Message) -> tuple[str, int]:
    """Return the name of a message's partition, which has that of its topic, and the offset."""
    part, offset = place_of(message)
    return f"{message.topic()}/{part}", offset


def turns_of(messages: Sequence[Message]) -> tuple[tuple[str, int], ...]:
    """Return the order in which messages came: the name of a partition, and the offset up to which, in turns."""
    turns: list[tuple[str, int]] = []
    for part, offset in map(turn_of, messages):
        if turns and turns[-1][0] == part:
            turns.pop()
        turns.append((part, offset + 1))
    return tuple(turns)


def in_turns(messages: Sequence[_M], turns: Sequence[tuple[str, int]]) -> list[_M]:
    """Return messages that were read once more in the order in which they came; some may be gone by now."""
    left: dict[str, deque[_M]] = {}
    for one in messages:
        left.setdefault(turn_of(one)[0], deque()).append(one)
    found: list[_M] = []
    for part, end in turns:
        those = left.get(part)
        while those and place_of(those[0])[1] < end:
            found.append(those.popleft())
    return [*found, *(one for those in left.values() for one in those)]


def times_of(messages: Sequence[Message]) -> tuple[float, float] | None:
    """Return the oldest and the newest time of the messages, in seconds of Unix time; None if they have none.

    Times that no date has are left out.
    """
    found = (message.timestamp() for message in messages)
    times = [at for kind, at in found if kind != NO_TIME and _is_time(kind, at)]
    return (min(times) / 1000, max(times) / 1000) if times else None


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """Return the headers of a message, in order."""
    return cast("list[tuple[str, bytes | None]]", message.headers() or [])


def _is_text(data: bytes | None) -> bool:
    try:
        return data is None or data.decode() is not None
    except UnicodeDecodeError:
        return False


def _is_time(kind: int, at: int) -> bool:
    return kind == NO_TIME or FIRST_TIME <= at <= LAST_TIME


def time_column(messages: Sequence[Message]) -> pa.Array:
    """Return the times of messages; null for those that have none."""
    found = [one.timestamp() for one in messages]
    milliseconds = pa.array([None if kind == NO_TIME else at for kind, at in found], pa.int64())
    return milliseconds.cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp("us", "UTC"))


def _headers(message: Message) -> str | None:
    headers = headers_of(message)
    return json.dumps([[name, _text(value)] for name, value in headers]) if headers else None


BUILT: Final[dict[str, Callable[[Sequence[Message]], pa.Array]]] = {
    "_key": lambda all_: pa.array([_text(one.key()) for one in all_], pa.string()),
    "_topic": lambda all_: pa.array([one.topic() for one in all_], pa.string()),
    "_partition": lambda all_: pa.array([one.partition() for one in all_], pa.int32()),
    "_offset": lambda all_: pa.array([one.offset() for one in all_], pa.int64()),
    "_timestamp": time_column,
    "_headers": lambda all_: pa.array([_headers(one) for one in all_], pa.string()),
    "_deleted": lambda all_: pa.array([one.value() is None for one in all_], pa.bool_()),
}
"""How the columns of `HIDDEN` are made."""
