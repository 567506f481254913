"""Values of messages that are one record of Avro each: with a schema that is given, or framed by the id of one.

A framed value begins with a byte 0 and the id of the schema by which it was written, in four bytes; the writer's fields
are the columns of the same names. A field that the columns lack is noticed once and not copied. A column that the
writer's schema lacks has the default that the reader's schema gives it, or NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.formats.avro_schema import ABSENT, AvroField, AvroSchema
from dataflows.connectors.formats.avro_types import Convert, Inexact
from dataflows.connectors.formats.lines import BadLine
from dataflows.connectors.formats.message_contract import Subjects
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, fits, parse_type

__all__ = ["AvroValues", "frame_of"]

FRAME: Final = 5
"""Bytes before a framed record."""


def frame_of(value: bytes) -> int | None:
    """Return the id of the schema of a framed value; None if it is not framed."""
    return int.from_bytes(value[1:FRAME], "big") if len(value) >= FRAME and value[0] == 0 else None


@dataclass(frozen=True, slots=True)
class _Column:
    """How a column is filled from records of one schema."""

    name: str
    convert: Convert | None
    """None if they have no such field."""
    default: Any = None


@dataclass(frozen=True)
class AvroValues:
    """Reads the `wanted` columns; `known` are the names of all. `given` is the schema of values that are not framed."""

    wanted: Mapping[str, Column]
    known: frozenset[str]
    reader: Mapping[str, AvroField]
    noticed: Callable[[str], None]
    given: AvroSchema | None = None
    schemas: Subjects | None = None
    _plans: dict[str, list[_Column] | str] = field(default_factory=dict)
    _new: set[str] = field(default_factory=set)

    @cached_property
    def _types(self) -> dict[str, pa.DataType]:
        return {name: arrow_type(parse_type(one.type)) for name, one in self.wanted.items()}

    def __call__(self, values: Sequence[bytes | None]) -> tuple[pa.Table, list[BadLine]]:
        found: dict[str, list[Any]] = {name: [] for name in self.wanted}
        wrong: list[BadLine] = []
        count = 0
        for at, value in enumerate(values):
            row = dict.fromkeys(self.wanted) if value is None else self._row(value)
            if isinstance(row, tuple):
                wrong.append(BadLine(at, *row))
                continue
            count += 1
            for name, one in row.items():
                found[name].append(one)
        if not found:
            return pa.table({"": pa.nulls(count)}), wrong
        return pa.table({name: pa.array(some, self._types[name]) for name, some in found.items()}), wrong

    def _row(self, value: bytes) -> dict[str, Any] | tuple[str, str]:
        """Return the columns of a value, or the code of an error and why it cannot be read."""
        schema, body = self.given, value
        if schema is None:
            number = frame_of(value)
            if number is None or self.schemas is None:
                return "malformed", "it does not begin with a byte 0 and the id of a schema"
            found = self.schemas.by_id(number)
            if isinstance(found, str):
                return "unknown_schema", found
            schema, body = found, value[FRAME:]
        plan = self._plan(schema)
        if isinstance(plan, str):
            return "not_of_type", plan
        try:
            record = schema.decode(body)
        except Inexact as error:
            return "malformed", str(error)
        row = {}
        for one in plan:
            try:
                row[one.name] = one.default if one.convert is None else one.convert(record[one.name])
            except Inexact as error:
                return "not_of_type", f"the value of `{one.name}` {error}"
        return row

    def _plan(self, schema: AvroSchema) -> list[_Column] | str:
        """Return how the columns are filled from records of a schema, or why they cannot."""
        if schema.name not in self._plans:
            self._plans[schema.name] = self._planned(schema)
            for name in schema.fields.keys() - self.known - self._new:
                self._new.add(name)
                self.noticed(
                    f"field `{name}` of {schema.name} is no column yet: it is not copied; apply the pipeline again to "
                    "add it"
                )
        return self._plans[schema.name]

    def _planned(self, schema: AvroSchema) -> list[_Column] | str:
        columns = []
        for name, column in self.wanted.items():
            one = schema.fields.get(name)
            if one is None:
                default = self.reader[name].default if name in self.reader else None
                columns.append(_Column(name, None, None if default is ABSENT else default))
                continue
            if one.kind.unreadable is not None:
                return f"`{name}` {one.kind.unreadable}"
            kind, wanted = parse_type(one.kind.type), parse_type(column.type)
            if not fits(kind, wanted):
                return f"`{name}` of {schema.name} is {kind}, which a column of {wanted} does not keep"
            text = self._types[name] == pa.string() and arrow_type(kind) != pa.string()
            columns.append(_Column(name, _spelled(one.kind.value) if text else one.kind.value))
        return columns


def _spelled(convert: Convert) -> Convert:
    """Return a conversion to the text of a number."""

    def text(value: Any) -> str | None:
        number = convert(value)
        return None if number is None else format(number, "f" if not isinstance(number, int) else "d")

    return text
