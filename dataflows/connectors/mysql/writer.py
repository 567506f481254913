"""The writer of one slot: chunks by ``LOAD DATA LOCAL``, one commit for each split, fenced by the run's generation.

``LOAD DATA LOCAL`` turns values that do not fit and rows that are refused into warnings: a load without a warning that
took each row that was sent is good, any other is rolled back. The fence goes in one message with the COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pyarrow as pa

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.mysql.merge import STAGE, Merge
from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.state import MysqlState, take_name
from dataflows.connectors.mysql.tables import TableName, natives
from dataflows.connectors.mysql.types import encoded, load_target
from dataflows.connectors.publication import counted_split
from dataflows.data.chunks import Chunk
from penstock.errors import Unreachable
from penstock.failpoints import failpoint

__all__ = ["MysqlWriter"]


@dataclass(slots=True)
class _Open:
    """The split whose transaction is open."""

    split: int
    sequence: int = 0
    rows: int = 0
    bytes: int = 0
    loading: bool = False


@dataclass(slots=True)
class MysqlWriter:
    """Writes the chunks of one slot over a session that carries the slot's name."""

    another: Callable[[Callable[[], None]], Session]
    state: MysqlState
    order: WriterOrder
    into: TableName
    where: str
    merge: Merge | None = None
    _session: Session | None = field(default=None, init=False)
    _load: str = field(default="", init=False)
    _open: _Open | None = field(default=None, init=False)

    def open(self) -> None:
        """Connect."""
        self._session = self.another(self.order.check)
        take_name(self._session, self.state.uid, self.order.slot)
        self._load = self._statement(self._session)

    def close(self) -> None:
        """End the session; what is not committed is rolled back by the server."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def idle(self) -> None:
        """Called while no chunk comes: raise if the server has ended the session, or refused what it got."""
        if self._live.spoken:
            raise Unreachable("the session was ended by the server", where=self.where, hint="try again")

    def write(self, chunk: Chunk) -> None:
        """Send a chunk; the last one of a split commits it.

        Raises:
            Fenced: a newer run took over.
            BadData: the target refused a value or a row.
        """
        current = self._open or self._begin(chunk)
        if (chunk.split, chunk.sequence) != (current.split, current.sequence):
            message = f"chunk {chunk.split}.{chunk.sequence} came where {current.split}.{current.sequence} was due"
            raise AssertionError(message)
        current.sequence += 1
        if isinstance(chunk.data, pa.RecordBatch):
            self._put(current, chunk.data)
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
    def _live(self) -> Session:
        if self._session is None:
            message = "the writer is not open"
            raise AssertionError(message)
        return self._session

    def _statement(self, session: Session) -> str:
        kinds = natives(session, self.into)
        kinds |= dict.fromkeys([self.merge.delete] if self.merge and self.merge.delete else [], ("tinyint", ""))
        fields = [load_target(one, *kinds[one.name], at) for at, one in enumerate(self.order.columns)]
        sets = ", ".join(one for _, one in fields if one)
        into = self.into.sql if self.merge is None else quoted(self.into.database, STAGE)
        return (
            f"LOAD DATA LOCAL INFILE 'penstock' INTO TABLE {into} CHARACTER SET utf8mb4 FIELDS TERMINATED BY ',' "
            f"ENCLOSED BY '\"' ESCAPED BY '' LINES TERMINATED BY '\\n' ({', '.join(name for name, _ in fields)})"
            f"{f' SET {sets}' if sets else ''}"
        )

    def _begin(self, chunk: Chunk) -> _Open:
        for statement in self.merge.stage if self.merge else ():
            self._live.change(statement)
        self._live.change("START TRANSACTION")
        failpoint("commit.begin", chunk.split)
        self._open = _Open(chunk.split)
        return self._open

    def _put(self, current: _Open, batch: pa.RecordBatch) -> None:
        data = encoded(batch, self.order.columns, self.where)
        if not current.loading:
            self._live.begin_load(self._load)
            current.loading = True
        self._live.load(data)

    def _commit(self, current: _Open, marker: Chunk) -> None:
        loaded = self._loaded(current)
        failpoint("commit.copied", current.split)
        counted = counted_split(marker, current.rows, loaded, current.bytes, self.where)
        session, order = self._live, self.order
        for statement in self.merge.statements if self.merge else ():
            session.change(statement)
        failpoint("commit.before_fence", current.split)
        state = replace(self.state, database=session)
        fence = state.fencing(order.slot, current.split, order.run, order.generation, counted)
        session.together((*fence, "COMMIT"), lambda: failpoint("commit.sent", current.split))
        failpoint("commit.done", current.split)
        self._open = None
        order.committed(counted)

    def _loaded(self, current: _Open) -> int:
        if not current.loading:
            return 0
        rows, warnings = self._live.end_load()
        if warnings:
            raise self._live.warned()
        return rows
