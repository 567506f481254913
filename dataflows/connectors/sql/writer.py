"""The writer of one slot: a split's rows are staged where they lock nobody out, then committed in one short change.

The commit moves them into the target, marks the split and moves the counters; the fence is its last statement. While
it lasts nobody else writes to the file: a process that is stopped in it keeps others out until it goes on or dies, and
one that is stopped elsewhere is fenced when it wakes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pyarrow as pa

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.publication import counted_split
from dataflows.connectors.sql.database import STAGE, Database
from dataflows.connectors.sql.state import DatabaseState
from dataflows.data.chunks import Chunk
from penstock.failpoints import failpoint

__all__ = ["DatabaseWriter"]


@dataclass(slots=True)
class _Open:
    """The split that is being staged."""

    split: int
    sequence: int = 0
    rows: int = 0
    bytes: int = 0


@dataclass(slots=True)
class DatabaseWriter:
    """Stages chunks over a session of its own; `moves` are the statements that bring them into the target."""

    session: Callable[[Callable[[], None]], Database]
    state: DatabaseState
    order: WriterOrder
    moves: tuple[str, ...]
    where: str
    exact: bool = True
    """Whether each staged row has to become a row of the target."""
    _database: Database | None = field(default=None, init=False)
    _open: _Open | None = field(default=None, init=False)

    def open(self) -> None:
        """Connect."""
        self._database = self.session(self.order.check)
        self._database.make_stage(self.order.columns)

    def close(self) -> None:
        """End the session; what is not committed is gone."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def idle(self) -> None:
        """Nothing is held while no chunk comes."""

    def write(self, chunk: Chunk) -> None:
        """Stage a chunk; the last one of a split commits it.

        Raises:
            Fenced: a newer run took over.
            BadData: the target refused a value or a row.
            Unavailable: somebody else has been writing to the file for too long.
        """
        current = self._open or self._begin(chunk)
        if (chunk.split, chunk.sequence) != (current.split, current.sequence):
            message = f"chunk {chunk.split}.{chunk.sequence} came where {current.split}.{current.sequence} was due"
            raise AssertionError(message)
        current.sequence += 1
        if isinstance(chunk.data, pa.RecordBatch):
            self._live.stage(chunk.data)
            current.rows += chunk.rows
            current.bytes += chunk.size
            failpoint("commit.mid_copy", chunk.split)
        if chunk.last:
            self._commit(current, chunk)

    def done(self) -> None:
        """Check that no split was left open when the stream ended."""
        if self._open is not None:
            message = f"the stream ended inside split {self._open.split}"
            raise AssertionError(message)

    @property
    def _live(self) -> Database:
        if self._database is None:
            message = "the writer is not open"
            raise AssertionError(message)
        return self._database

    def _begin(self, chunk: Chunk) -> _Open:
        self._live.change(f"DELETE FROM {STAGE}")
        failpoint("commit.begin", chunk.split)
        self._open = _Open(chunk.split)
        return self._open

    def _commit(self, current: _Open, marker: Chunk) -> None:
        failpoint("commit.copied", current.split)
        order, state = self.order, replace(self.state, database=self._live)
        with self._live.transaction():
            counted = counted_split(marker, current.rows, self._moved(), current.bytes, self.where)
            failpoint("commit.before_fence", current.split)
            state.fence(order.slot, current.split, order.run, order.generation, counted)
        failpoint("commit.sent", current.split)
        failpoint("commit.done", current.split)
        self._open = None
        order.committed(counted)

    def _moved(self) -> int:
        """Bring what is staged into the target; how many rows the database says that were taken."""
        staged = int(self._live.rows(f"SELECT count(*) FROM {STAGE}")[0][0])
        moved = sum(self._live.change(statement) for statement in self.moves)
        return moved if self.exact else staged
