"""The fields of JSON documents in a column, inferred from a sample of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from penstock.models.domain import Field

__all__ = ["parts_of"]

DEEPEST: Final = 5
"""Levels of documents within documents that are looked into."""
MOST: Final = 100
"""Fields of a document; one with more is taken for a map, whose keys are values."""
LONGEST: Final = 128
"""Characters of a field's name."""
_TYPES: Final[Mapping[type, str]] = {bool: "boolean", int: "bigint", float: "double precision", str: "text"}


def parts_of(texts: Iterable[str | None]) -> tuple[Field, ...] | None:
    """Return the fields of documents, in the order of their names; None if they have none, or too many.

    Those of an array are the fields of its elements.
    """
    return _parts([value for text in texts if (value := _parsed(text)) is not None], 1)


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _parts(values: Iterable[Any], level: int) -> tuple[Field, ...] | None:
    found: dict[str, list[Any]] = {}
    for document in _documents(values):
        for name, value in document.items():
            found.setdefault(name, []).append(value)
        if len(found) > MOST:
            return None
    names = [name for name in sorted(found) if 0 < len(name) <= LONGEST]
    return tuple(_field(name, found[name], level) for name in names) or None


def _documents(values: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    for value in values:
        if isinstance(value, dict):
            yield value
        elif isinstance(value, list):
            yield from (one for one in value if isinstance(one, dict))


def _field(name: str, values: list[Any], level: int) -> Field:
    kinds = {_TYPES.get(type(value), "json") for value in values if value is not None}
    if kinds == {"bigint", "double precision"}:
        kinds = {"double precision"}
    kind = kinds.pop() if len(kinds) == 1 else "json" if kinds else "text"
    parts = _parts(values, level + 1) if kind == "json" and level < DEEPEST else None
    return Field(name=name, type=kind, fields=parts)
