"""Types of Avro as types of columns: how each value becomes that of a column, or part of a JSON document.

Messages are decoded without their logical types, which are applied here: the library rounds a decimal that has more
digits than its precision. A value that a column cannot keep exactly raises `Inexact`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from dataflows.data.types import arrow_type, parse_type

__all__ = ["TYPE_KEY", "Convert", "Inexact", "Kind", "Kinds"]

TYPE_KEY: Final = "penstock.type"
"""Property of a schema in which a written field keeps its column's type, where Avro has none of its own for it."""
DAY: Final = 86_400_000_000
"""Microseconds of a day."""
FIRST_DAY: Final = -719_162
LAST_DAY: Final = 2_932_896
"""Days of Unix time of the years 1 to 9999, which every system has."""
_NO_YEAR: Final = "is none of the years 1 to 9999"
_SMALL: Final = 1 << 15
_INT: Final = 1 << 31
Convert = Callable[[Any], Any]
_JSON: Final = msgspec.json.Encoder()


class Inexact(ValueError):
    """A value that a column cannot keep; the text says why, without the value."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type: that of its column, how a decoded value becomes one that Arrow takes, and one that JSON has."""

    type: str
    value: Convert
    document: Convert
    unreadable: str | None = None


def _same(value: Any) -> Any:
    return value


def _day(value: int) -> int:
    if not FIRST_DAY <= value <= LAST_DAY:
        raise Inexact(_NO_YEAR)
    return value


def _at(value: int) -> int:
    """Check microseconds of Unix time."""
    if not FIRST_DAY * DAY <= value < (LAST_DAY + 1) * DAY:
        raise Inexact(_NO_YEAR)
    return value


def _clock(value: int) -> int:
    """Check microseconds of a day."""
    if not 0 <= value < DAY:
        message = "is no time of a day"
        raise Inexact(message)
    return value


def _whole(value: int) -> int:
    """Return nanoseconds as microseconds."""
    micros, rest = divmod(value, 1000)
    if rest:
        message = "has nanoseconds, which no column keeps"
        raise Inexact(message)
    return micros


def _day_text(value: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=_day(value))).isoformat()


def _at_text(value: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=_at(value))).isoformat(timespec="microseconds")


def _local_text(value: int) -> str:
    return _at_text(value).removesuffix("+00:00")


def _clock_text(value: int) -> str:
    return _local_text(_clock(value)).partition("T")[2]


def _finite(value: float) -> float:
    if not isfinite(value):
        message = "is NaN or infinity, which JSON cannot represent"
        raise Inexact(message)
    return value


def _short(value: float) -> float:
    """Return a number of 32 bits as the double with the fewest digits that stands for it."""
    return float(str(np.float32(_finite(value))))


def _hex(value: bytes) -> str:
    return f"\\x{value.hex()}"


