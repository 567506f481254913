"""Values of messages that are one JSON object each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import msgspec
import pyarrow as pa

from dataflows.connectors.formats.lines import BadLine, Lines, infer_columns, parse_object
from dataflows.connectors.formats.messages import Message
from dataflows.connectors.formats.types import final_type
from dataflows.data.tables import Column
from penstock.errors import BadData, SchemaMismatch

__all__ = ["JsonValues", "sampled_columns"]

_NULL_ROW: Final = b"{}"
_NOT_OBJECT: Final = "it is not a JSON object"


def sampled_columns(messages: Sequence[Message], where: str) -> tuple[Column, ...]:
    """Return the columns of messages, in the order in which they appear.

    Raises:
        SchemaMismatch: there is no message to infer them from.
        BadData: most of them are no JSON objects.
    """
    values = [value for one in messages if (value := one.value()) is not None]
    objects = [parse_object(value) for value in values]
    hint = "declare them: `format: {type: jsonl, columns: {id: bigint, name: text}}`"
    if not values:
        raise SchemaMismatch("there is no message to infer the columns from", where=where, hint=hint)
    if 2 * objects.count(None) > len(values):
        what = f"{objects.count(None)} of {len(values)} messages are not JSON objects"
        raise BadData(what, where=where, hint="only JSON objects can be read")
    columns = infer_columns((one for one in objects if one is not None), where)
    if not columns:
        raise SchemaMismatch("the messages have no columns", where=where, hint=hint)
    return tuple(Column(one.name, final_type(one.type)) for one in columns)


@dataclass(frozen=True)
class JsonValues:
    """Reads the `wanted` columns; `known` are the columns of a sample, None if they are declared.

    `columns` are all of the source: a message that has one of them that is unreadable cannot be read. `noticed` is
    called with a sentence once for each column that is in no sampled message; such columns are not read.
    """

    wanted: Mapping[str, Column]
    columns: Sequence[Column]
    known: Sequence[Column] | None
    noticed: Callable[[str], None]
    _new: set[str] = field(default_factory=set)

    @cached_property
    def _strict(self) -> Lines:
        return Lines(self.wanted, self.known, inferred=self.known is not None)

    @cached_property
    def _lenient(self) -> Lines:
        return Lines(self.wanted, None, inferred=self.known is not None)

    def __call__(self, values: Sequence[bytes | None]) -> tuple[pa.Table, list[BadLine]]:
        lines, wrong = [], []
        for at, value in enumerate(values):
            line, why = (_NULL_ROW, None) if value is None else self._line(value)
            lines.append(line)
            if why is not None:
                wrong.append(BadLine(at, *why))
        bad = {one.line for one in wrong}
        places = [at for at in range(len(lines)) if at not in bad] if bad else range(len(lines))
        table, more = self._read(b"\n".join(lines[at] for at in places) if bad else b"\n".join(lines))
        return table, wrong + [BadLine(places[one.line], one.code, one.what, one.column) for one in more]

    def _line(self, value: bytes) -> tuple[bytes, tuple[str, str] | None]:
        """Return the value as one line, or why it cannot be read."""
        if b"\n" in value:  # inside a string a line break is escaped, so that here it is space, if this is JSON
            try:
                msgspec.json.decode(value, type=msgspec.Raw)
            except msgspec.DecodeError:
                return b"", ("malformed", _NOT_OBJECT)
            value = value.replace(b"\n", b" ")
        if not value.strip():
            return b"", ("malformed", _NOT_OBJECT)
        return value, self._untaken(value)

    @cached_property
    def _unreadables(self) -> list[tuple[str, bytes, str]]:
        """Columns that cannot be read: name, name in quotes, and why."""
        return [
            (one.name, json.dumps(one.name, ensure_ascii=False).encode(), one.unreadable)
            for one in self.columns
            if one.unreadable
        ]

    def _untaken(self, value: bytes) -> tuple[str, str] | None:
        """Say which column the value has that cannot be read."""
        for name, quoted, why in self._unreadables:
            if quoted in value and name in (parse_object(value) or ()):
                return "unknown_column", f"column {why}"
        return None

    def _read(self, block: bytes) -> tuple[pa.Table, list[BadLine]]:
        if not self._new:
            table, wrong = self._strict.read(block)
            if all(one.code != "unknown_column" for one in wrong):
                return table, wrong
        self._notice(block)
        return self._lenient.read(block)

    def _notice(self, block: bytes) -> None:
        names = {name for line in block.split(b"\n") for name in parse_object(line) or ()}
        for name in sorted(names - {one.name for one in self.known or ()} - self._new):
            self.noticed(
                f"column `{name}` is in no sampled message: it is not copied; apply the pipeline again to add it"
            )
            self._new.add(name)
