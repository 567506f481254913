"""Folds of what comparisons of both sides have found, and of receipts, into the row of their pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from catalog import tables
from catalog.dataset_folds import Seen
from catalog.rows import Change, Entry, Row, parsed
from penstock.records.coordination import CheckRecorded, DeletesRecorded, LettersRecorded

__all__ = ["FOLDS"]


def checked(seen: Seen, body: CheckRecorded) -> Iterable[Change | Entry]:
    """Fold the result of a check: the last one stays, but one of some rows does not hide that all rows differ."""
    return [_last(seen, "checked", body, lambda row: body.since is not None and _differs(row.get("checked")))]


def keys_compared(seen: Seen, body: DeletesRecorded) -> Iterable[Change | Entry]:
    """Fold the result of a comparison of keys: the last one stays."""
    return [_last(seen, "deletes", body, lambda _: False)]


def letters_settled(seen: Seen, body: LettersRecorded) -> Iterable[Change | Entry]:
    """Fold the receipt of what was done with dead letters: the last one stays."""
    return [_last(seen, "letters", body, lambda _: False)]


def _last(
    seen: Seen, column: str, body: CheckRecorded | DeletesRecorded | LettersRecorded, stays: Callable[[Row], bool]
) -> Change:
    """Put a result in place of the one before, unless that `stays`."""
    found = body.model_dump(mode="json", exclude={"name", "uid"}, exclude_none=True)
    values = {"name": body.name, column: {**found, "at": seen.record.at.isoformat()}}
    return Change(tables.pipelines, body.uid, lambda row, _: None if stays(row) else row.update(values))


def _differs(checked: object) -> bool:
    """True if a check of all rows has found a difference."""
    found = parsed(checked) or {"agree": True}
    return not (found["agree"] or found.get("since") or found.get("error"))


FOLDS: Final[Mapping[str, Callable[[Seen, Any], Iterable[Change | Entry]]]] = {
    "check.recorded": checked,
    "deletes.recorded": keys_compared,
    "letters.recorded": letters_settled,
}
"""The fold of each of their record types."""
