"""The engine's types, spelled as PostgreSQL spells them, and which of them contains which other.

A type without an exact Arrow counterpart is carried: its values travel as the text that the server writes for them and
reads again. A type without an entry here cannot be decoded; it still travels as undecoded bytes if source and target
have exactly the same type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = [
    "ARROW_DIGITS",
    "DECODED",
    "NAMED",
    "TEXTS",
    "SqlType",
    "carried",
    "fits",
    "parse_type",
]

ARROW_DIGITS: Final = 38
"""The decimal digits of an Arrow decimal128."""

_SPELLINGS: Final = {
    "int2": "smallint", "int": "integer", "int4": "integer", "int8": "bigint", "float4": "real",
    "float8": "double precision", "double": "double precision", "bool": "boolean", "decimal": "numeric",
    "varchar": "character varying", "char": "character", "bpchar": "character", "string": "text",
    "timestamptz": "timestamp with time zone", "timestamp": "timestamp without time zone",
    "time": "time without time zone", "float": "double precision",
}  # fmt: skip
_INTEGERS: Final = {"smallint": 0, "integer": 1, "bigint": 2}
_INTEGER_DIGITS: Final = {"smallint": 5, "integer": 10, "bigint": 19}
TEXTS: Final = {"text", "character varying", "character", "json", "uuid", "jsonb", "label"}
DECODED: Final = {
    "smallint", "integer", "bigint", "real", "double precision", "boolean", "date", "timestamp without time zone",
    "timestamp with time zone", "time without time zone", "bytea", *TEXTS,
}  # fmt: skip
"""Types with an exact Arrow counterpart, besides numeric."""
NAMED: Final = {
    "regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator", "regproc",
    "regprocedure", "regrole", "regtype",
}  # fmt: skip
"""Types whose bytes are a number that is valid in one database only; their text is a name."""
_RANGES: Final = ("int4", "int8", "num", "date", "ts", "tstz")
_CARRIED: Final = {
    "interval", "time with time zone", "bit", "bit varying", "inet", "cidr", "macaddr", "macaddr8", "xml", "tsvector",
    "tsquery", "point", "line", "lseg", "box", "path", "polygon", "circle", "pg_lsn", "jsonpath", "name", '"char"',
    "oid", *NAMED, *(f"{one}range" for one in _RANGES), *(f"{one}multirange" for one in _RANGES),
}  # fmt: skip
_FORM: Final = re.compile(r"^([a-z_0-9 ]+?)(?:\((\d+)(?:, ?(-?\d+))?\))?( with(?:out)? time zone)?$")


@dataclass(frozen=True, slots=True)
class SqlType:
    """A type by its base name as `format_type` spells it, with its precision (or length) and scale, if any."""

    name: str
    precision: int | None = None
    scale: int | None = None
    foreign: bool = False
    """True for a user-defined type, of which only the name is known."""

    def __str__(self) -> str:
        if self.name == "character" and self.precision is None:
            return "bpchar"  # `character` alone is character(1)
        if self.precision is None:
            return self.name
        inner = f"{self.precision}" if self.scale is None else f"{self.precision},{self.scale}"
        head, zone, rest = self.name.partition(" with")
        return f"{head}({inner}){zone}{rest}"

    @property
    def integer(self) -> bool:
        """True for whole numbers."""
        return self.name in _INTEGERS

    @property
    def text(self) -> bool:
        """True for text that expressions work on."""
        return self.name in {"text", "character varying", "character"}


def parse_type(text: str) -> SqlType:
    """Parse a type such as ``numeric(15,2)`` or ``timestamptz``; unknown names are kept unchanged."""
    found = _FORM.match(text.strip().lower())
    if found is None:
        return SqlType(text.strip())
    spelled, precision, scale, zone = found.groups()
    name = _SPELLINGS.get(spelled, spelled) if zone is None else spelled + zone
    if precision is None:
        return SqlType(name, 1 if name == "character" and spelled != "bpchar" else None)
    if name == "numeric":
        return SqlType(name, int(precision), int(scale or 0))
    return SqlType(name, int(precision))


def carried(kind: SqlType) -> bool:
    """Return True if values of `kind` travel as the text that the server writes for them."""
    if kind.name == "numeric":
        digits = kind.precision
        return digits is None or digits > ARROW_DIGITS or digits < 1 or not 0 <= (kind.scale or 0) <= digits
    if kind.name.endswith("[]"):
        element = parse_type(kind.name[:-2])
        return kind.foreign or carried(element) or element.name in DECODED or element.name == "numeric"
    return kind.foreign or kind.name in _CARRIED


def fits(value: SqlType, target: SqlType) -> bool:
    """Return True if `target` stores each value of type `value` exactly, or the server refuses it with an error.

    The server refuses a text that is too long; it would silently round too many digits after the point, so those do
    not fit.
    """
    if value == target:
        return True
    if value.integer and target.integer:
        return _INTEGERS[value.name] <= _INTEGERS[target.name]
    if target.name == "numeric" and (value.integer or value.name == "numeric"):
        return _digits_fit(value, target)
    if (value.text or carried(value)) and target.text:
        return True
    return (value.name, target.name) in _WIDER or (value.name == target.name and _finer(value, target))


_WIDER: Final = {
    ("real", "double precision"), ("uuid", "text"), ("uuid", "character varying"),
    ("json", "text"), ("label", "text"), ("json", "jsonb"),
    ("smallint", "double precision"), ("integer", "double precision"),
}  # fmt: skip


def _finer(value: SqlType, target: SqlType) -> bool:
    return target.precision is None or (value.precision is not None and value.precision <= target.precision)


def _digits_fit(value: SqlType, target: SqlType) -> bool:
    if target.precision is None:
        return True
    digits, scale = (_INTEGER_DIGITS[value.name], 0) if value.integer else (value.precision, value.scale or 0)
    room = target.precision - (target.scale or 0)
    return digits is not None and scale <= (target.scale or 0) and digits - scale <= room
