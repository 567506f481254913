"""The catalog's folds of sets: the pages of their last listing, and of the last start of their members."""

from __future__ import annotations

from collections.abc import Iterable

from catalog import tables
from catalog.dataset_folds import Seen
from catalog.rows import Change, Entry, Row, Rows, parsed
from penstock.records.sets import ObjectsAccepted, SetListed, SetStarted

__all__ = ["objects_accepted", "set_listed", "set_started"]


def objects_accepted(_: Seen, body: ObjectsAccepted) -> Iterable[Change | Entry]:
    """Fold what may become a member of a set although it is new."""

    def fold(row: Row, _: Rows) -> None:
        row |= {"name": body.name, "accepted": sorted({*(parsed(row.get("accepted")) or ()), *body.objects})}

    return [Change(tables.pipelines, body.uid, fold)]


def set_listed(seen: Seen, body: SetListed) -> Iterable[Change | Entry]:
    """Fold a page of a listing; it replaces the page of the listing before."""
    columns = body.model_dump(mode="json", include={"uid", "page", "name", "task", "version", "last"})
    lists = body.model_dump(mode="json", include={"refused", "proposed", "vanished", "unmatched"})
    columns |= lists | {"members": len(body.members), "at": seen.record.at}
    return [_page(body.uid, body.page, columns)]


def set_started(_: Seen, body: SetStarted) -> Iterable[Change | Entry]:
    """Fold a page of a start: how many runs it queued."""
    columns = {"uid": body.uid, "page": body.page, "name": body.name, "group": body.group, "queued": body.last}
    columns |= {"runs": body.runs, "skipped": [one.to_dict() for one in body.skipped]}
    return [_page(body.uid, body.page, columns)]


def _page(uid: str, page: int, columns: Row) -> Change:
    def fold(row: Row, _: Rows) -> None:
        row |= columns

    return Change(tables.set_pages, f"{uid}:{page}", fold)
