"""Store of the state of each pipeline at each of its sinks, by its id, as the last run found it.

A sink's own state says what was written, so that it is lost without a trace if it is deleted with nothing else. This is
the trace, outside of every log: a run that finds another id, or nothing, does not begin as if nothing were written.
"""

from __future__ import annotations

from typing import Any

import psycopg

__all__ = ["forget_states", "known_state", "remember_state"]


def known_state(session: psycopg.Connection[Any], pipeline: str, sink: str) -> str | None:
    """Return the id of what kept the state at a sink when the last run of the pipeline began; None before the first."""
    query = "SELECT identity FROM ops.sink_states WHERE pipeline = %s AND sink = %s"
    found = session.execute(query, (pipeline, sink)).fetchone()
    return None if found is None else str(found[0])


def remember_state(session: psycopg.Connection[Any], pipeline: str, sink: str, identity: str) -> None:
    """Remember the id."""
    session.execute(
        "INSERT INTO ops.sink_states (pipeline, sink, identity) VALUES (%s, %s, %s) "
        "ON CONFLICT (pipeline, sink) DO UPDATE SET identity = excluded.identity "
        "WHERE sink_states.identity <> excluded.identity",
        (pipeline, sink, identity),
    )


def forget_states(session: psycopg.Connection[Any], pipeline: str) -> None:
    """Forget all sinks of a pipeline."""
    session.execute("DELETE FROM ops.sink_states WHERE pipeline = %s", (pipeline,))
