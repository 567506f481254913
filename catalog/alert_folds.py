"""Folds of alerts, of what quietens them, and of the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from catalog import tables
from catalog.dataset_folds import Fold, Seen
from catalog.rows import Change, Entry, Row, Rows, parsed
from penstock.ids import named_id
from penstock.records.alerts import (
    AlertChanged,
    AlertClosed,
    AlertOpened,
    AlertSilenced,
    AlertSnoozed,
    SeriesScored,
    watched_part,
)
from penstock.records.notices import AlertDelivered

__all__ = ["ALERTS"]


def _scored(seen: Seen, body: SeriesScored) -> Iterable[Change | Entry]:
    """Keep the numbers of the latest value of a metric; what comes late changes nothing."""
    columns: Row = {"pipeline": body.pipeline, "metric": body.metric, "part": body.part, "at": body.at}
    columns |= {"score": body.score, "numbers": body.to_dict(), "offset": seen.offset}

    def fold(row: Row, _: Rows) -> None:
        if row.get("at") is None or body.at >= row["at"]:
            row |= columns

    key = named_id("series", body.pipeline, body.metric, watched_part(body.metric, body.part))
    return [Change(tables.scores, key, fold)]


def _opened(seen: Seen, body: AlertOpened) -> Iterable[Change | Entry]:
    at = seen.record.at
    columns = _columns(body) | {"status": "open", "since": body.since, "opened_at": at, "last_at": at}
    columns |= {"closed_at": None, "reason": None, "snooze": None, "offset": seen.offset}
    return [Change(tables.alerts, body.alert, lambda row, _: row.update(columns))]


def _columns(body: AlertOpened) -> Row:
    columns: Row = {"cause": body.cause, "pipeline": body.pipeline, "kind": body.kind, "metric": body.metric}
    return columns | {"severity": body.severity, "summary": body.summary, "alert": body.to_dict()}


def _about(key: str, columns: Row) -> Change:
    """Update an alert that is known; ignore any other."""

    def fold(row: Row, rows: Rows) -> None:
        if "status" not in row:
            rows.drop(tables.alerts, key)
        else:
            row |= columns

    return Change(tables.alerts, key, fold)


def _changed(seen: Seen, body: AlertChanged) -> Iterable[Change | Entry]:
    return [_about(body.alert, _columns(body) | {"last_at": seen.record.at, "reason": body.reason})]


def _closed(seen: Seen, body: AlertClosed) -> Iterable[Change | Entry]:
    columns: Row = {"status": "closed", "closed_at": seen.record.at, "last_at": seen.record.at, "reason": body.reason}
    return [_about(body.alert, columns)]


def _snoozed(_: Seen, body: AlertSnoozed) -> Iterable[Change | Entry]:
    snooze = {"until": body.until.isoformat(), "by": body.by} | ({"why": body.why} if body.why else {})
    return [_about(body.alert, {"snooze": snooze})]


def _silenced(seen: Seen, body: AlertSilenced) -> Iterable[Change | Entry]:
    columns: Row = {"pipeline": body.pipeline, "metric": body.metric, "until": body.until, "why": body.why}
    columns |= {"by": body.by, "at": seen.record.at}
    key = named_id("silence", body.pipeline, body.metric or "")
    return [Change(tables.silences, key, lambda row, _: row.update(columns))]


def _delivered(seen: Seen, body: AlertDelivered) -> Iterable[Change | Entry]:
    """Keep the last receipt of each route."""
    receipt: dict[str, Any] = {
        "event": body.event,
        "status": body.status,
        "attempts": body.attempts,
        "at": seen.record.at.isoformat(),
    }
    receipt |= {"error": body.error.to_dict()} if body.error else {}

    def fold(row: Row, rows: Rows) -> None:
        if "status" not in row:
            rows.drop(tables.alerts, body.alert)
        else:
            row["delivered"] = {**(parsed(row.get("delivered")) or {}), body.route: receipt}

    return [Change(tables.alerts, body.alert, fold)]


ALERTS: Final[dict[str, Fold]] = {
    "series.scored": _scored,
    "alert.opened": _opened,
    "alert.changed": _changed,
    "alert.closed": _closed,
    "alert.snoozed": _snoozed,
    "alert.silenced": _silenced,
    "alert.delivered": _delivered,
}
"""The fold of each record type about alerts."""
