"""A record of a shard as the message that decoders read, and its metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.formats.messages import Message, time_column
from dataflows.connectors.kinesis.packed import parts_of
from dataflows.connectors.kinesis.positions import shard_number
from dataflows.data.tables import Column

__all__ = ["BUILT", "HIDDEN", "Record", "place_shown"]

ARRIVED: Final = 1
"""The kind of a record's time: when Kinesis received it."""
HIDDEN: Final = (
    Column("_key", "text", nullable=False, hidden=True),
    Column("_stream", "text", nullable=False, hidden=True),
    Column("_shard", "text", nullable=False, hidden=True),
    Column("_sequence", "text", nullable=False, hidden=True),
    Column("_timestamp", "timestamp with time zone", hidden=True),
)
"""Metadata of each record; read only if a mapping or a sink names it."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was read; partition and offset are the numbers of its shard and its own.

    Those that were packed into one have its sequence number, all of them.
    """

    stream: str
    shard: str
    sequence: str
    data: bytes
    partition_key: str
    time: int
    """When it arrived, in milliseconds of Unix time."""

    @classmethod
    def of(cls, stream: str, shard: str, found: Mapping[str, Any]) -> Record:
        """Return a record of an answer."""
        arrived: datetime = found["ApproximateArrivalTimestamp"]
        time = round(arrived.timestamp() * 1000)
        return cls(stream, shard, found["SequenceNumber"], found["Data"], found["PartitionKey"], time)

    def unpacked(self) -> list[Record]:
        """Return the records that it is made of."""
        parts = parts_of(self.data)
        if parts is None:
            return [self]
        return [replace(self, data=one.data, partition_key=one.key) for one in parts]

    def value(self) -> bytes | None:
        return self.data

    def key(self) -> bytes | None:
        return self.partition_key.encode()

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return ARRIVED, self.time

    def topic(self) -> str | None:
        return self.stream

    def partition(self) -> int | None:
        return shard_number(self.shard)

    def offset(self) -> int | None:
        return int(self.sequence)


def place_shown(message: Message) -> tuple[str, dict[str, Any]]:
    """Return where a record is, in words and as values of a dead letter."""
    assert isinstance(message, Record)  # noqa: S101 - no others are read here
    values = {"_shard": message.shard, "_sequence": message.sequence}
    return f"record {message.sequence} of {message.shard}", values


def _of(name: str) -> Callable[[Sequence[Message]], pa.Array]:
    return lambda records: pa.array([getattr(one, name) for one in records], pa.string())


BUILT: Final[dict[str, Callable[[Sequence[Message]], pa.Array]]] = {
    "_key": _of("partition_key"),
    "_stream": _of("stream"),
    "_shard": _of("shard"),
    "_sequence": _of("sequence"),
    "_timestamp": time_column,
}
"""How the columns of `HIDDEN` are made."""
