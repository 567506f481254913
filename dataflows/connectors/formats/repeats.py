"""Names that come twice in one object of JSON, of which parsers keep the last one silently.

Each name has one quotation mark before a colon. Text that is parsed and written again has as many of them as before,
unless a name was repeated (or a text holds some that are escaped otherwise): so a block without any is known by two
counts, and only lines that differ are taken apart by Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import msgspec

__all__ = ["may_repeat", "repeated"]

GROUP: Final = 1 << 13
"""Bytes of lines that are parsed at once."""
_SPACED: Final = re.compile(rb'"[ \t\r]+:')
_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode


def may_repeat(lines: Sequence[bytes]) -> bool:
    """True if an object of these lines, at any depth, may hold a name twice.

    Raises:
        DecodeError: a line is no JSON.
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


def _differs(data: bytes) -> bool:
    names = data.count(b'":') + len(_SPACED.findall(data))
    return bool(names != _encode(_decode(data)).count(b'":'))


def repeated(line: bytes, columns: Collection[str]) -> str | None:
    """Return the first of the columns that comes twice, or in whose value a name comes twice in one object."""
    if not _differs(line):
        return None
    names: set[str] = set()
    for name, value in json.loads(line, object_pairs_hook=_Pairs, parse_int=str, parse_float=str):
        if name in columns and (name in names or _repeats(value)):
            return str(name)
        names.add(name)
    return None


class _Pairs(list[tuple[str, Any]]):
    """The names and values of an object."""


def _repeats(value: Any) -> bool:
    """True if an object in a value holds a name twice."""
    if isinstance(value, _Pairs):
        if len({name for name, _ in value}) < len(value):
            return True
        value = [one for _, one in value]
    return isinstance(value, list) and any(map(_repeats, value))
