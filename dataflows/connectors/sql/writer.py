"""The writer of one slot: a split's rows are staged where they lock nobody out, then committed in one short change.

The commit moves them into the target, marks the split and moves the counters; the fence is its last statement. While
it lasts nobody else writes to the file: a process that is stopped in it keeps others out until it goes on or dies, and
one that is stopped elsewhere is fenced when it wakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.isolation import Attempt, RowRefused
from dataflows.connectors.sql.database import STAGE, Database
from dataflows.connectors.sql.state import DatabaseState
from dataflows.connectors.sql.tombstones import Tombstones
from dataflows.connectors.writing import OpenSplit
from dataflows.data.counters import Counters

__all__ = ["DatabaseSink"]


class _TakenBackError(Exception):
    """Ends a transaction that was only an attempt."""


@dataclass(frozen=True, slots=True)
class DatabaseSink:
    """Stages rows over a session of its own; `moves` are the statements that bring them into the target."""

    database: Database
    state: DatabaseState
    order: WriterOrder
    moves: tuple[str, ...]
    exact: bool
    """Whether each staged row has to become a row of the target."""

    @classmethod
    @contextmanager
    def opened(
        cls,
        session: Callable[[Callable[[], None]], Database],
        state: DatabaseState,
        order: WriterOrder,
        moves: tuple[str, ...],
        *,
        exact: bool,
        tombstones: Tombstones | None = None,
    ) -> Iterator[DatabaseSink]:
        """Connected."""
        with closing(session(order.check)) as database:
            database.make_stage(order.columns)
            if tombstones is not None:
                with database.transaction():
                    database.change(tombstones.make(order.columns, database.declared))
            yield cls(database, replace(state, session=database), order, moves, exact)

    def begin(self, split: int, data: Any) -> None:
        self.database.change(f"DELETE FROM {STAGE}")

    def put(self, data: pa.RecordBatch) -> None:
        self.database.stage(data)

    def idle(self) -> None:
        """Nothing is held while no chunk comes."""

    @contextmanager
    def trial(self) -> Iterator[Attempt]:
        """The rows that are taken stay staged: each attempt is for them all, since DuckDB has no savepoints."""
        self.begin(0, None)
        yield self._attempt
        self.begin(0, None)

    def _attempt(self, data: pa.RecordBatch) -> RowRefused | None:
        last = self.database.rows(f"SELECT coalesce(max(rowid), -1) FROM {STAGE}")[0][0]
        try:
            self.put(data)
            with suppress(_TakenBackError), self.database.transaction():
                self._moved()
                raise _TakenBackError
        except RowRefused as error:
            self.database.change(f"DELETE FROM {STAGE} WHERE rowid > ?", (last,))
            return error
        return None

    def commit(self, split: OpenSplit) -> Counters:
        split.reached("copied")
        order = self.order
        with self.database.transaction():
            counted = split.counted(self._moved())
            split.reached("before_fence")
            self.state.fence(order.slot, split.number, order.run, order.generation, counted)
        split.reached("sent")
        return counted

    def _moved(self) -> int:
        """Bring what is staged into the target; how many rows the database says that were taken."""
        staged = int(self.database.rows(f"SELECT count(*) FROM {STAGE}")[0][0])
        moved = sum(self.database.change(statement) for statement in self.moves)
        return moved if self.exact else staged
