"""State of a stream's steps in a sink's own database: the pieces of each step's journal, in `_penstock_windows`.

It is the SQL that MySQL and database files share, as in `offsets`. A commit adds the pieces of its split in the
transaction of its rows, or writes the whole state of a step in place of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dataflows.connectors.sql.ledger import ENDS
from dataflows.connectors.sql.offsets import StreamLedger
from dataflows.data.state import StateChange

__all__ = ["PIECES", "WindowLedger", "keeping"]

PIECES: Final = "_penstock_windows"


def keeping(ends: Sequence[str], split: int, changes: Sequence[StateChange]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the statements, with their values, that keep what a split has changed."""
    for change in changes:
        if change.whole:
            yield f"DELETE FROM {PIECES} WHERE {ENDS} AND step = ?", [*ends, change.step]
        for number, data in enumerate(change.pieces):
            statement = f"INSERT INTO {PIECES} (pipeline, source, sink, step, split, piece, data)"
            yield f"{statement} VALUES (?, ?, ?, ?, ?, ?, ?)", [*ends, change.step, split, number, data]


@dataclass(frozen=True, slots=True)
class WindowLedger(StreamLedger):
    """State of one pipeline, with that of its stream's steps."""

    @property
    def windows(self) -> bool:
        """True if the table of pieces exists; each system looks in its own catalog."""
        raise NotImplementedError

    def pieces(self) -> dict[str, list[tuple[int, str]]]:
        if not self.windows:
            return {}
        query = f"SELECT step, split, data FROM {PIECES} WHERE {ENDS} ORDER BY step, split, piece"
        found: dict[str, list[tuple[int, str]]] = {}
        for step, split, data in self.session.rows(query, self.ends):
            found.setdefault(str(step), []).append((int(split), str(data)))
        return found

    def forget_pieces(self) -> None:
        if self.windows:
            self.session.change(f"DELETE FROM {PIECES} WHERE {ENDS}", self.ends)

    def keep(self, split: int, changes: Sequence[StateChange]) -> None:
        """Keep what a split has changed. Inside the transaction that its fence ends."""
        for statement, values in keeping(self.ends, split, changes):
            self.session.change(statement, values)

    def drop_pieces(self) -> None:
        """Delete the pieces of the pipeline, whatever its ends. Inside a transaction."""
        if self.windows:
            self.session.change(f"DELETE FROM {PIECES} WHERE pipeline = ?", (self.uid,))
