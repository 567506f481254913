"""Positions of a stream in a PostgreSQL sink: a row for each partition of its source, in `_penstock_offsets`.

A row exists from the moment at which the stream begins its partition, so that `from: latest` means the same after
every restart. A commit moves the position in the transaction of its rows, and only from where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from psycopg import sql

from dataflows.connectors.postgres.session import Session, ask, one_row
from dataflows.connectors.sql.names import quoted
from dataflows.data.positions import Move

__all__ = [
    "begin",
    "drop",
    "holding",
    "last_split",
    "made",
    "make",
    "moved",
    "part_splits",
    "past",
    "positions",
    "restart",
    "streams",
]

_TABLE: Final = """CREATE TABLE IF NOT EXISTS {table} (
  pipeline text NOT NULL, source text NOT NULL, sink text NOT NULL, part text NOT NULL,
  position text NOT NULL, split bigint NOT NULL DEFAULT 0, changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (pipeline, source, sink, part)) WITH (fillfactor = 50)"""
_OF: Final = "pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s"

Key = Mapping[str, str]
"""Pipeline, source and sink."""


def _table(schema: str) -> str:
    return quoted(schema, "_penstock_offsets")


def made(session: Session, schema: str) -> bool:
    """True if the table exists."""
    return bool(one_row(session, "SELECT to_regclass(%s) IS NOT NULL", (_table(schema),), same=True)[0])


def make(session: Session, schema: str) -> None:
    """Create the table if it is missing. Inside a transaction."""
    session.execute("SELECT pg_advisory_xact_lock(hashtext('penstock.positions'))")
    session.execute(_TABLE.format(table=_table(schema)))


def positions(session: Session, schema: str, key: Key) -> dict[str, str]:
    """Return the position of each partition that was begun."""
    query = f"SELECT part, position FROM {_escaped(schema)} WHERE {_OF} ORDER BY part"
    return dict(ask(session, query, dict(key)).fetchall())


def last_split(session: Session, schema: str, key: Key) -> int:
    """Return the greatest number of a committed split; 0 if there is none."""
    query = f"SELECT coalesce(max(split), 0) FROM {_escaped(schema)} WHERE {_OF}"
    return int(one_row(session, query, dict(key))[0])


def streams(session: Session, schema: str, sink: str, part: str | None = None) -> set[str]:
    """Return the pipelines whose streams have positions at a sink; with `part` those of that one partition."""
    query = (
        f"SELECT DISTINCT pipeline FROM {_escaped(schema)} WHERE sink = %(sink)s AND part = coalesce(%(part)s, part)"
    )
    return {uid for (uid,) in ask(session, query, {"sink": sink, "part": part}).fetchall()}


def past(session: Session, schema: str, key: Key) -> dict[tuple[str, str | None], dict[str, str]]:
    """Return the positions of the pipeline's streams between other objects, by source and sink; None = this one."""
    columns = "source, nullif(sink, %(sink)s), part, position"
    query = f"SELECT {columns} FROM {_escaped(schema)} WHERE pipeline = %(pipeline)s AND NOT ({_OF})"
    found: dict[tuple[str, str | None], dict[str, str]] = {}
    for source, sink, part, position in ask(session, query, dict(key)).fetchall():
        found.setdefault((source, sink), {})[part] = position
    return found


def part_splits(session: Session, schema: str, key: Key) -> dict[str, int]:
    """Return the number of the last committed split of each partition; 0 if there is none."""
    return dict(ask(session, f"SELECT part, split FROM {_escaped(schema)} WHERE {_OF}", dict(key)).fetchall())


def begin(session: Session, schema: str, key: Key, begins: Mapping[str, str]) -> None:
    """Store the positions at which partitions begin; those that have one keep it."""
    ask(
        session,
        f"INSERT INTO {_escaped(schema)} (pipeline, source, sink, part, position) "
        "SELECT %(pipeline)s, %(source)s, %(sink)s, * FROM unnest(%(parts)s::text[], %(begins)s::text[]) "
        "ON CONFLICT DO NOTHING",
        dict(key) | {"parts": list(begins), "begins": list(begins.values())},
    )


def restart(session: Session, schema: str, key: Key, begins: Mapping[str, str]) -> None:
    """Store the positions at which partitions begin, in place of all that the stream has. Inside a transaction."""
    number = last_split(session, schema, key)
    ask(session, f"DELETE FROM {_escaped(schema)} WHERE {_OF}", dict(key))
    begin(session, schema, key, begins)
    ask(session, f"UPDATE {_escaped(schema)} SET split = %(split)s WHERE {_OF}", dict(key) | {"split": number})


def moved(schema: str, key: Key, moves: Sequence[Move], split: int) -> str:
    """Return an UPDATE for a WITH clause: a row for each partition that stood at its move's start."""
    rows = ", ".join(f"({_literal(one.partition)}, {_literal(one.start)}, {_literal(one.end)})" for one in moves)
    same = " AND ".join(f"o.{name} = {_literal(value)}" for name, value in key.items())
    return (
        f"UPDATE {_table(schema)} o SET position = v.upto, split = {split}, changed_at = now() "
        f"FROM (VALUES {rows}) v (part, start, upto) WHERE {same} AND o.part = v.part AND o.position = v.start "
        "RETURNING 1"
    )


def holding(schema: str, key: Key) -> str:
    """Return the statement that locks the positions of a stream."""
    same = " AND ".join(f"{name} = {_literal(value)}" for name, value in key.items())
    return f"SELECT 1 FROM {_table(schema)} WHERE {same} FOR UPDATE"


def drop(session: Session, schema: str, pipeline: str) -> None:
    """Delete the positions of a pipeline."""
    session.execute(f"DELETE FROM {_escaped(schema)} WHERE pipeline = %s", (pipeline,))


def _escaped(schema: str) -> str:
    return _table(schema).replace("%", "%%")


def _literal(value: str) -> str:
    return sql.Literal(value).as_string(None)
