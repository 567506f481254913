"""Files whose arrival has been noticed, for each pipeline that a file triggers, in schema `ops`.

What has been noticed, and the report of it, are committed together before the report is on the log: if it does not get
there, the next look repeats it, under the number of its round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

__all__ = ["Noticed", "forget_arrivals", "noticed", "put_noticed"]


@dataclass(frozen=True, slots=True)
class Noticed:
    """The round of the last report, that report, and the files noticed so far, as text that their connector knows."""

    round: int = 0
    seen: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)


def noticed(session: psycopg.Connection[Any], pipeline: str, files: str) -> Noticed:
    """Return what has been noticed of `files`, a connection and a pattern, by the pipeline's id."""
    query = "SELECT round, seen, report FROM ops.arrivals WHERE pipeline = %s AND files = %s"
    found = session.execute(query, (pipeline, files)).fetchone()
    return Noticed() if found is None else Noticed(*found)


def put_noticed(session: psycopg.Connection[Any], pipeline: str, files: str, found: Noticed) -> bool:
    """Keep what has been noticed; False if another look, by a worker thought lost, has kept as late a round."""
    done = session.execute(
        "INSERT INTO ops.arrivals AS kept (pipeline, files, round, seen, report) VALUES (%s, %s, %s, %s, %s::jsonb) "
        "ON CONFLICT (pipeline, files) DO UPDATE SET round = excluded.round, seen = excluded.seen, "
        "report = excluded.report WHERE kept.round < excluded.round",
        (pipeline, files, found.round, found.seen, json.dumps(found.report)),
    )
    return done.rowcount == 1


def forget_arrivals(session: psycopg.Connection[Any], pipeline: str) -> None:
    """Forget what has been noticed for a pipeline."""
    session.execute("DELETE FROM ops.arrivals WHERE pipeline = %s", (pipeline,))
