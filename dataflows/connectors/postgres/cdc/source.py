"""A table as the source of a stream of its changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final, Never

from dataflows.connectors.contract import Place, ReadOrder, SplitReader
from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.postgres.cdc.catalog import Shape, check_server, check_table, shape, withdraw
from dataflows.connectors.postgres.cdc.company import Company
from dataflows.connectors.postgres.cdc.layouts import Layouts
from dataflows.connectors.postgres.cdc.names import Names
from dataflows.connectors.postgres.cdc.positions import PART, PENDING, Position
from dataflows.connectors.postgres.cdc.reader import ChangeReader, decoder_of
from dataflows.connectors.postgres.cdc.slots import drop_slot, drop_slots, find, newest, written
from dataflows.connectors.postgres.cdc.snapshot import Snapshot
from dataflows.connectors.postgres.privileges import mark_unreadable
from dataflows.connectors.postgres.session import connect, release, translated
from dataflows.connectors.postgres.tables import TableName, describe
from dataflows.connectors.streaming import Beginning, Restarted, SlotHealth, StreamOrder
from dataflows.data.changes import CHANGE, CHANGE_COLUMN, COMMITTED, COMMITTED_COLUMN, LOG_COLUMNS, of_table
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from penstock.errors import AccessDenied, Refused, SchemaMismatch, Unavailable

__all__ = ["PostgresChanges"]

SECONDS: Final = 60.0
ADDS_TABLES: Final = {13: 21, 14: 18, 15: 13, 16: 9, 17: 5}
"""Minor versions from which on a session sees all changes of a table that is added to its publication. Older ones lose
those after a transaction that has written to the table before and after it was added."""


class PostgresChanges:
    """The changes of one table."""

    form = None

    def __init__(self, place: Place, table: TableName, dsn: str) -> None:
        self._place, self._where, self._table, self._dsn = place, place.where, table, dsn
        self._names = Names(place.stream or "", place.shared.id if place.shared else None)
        self._session = connect(dsn, where=place.where, name="penstock:source", statement=SECONDS, whole=True)
        self._company = self._meeting(place)
        if self._company is not None:
            self._company.comes_back(self._names.uid)
        self._snapshot: Snapshot | None = None
        self._kept: dict[int, list[Rows]] = {}

    def _meeting(self, place: Place) -> Company | None:
        """Return where the stream meets others of its set; None if it has to have a slot of its own."""
        slot, folder = self._names.shared, place.shared.folder if place.shared else None
        version = self._session.info.server_version
        if slot is None or folder is None or version % 10000 < ADDS_TABLES.get(version // 10000, 0):
            return None
        return Company(folder, slot, self._dsn, place.where)

    def describe(self) -> Table:
        """Return the table, after a check of all that its changes need.

        Raises:
            Unavailable: it was changed since it was described before.
        """
        check_server(self._session, self._names, self._where)  # a standby could not even say where its WAL ends
        found, now = self._seen()
        reserved = {one.name for one in LOG_COLUMNS} if self._logs else {CHANGE, COMMITTED}
        if taken := next((one.name for one in found.columns if one.name in reserved), None):
            what = f"a stream of changes has a column `{taken}` of its own"
            raise Refused(what, where=self._where, value=str(self._table), hint="rename the table's")
        check_table(self._session, self._table, self._names, self._where)
        self._snapshot = self._snapshot or Snapshot(self._dsn, self._table, self._names, self._where, now)
        if self._snapshot.shape.columns != now.columns:
            raise Unavailable("the table was changed while the stream began", where=self._where, hint="try again")
        found = self._readable(found)
        sent = tuple(one for one in found.columns if one.name in now.columns)
        if self._logs:  # a deletion has only the key, and a truncation not even that
            return replace(found, columns=(*(replace(one, nullable=True) for one in sent), *LOG_COLUMNS), keys=())
        history = (COMMITTED_COLUMN,) if self._place.write == "scd2" else ()
        return replace(found, columns=(*sent, *history, CHANGE_COLUMN))

    def _seen(self) -> tuple[Table, Shape]:
        """Return the table and its shape, as of one moment: a position records of each column whether it was read."""
        now = shape(self._session, self._table, self._where)
        while True:
            found = describe(self._session, self._table, self._where)
            before, now = now, shape(self._session, self._table, self._where)
            if now is not None and now == before:
                return found, now

    @property
    def _logs(self) -> bool:
        """True if each change is to be a row of its own."""
        return self._place.write == "append"

    def _readable(self, table: Table) -> Table:
        """Return the table with what the user may not read marked: the snapshot reads it."""
        try:
            with translated(self._where):
                self._session.execute(f"SELECT * FROM {self._table.sql} LIMIT 0")
        except AccessDenied as error:
            return mark_unreadable(self._session, table, error, self._where)
        return table

    # -- as a source of changes --

    @property
    def identity(self) -> tuple[str, ...] | None:
        """Columns by which an update or delete names its row; None if it sends all."""
        return self._begun.shape.identity

    @property
    def unsent(self) -> frozenset[str]:
        """Columns whose values an update may leave out."""
        return self._begun.shape.unsent

    @property
    def _begun(self) -> Snapshot:
        if self._snapshot is None:
            self.describe()
        assert self._snapshot is not None  # noqa: S101 - made by `describe`
        return self._snapshot

    def beginnings(self, known: Mapping[str, str], begin: Beginning) -> Mapping[str, str]:
        if begin != "earliest":
            what = "a stream of changes begins with a snapshot of the table"
            raise Refused(what, where=f"{self._place.pipeline}: spec.source.from", hint="leave it out")
        return {} if PART in known else {PART: PENDING}

    def restarted(self, known: Mapping[str, str], begin: Beginning | Mapping[str, str]) -> Restarted:
        if begin != "earliest":
            what = "a stream of changes can only begin again with a snapshot of the table"
            raise Refused(what, where=self._where, hint="write --from earliest")
        then = {
            "append": "all rows are appended once more, and changes until then are missing between",
            "scd2": "a new snapshot is compared with the current rows; changes until then are not in the history",
        }
        shifts = (
            [then.get(self._place.write, "a new snapshot replaces all rows of the target")] if PART in known else []
        )
        return Restarted({PART: PENDING}, shifts)

    def filled(self, known: Mapping[str, str], columns: Collection[str]) -> Mapping[str, str | None]:
        """Return those of `columns` that are new since the positions, with the value of all older rows."""
        at = Position.parse(known.get(PART, PENDING))
        if at is None:
            return {}
        sent = self._begun.shape.columns
        new = [name for name in columns if name in sent and name not in at.columns and sent[name].number > at.numbered]
        return {name: sent[name].filled for name in new}

    @property
    def lag_unit(self) -> str:
        return "bytes"

    def behind(self, positions: Mapping[str, str]) -> Mapping[str, int]:
        """Return how much WAL was written since the position, or since the reader has seen that nothing else is new."""
        at = Position.parse(positions.get(PART, PENDING))
        if at is None:
            return {}
        return {PART: max(0, written(self._session, self._where) - max(at.lsn, self._begun.seen))}

    def slot(self) -> SlotHealth | None:
        """Return the slot that the pipeline made last, or else that of its set, with what it keeps for this one."""
        one = newest(self._session, self._names.uid, self._where)
        if one is None and self._names.shared is not None:
            one = find(self._session, self._names.shared, self._where)
        if one is None:
            return None
        retained, kept = one.retained, self._committed
        if one.name == self._names.shared and (kept or one.pid is not None):
            retained = min(retained, max(0, written(self._session, self._where) - kept)) if kept else 0
        return SlotHealth(one.name, one.pid is not None, one.status, retained, one.room)

    @property
    def _committed(self) -> int:
        """The place up to which the sink has the changes; 0 before they are read."""
        return self._snapshot.kept if self._snapshot is not None else 0

    def give_up(self, name: str) -> None:
        """Drop a slot, if it is there; that of a set is kept for other members once this one has read from it."""
        found = find(self._session, name, self._where)
        if found is None:
            return
        if name != self._names.shared or (found.pid is None and not self._committed):
            drop_slot(self._session, name, self._where)
        elif self._company is not None:
            self._company.give_up()

    def stream(self, order: StreamOrder) -> ChangeReader:
        snapshot, names = self._begun, of_table(order.read.columns)
        missing = [name for name in names if name not in snapshot.shape.columns]
        if missing:
            raise SchemaMismatch("the server does not send its values", where=self._where, value=", ".join(missing))
        key = snapshot.shape.key if self._logs else order.key
        layouts = Layouts(names, key, snapshot.shape, self._where, snapshot.look, order.named)
        decoder = decoder_of(order, self._dsn, f"{self._where}: {self._table}")
        return ChangeReader(order, self._where, snapshot, layouts, decoder, self._kept, self._company)

    def forget(self) -> None:
        """Drop the slots and the publication of a deleted pipeline; those of a set with its last table."""
        drop_slots(self._session, self._names.uid, None, None, self._where)
        gone = withdraw(self._session, self._table, self._names, self._where)
        if gone and self._names.shared is not None:
            self._drop_shared(self._names.shared)

    def _drop_shared(self, name: str) -> None:
        """Drop the slot of a set without tables."""
        if find(self._session, name, self._where) is not None:
            drop_slot(self._session, name, self._where)
        if self._company is not None:
            self._company.forget()

    # -- what a batch would need --

    def split_key(self, table: Table) -> Column | None:
        return None

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        self._endless()

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        self._endless()

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return None

    def reader(self, order: ReadOrder) -> SplitReader:
        self._endless()

    def _endless(self) -> Never:
        where = f"{self._place.pipeline}: spec.mode"
        raise Refused("changes cannot be read as a batch", where=where, hint="write mode: stream")

    def close(self) -> None:
        if self._company is not None:
            self._company.close()
        if self._snapshot is not None:
            self._snapshot.end()
        release(self._session)
