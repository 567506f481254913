"""Errors by fingerprint, incidents, and connections that are held back.

By psycopg alone: a command that only shows them need not load SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg

from penstock.postgres import rows_as

__all__ = ["Breaker", "Fault", "FaultError", "Incident", "breakers", "errors_of", "faults", "incidents", "templates"]

MOST_TEMPLATES: Final = 200
"""Sentences that an error is compared with."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Errors with the same fingerprint: how many, the last one with its diagnosis, and what has helped against them."""

    fingerprint: str
    code: str
    kind: str | None
    connection: str | None
    count: int
    first_at: datetime
    last_at: datetime
    pipelines: Sequence[str]
    error: Mapping[str, Any]
    diagnosis: Mapping[str, Any] | None
    outcomes: Mapping[str, Any] | None
    incidents: int
    """Incidents about them that are open."""


@dataclass(frozen=True, slots=True)
class FaultError:
    """One error, with its classification, its diagnosis, and what was decided to follow it."""

    id: str
    at: datetime
    pipeline: str | None
    run: str | None
    attempt: int | None
    fingerprint: str
    error: Mapping[str, Any]
    classified: Mapping[str, Any] | None
    diagnosis: Mapping[str, Any] | None
    strategy: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Incident:
    """A failure that a person has to look at; `repeats` are those after the first."""

    id: str
    fingerprint: str
    pipeline: str | None
    connection: str | None
    kind: str
    status: str
    what: str
    incident: Mapping[str, Any]
    repeats: int
    opened_at: datetime
    last_at: datetime
    closed_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Breaker:
    """A connection that is held back, or tried by one run."""

    connection: str
    status: str
    failures: int
    reason: str
    until: datetime | None


_FAULTS: Final = """
    SELECT fingerprint, code, kind, connection, count, first_at, last_at, pipelines, error, diagnosis, outcomes,
        (SELECT count(*) FROM catalog.incidents AS one
            WHERE one.fingerprint = fault.fingerprint AND one.status = 'open') AS incidents
    FROM catalog.faults AS fault
    WHERE code IS NOT NULL AND (%(name)s::text IS NULL OR pipelines ? %(name)s OR starts_with(fingerprint, %(name)s)
        OR connection = %(name)s OR EXISTS (SELECT FROM catalog.errors AS one
            WHERE one.id = fault.error_id AND one.source = %(name)s))
    ORDER BY last DESC LIMIT %(limit)s
"""
_ERRORS: Final = """
    SELECT id, at, pipeline, run, attempt, fingerprint, error, classified, strategy,
        coalesce(diagnosis, (SELECT other.diagnosis FROM catalog.errors AS other
            WHERE other.fingerprint = one.fingerprint AND other.task = one.task AND other.diagnosis IS NOT NULL
            ORDER BY other."offset" DESC LIMIT 1)) AS diagnosis
    FROM catalog.errors AS one
    WHERE "offset" IS NOT NULL AND (run = %(key)s OR id = %(key)s OR fingerprint = %(key)s)
    ORDER BY "offset" DESC LIMIT %(limit)s
"""
_INCIDENTS: Final = """
    SELECT id, fingerprint, pipeline, connection, kind, status, what, incident, repeats, opened_at, last_at, closed_at,
        reason
    FROM catalog.incidents
    WHERE incident IS NOT NULL AND (%(open)s IS FALSE OR status = 'open')
        AND (%(name)s::text IS NULL OR pipeline = %(name)s OR connection = %(name)s OR fingerprint = %(name)s
            OR incident ->> 'component' = %(name)s OR starts_with(id, %(name)s))
    ORDER BY opened_at DESC, id LIMIT %(limit)s
"""
_BREAKERS: Final = """
    SELECT connection, status, failures, reason, until FROM catalog.breakers
    WHERE status IN ('open', 'half_open') AND connection = ANY(%(names)s) ORDER BY connection
"""
_TEMPLATES: Final = (
    "SELECT fingerprint, template FROM catalog.faults WHERE code = %s AND kind IS NOT NULL ORDER BY last DESC LIMIT %s"
)


def faults(session: psycopg.Connection[Any], name: str | None, limit: int) -> list[Fault]:
    """Return the last errors by fingerprint: all, those of a pipeline, connection or component, or one by it."""
    return rows_as(session, Fault, _FAULTS, {"name": name, "limit": limit})


def errors_of(session: psycopg.Connection[Any], key: str, limit: int) -> list[FaultError]:
    """Return the last errors of a run or of a fingerprint, or the one with this id."""
    return rows_as(session, FaultError, _ERRORS, {"key": key, "limit": limit})


def incidents(
    session: psycopg.Connection[Any], name: str | None = None, *, open_only: bool = True, limit: int = 50
) -> list[Incident]:
    """Return incidents, the latest first: all, those about a name (pipeline, connection, component), or by an id."""
    return rows_as(session, Incident, _INCIDENTS, {"name": name, "open": open_only, "limit": limit})


def breakers(session: psycopg.Connection[Any], names: Sequence[str]) -> list[Breaker]:
    """Return which of these connections are held back now."""
    return rows_as(session, Breaker, _BREAKERS, {"names": list(names)})


def templates(session: psycopg.Connection[Any], code: str) -> dict[str, str]:
    """Return the sentences of the last errors of one code, without what varies, by fingerprint."""
    return dict(session.execute(_TEMPLATES, (code, MOST_TEMPLATES)).fetchall())
