"""Profiles of datasets: features for the log, without any value, and values for the catalog's private store."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dataflows.connectors.cataloguing import Found
from dataflows.data.statistics import Statistics
from dataflows.work.tags import LEAST_PERSONAL, PERSONAL, tags_of
from penstock.models.domain import Field
from penstock.models.profiles import ColumnProfile, DatasetProfile, about

__all__ = ["profiled"]


def profiled(found: Found) -> tuple[DatasetProfile, dict[str, Any]]:
    """Return the features of an object, and the statistics with values of its columns by name."""
    keys = {found.schema.key, *(found.schema.unique or ())}
    columns = tuple(
        one for field in found.schema.fields if (one := _column(found, field, key=(field.name,) in keys)) is not None
    )
    values = {name: plain for name, one in found.statistics.items() if (plain := one.to_dict())}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest() if values else None
    return found.profile.model_copy(update={"columns": columns, "values": digest}), values


def _column(found: Found, field: Field, *, key: bool) -> ColumnProfile | None:
    """Return what is known of a column; None for nothing."""
    known = found.statistics.get(field.name, Statistics())
    tags = tags_of(field.name, field.type, known.values, key=key)
    column = ColumnProfile(
        name=field.name,
        nulls=None if known.nulls is None else round(known.nulls, 2),
        distinct=about(_distinct(known, found.profile.rows)),
        tags=tags,
        personal=any(tag in PERSONAL and confidence >= LEAST_PERSONAL for tag, confidence in tags.items()),
    )
    return column if column != ColumnProfile(name=field.name) else None


def _distinct(known: Statistics, rows: int | None) -> float | None:
    if known.distinct is None or known.distinct >= 0:
        return known.distinct
    return None if rows is None else -known.distinct * rows
