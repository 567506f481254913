"""List of pipelines in one query, by psycopg alone: a command that only lists them need not load SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from penstock.postgres import translated

__all__ = ["Overview", "has_followers", "overview", "verdict"]


@dataclass(frozen=True, slots=True)
class Overview:
    """A pipeline, its last run (None before the first) and the time of its next one, if it has a schedule."""

    uid: str
    name: str
    version: int
    status: str
    owner: str | None
    labels: Mapping[str, str]
    pipeline: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    last_run: Mapping[str, Any] | None
    next_run: datetime | None
    member_of: str | None = None
    """The set whose member it is."""
    checked: Mapping[str, Any] | None = None
    """The last comparison of both sides."""
    deletes: Mapping[str, Any] | None = None
    """The last comparison of keys, while the pipeline's file asks for them."""
    alerts: int = 0
    """Open alerts about it."""
    critical: bool = False
    """True if one of them is critical."""

    @property
    def differs(self) -> bool:
        """True if the last comparison has found a difference, or one could not compare."""
        return bool((self.checked and not self.checked["agree"]) or (self.deletes and self.deletes.get("error")))

    @property
    def is_set(self) -> bool:
        """True if it is a set of pipelines."""
        return bool(self.pipeline["spec"]["source"].get("objects"))

    @property
    def has_failed(self) -> bool:
        """True if the last run failed."""
        return self.last_run is not None and self.last_run["status"] == "failed"


def verdict(checked: Mapping[str, Any]) -> str:
    """Return in words how the sides differ that a check has found to."""
    counts = [f"{checked[kind]:,} {kind}" for kind in ("missing", "extra", "changed") if checked.get(kind)]
    least = "at least " if checked.get("partly") and counts else ""
    return f"both sides differ: {least}{', '.join(counts) or 'too much to list'}"


_OVERVIEW: Final = """
    SELECT one.uid, one.name, one.version, one.status, one.owner,
        one.labels, one.pipeline, one.created_at, one.updated_at, one.member_of, one.checked,
        CASE WHEN one.pipeline #> '{spec,deletes}' IS NOT NULL THEN one.deletes END AS deletes,
        (SELECT to_jsonb(run) FROM (
            SELECT id, status, requested_at, started_at, finished_at, counters, seconds, error, after
            FROM catalog.runs AS run
            WHERE run.pipeline = one.name AND run."offset" IS NOT NULL AND coalesce(run.uid, one.uid) = one.uid
            ORDER BY run."offset" DESC LIMIT 1) AS run) AS last_run,
        (SELECT due FROM catalog.timers
            WHERE one.pipeline #> '{spec,schedule}' IS NOT NULL AND fired_at IS NULL AND one.status = 'active'
            AND starts_with(timer, 'tick:' || one.uid || ':' || one.version || ':')
            ORDER BY changed DESC LIMIT 1) AS next_run,
        coalesce(open.alerts, 0) AS alerts, coalesce(open.critical, false) AS critical
    FROM catalog.pipelines AS one
    LEFT JOIN (SELECT pipeline, count(*)::int AS alerts, bool_or(severity = 'critical') AS critical
        FROM catalog.alerts WHERE status = 'open' GROUP BY pipeline) AS open ON open.pipeline = one.name
    WHERE one.deleted_at IS NULL AND one.version IS NOT NULL AND (%(member_of)s::text IS NULL
        OR one.member_of = %(member_of)s) AND (%(name)s::text IS NULL OR one.name = %(name)s)
    ORDER BY one.name COLLATE "C"
"""


_FOLLOWERS: Final = """
    SELECT 1 FROM catalog.pipelines WHERE deleted_at IS NULL AND pipeline #> '{spec,after}' IS NOT NULL LIMIT 1
"""


def overview(
    session: psycopg.Connection[Any], member_of: str | None = None, *, name: str | None = None
) -> list[Overview]:
    """Return every pipeline that is not deleted, or each member of a set, or the one of a name, by name.

    Raises Unavailable.
    """
    try:
        with session.cursor(row_factory=dict_row) as cursor:
            set_json_loads(orjson.loads, cursor)  # of thousands of members
            rows = cursor.execute(_OVERVIEW, {"member_of": member_of, "name": name})
            return [Overview(**{**row, "last_run": _run(row["last_run"])}) for row in rows]
    except psycopg.Error as error:
        raise translated(error, where="catalog") from error


def has_followers(session: psycopg.Connection[Any]) -> bool:
    """True if any pipeline runs `after` others. Raises Unavailable."""
    try:
        found = session.execute(_FOLLOWERS)
    except psycopg.Error as error:
        raise translated(error, where="catalog") from error
    return found.fetchone() is not None


def _run(run: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the run with its times parsed from JSON's texts."""
    times = ("requested_at", "started_at", "finished_at")
    return run and {**run, **{name: datetime.fromisoformat(run[name]) for name in times if run[name]}}