def _uuid(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        message = "is not a UUID"
        raise Inexact(message) from None


def _uuid_bytes(value: bytes) -> str:
    return str(uuid.UUID(bytes=value))


def _int(value: int) -> int:
    """Check a number that the library may read from more than 32 bits."""
    if not -_INT <= value < _INT:
        message = "is out of the range of an int"
        raise Inexact(message)
    return value


def _small(value: int) -> int:
    if not -_SMALL <= value < _SMALL:
        message = "is out of the range of smallint"
        raise Inexact(message)
    return value


def _thousand(value: int) -> int:
    return value * 1000


def _after(first: Convert, then: Convert) -> Convert:
    return lambda value: then(first(value))


def _timed(unit: Convert, kind: str, check: Convert, text: Convert) -> Kind:
    return Kind(kind, _after(unit, check), _after(unit, text))


_TIME: Final = ("time without time zone", _clock, _clock_text)
_ZONED: Final = ("timestamp with time zone", _at, _at_text)
_LOCAL: Final = ("timestamp without time zone", _at, _local_text)
_PLAIN: Final = {
    "null": Kind("text", _same, _same), "boolean": Kind("boolean", _same, _same),
    "int": Kind("integer", _int, _int), "long": Kind("bigint", _same, _same),
    "float": Kind("real", _same, _short), "double": Kind("double precision", _same, _finite),
    "bytes": Kind("bytea", _same, _hex), "string": Kind("text", _same, _same),
    "enum": Kind("text", _same, _same), "fixed": Kind("bytea", _same, _hex),
}  # fmt: skip
_LOGICAL: Final = {
    ("int", "date"): Kind("date", _day, _day_text), ("string", "uuid"): Kind("uuid", _uuid, _uuid),
    ("int", "time-millis"): _timed(_thousand, *_TIME), ("long", "time-micros"): _timed(_same, *_TIME),
    ("long", "timestamp-millis"): _timed(_thousand, *_ZONED), ("long", "timestamp-micros"): _timed(_same, *_ZONED),
    ("long", "timestamp-nanos"): _timed(_whole, *_ZONED),
    ("long", "local-timestamp-millis"): _timed(_thousand, *_LOCAL),
    ("long", "local-timestamp-micros"): _timed(_same, *_LOCAL),
    ("long", "local-timestamp-nanos"): _timed(_whole, *_LOCAL),
}  # fmt: skip


def _decimal(node: Mapping[str, Any]) -> Kind:
    digits, scale = node["precision"], node.get("scale", 0)
    limit = 10**digits

    def number(value: bytes) -> Decimal:
        unscaled = int.from_bytes(value, "big", signed=True)
        if abs(unscaled) >= limit:
            message = f"has more than {digits} digits"
            raise Inexact(message)
        return Decimal(f"{unscaled}E-{scale}")

    def text(value: bytes) -> str:
        return format(number(value), "f")

    kind = f"numeric({digits},{scale})"
    carried = arrow_type(parse_type(kind)) == pa.string()
    return Kind(kind, text if carried else number, lambda value: msgspec.Raw(text(value).encode()))


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds of the nodes of one schema; `names` are its named types."""

    names: Mapping[str, Mapping[str, Any]]
    _known: dict[str, Kind] = field(default_factory=dict)

    def of(self, node: Any) -> Kind:
        """Return the kind of a node: a name, a union, or a type."""
        if isinstance(node, str):
            return _PLAIN[node] if node in _PLAIN else self._named(node)
        if isinstance(node, list):
            return self._union(node)
        name = node["type"]
        if not isinstance(name, str):
            return self.of(name)
        if "name" in node and name != "enum":
            return self._named(node["name"]) if node["name"] in self.names else self._type(node, name)
        return self._type(node, name)

    def _named(self, name: str) -> Kind:
        if name in self._known:
            return self._known[name]

        def later(value: Any) -> Any:
            return self._known[name].document(value)

        self._known[name] = Kind("json", _same, later)  # while the type itself is looked at: it may contain itself
        node = self.names[name]
        self._known[name] = self._type(node, node["type"])
        return self._known[name]

    def _type(self, node: Mapping[str, Any], name: str) -> Kind:
        if name in {"record", "error", "array", "map"}:
            return self._nested(node, name)
        logical = node.get("logicalType")
        if logical == "decimal" and name in {"bytes", "fixed"}:
            return _decimal(node)
        if (logical, name) == ("uuid", "fixed") and node["size"] == 16:  # noqa: PLR2004 - the bytes of a UUID
            return Kind("uuid", _uuid_bytes, _uuid_bytes)
        if (logical, name) == ("duration", "fixed"):
            return replace(_PLAIN[name], unreadable="is a duration, which no column keeps exactly")
        if (kept := node.get(TYPE_KEY)) is not None:
            return _kept(name, str(kept))
        return _LOGICAL.get((name, str(logical)), _PLAIN[name] if name in _PLAIN else self.of(name))

    def _union(self, node: list[Any]) -> Kind:
        some = [one for one in node if one != "null"]
        if not some:
            return _PLAIN["null"]
        if len(some) > 1:
            names = " and ".join(_name(one) for one in some)
            return Kind("text", _same, _same, unreadable=f"is a union of {names}, which no column keeps exactly")
        kind = self.of(some[0])
        return replace(kind, value=_nullable(kind.value), document=_nullable(kind.document))

    def _nested(self, node: Mapping[str, Any], name: str) -> Kind:
        if name in {"array", "map"}:
            inner = self.of(node["items" if name == "array" else "values"])
            document = _each(inner.document) if name == "array" else _each_value(inner.document)
            return Kind("json", _text(document), document, inner.unreadable)
        kinds = [(one["name"], self.of(one["type"])) for one in node["fields"]]
        bad = next((f"has a field `{one}`, which {kind.unreadable}" for one, kind in kinds if kind.unreadable), None)

        def record(value: Mapping[str, Any]) -> dict[str, Any]:
            return {one: kind.document(value[one]) for one, kind in kinds}

        return Kind("json", _text(record), record, bad)


def _name(node: Any) -> str:
    return node if isinstance(node, str) else str(node.get("name", node["type"]))


def _kept(name: str, kept: str) -> Kind:
    """Return the kind of a field whose column's type a writer has kept, if it is one of such a field."""
    kind = parse_type(kept)
    if name == "string" and arrow_type(kind) == pa.string():
        return Kind(str(kind), _same, _same)
    if name == "int" and kind.name == "smallint":
        return Kind("smallint", _small, _small)
    return _PLAIN[name]


def _nullable(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _each(convert: Convert) -> Convert:
    return lambda values: [convert(one) for one in values]


def _each_value(convert: Convert) -> Convert:
    return lambda values: {name: convert(one) for name, one in values.items()}


def _text(document: Convert) -> Convert:
    return lambda value: _JSON.encode(document(value)).decode()
