"""A schema of Avro: the columns that its fields are, and its messages as records, decoded strictly."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from dataflows.connectors.formats.avro_types import Inexact, Kind, Kinds
from dataflows.data.tables import Column
from penstock.errors import SchemaMismatch

__all__ = ["ABSENT", "AvroField", "AvroSchema"]

ABSENT: Final = object()
"""The default of a field that has none."""


@dataclass(frozen=True, slots=True)
class AvroField:
    """A field of a record: its name, its kind, and the value of its column where a message lacks the field."""

    name: str
    kind: Kind
    default: Any = ABSENT

    @property
    def column(self) -> Column:
        """The field as a column."""
        why = self.kind.unreadable
        return Column(self.name, self.kind.type, unreadable=None if why is None else f"`{self.name}` {why}")


@dataclass(frozen=True, slots=True)
class AvroSchema:
    """The schema of a record; `name` is how errors call it, `plain` is what its messages are decoded by."""

    name: str
    fields: Mapping[str, AvroField]
    plain: Any
    canonical: bool
    """True if each of its records has one encoding only: there are no arrays and maps, which may be in blocks."""

    @classmethod
    def parse(cls, text: str | Mapping[str, Any], name: str, references: Sequence[Any] = ()) -> AvroSchema:
        """Parse a schema; `references` are schemas, as JSON has them, whose names it uses.

        Raises:
            SchemaMismatch: it is none, or not that of a record.
        """
        names: dict[str, Any] = {}
        try:
            for one in references:
                fastavro.parse_schema(one, named_schemas=names)
            node = fastavro.parse_schema(json.loads(text) if isinstance(text, str) else dict(text), named_schemas=names)
        except (SchemaParseException, UnknownType, KeyError, TypeError, ValueError, RecursionError) as error:
            hint = "correct it; null and other names of types are texts, in quotes"
            raise SchemaMismatch(
                f"{name} is no schema of Avro: {_first_line(error)}", where="avro", hint=hint
            ) from None
        if not isinstance(node, dict) or node.get("type") != "record":
            hint = "such messages can be read as they are: `format: {type: raw, as: bytes}`"
            raise SchemaMismatch(f"{name} is not the schema of a record", where="avro", hint=hint)
        if _has_empty_items(node, names):
            raise SchemaMismatch(f"{name} has an array whose items have no bytes", where="avro", hint="leave it out")
        return cls(name, _fields(node, names), _plain(node, names), canonical=not _has_blocks(node, names))

    def decode(self, data: bytes) -> dict[str, Any]:
        """Return a message as a record without logical types.

        Raises:
            Inexact: it is none of this schema.
        """
        stream = io.BytesIO(data)
        try:
            record: Any = fastavro.schemaless_reader(stream, self.plain, None)
        except UnicodeDecodeError:
            message = "a text in it is not in UTF-8"
            raise Inexact(message) from None
        except (EOFError, IndexError, ValueError, OverflowError, MemoryError, RecursionError):
            message = f"it is no record of {self.name}"
            raise Inexact(message) from None
        if (rest := len(data) - stream.tell()) > 0:
            message = f"it has {rest} bytes more than a record of {self.name}"
            raise Inexact(message)
        if self.canonical and self.encode(record) != data:  # the library takes numbers that a type does not have
            message = f"it is no record of {self.name}"
            raise Inexact(message)
        return record  # type: ignore[no-any-return]  # the schema is that of a record

    def encode(self, record: Mapping[str, Any]) -> bytes | None:
        """Return a record without logical types as a message; None if it is none of this schema."""
        stream = io.BytesIO()
        try:
            fastavro.schemaless_writer(stream, self.plain, record)
        except (ValueError, TypeError, OverflowError):
            return None
        return stream.getvalue()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _fields(node: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, AvroField]:
    kinds, fields = Kinds(names), {}
    for one in node["fields"]:
        kind, default = kinds.of(one["type"]), ABSENT
        if "default" in one and kind.unreadable is None:
            default = _default(one["type"], one["default"], names, kind)
        fields[one["name"]] = AvroField(one["name"], kind, default)
    return fields


def _default(node: Any, value: Any, names: Mapping[str, Any], kind: Kind) -> Any:
    """Return the default of a field as the value of its column."""
    try:
        return None if value is None else kind.value(_given(node, value, names))
    except (Inexact, TypeError, ValueError, KeyError, AttributeError):
        return ABSENT


def _given(node: Any, value: Any, names: Mapping[str, Any]) -> Any:
    """Return a default as a decoded value; the bytes of one are the code points of a text."""
    if isinstance(node, list):
        some = [one for one in node if one != "null"]
        return None if value is None else _given(some[0], value, names)
    if isinstance(node, str):
        node = names.get(node, {"type": node})
    kind = node["type"]
    if not isinstance(kind, str) or kind in names:
        return _given(kind, value, names)
    return _GIVEN[kind](node, value, names) if kind in _GIVEN else value


_GIVEN: Final[dict[str, Callable[[Any, Any, Mapping[str, Any]], Any]]] = {
    "bytes": lambda _node, value, _names: value.encode("latin-1"),
    "fixed": lambda _node, value, _names: value.encode("latin-1"),
    "float": lambda _node, value, _names: float(value),
    "double": lambda _node, value, _names: float(value),
    "array": lambda node, value, names: [_given(node["items"], one, names) for one in value],
    "map": lambda node, value, names: {key: _given(node["values"], one, names) for key, one in value.items()},
    "record": lambda node, value, names: {
        one["name"]: _given(one["type"], value[one["name"]] if one["name"] in value else one["default"], names)
        for one in node["fields"]
    },
}


def _plain(node: Any, names: Mapping[str, Any]) -> Any:
    """Return a schema without logical types, and with what the named types are where they first occur."""
    return fastavro.parse_schema(_without_logical(node, names, set()))


def _without_logical(node: Any, names: Mapping[str, Any], seen: set[str]) -> Any:
    if isinstance(node, list):
        return [_without_logical(one, names, seen) for one in node]
    if isinstance(node, str):
        return _without_logical(names[node], names, seen) if node in names and node not in seen else node
    if (name := node.get("name")) is not None:
        if name in seen:
            return name
        seen.add(name)
    made: dict[str, Any] = {}
    for key, value in node.items():
        if key == "fields":
            made[key] = [{"name": one["name"], "type": _without_logical(one["type"], names, seen)} for one in value]
        elif key in {"items", "values"} or (key == "type" and not isinstance(value, str)):
            made[key] = _without_logical(value, names, seen)
        elif key in {"type", "name", "symbols", "size"}:
            made[key] = value
    return made


def _parts(node: Any, names: Mapping[str, Any], seen: set[str]) -> Iterable[Any]:
    """Yield all types of a schema, each named one once."""
    if isinstance(node, list):
        for one in node:
            yield from _parts(one, names, seen)
        return
    if isinstance(node, str):
        if node in names and node not in seen:
            yield from _parts(names[node], names, seen)
        return
    if (name := node.get("name")) is not None:
        if name in seen:
            return
        seen.add(name)
    yield node
    inner = [one["type"] for one in node.get("fields", ())]
    for one in (*inner, *(node[key] for key in ("items", "values") if key in node)):
        yield from _parts(one, names, seen)
    if not isinstance(node["type"], str):
        yield from _parts(node["type"], names, seen)


def _has_blocks(node: Any, names: Mapping[str, Any]) -> bool:
    return any(one["type"] in ("array", "map") for one in _parts(node, names, set()))


def _has_empty_items(node: Any, names: Mapping[str, Any]) -> bool:
    return any(one["type"] == "array" and _is_empty(one["items"], names) for one in _parts(node, names, set()))


def _is_empty(node: Any, names: Mapping[str, Any]) -> bool:
    """True if values of a type have no bytes, so that a few bytes could stand for any number of them."""
    node = names.get(node, node) if isinstance(node, str) else node
    if isinstance(node, str):
        return node == "null"
    if isinstance(node, list):
        return False
    if node["type"] == "record":
        return all(_is_empty(one["type"], names) for one in node["fields"])
    return bool(node["type"] == "null") or (node["type"] == "fixed" and node["size"] == 0)
