"""Rows as messages of a sink: a JSON object each, as JSON lines files have them, or a record of Avro; with a key.

In a `merge` the key is what a row replaces or deletes: a deletion is a message without a value.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.contract import Place
from dataflows.connectors.formats.jsonl import JsonlWriter
from dataflows.connectors.isolation import RowRefused
from dataflows.data.changes import CHANGE
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import BadData, Refused, SchemaMismatch
from penstock.failpoints import failpoint
from penstock.models.formats import AvroFormat, Format, JsonlFormat
from penstock.models.pipeline import Sink

__all__ = [
    "EMPTIED",
    "Encoder",
    "Most",
    "SentRows",
    "check_columns",
    "check_format",
    "record_writer",
    "schema_text",
    "written",
]

TOO_LARGE: Final = "message_too_large"
NOT_JSON: Final = "not_json"
NOT_AVRO: Final = "not_avro"
NO_KEY: Final = "no_key"
Pair = tuple[bytes | None, bytes | None]
"""Key and value of a message."""
EMPTIED: Final[Pair] = (None, None)
"""In place of a message: all rows there were are deleted. No message that needs a key is like it."""


@dataclass(frozen=True, slots=True)
class Most:
    """Bytes of the largest message that can be written, its key and `overhead` included; what allows more."""

    bytes: int
    overhead: int
    hint: str


def _objects(batch: pa.RecordBatch, where: str) -> list[bytes]:
    stream = io.BytesIO()
    JsonlWriter(stream, where).write(batch)
    return stream.getvalue().split(b"\n")[:-1]


class SentRows:
    """The contract's methods of a sink whose messages stay as they were sent: there is no load table."""

    place: Place

    def create_load_table(self, run: str, generation: int) -> str:
        failpoint("prepare.shadow_made")
        return self.load_table(run)

    def load_table(self, run: str) -> str:
        return self.place.object

    def can_go_on(self, run: str) -> bool:
        return True

    def abandon(self, run: str) -> None:
        """Do nothing: messages stay."""

    def finishing(self, columns: tuple[Column, ...]) -> Callable[[pa.RecordBatch], pa.RecordBatch] | None:
        return None


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes batches as messages; without `records` as JSON.

    `keyed`: each message needs a key. Rows whose column `delete` is true have no value, and no value has that column;
    nor has one the column `CHANGE`, if there is one.
    """

    key: Sequence[str]
    most: Most
    where: str
    records: Callable[[pa.RecordBatch], Sequence[bytes]] | None = None
    keyed: bool = False
    delete: str | None = None

    def __call__(self, batch: pa.RecordBatch) -> list[Pair]:
        """Return key and value of each row.

        Raises:
            RowRefused: a value that the format cannot represent, a message that is too large, or one without a key.
        """
        if CHANGE in batch.schema.names:
            return self._changes(batch)
        return self._messages(batch, self.delete)

    def _changes(self, batch: pa.RecordBatch) -> list[Pair]:
        """Return the messages of changes; `EMPTIED` where all rows are deleted, which is a split's first change."""
        does = [None if one is None else json.loads(one)["op"] for one in batch.column(CHANGE).to_pylist()]
        if "keep" in does:
            what = "a change lacks values that were not sent, which a message cannot keep"
            raise Refused(what, where=self.where, hint="ALTER TABLE … REPLICA IDENTITY FULL at the source")
        rows, begin = batch.drop_columns([CHANGE]), does.count("truncate")
        gone = pa.array([one == "delete" for one in does])
        flagged = rows.append_column(CHANGE, gone).slice(begin)
        return [EMPTIED] * begin + self._messages(flagged, CHANGE)

    def _messages(self, batch: pa.RecordBatch, delete: str | None) -> list[Pair]:
        try:
            values = self._values(batch, delete)
        except BadData as error:
            state = NOT_JSON if self.records is None else NOT_AVRO
            raise RowRefused(error.what, where=self.where, hint=error.hint, state=state) from None
        messages = list(zip(self._keys(batch), values, strict=True))
        most = self.most
        largest = max((len(key or b"") + len(value or b"") for key, value in messages), default=0) + most.overhead
        if largest > most.bytes:
            what = f"a message of {largest:,} bytes is larger than can be written, which is {most.bytes:,}"
            raise RowRefused(what, where=self.where, hint=most.hint, state=TOO_LARGE)
        return messages

    def _values(self, batch: pa.RecordBatch, delete: str | None) -> Sequence[bytes | None]:
        if delete is None:
            return self._written(batch)
        gone = [flag is True for flag in batch.column(delete).to_pylist()]
        rows = batch.drop_columns([delete])
        if True not in gone:
            return self._written(rows)
        kept = iter(self._written(rows.filter(pa.array([not one for one in gone]))))
        return [None if one else next(kept) for one in gone]

    def _written(self, batch: pa.RecordBatch) -> Sequence[bytes]:
        return _objects(batch, self.where) if self.records is None else self.records(batch)

    def _keys(self, batch: pa.RecordBatch) -> Iterator[bytes | None]:
        if self.keyed:
            missing = next((name for name in self.key if batch.column(name).null_count), None)
            if missing is not None or not self.key:
                what = f"`{missing}` is NULL" if self.key else "the sink has no `key`"
                hint = "name columns that are never NULL in `spec.sink.key`"
                raise RowRefused(f"the message has no key: {what}", where=self.where, hint=hint, state=NO_KEY)
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


