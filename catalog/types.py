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
    "ONLY_TEXT",
    "TEXTS",
    "SqlType",
    "carried",
    "fits",
    "least_upper",
    "loss",
    "parse_type",
    "widens",
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
ONLY_TEXT: Final = {*NAMED, "tsquery", "aclitem"}
"""Types whose bytes another server may refuse, as those of a `tsquery` without words; `aclitem` has none."""
INTERVALS: Final = {
    "interval " + fields
    for fields in (
        "year", "month", "day", "hour", "minute", "second", "year to month", "day to hour", "day to minute",
        "day to second", "hour to minute", "hour to second", "minute to second",
    )
}  # fmt: skip
"""Intervals that keep only some fields; the server cuts off the others in silence."""
_RANGES: Final = ("int4", "int8", "num", "date", "ts", "tstz")
_CARRIED: Final = {
    "interval", "time with time zone", "bit", "bit varying", "inet", "cidr", "macaddr", "macaddr8", "xml", "tsvector",
    "tsquery", "point", "line", "lseg", "box", "path", "polygon", "circle", "pg_lsn", "jsonpath", "name", '"char"',
    "oid", "xid", "xid8", "cid", "tid", "pg_snapshot", "txid_snapshot", "int2vector", "oidvector", *INTERVALS,
    *NAMED, *(f"{one}range" for one in _RANGES), *(f"{one}multirange" for one in _RANGES),
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
    if value.name in INTERVALS and target == SqlType("interval"):
        return True
    return (value.name, target.name) in _WIDER or (value.name == target.name and _finer(value, target))


_WIDER: Final = {
    ("real", "double precision"), ("uuid", "text"), ("uuid", "character varying"),
    ("json", "text"), ("label", "text"), ("json", "jsonb"), ("jsonb", "json"),
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


# --- the lattice: a type is below another if each of its values is one of the other's, too


def widens(value: SqlType, target: SqlType) -> bool:
    """Return True if `target` stores each value of type `value` without loss, and refuses none.

    Unlike `fits`, which also allows what the server refuses with an error. Reflexive and transitive.
    """
    return loss(value, target) is None


def loss(value: SqlType, target: SqlType) -> str | None:
    """Return the values of type `value` that `target` cannot store; None if it stores each of them."""
    if value == target:
        return None
    for family in (_number_loss, _text_loss, _time_loss, _bits_loss):
        if (found := family(value, target)) is not _OTHER:
            return found
    if value.name.endswith("[]") and target.name.endswith("[]"):
        inner = loss(_element(value), _element(target))
        return inner and f"{inner}, as elements"
    if (_base(value), target.name) in _CONTAINED:
        return None
    return f"{value} is of another kind than {target}: not each of its values is one"


def least_upper(one: SqlType, other: SqlType) -> SqlType | None:
    """Return the smallest type that stores each value of both without loss; None if there is none."""
    if widens(one, other):
        return other
    if widens(other, one):
        return one
    if one.name.endswith("[]") and other.name.endswith("[]"):
        inner = least_upper(_element(one), _element(other))
        if inner is not None:
            return SqlType(f"{inner}[]")
    uppers = [
        kind
        for kind in (*_numeric_upper(one, other), *_sized_upper(one, other), *_UPPER)
        if _is_upper(kind, one, other)
    ]
    return next((kind for kind in uppers if all(widens(kind, more) for more in uppers)), None)


def _is_upper(kind: SqlType, one: SqlType, other: SqlType) -> bool:
    return widens(one, kind) and widens(other, kind)


def _element(kind: SqlType) -> SqlType:
    return parse_type(kind.name[:-2])


def _base(kind: SqlType) -> str:
    return "[]" if kind.name.endswith("[]") else kind.name


_OTHER: Final = "another family"
_FLOATS: Final = {"real": 2**24, "double precision": 2**53}
"""Up to here each whole number is exact."""
_LARGEST: Final = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
_NUMBERS: Final = {*_INTEGERS, *_FLOATS, "numeric"}
_DOCUMENTS: Final = ("jsonb", "json")
_CONTAINED: Final = {("cidr", "inet"), ("date", "timestamp without time zone")} | {
    (part, whole) for part in ("struct", "map", "[]") for whole in _DOCUMENTS
}
"""Pairs of two kinds; a timestamp refuses dates after the year 294276. Lists and structs are documents."""
_UUID_CHARACTERS: Final = 36
_UPPER: Final = tuple(
    SqlType(name)
    for name in ("integer", "bigint", "numeric", "real", "double precision", "text", "character varying", *_DOCUMENTS)
)
"""Types without a size, which may be the smallest above two others."""


def _number_loss(value: SqlType, target: SqlType) -> str | None:
    if not {value.name, target.name} <= _NUMBERS:
        return _OTHER
    if value.name in _FLOATS:
        if target.name in _FLOATS:
            return None if value.name == "real" else "digits that are rounded"
        return "fractions, infinity and NaN"
    if target.name == "numeric":
        return _digits_loss(value, target)
    largest = _largest(value)
    if largest is None:
        return "digits after the point" if target.integer else "digits that a binary fraction cannot represent"
    limit = _FLOATS[target.name] if target.name in _FLOATS else _LARGEST[target.name]
    return None if largest <= limit else f"numbers above {limit}"


def _largest(kind: SqlType) -> int | None:
    """Return the largest number of a type of whole numbers; None for others."""
    if kind.integer:
        return _LARGEST[kind.name]
    return None if kind.precision is None or kind.scale else 10**kind.precision - 1


def _digits_loss(value: SqlType, target: SqlType) -> str | None:
    """Return what a numeric loses of a number with a fixed number of digits."""
    if target.precision is None:
        return None
    room = target.precision - (target.scale or 0)
    digits, scale = (_INTEGER_DIGITS[value.name], 0) if value.integer else (value.precision, value.scale or 0)
    if digits is None or digits - scale > room:
        return f"numbers of more than {room} digits before the point"
    return None if scale <= (target.scale or 0) else f"more than {target.scale or 0} digits after the point"


def _text_loss(value: SqlType, target: SqlType) -> str | None:
    if not target.text:
        if (value.name, target.name) == ("jsonb", "json"):
            return None
        return "repeated keys, and the order of keys" if (value.name, target.name) == ("json", "jsonb") else _OTHER
    as_text = value.name in TEXTS or carried(value) or _base(value) in {"struct", "map", "[]"}
    if not as_text or value.name == "numeric":
        return _OTHER
    if target.name == "character" and value.name != "character":
        return "spaces at the end"
    most = _UUID_CHARACTERS if value.name == "uuid" else value.precision if value.text else None
    if target.precision is None or (most is not None and most <= target.precision):
        return None
    return f"texts of more than {target.precision} characters"


def _time_loss(value: SqlType, target: SqlType) -> str | None:
    """Return the digits of a second that are lost; the zone is another kind."""
    if value.name != target.name or not value.name.startswith("time"):
        return _OTHER
    if target.precision is None or target.precision >= _SECOND_DIGITS:
        return None
    finer = _SECOND_DIGITS if value.precision is None else value.precision
    return None if finer <= target.precision else f"more than {target.precision} digits of a second"


_SECOND_DIGITS: Final = 6


def _bits_loss(value: SqlType, target: SqlType) -> str | None:
    if target.name != "bit varying" or value.name not in {"bit", "bit varying"}:
        return _OTHER
    most = value.precision or (1 if value.name == "bit" else None)
    if target.precision is None or (most is not None and most <= target.precision):
        return None
    return f"more than {target.precision} bits"


def _numeric_upper(one: SqlType, other: SqlType) -> list[SqlType]:
    """Return the numeric with enough digits for both."""
    found = []
    for kind in (one, other):
        digits = _INTEGER_DIGITS.get(kind.name, kind.precision if kind.name == "numeric" else None)
        if digits is None:
            return []
        found.append((digits - (kind.scale or 0), kind.scale or 0))
    scale = max(scale for _, scale in found)
    return [SqlType("numeric", max(before for before, _ in found) + scale, scale)]


def _sized_upper(one: SqlType, other: SqlType) -> list[SqlType]:
    """Return the types of both names with the larger size, and a text with it."""
    size = max((_UUID_CHARACTERS if kind.name == "uuid" else kind.precision or 0 for kind in (one, other)), default=0)
    return [SqlType(name, size) for name in (one.name, other.name, "character varying") if size]
