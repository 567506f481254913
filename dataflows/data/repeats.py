"""Detect duplicate keys in JSON objects, of which parsers silently keep the last.

Each key ends with a quotation mark before a colon. Parsing and encoding a text preserves their number, unless a key is
duplicate (or a string contains some that are escaped differently). So comparing two counts clears most blocks, and only
lines whose counts differ are parsed by Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import msgspec

__all__ = ["may_repeat", "named_twice", "repeated", "repeating", "without_repeats"]

GROUP: Final = 1 << 13
"""Bytes of lines that are parsed together."""
_SPACED: Final = re.compile(rb'"[ \t\r\n]+:')
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
"""A name of which an object can only have another spelling by the escape ``\\u``."""
_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}:]')
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode, _encode = msgspec.json.Decoder(float_hook=str).decode, msgspec.json.Encoder().encode  # no double holds 1e400


def may_repeat(lines: Sequence[bytes]) -> bool:
    """True if an object in these lines, at any depth, may have a duplicate key.

    Raises:
        DecodeError: a line is not JSON.
    """
    return any(_differs(b"[" + b",".join(group) + b"]") for group in _groups(lines))


def _groups(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for line in lines:
        group.append(line)
        size += len(line)
        if size > GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _names(data: bytes) -> int:
    return data.count(b'":') + len(_SPACED.findall(data))


def _differs(data: bytes) -> bool:
    names = _names(data)
    try:
        value = _decode(data)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None
    return bool(names != _encode(value).count(b'":'))


def repeated(line: bytes, columns: Collection[str]) -> str | None:
    """Return the first of the columns that is a duplicate key, or whose value contains one."""
    if not _differs(line):
        return None
    names: set[str] = set()
    for name, value in json.loads(line, object_pairs_hook=_Pairs, parse_int=str, parse_float=str):
        if name in columns and (name in names or _repeats(value)):
            return str(name)
        names.add(name)
    return None


class _Pairs(list[tuple[str, Any]]):
    """Pairs of key and value of an object."""


def _repeats(value: Any) -> bool:
    """True if an object in a value has a duplicate key."""
    if isinstance(value, _Pairs):
        if len({name for name, _ in value}) < len(value):
            return True
        value = [one for _, one in value]
    return isinstance(value, list) and any(map(_repeats, value))


def repeating(documents: Sequence[str | None]) -> list[int]:
    """Return the numbers of the documents in which an object, at any depth, has a duplicate key."""
    lines = {at: one.encode() for at, one in enumerate(documents) if one is not None}
    try:
        suspects = lines if may_repeat(list(lines.values())) else {}
    except (msgspec.DecodeError, RecursionError):
        suspects = lines
    return [at for at, line in suspects.items() if _has_repeats(line)]


def _has_repeats(document: bytes) -> bool:
    """True if an object in a document has a duplicate key; what is no JSON has none."""
    try:
        return _repeats(json.loads(document, object_pairs_hook=_Pairs, parse_int=str, parse_float=str))
    except (ValueError, RecursionError):
        return False


def named_twice(document: bytes, name: str) -> bool:
    """True if an object has two members of that name itself, whatever is inside its values.

    Raises:
        DecodeError: it is not a JSON object.
    """
    quoted = b'"' + name.encode() + b'"'
    if _PLAIN.fullmatch(name) and b"\\u" not in document and document.count(quoted) < 2:  # noqa: PLR2004 - a pair
        return False
    members = _members(document)
    if _names(document) == len(members) + sum(_names(bytes(value)) for value in members.values()):
        return False
    return sum(one == name for one in _own_names(document)) > 1


def _own_names(document: bytes) -> Iterator[str]:
    """Yield the names of an object's own members, in order."""
    depth, last = 0, b""
    for token in _TOKENS.finditer(document):
        if (text := token[0]) == b":":
            if depth == 1:
                yield str(_decode(last))
        elif text in b"[]{}":
            depth += 1 if text in b"[{" else -1
        else:
            last = text


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of its pairs; a hook for the standard library's parser.

    Raises:
        ValueError: a name occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        message = "a name occurs twice in one object"
        raise ValueError(message)
    return found