def written(write: Sink, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns that values have."""
    return tuple(one for one in columns if one.name not in {write.delete, CHANGE})


def record_writer(
    place: Place, columns: Sequence[Column], where: str, register: Callable[[dict[str, Any]], bytes] | None = None
) -> Callable[[pa.RecordBatch], Sequence[bytes]] | None:
    """Return the writer of records of Avro; None for JSON. `register` returns what each of a schema begins with."""
    if not isinstance(place.format, AvroFormat):
        return None
    from dataflows.connectors.formats.avro_writer import AvroWriter, record_schema

    schema = record_schema(place.object, columns)
    return AvroWriter(schema, where, register(schema) if register is not None else b"")


def schema_text(place: Place, columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the schema of the messages, for `plan`; none for JSON."""
    if not isinstance(place.format, AvroFormat):
        return ()
    from dataflows.connectors.formats.avro_writer import record_schema

    return (json.dumps(record_schema(place.object, columns)),)


def check_format(form: Format | None, where: str) -> None:
    """Refuse formats in which messages are not written.

    Raises:
        Refused: by name.
    """
    if isinstance(form, AvroFormat) and form.schema_ is not None:
        what = "a sink makes the schema of its columns"
        raise Refused(what, where=f"{where}.schema", hint="leave it out; `penstock plan` prints it")
    if form is not None and not isinstance(form, AvroFormat | JsonlFormat):
        what = f"messages cannot be written as {form.type}"
        raise Refused(what, where=where, hint="write type: avro or jsonl, or leave it out")


def check_columns(place: Place, write: Sink, columns: Sequence[Column], where: str) -> None:
    """Refuse columns that the format cannot have, and a key that is not among them, or no text.

    Raises:
        SchemaMismatch: by name.
    """
    for one in written(write, columns):
        why = _not_avro(one, write.key) if isinstance(place.format, AvroFormat) else _not_json(one)
        if why is not None:
            raise SchemaMismatch(why, where=where, hint="rename or convert it, or leave it out")
    missing = [name for name in write.key if name not in {one.name for one in columns}]
    if missing:
        what, key = f"there is no column `{missing[0]}`", f"{place.pipeline}: spec.sink.key"
        raise SchemaMismatch(what, where=key, hint="name a column of the rows")


def _not_json(column: Column) -> str | None:
    kind = arrow_type(parse_type(column.type))
    if kind is None or pa.types.is_binary(kind) or pa.types.is_nested(kind):
        return f"`{column.name}` of type {column.type} cannot be written as JSON"
    return None


def _not_avro(column: Column, key: Sequence[str]) -> str | None:
    from dataflows.connectors.formats.avro_writer import cannot_be_avro

    if column.name in key and parse_type(column.type).name == "bytea":
        return f"`{column.name}` of type bytea cannot be part of the key, which is text"
    return cannot_be_avro(column)
