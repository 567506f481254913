"""Writer that loads rows by ``LOAD DATA LOCAL``, with one commit for each split, fenced by the run's generation.

``LOAD DATA LOCAL`` turns values that do not fit and refused rows into warnings, so a load with a warning, or with
fewer rows than were sent, is rolled back. The fence is sent in one message with the COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.isolation import Attempt, RowRefused
from dataflows.connectors.mysql.changes import MysqlChanges
from dataflows.connectors.mysql.interference import Definition, check_merged, interferers, staged
from dataflows.connectors.mysql.merge import STAGE, Merge
from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.state import MysqlState, mark_session
from dataflows.connectors.mysql.tables import TableName, natives
from dataflows.connectors.mysql.types import encoded, load_target
from dataflows.connectors.sql.changes import OP, UNSENT, was
from dataflows.connectors.writing import OpenSplit
from dataflows.data.counters import Counters
from penstock.errors import Unreachable

__all__ = ["MysqlSink"]


@dataclass(slots=True)
class MysqlSink:
    """Loads rows over a session that is marked with the slot's name; `load` is the statement."""

    session: Session
    state: MysqlState
    order: WriterOrder
    where: str
    load: str
    merge: Merge | MysqlChanges | None = None
    interferers: list[str] = field(default_factory=list)
    """Triggers that may change merged or appended rows."""
    definition: Definition | None = None
    """The target as it was when the session began; None for a shadow."""
    _loading: bool = field(default=False, init=False)

    @classmethod
    @contextmanager
    def opened(
        cls,
        another: Callable[[Callable[[], None]], Session],
        state: MysqlState,
        order: WriterOrder,
        where: str,
        into: TableName,
        merge: Merge | MysqlChanges | None,
        *,
        shadowed: bool,
    ) -> Iterator[MysqlSink]:
        """Connected."""
        with closing(another(order.check)) as session:
            mark_session(session, state.uid, order.slot)
            if merge is not None and merge.tombstones is not None:
                session.change(merge.make_tombstones(merge.tombstones))
            names = merge.names if isinstance(merge, MysqlChanges) else tuple(one.name for one in order.columns)
            named = [] if shadowed or isinstance(merge, MysqlChanges) else interferers(session, into)
            if named and merge is None:
                merge = staged(session, into, names, named, where)
            there = None if shadowed else Definition.of(session, into, names)
            load = _load(session, order, into, merge)
            yield cls(session, replace(state, session=session), order, where, load, merge, named, there)

    def begin(self, split: int, data: Any) -> None:
        for statement in self.merge.make_stage if self.merge else ():
            self.session.change(statement)
        self.session.change("START TRANSACTION")
        if self.merge is None:
            self._check_unaltered()

    @contextmanager
    def trial(self) -> Iterator[Attempt]:
        self.begin(0, None)
        self._check_unaltered()
        yield self._attempt
        self.session.change("ROLLBACK")

    def _attempt(self, data: pa.RecordBatch) -> RowRefused | None:
        self.session.change("SAVEPOINT attempt")
        try:
            self.put(data)
            self._loaded()
            self._check_keys()
            if isinstance(self.merge, MysqlChanges):
                self._try_changes(self.merge)
            else:
                for statement in self.merge.attempt if self.merge else ():
                    self.session.change(statement)
        except RowRefused as error:
            self.session.change("ROLLBACK TO SAVEPOINT attempt")
            return error
        self.session.change("RELEASE SAVEPOINT attempt")
        return None

    def _try_changes(self, changes: MysqlChanges) -> None:
        """Apply all staged changes, and undo it: each needs the rows as they were before all of them."""
        self.session.change("SAVEPOINT applied")
        changes.apply(self.session, self.where)
        self.session.change("ROLLBACK TO SAVEPOINT applied")

    def put(self, data: pa.RecordBatch) -> None:
        columns = self.order.columns
        if isinstance(self.merge, MysqlChanges):
            data, columns = self.merge.flat(data), self.merge.staged
        rows = encoded(data, columns, self.where)
        if not self._loading:
            self.session.begin_load(self.load)
            self._loading = True
        self.session.load(rows)

    def idle(self) -> None:
        """Raise if the server has ended the session, or refused data."""
        if self.session.spoken:
            raise Unreachable("the session was ended by the server", where=self.where, hint="try again")

    def commit(self, split: OpenSplit) -> Counters:
        loaded = self._loaded()
        split.reached("copied")
        counted = split.counted(loaded)
        self._check_keys()
        if self.merge is not None:
            self._check_unaltered()
            self._merge(self.merge)
        self.state.keep(split.number, split.state)
        split.reached("before_fence")
        order = self.order
        if order.standing is not None:
            self.state.hold(order.standing.uid)
            order.standing.check(split.number)
        fence = self.state.fencing(order.slot, split.number, order.run, order.generation, counted, split.moves)
        self.session.together((*fence, "COMMIT"), lambda: split.reached("sent"))
        return counted

    def _check_unaltered(self) -> None:
        """Raise Unavailable if the target is not what the rows were made for."""
        if self.definition is not None:
            self.definition.check(self.session, self.where)

    def _merge(self, merge: Merge | MysqlChanges) -> None:
        if isinstance(merge, MysqlChanges):
            merge.apply(self.session, self.where)
            return
        if self.interferers and merge.version:
            self.session.change(merge.outrun)
        for statement in merge.statements:
            self.session.change(statement)
        if self.interferers:
            check_merged(self.session, merge, self.interferers, self.where)

    def _check_keys(self) -> None:
        """Refuse different keys that the target's collation treats as equal: they would become one row.

        Raises:
            RowRefused: there are such keys.
        """
        if self.merge is None or not self.merge.texts:
            return
        if any(self.session.value(query) for query in self.merge.clashes):
            what = f"the collation of the target's key ({', '.join(self.merge.key)}) treats it like another row's key"
            hint = "give the key a binary collation, such as utf8mb4_nopad_bin or utf8mb4_0900_bin"
            raise RowRefused(what, where=self.where, hint=hint, state="collation")

    def _loaded(self) -> int:
        if not self._loading:
            return 0
        self._loading = False
        rows, warnings = self.session.end_load()
        if warnings:
            raise self.session.warned()
        return rows


def _load(session: Session, order: WriterOrder, into: TableName, merge: Merge | MysqlChanges | None) -> str:
    kinds, columns = natives(session, into), order.columns
    if isinstance(merge, MysqlChanges):
        columns = merge.staged
        kinds |= {OP: ("varchar", ""), UNSENT: ("text", "")} | {was(n): kinds[one] for n, one in enumerate(merge.key)}
    elif merge and merge.delete:
        kinds[merge.delete] = ("tinyint", "")
    fields = [load_target(one, *kinds[one.name], at) for at, one in enumerate(columns)]
    sets = ", ".join(one for _, one in fields if one)
    table = into.sql if merge is None else quoted(into.schema, STAGE)
    return (
        f"LOAD DATA LOCAL INFILE 'penstock' INTO TABLE {table} CHARACTER SET utf8mb4 FIELDS TERMINATED BY ',' "
        f"ENCLOSED BY '\"' ESCAPED BY '' LINES TERMINATED BY '\\n' ({', '.join(name for name, _ in fields)})"
        f"{f' SET {sets}' if sets else ''}"
    )
