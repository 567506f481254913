"""Queries for sets: their last listing, and the runs of their last start."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from sqlalchemy import Connection, select

from catalog import tables
from catalog.entries import SetEntry

__all__ = ["group_runs", "listing_failed", "set_entry"]


def set_entry(connection: Connection, name: str, uid: str) -> SetEntry:
    """Return what is known of the set of `uid`: empty before its first listing."""
    table = tables.set_pages
    query = select(table).where(table.c.uid == uid).order_by(table.c.page)
    pages = [dict(row) for row in connection.execute(query).mappings()]
    task = pages[0]["task"] if pages else None
    listing = [page for page in pages if page["task"] == task and task is not None]
    group = pages[0]["group"] if pages else None
    start = [page for page in pages if page["group"] == group and group is not None]
    last = listing[-1] if listing else {}
    return SetEntry(
        name=name,
        task=task,
        version=last.get("version"),
        listed=bool(last.get("last")),
        at=last.get("at"),
        members=sum(page["members"] or 0 for page in listing),
        **{part: _joined(listing, part) for part in ("refused", "proposed", "vanished", "unmatched")},
        group=group,
        queued=any(page["queued"] for page in start),
        skipped=_joined(start, "skipped"),
    )


def _joined(pages: list[dict[str, Any]], part: str) -> list[Any]:
    return list(chain.from_iterable(page[part] or () for page in pages))


def group_runs(connection: Connection, group: str) -> dict[str, str]:
    """Return the runs of a start by id, with their pipelines, in the order in which they were queued."""
    table = tables.runs
    query = select(table.c.id, table.c.pipeline).where(table.c.group == group, table.c.offset.is_not(None))
    return {row.id: row.pipeline for row in connection.execute(query.order_by(table.c.offset))}


def listing_failed(connection: Connection, name: str) -> Mapping[str, Any] | None:
    """Return the error of a set's last listing if it was given up; None if it was not."""
    table = tables.tasks
    query = select(table).where(table.c.pipeline == name, table.c.kind == "list").order_by(table.c.offset.desc())
    row = connection.execute(query.limit(1)).mappings().first()
    if row is None or row["status"] not in {"failed", "cancelled"}:
        return None
    return row["error"] or {"code": "refused", "what": str(row["reason"])}
