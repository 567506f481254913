"""Rows as messages: a JSON object each, as JSON lines files have them, or a record of Avro; with a key of columns."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.formats.jsonl import JsonlWriter
from dataflows.connectors.isolation import RowRefused
from penstock.errors import BadData

__all__ = ["Encoder"]

OVERHEAD: Final = 100
"""Bytes that a message takes beside its key and value, in a batch of its own."""
TOO_LARGE: Final = "message_too_large"
NOT_JSON: Final = "not_json"
NOT_AVRO: Final = "not_avro"


def _objects(batch: pa.RecordBatch, where: str) -> list[bytes]:
    stream = io.BytesIO()
    JsonlWriter(stream, where).write(batch)
    return stream.getvalue().split(b"\n")[:-1]


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes batches; `most` is the size of the largest message that the topic takes. Without `records`, as JSON."""

    key: Sequence[str]
    most: int
    where: str
    records: Callable[[pa.RecordBatch], Sequence[bytes]] | None = None

    def __call__(self, batch: pa.RecordBatch) -> list[tuple[bytes | None, bytes]]:
        """Return key and value of each row.

        Raises:
            RowRefused: a value that the format cannot represent, or a message that is too large.
        """
        try:
            values = _objects(batch, self.where) if self.records is None else self.records(batch)
        except BadData as error:
            state = NOT_JSON if self.records is None else NOT_AVRO
            raise RowRefused(error.what, where=self.where, hint=error.hint, state=state) from None
        messages = list(zip(self._keys(batch), values, strict=True))
        largest = max((len(key or b"") + len(value) for key, value in messages), default=0) + OVERHEAD
        if largest > self.most:
            what = f"a message of {largest:,} bytes is larger than the topic takes, which is {self.most:,}"
            hint = "set the topic's `max.message.bytes`, or leave a column out"
            raise RowRefused(what, where=self.where, hint=hint, state=TOO_LARGE)
        return messages

    def _keys(self, batch: pa.RecordBatch) -> Iterator[bytes | None]:
        if not self.key:
            return iter([None] * batch.num_rows)
        lines = _objects(batch.select(list(self.key)), self.where)
        return iter(lines) if len(self.key) > 1 else map(_plain, lines)


def _plain(line: bytes) -> bytes | None:
    """Return the only value of an object as text; None for null."""
    (value,) = json.loads(line, parse_float=str, parse_int=str).values()
    return None if value is None else _text(value)


def _text(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()
