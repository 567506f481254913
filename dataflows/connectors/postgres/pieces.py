"""State of a stream's steps in a PostgreSQL sink: the pieces of each step's journal, in `_penstock_windows`.

A commit adds those of its split in the transaction of its rows, or writes the whole state of a step in place of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from psycopg import sql

from dataflows.connectors.postgres.session import Session, ask, one_row
from dataflows.connectors.sql.names import quoted
from dataflows.data.state import StateChange

__all__ = ["drop", "forget", "keeping", "made", "make", "pieces"]

_TABLE: Final = """CREATE TABLE IF NOT EXISTS {table} (
  pipeline text NOT NULL, source text NOT NULL, sink text NOT NULL, step text NOT NULL,
  split bigint NOT NULL, piece integer NOT NULL, data text NOT NULL, changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (pipeline, source, sink, step, split, piece))"""
_OF: Final = "pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s"

Key = Mapping[str, str]
"""Pipeline, source and sink."""


def _table(schema: str) -> str:
    return quoted(schema, "_penstock_windows")


def _escaped(schema: str) -> str:
    return _table(schema).replace("%", "%%")


def made(session: Session, schema: str) -> bool:
    """True if the table exists."""
    return bool(one_row(session, "SELECT to_regclass(%s) IS NOT NULL", (_table(schema),), same=True)[0])


def make(session: Session, schema: str) -> None:
    """Create the table if it is missing. Inside a transaction."""
    session.execute("SELECT pg_advisory_xact_lock(hashtext('penstock.positions'))")
    session.execute(_TABLE.format(table=_table(schema)))


def pieces(session: Session, schema: str, key: Key) -> dict[str, list[tuple[int, str]]]:
    """Return the pieces of each step, in order, each with the number of its split."""
    query = f"SELECT step, split, data FROM {_escaped(schema)} WHERE {_OF} ORDER BY step, split, piece"
    found: dict[str, list[tuple[int, str]]] = {}
    for step, split, data in ask(session, query, dict(key)):
        found.setdefault(step, []).append((split, data))
    return found


def forget(session: Session, schema: str, key: Key) -> None:
    """Delete all pieces of the pipeline between these ends."""
    ask(session, f"DELETE FROM {_escaped(schema)} WHERE {_OF}", dict(key))


def drop(session: Session, schema: str, pipeline: str) -> None:
    """Delete all pieces of a pipeline."""
    session.execute(f"DELETE FROM {_escaped(schema)} WHERE pipeline = %s", (pipeline,))


def keeping(schema: str, key: Key, split: int, changes: Sequence[StateChange]) -> Iterator[str]:
    """Yield the statements that keep what a split has changed."""
    same = " AND ".join(f"{name} = {_literal(value)}" for name, value in key.items())
    ends = ", ".join(_literal(key[name]) for name in ("pipeline", "source", "sink"))
    for change in changes:
        if change.whole:
            yield f"DELETE FROM {_table(schema)} WHERE {same} AND step = {_literal(change.step)}"
        for number, data in enumerate(change.pieces):
            yield (
                f"INSERT INTO {_table(schema)} (pipeline, source, sink, step, split, piece, data) "
                f"VALUES ({ends}, {_literal(change.step)}, {split}, {number}, '{data}')"
            )


def _literal(value: str) -> str:
    return sql.Literal(value).as_string(None)
