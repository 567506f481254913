"""Alerts, what silences them, and the numbers behind them: queries by psycopg alone, so that they are quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg

from penstock.postgres import rows_as, translating

__all__ = ["INCIDENT", "Alert", "Silence", "alerts", "open_counts", "silences"]

INCIDENT: Final = "incident"
"""The kind of an alert that tells of an incident."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is not as it should be, since a time; `alert` is what was recorded of it last."""

    id: str
    cause: str
    pipeline: str | None
    kind: str
    metric: str | None
    severity: str
    status: str
    summary: str
    alert: Mapping[str, Any]
    since: datetime
    opened_at: datetime
    last_at: datetime
    closed_at: datetime | None
    reason: str | None
    snooze: Mapping[str, Any] | None
    offset: int
    delivered: Mapping[str, Any] | None = None
    """The last receipt of each route."""

    def snoozed_until(self, now: datetime) -> datetime | None:
        """Return until when nothing is told of it; None if it is not snoozed."""
        until = datetime.fromisoformat(self.snooze["until"]) if self.snooze else None
        return until if until is not None and until > now else None


@dataclass(frozen=True, slots=True)
class Silence:
    """A pipeline, a set, or one metric of it, whose alerts are not told until a time."""

    pipeline: str
    metric: str | None
    until: datetime
    why: str | None
    by: str
    at: datetime


_ALERTS: Final = """
    SELECT id, cause, pipeline, kind, metric, severity, status, summary, alert, since, opened_at, last_at, closed_at,
        reason, snooze, "offset", delivered
    FROM catalog.alerts
    WHERE alert IS NOT NULL AND (%(open)s IS FALSE OR status = 'open')
        AND (%(name)s::text IS NULL OR pipeline = %(name)s OR starts_with(pipeline, %(name)s || '/')
            OR starts_with(id, %(name)s))
    ORDER BY status DESC, severity, "offset" DESC LIMIT %(limit)s
"""
_SILENCES: Final = """
    SELECT pipeline, metric, until, why, by, at FROM catalog.silences AS one
    WHERE until > %(now)s AND EXISTS (SELECT FROM catalog.pipelines AS p
        WHERE p.name = one.pipeline AND p.deleted_at IS NULL AND p.created_at <= one.at)
    ORDER BY pipeline, metric
"""
_COUNTS: Final = """
    SELECT coalesce(pipeline, ''), count(*)::int, bool_or(severity = 'critical') FROM catalog.alerts
    WHERE status = 'open' GROUP BY pipeline
"""


def alerts(
    session: psycopg.Connection[Any], name: str | None = None, *, open_only: bool = True, limit: int = 50
) -> list[Alert]:
    """Return alerts, open and critical ones first: all, those of a pipeline or a set, or one by the begin of its id.

    Raises Unavailable.
    """
    return rows_as(session, Alert, _ALERTS, {"name": name, "open": open_only, "limit": limit})


def silences(session: psycopg.Connection[Any], now: datetime) -> list[Silence]:
    """Return what is silenced now. Raises Unavailable."""
    return rows_as(session, Silence, _SILENCES, {"now": now})


def open_counts(session: psycopg.Connection[Any]) -> dict[str, tuple[int, bool]]:
    """Return for each pipeline with open alerts how many, and if one is critical. Raises Unavailable."""
    with translating("catalog"):
        return {name: (count, critical) for name, count, critical in session.execute(_COUNTS)}
