"""Writer of one slot: stages a split's rows without locking the file, then commits them in one short transaction.

The transaction moves the rows into the target, marks the split and raises the counters; the fence is its last
statement. It locks the file for other writers: a process suspended inside it blocks them until it resumes or dies. A
process suspended anywhere else is fenced when it resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.isolation import Attempt, RowRefused
from dataflows.connectors.sql.changes import NOT_FREE, Changes
from dataflows.connectors.sql.checks import altered, interfered
from dataflows.connectors.sql.database import STAGE, Database
from dataflows.connectors.sql.merge import Merge
from dataflows.connectors.sql.state import DatabaseState
from dataflows.connectors.writing import OpenSplit
from dataflows.data.counters import Counters

__all__ = ["DatabaseSink"]


class _RolledBackError(Exception):
    """Rolls back a transaction that was only an attempt."""


@dataclass(frozen=True, slots=True)
class DatabaseSink:
    """Stages rows over its own session; `merge` moves them into the target."""

    database: Database
    state: DatabaseState
    order: WriterOrder
    where: str
    merge: Merge | Changes
    triggers: list[str]
    """Triggers that may drop or change written rows."""
    shape: object
    """Types of the written columns, as they were when the session began, and what else the statements stand on."""

    @classmethod
    @contextmanager
    def opened(
        cls,
        session: Callable[[Callable[[], None]], Database],
        state: DatabaseState,
        order: WriterOrder,
        where: str,
        merge: Merge | Changes,
    ) -> Iterator[DatabaseSink]:
        """Return a sink with a session of its own, for as long as the context lasts."""
        with closing(session(order.check)) as database:
            database.make_stage(merge.staged if isinstance(merge, Changes) else order.columns)
            if merge.tombstones is not None:
                with database.transaction():
                    database.change(merge.tombstones.make(order.columns, database.ddl_type))
            triggers = database.triggers(merge.into)
            shape = _shape(database, merge)
            yield cls(database, replace(state, session=database), order, where, merge, triggers, shape)

    def begin(self, split: int, data: Any) -> None:
        self.database.change(f"DELETE FROM {STAGE}")

    def put(self, data: pa.RecordBatch) -> None:
        self.database.stage(self.merge.flat(data) if isinstance(self.merge, Changes) else data)

    def idle(self) -> None:
        """Do nothing: an idle session locks nothing."""

    @contextmanager
    def trial(self) -> Iterator[Attempt]:
        """Try rows; accepted ones stay staged, and each attempt moves them all, since DuckDB has no savepoints.

        They stay until the next split or trial begins.
        """
        self.begin(0, None)
        self._check_unaltered()
        yield self._attempt

    def _attempt(self, data: pa.RecordBatch) -> RowRefused | None:
        last = self.database.rows(f"SELECT coalesce(max(rowid), -1) FROM {STAGE}")[0][0]
        try:
            self.put(data)
            with suppress(_RolledBackError), self.database.transaction():
                self._moved()
                raise _RolledBackError
        except RowRefused as error:
            self.database.change(f"DELETE FROM {STAGE} WHERE rowid > ?", (last,))
            error.waits |= isinstance(self.merge, Changes) and error.state in NOT_FREE
            return error
        return None

    def commit(self, split: OpenSplit) -> Counters:
        split.reached("copied")
        order = self.order
        with self.database.transaction():
            self._check_unaltered()
            counted = split.counted(self._moved())
            self.state.keep(split.number, split.state)
            split.reached("before_fence")
            if order.standing is not None:  # nobody else writes to the file meanwhile
                order.standing.check(split.number)
            self.state.fence(order.slot, split.number, order.run, order.generation, counted, split.moves)
        split.reached("sent")
        return counted

    def _check_unaltered(self) -> None:
        """Raise Unavailable if the table is not what the rows were made for: others may alter it at any time."""
        database, merge = self.database, self.merge
        if not database.one_process and (
            database.triggers(merge.into) != self.triggers or _shape(database, merge) != self.shape
        ):
            raise altered(self.where)

    def _moved(self) -> int:
        """Move the staged rows into the target; return the number of rows that the database reports.

        Raises:
            SchemaMismatch: a trigger dropped or changed rows.
        """
        staged = int(self.database.rows(f"SELECT count(*) FROM {STAGE}")[0][0])
        if isinstance(self.merge, Changes):
            self.merge.apply(self.database, self.where)
            return staged
        for statement in self.merge.outrun if self.triggers else ():
            self.database.change(statement)
        moved = sum(self.database.change(statement) for statement in self.merge.statements)
        if self.triggers and (count := int(self.database.rows(self.merge.unlike)[0][0])):
            raise interfered(f"{count} rows were dropped or changed", self.triggers, self.where)
        return moved if self.merge.appends and not self.triggers else staged


def _shape(database: Database, merge: Merge | Changes) -> object:
    there = database.describe(merge.into, sink=True)
    types = {one.name: one.type for one in (there.columns if there else ())}
    if isinstance(merge, Changes):
        uniques = database.other_keys(merge.into, merge.key)
        return uniques, types if uniques else {name: types.get(name) for name in merge.names}
    return {name: types.get(name) for name in merge.columns}
