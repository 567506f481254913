"""Positions of a stream in a sink's own database: a row for each partition of its source, in `_penstock_offsets`.

It is the SQL that MySQL and database files share, as in `ledger`. A row exists from the moment at which the stream
begins its partition, so that `from: latest` means the same after every restart. A commit moves the position in the
transaction of its rows, and only from where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dataflows.connectors.sql.ledger import ENDS, Ledger
from dataflows.data.positions import Move
from penstock.clock import now

__all__ = ["OFFSETS", "StreamLedger", "moving"]

OFFSETS: Final = "_penstock_offsets"
_LAST_SINK: Final = (
    "(SELECT r.sink FROM _penstock_runs r WHERE r.pipeline = {}.pipeline AND r.state NOT IN ('made', 'dropped') "
    "ORDER BY r.planned_at DESC LIMIT 1)"
)
"""The sink of a pipeline's last run, in the place of a table's alias."""


def moving(ends: Sequence[str], moves: Sequence[Move], split: int) -> tuple[str, list[Any]]:
    """Return an UPDATE, and its values, of the rows of those partitions that stand at their move's start."""
    cases = " ".join(["WHEN ? THEN ?"] * len(moves))
    here = " OR ".join(["(part = ? AND position = ?)"] * len(moves))
    ended = [text for one in moves for text in (one.partition, one.end)]
    began = [text for one in moves for text in (one.partition, one.start)]
    statement = f"UPDATE {OFFSETS} SET position = CASE part {cases} END, split = ?, changed_at = ?"
    return f"{statement} WHERE {ENDS} AND ({here})", [*ended, split, now().isoformat(), *ends, *began]


@dataclass(frozen=True, slots=True)
class StreamLedger(Ledger):
    """State of one pipeline, with the positions of its stream."""

    @property
    def streams(self) -> bool:
        """True if the table of positions exists; each system looks in its own catalog."""
        raise NotImplementedError

    def positions(self) -> dict[str, str]:
        if not self.streams:
            return {}
        query = f"SELECT part, position FROM {OFFSETS} WHERE {ENDS} ORDER BY part"
        return {str(part): str(position) for part, position in self.session.rows(query, self.ends)}

    def last_split(self) -> int:
        if not self.streams:
            return 0
        query = f"SELECT coalesce(max(split), 0) FROM {OFFSETS} WHERE {ENDS}"
        return int(self.session.rows(query, self.ends)[0][0])

    def past_streams(self) -> dict[tuple[str, str | None], dict[str, str]]:
        if not self.streams:
            return {}
        query = f"SELECT source, sink, part, position FROM {OFFSETS} WHERE pipeline = ? AND NOT ({ENDS})"
        found: dict[tuple[str, str | None], dict[str, str]] = {}
        for source, sink, part, position in self.session.rows(query, (self.uid, *self.ends)):
            found.setdefault((str(source), None if sink == self.sink else str(sink)), {})[str(part)] = str(position)
        return found

    def begin(self, positions: Mapping[str, str]) -> None:
        known = self.positions()
        for part, position in positions.items():
            if part not in known:
                statement = (
                    f"INSERT INTO {OFFSETS} (pipeline, source, sink, part, position, split, changed_at) "
                    "VALUES (?, ?, ?, ?, ?, 0, ?)"
                )
                self.session.change(statement, (*self.ends, part, position, now().isoformat()))

    def restart(self, positions: Mapping[str, str]) -> None:
        number = self.last_split()
        self.session.change(f"DELETE FROM {OFFSETS} WHERE {ENDS}", self.ends)
        self.begin(positions)
        self.session.change(f"UPDATE {OFFSETS} SET split = ? WHERE {ENDS}", (number, *self.ends))

    def others(self) -> list[str]:
        """Return the other pipelines whose last run wrote to this sink."""
        query = (
            "SELECT DISTINCT p.pipeline FROM _penstock_positions p WHERE p.sink = ? AND p.pipeline <> ? AND p.sink = "
            f"coalesce({_LAST_SINK.format('p')}, CASE WHEN p.rows_in > 0 THEN p.sink END) ORDER BY 1"
        )
        return [str(uid) for (uid,) in self.session.rows(query, (self.sink, self.uid))]

    def other_streams(self, part: str | None = None) -> list[str]:
        """Return the other pipelines whose streams write to this sink; with `part` those that read this partition."""
        if not self.streams:
            return []
        query = (
            f"SELECT DISTINCT o.pipeline FROM {OFFSETS} o WHERE o.sink = ? AND o.pipeline <> ? "
            f"AND o.part = coalesce(?, o.part) AND o.sink = coalesce({_LAST_SINK.format('o')}, o.sink) ORDER BY 1"
        )
        return [str(uid) for (uid,) in self.session.rows(query, (self.sink, self.uid, part))]

    def forget_positions(self) -> None:
        """Delete the positions of the pipeline, if any are kept. Inside a transaction."""
        if self.streams:
            self.session.change(f"DELETE FROM {OFFSETS} WHERE pipeline = ?", (self.uid,))
