"""Folds of what comparisons of both sides have found, into the row of their pipeline."""

from __future__ import annotations

from collections.abc import Iterable

from catalog import tables
from catalog.dataset_folds import Seen
from catalog.rows import Change, Entry
from penstock.records.coordination import CheckRecorded, DeletesRecorded

__all__ = ["checked", "keys_compared"]


def checked(seen: Seen, body: CheckRecorded) -> Iterable[Change | Entry]:
    """Fold the result of a check: the last one stays."""
    return [_last(seen, "checked", body)]


def keys_compared(seen: Seen, body: DeletesRecorded) -> Iterable[Change | Entry]:
    """Fold the result of a comparison of keys: the last one stays."""
    return [_last(seen, "deletes", body)]


def _last(seen: Seen, column: str, body: CheckRecorded | DeletesRecorded) -> Change:
    found = body.model_dump(mode="json", exclude={"name", "uid"}, exclude_none=True)
    values = {"name": body.name, column: {**found, "at": seen.record.at.isoformat()}}
    return Change(tables.pipelines, body.uid, lambda row, _: row.update(values))
