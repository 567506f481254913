"""The fields of JSON documents in a column, inferred from a sample of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
import pyarrow as pa

from dataflows.connectors.cataloguing import DOCUMENTS, Places
from penstock.models.domain import Field, Schema

__all__ = ["parts_of", "well_seen", "with_parts"]

DEEPEST: Final = 5
"""Levels of documents within documents that are looked into."""
MOST: Final = 100
"""Fields of a document; one with more is taken for a map, whose keys are values."""
LONGEST: Final = 128
"""Characters of a field's name."""
MANY: Final = 1000
"""Documents that show all fields that are not very rare: one that none of them has is gone."""
_TYPES: Final[Mapping[type, str]] = {bool: "boolean", int: "bigint", float: "double precision", str: "text"}


def parts_of(texts: Iterable[str | None]) -> tuple[Field, ...] | None:
    """Return the fields of documents, in the order of their names; None if they have none, or too many.

    Those of an array are the fields of its elements.
    """
    return _parts(_values(texts), 1)


def well_seen(texts: Iterable[str | None]) -> Places:
    """Return the places at which there are so many documents that a field which none of them has is gone.

    Maps are none.
    """
    return tuple(_well_seen(_values(texts), ()))


def _well_seen(values: Iterable[Any], at: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    documents = list(_documents(values))
    names = dict.fromkeys(name for one in documents for name in one)
    if len(documents) < MANY or len(names) > MOST:
        return
    yield at
    if len(at) + 1 < DEEPEST:
        for name in names:
            yield from _well_seen([one[name] for one in documents if name in one], (*at, name))


def with_parts(schema: Schema, rows: pa.Table) -> tuple[Schema, dict[str, Places]]:
    """Return the schema with the fields of documents in these rows, and where they were seen well, by column."""
    columns = [one.name for one in schema.fields if one.type in DOCUMENTS and one.name in rows.column_names]
    values = {name: _values(rows.column(name).to_pylist()) for name in columns}
    fields = tuple(
        one.model_copy(update={"fields": _parts(values[one.name], 1)}) if one.name in values else one
        for one in schema.fields
    )
    seen: dict[str, Places] = {name: tuple(_well_seen(found, ())) for name, found in values.items()}
    return schema.model_copy(update={"fields": fields}), {name: places for name, places in seen.items() if places}


def _values(texts: Iterable[str | None]) -> list[Any]:
    return [value for text in texts if (value := _parsed(text)) is not None]


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
