"""Queries for sets, by psycopg alone: their last listing, their next start, and the runs of the last one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import chain
from typing import Any, Final

import psycopg
from psycopg.rows import class_row, dict_row

from catalog.entries import PipelineEntry, SetEntry

__all__ = ["group_runs", "listing_failed", "next_start", "set_entry", "set_named"]


def set_named(session: psycopg.Connection[Any], name: str) -> PipelineEntry | None:
    """Return the set `name`; None if there is no set of that name, or it is deleted."""
    with session.cursor(row_factory=class_row(PipelineEntry)) as cursor:
        return cursor.execute(_SET, [name]).fetchone()


def set_entry(session: psycopg.Connection[Any], name: str, uid: str) -> SetEntry:
    """Return what is known of the set of `uid`: empty before its first listing."""
    with session.cursor(row_factory=dict_row) as cursor:
        pages = cursor.execute(_PAGES, [uid]).fetchall()
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


def group_runs(session: psycopg.Connection[Any], group: str) -> dict[str, str]:
    """Return the runs of a start by id, with their pipelines, in the order in which they were queued."""
    return dict(session.execute(_RUNS, [group]).fetchall())


def listing_failed(session: psycopg.Connection[Any], name: str) -> Mapping[str, Any] | None:
    """Return the error of a set's last listing if it was given up; None if it was not."""
    row = session.execute(_LISTING, [name]).fetchone()
    if row is None or row[0] not in {"failed", "cancelled"}:
        return None
    return row[1] or {"code": "refused", "what": str(row[2])}


def next_start(session: psycopg.Connection[Any], one: PipelineEntry) -> datetime | None:
    """Return when the schedule of an active set is due next, in UTC; None if it has none."""
    row = session.execute(_TICK, [f"tick:{one.uid}:{one.version}:"]).fetchone()
    return row[0] if row is not None and one.status == "active" else None


_SET: Final = """SELECT * FROM catalog.pipelines WHERE name = %s AND deleted_at IS NULL AND version IS NOT NULL
AND pipeline #> '{spec,source,objects}' <> '[]' ORDER BY changed DESC LIMIT 1"""
_PAGES: Final = "SELECT * FROM catalog.set_pages WHERE uid = %s ORDER BY page"
_RUNS: Final = """SELECT id, pipeline FROM catalog.runs
WHERE "group" = %s AND "offset" IS NOT NULL ORDER BY catalog.runs."offset" ASC"""
_LISTING: Final = """SELECT status, error, reason FROM catalog.tasks WHERE pipeline = %s AND kind = 'list'
ORDER BY "offset" DESC LIMIT 1"""
_TICK: Final = """SELECT due FROM catalog.timers WHERE fired_at IS NULL AND starts_with(timer, %s)
ORDER BY changed DESC LIMIT 1"""
