"""Schemas that a sample shows, next to what is known: what a sample may have missed by chance is no change.

A message or a file need not have every field, so a field that no sampled row has may still be there. How often it was
NULL or missing before says how likely that is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from catalog.types import parse_type, widens
from penstock.models.domain import Field, Schema
from penstock.models.profiles import DatasetProfile

__all__ = ["steady", "steady_profile"]

CHANCE: Final = 0.001
"""Probability of a sample without a field that is there, below which the field counts as gone."""
ROUNDED: Final = 0.005
"""By so much a recorded share of NULLs may be too small."""
_FRACTIONS: Final = "double precision"
"""The type that numbers with fractions are inferred as; a sample without fractions is no change of it."""
_DECLARING: Final = frozenset({"parquet"})
"""Formats whose files declare the types of their columns: of these, what a sample shows is no chance."""


_NOWHERE: Final[Mapping[str, Sequence[Sequence[str]]]] = MappingProxyType({})


def steady(
    known: Schema,
    profile: DatasetProfile,
    seen: Schema,
    rows: int | None,
    well_seen: Mapping[str, Sequence[Sequence[str]]] = _NOWHERE,
) -> Schema:
    """Return the schema after a look at `rows` rows or files; None: they were all looked at, or declare their columns.

    Columns stay in their order, those that are new come last. A column that was not seen stays unless its rows would
    very probably have shown it; a type that was inferred stays if it stores what was seen; and so do the fields of a
    document, unless many were looked into at their place, which `well_seen` says by column. `profile` is what is known;
    its format says whether types are inferred.
    """
    places = {name: frozenset(map(tuple, found)) for name, found in well_seen.items()}
    now = {one.name: one for one in seen.fields}
    if rows is None:
        before = {one.name: one for one in known.fields}
        fields = [_with_parts(one, before.get(one.name), places.get(one.name, _NONE)) for one in seen.fields]
    else:
        nulls = {one.name: one.nulls for one in profile.columns}
        same = _with_parts if profile.format in _DECLARING else _same
        fields = [
            same(now[one.name], one, places.get(one.name, _NONE)) if one.name in now else one
            for one in known.fields
            if one.name in now or not _is_gone(nulls.get(one.name), rows)
        ]
        names = {one.name for one in known.fields}
        fields += [one for one in seen.fields if one.name not in names]
    return seen.model_copy(update={"fields": tuple(fields)})


def steady_profile(known: DatasetProfile, seen: DatasetProfile, kept: Collection[str]) -> DatasetProfile:
    """Return the profile that was seen, with what is known of the columns that were `kept` although they were not."""
    more = tuple(one for one in known.columns if one.name in kept)
    return seen.model_copy(update={"columns": seen.columns + more}) if more else seen


def _is_gone(nulls: float | None, rows: int) -> bool:
    """True if so many rows would have shown a column of which this share was NULL or missing."""
    return nulls is not None and min(1.0, nulls + ROUNDED) ** rows < CHANCE


_Places = frozenset[tuple[str, ...]]
_NONE: Final[_Places] = frozenset()


def _same(seen: Field, known: Field, places: _Places, at: tuple[str, ...] = ()) -> Field:
    """Return the field that was seen, with the known type if that stores what was seen."""
    old, new = parse_type(known.type), parse_type(seen.type)
    kept = widens(new, old) or (old.name == _FRACTIONS and new.integer)
    return _with_parts(seen.model_copy(update={"type": known.type}) if kept else seen, known, places, at)


def _with_parts(seen: Field, known: Field | None, places: _Places, at: tuple[str, ...] = ()) -> Field:
    """Return the field with the parts that were seen, and those known of it that may have been missed."""
    if known is None or known.type != seen.type or known.fields is None:
        return seen
    now = {one.name: one for one in seen.fields or ()}
    parts = [
        _same(now[one.name], one, places, (*at, one.name)) if one.name in now else one
        for one in known.fields
        if one.name in now or at not in places
    ]
    names = {one.name for one in known.fields}
    parts += [one for one in seen.fields or () if one.name not in names]
    return seen.model_copy(update={"fields": tuple(parts) or None})
