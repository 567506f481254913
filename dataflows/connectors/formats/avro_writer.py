"""Rows as records of Avro: the schema of their columns, and each row by it, so that a reader gets the same columns.

Each field may be null, and its default is null, so that columns can be added or dropped. A type that Avro does not have
is a string, or an int, that keeps the type's name in the property `penstock.type`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.formats.avro_schema import AvroSchema
from dataflows.connectors.formats.avro_types import TYPE_KEY
from dataflows.data.tables import Column
from dataflows.data.types import SqlType, arrow_type, parse_type
from penstock.errors import BadData

__all__ = ["AvroWriter", "cannot_be_avro", "framed_by", "record_schema"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN: Final[dict[str, Any]] = {
    "boolean": "boolean", "integer": "int", "bigint": "long", "real": "float", "double precision": "double",
    "bytea": "bytes", "text": "string", "smallint": {"type": "int", TYPE_KEY: "smallint"},
    "date": {"type": "int", "logicalType": "date"}, "uuid": {"type": "string", "logicalType": "uuid"},
    "time without time zone": {"type": "long", "logicalType": "time-micros"},
    "timestamp with time zone": {"type": "long", "logicalType": "timestamp-micros"},
    "timestamp without time zone": {"type": "long", "logicalType": "local-timestamp-micros"},
}  # fmt: skip


def cannot_be_avro(column: Column) -> str | None:
    """Say why a column cannot be a field; None if it can."""
    if not _NAME.fullmatch(column.name):
        return f"`{column.name}` is no name of a field in Avro, which has letters, digits and _ only"
    if _node(parse_type(column.type)) is None:
        return f"`{column.name}` of type {column.type} cannot be written as Avro"
    return None


def record_schema(name: str, columns: Sequence[Column]) -> dict[str, Any]:
    """Return the schema of a record with these columns; `name` is made a name as Avro has them."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    fields = [{"name": one.name, "type": ["null", _node(parse_type(one.type))], "default": None} for one in columns]
    return {"type": "record", "name": plain if _NAME.fullmatch(plain) else f"_{plain}", "fields": fields}


def framed_by(number: int) -> bytes:
    """Return what a message begins with whose schema has this id in a registry."""
    return b"\0" + number.to_bytes(4, "big")


def _node(kind: SqlType) -> Any:
    """Return a type as Avro has it; None if it has none."""
    arrow = arrow_type(kind)
    if arrow is None or pa.types.is_nested(arrow):
        return None
    if pa.types.is_decimal(arrow):
        return {"type": "bytes", "logicalType": "decimal", "precision": kind.precision, "scale": kind.scale or 0}
    plain = _PLAIN.get(kind.name)
    if plain is not None and (kind.precision is None or not pa.types.is_string(arrow)):
        return plain
    return {"type": "string", TYPE_KEY: str(kind)} if pa.types.is_string(arrow) else None


@dataclass(frozen=True)
class AvroWriter:
    """Encodes rows by a schema of `record_schema`; `frame` is what each message begins with."""

    schema: dict[str, Any]
    where: str
    frame: bytes = b""

    @cached_property
    def _schema(self) -> AvroSchema:
        return AvroSchema.parse(self.schema, "the schema")

    def __call__(self, batch: pa.RecordBatch) -> list[bytes]:
        """Return each row as a message.

        Raises:
            BadData: a value that its type does not have.
        """
        columns = [_raw(column) for column in batch.columns]
        names = batch.schema.names
        return [self.frame + self._message(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]

    def _message(self, row: dict[str, Any]) -> bytes:
        message = self._schema.encode(row)
        if message is None:
            hint = "convert the column to text"
            raise BadData("a value is none of its column's type in Avro", where=self.where, hint=hint)
        return message


def _raw(column: pa.Array) -> Iterable[Any]:
    """Return the values of a column as Avro has them without logical types."""
    kind = column.type
    if pa.types.is_decimal(kind):
        return [None if one is None else _unscaled(one, kind.scale) for one in column.to_pylist()]
    if pa.types.is_date(kind):
        return column.cast(pa.int32()).to_pylist()  # type: ignore[no-any-return]  # Arrow has no types here
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return column.cast(pa.int64()).to_pylist()  # type: ignore[no-any-return]  # as above
    return column.to_pylist()  # type: ignore[no-any-return]  # as above


def _unscaled(value: Decimal, scale: int) -> bytes:
    """Return the digits of a decimal as the fewest bytes of a number with a sign."""
    sign, digits, exponent = value.as_tuple()
    shift: int = 10 ** (int(exponent) + scale)
    number = int("".join(map(str, digits))) * (-shift if sign else shift)
    return number.to_bytes((number.bit_length() // 8) + 1, "big", signed=True)
