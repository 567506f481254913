"""State of a sink in the database file of its rows: generation, plan, positions and counters.

It is in three tables next to the rows, and changes in the rows' own transactions. Only one transaction writes to the
file at a time, so a generation read inside one stays the latest until that transaction ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dataflows.connectors.sql.database import Database
from dataflows.connectors.sql.ledger import ENDS, TABLES, fenced_error
from dataflows.connectors.sql.offsets import OFFSETS, moving
from dataflows.connectors.sql.pieces import PIECES, WindowLedger
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.positions import Move
from penstock.clock import now
from penstock.failpoints import failpoint

__all__ = ["DatabaseState"]

_COUNTERS: Final = ", ".join(f"{name} BIGINT NOT NULL DEFAULT 0" for name in COUNTED)
_MAKE: Final = (
    f"""CREATE TABLE IF NOT EXISTS _penstock_positions (
    pipeline TEXT NOT NULL, source TEXT NOT NULL, sink TEXT NOT NULL, slot TEXT NOT NULL, generation BIGINT NOT NULL,
    run TEXT, cursor_value TEXT, cursor_field TEXT, written TEXT, changed_at TEXT, {_COUNTERS},
    CHECK (rows_in = rows_out + filtered + dead))""",
    """CREATE TABLE IF NOT EXISTS _penstock_runs (
    pipeline TEXT NOT NULL, run TEXT NOT NULL, source TEXT NOT NULL, sink TEXT NOT NULL, state TEXT NOT NULL,
    written TEXT NOT NULL, cursor_field TEXT, split_by TEXT, lower_bound TEXT, upper_bound TEXT,
    base TEXT NOT NULL, result TEXT, taken_over_by TEXT, planned_at TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS _penstock_splits (
    pipeline TEXT NOT NULL, run TEXT NOT NULL, split INTEGER NOT NULL, lower_bound TEXT, upper_bound TEXT,
    done INTEGER NOT NULL)""",
)
_MAKE_OFFSETS: Final = f"""CREATE TABLE IF NOT EXISTS {OFFSETS} (
    pipeline TEXT NOT NULL, source TEXT NOT NULL, sink TEXT NOT NULL, part TEXT NOT NULL, position TEXT NOT NULL,
    split BIGINT NOT NULL, changed_at TEXT NOT NULL)"""
_MAKE_PIECES: Final = f"""CREATE TABLE IF NOT EXISTS {PIECES} (
    pipeline TEXT NOT NULL, source TEXT NOT NULL, sink TEXT NOT NULL, step TEXT NOT NULL, split BIGINT NOT NULL,
    piece INTEGER NOT NULL, data TEXT NOT NULL)"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS _penstock_of_runs ON _penstock_splits (pipeline, run, split)"


@dataclass(frozen=True, slots=True)
class DatabaseState(WindowLedger):
    """State of one pipeline between one source object and one sink object."""

    session: Database

    def make(self) -> None:
        self.session.make()
        if self.exists():
            return
        with self.session.transaction():
            for statement in (*_MAKE, *((_INDEX,) if self.session.indexed else ())):
                self.session.change(statement)

    def exists(self) -> bool:
        return set(TABLES) <= set(self.session.tables("main", "_penstock_"))

    def make_positions(self) -> None:
        if not self.streams:
            with self.session.transaction():
                self.session.change(_MAKE_OFFSETS)

    @property
    def streams(self) -> bool:
        return OFFSETS in self.session.tables("main", "_penstock_")

    def make_pieces(self) -> None:
        if not self.windows:
            with self.session.transaction():
                self.session.change(_MAKE_PIECES)

    @property
    def windows(self) -> bool:
        return PIECES in self.session.tables("main", "_penstock_")

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        with self.session.transaction():
            raised = self.raise_generation(slots, run)
        if isinstance(raised, RunRow):
            return raised
        failpoint("prepare.generation_raised")
        failpoint("prepare.sessions_ended")
        return Claim(raised, self.loaded())

    @contextmanager
    def owned(self, generation: int) -> Iterator[None]:
        with self.session.transaction():
            self.check_owned(generation)
            yield

    def fence(
        self, slot: str, split: int, run: str, generation: int, counted: Counters, moves: Sequence[Move] = ()
    ) -> None:
        """Mark a split as done and raise its slot's counters, at the end of the transaction that writes its rows.

        A split of a stream is not marked; it moves the positions of its partitions instead.

        Raises:
            Fenced: a newer run took over, or the split is done already.
        """
        sets = ", ".join(f"{name} = {name} + ?" for name in COUNTED)
        mark = "UPDATE _penstock_splits SET done = 1 WHERE pipeline = ? AND run = ? AND split = ? AND done = 0"
        step = moving(self.ends, moves, split) if moves else (mark, (self.uid, run, split))
        marked = self.session.change(*step)
        counted_on = self.session.change(
            f"UPDATE _penstock_positions SET {sets}, changed_at = ? WHERE {ENDS} AND slot = ? AND generation = ?",
            (*(getattr(counted, name) for name in COUNTED), now().isoformat(), *self.ends, slot, generation),
        )
        if (marked, counted_on) != (len(moves) or 1, 1):
            raise fenced_error(self.where)

    def drop(self) -> None:
        with self.session.transaction():
            self.forget_positions()
            self.drop_pieces()
            self.forget_all()
