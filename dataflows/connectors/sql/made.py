"""Tables that a pipeline made, as opposed to those that a person made or changed: only the former may be recreated."""

from __future__ import annotations

import json
from typing import Protocol

from dataflows.connectors.state import Loaded, RunRow
from dataflows.data.counters import Counters
from dataflows.data.tables import Table

__all__ = ["MadeState", "as_made", "has_written", "marked"]


class MadeState(Protocol):
    """The part of a state that knows how its table was made, and what was written to it."""

    def loaded(self) -> Loaded:
        """Return what has been loaded so far."""

    def finished(self) -> RunRow | None:
        """Return the latest finished run."""

    def counters(self) -> Counters:
        """Return the cumulative counters of all slots."""

    def made(self) -> str | None:
        """Return what was stored of the table."""


def marked(made: str, table: Table | None) -> str:
    """Return what to store of a table that was just made."""
    return json.dumps([made, _shape(table)])


def as_made(state: MadeState, table: Table) -> str | None:
    """Return how the pipeline made the table, if it looks as it did then; else None."""
    if (stored := state.made()) is None:
        return None
    made, shape = json.loads(stored)
    return str(made) if shape == _shape(table) else None


def has_written(state: MadeState, *, shadowed: bool) -> bool:
    """True if the pipeline may have written to its table.

    `shadowed`: rows are loaded into another table, and only a finished run moves them.
    """
    if state.loaded() != Loaded() or state.finished() is not None:
        return True
    return not shadowed and state.counters().rows_out > 0


def _shape(table: Table | None) -> list[list[str | bool]]:
    return [[one.name, one.type, one.nullable] for one in table.columns] if table is not None else []
