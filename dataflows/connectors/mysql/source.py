"""A table or view as a bounded source: ranges of a key, each read by one statement at a point in time of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import pyarrow as pa

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.tables import TableName, describe, natives
from dataflows.connectors.mysql.types import array, bound, is_binary, selected
from dataflows.connectors.mysql.wire import arrays
from dataflows.connectors.reading import chunks
from dataflows.data.chunks import Chunk
from dataflows.data.cursors import TIMES, Window, split_key
from dataflows.data.splits import Split, between
from dataflows.data.tables import Column, Table
from dataflows.data.types import parse_type
from penstock.errors import AccessDenied, BadData, Refused, SchemaMismatch, Unavailable

__all__ = ["MysqlReader", "MysqlSource"]

BLOCK: Final = 4 << 20
_INDEXED: Final = """
SELECT 1 FROM information_schema.statistics
WHERE table_schema = ? AND table_name = ? AND column_name = ? AND seq_in_index = 1 LIMIT 1"""


@dataclass(frozen=True, slots=True)
class MysqlSource:
    """One table, and a session for what has to be asked."""

    place: Place
    name: TableName
    session: Session
    another: Callable[[Callable[[], None]], Session]
    form = None

    @property
    def _where(self) -> str:
        return f"{self.place.where}: {self.name}"

    def describe(self) -> Table:
        found = describe(self.session, self.name, self.place.where, sink=False)
        if found is None:
            message = "a source that is missing is refused"
            raise AssertionError(message)
        return found

    def split_key(self, table: Table) -> Column | None:
        return split_key(table)

    def window(self, table: Table, cursor: Column, last: str | None, lag: timedelta) -> Window:
        """The window of this run: above `last`, up to the greatest value now, and older than `lag` by its clock.

        Transactions that write to the table when the window's end is taken are waited for, so that a row that is
        committed after it is not passed by. A value that was given before the row's INSERT needs a lag longer than the
        longest transaction.

        Raises:
            SchemaMismatch: a lag on a column that is no time.
            BadData: rows whose cursor is NULL: no window would ever hold them.
            Refused: without a lag, a user who may not wait for the writers.
        """
        kind, name = parse_type(cursor.type), quoted(cursor.name)
        if lag and kind.name not in TIMES:
            what = f"a lag needs a time; `{cursor.name}` is {cursor.type}"
            raise SchemaMismatch(what, where=self._where, hint="drop the lag")
        if cursor.nullable and self.session.rows(f"SELECT 1 FROM {self.name.sql} WHERE {name} IS NULL LIMIT 1"):
            what = f"rows without a cursor (`{cursor.name}` IS NULL) would never be read"
            hint = f"fill `{cursor.name}`, or leave such rows out by a view"
            raise BadData(what, where=self._where, hint=hint)
        condition = self._range(cursor, Split(0, last, None))
        top = "top"
        if kind.name in TIMES:
            now = f"NOW(6) - INTERVAL {lag // timedelta(microseconds=1)} MICROSECOND"
            top = f"LEAST(top, {f'CAST({now} AS DATE)' if kind.name == 'date' else now})"
        query = f"SELECT CAST({top} AS CHAR) FROM (SELECT max({name}) AS top FROM {self.name.sql} WHERE {condition}) m"
        found = self.session.value(query)
        if found is not None and last is not None and kind.name in TIMES:
            later = f"SELECT {self._time(cursor, last)} < {self._time(cursor, found)}"
            found = found if self.session.value(later) else None
        if found is not None:
            self._await_writers(waited=bool(lag))
        return Window(last, found)

    def _await_writers(self, *, waited: bool) -> None:
        """Wait until the transactions that write to the table have ended: it can be locked for reading only then."""
        try:
            self.session.change(f"LOCK TABLES {self.name.sql} READ")
        except AccessDenied:
            if not waited:
                hint = "give the cursor a lag, or grant LOCK TABLES to the connection's user"
                raise Refused("late rows cannot be waited for", where=self._where, hint=hint) from None
        except Unavailable as error:
            hint = "a transaction has been writing for long; end it, or try again later"
            what = "rows that are not committed yet may belong to this window"
            raise Unavailable(what, where=self._where, hint=hint) from error
        else:
            self.session.change("UNLOCK TABLES")

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        """Ranges with just `rows` rows each, as far as rows with the same key let them."""
        if key is None:
            return (Split(first),)
        indexed = self.session.rows(_INDEXED, (self.name.schema, self.name.name, key.name))
        found = self._steps(key, window, rows) if indexed else self._counted(key, window, rows)
        bounds = [one for one in dict.fromkeys(found) if one != window.upper]
        return between(window.lower, bounds, window.upper, first)

    def _steps(self, key: Column, window: Window, rows: int) -> Iterator[str]:
        """Each bound by a step through the index."""
        name, lower = quoted(key.name), window.lower
        while True:
            condition = self._range(key, Split(0, lower, window.upper))
            query = (
                f"SELECT CAST({name} AS CHAR) FROM {self.name.sql} WHERE {condition} ORDER BY {name} LIMIT 1 OFFSET "
            )
            lower = self.session.value(f"{query}{rows - 1}" if rows < 1 << 40 else f"{query}{1 << 40}")
            if lower is None:
                return
            yield lower

    def _counted(self, key: Column, window: Window, rows: int) -> Iterator[str]:
        name, condition = quoted(key.name), self._range(key, Split(0, window.lower, window.upper))
        query = (
            f"SELECT CAST(k AS CHAR) FROM (SELECT {name} AS k, row_number() OVER (ORDER BY {name}) AS n "
            f"FROM {self.name.sql} WHERE {condition}) s WHERE n % {rows} = 0 ORDER BY n"
        )
        yield from (row[0] for row in self.session.rows(query))

    def _time(self, key: Column, text: str) -> str:
        kind = "DATE" if parse_type(key.type).name == "date" else "DATETIME(6)"
        return f"CAST({bound(key, text, self.session.literal)} AS {kind})"

    def _range(self, key: Column, split: Split) -> str:
        return ranged(self.session, key, split)

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return None

    def reader(self, order: ReadOrder) -> MysqlReader:
        if order.schema is None:
            message = "such servers hand out no undecoded rows"
            raise AssertionError(message)
        return MysqlReader(self.name, self.another, order, order.schema, self._where)

    def close(self) -> None:
        self.session.close()


def ranged(session: Session, key: Column | None, split: Split) -> str:
    """The condition of a split."""
    parts = [
        f"{quoted(key.name)} {sign} {bound(key, text, session.literal)}"
        for sign, text in ((">", split.lower), ("<=", split.upper))
        if key is not None and text is not None
    ]
    return " AND ".join(parts) or "1 = 1"


@dataclass(slots=True)
class MysqlReader:
    """Reads splits over one session of its own."""

    name: TableName
    another: Callable[[Callable[[], None]], Session]
    order: ReadOrder
    schema: pa.Schema
    where: str
    _session: Session | None = field(default=None, init=False)
    _natives: dict[str, tuple[str, str]] = field(default_factory=dict, init=False)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """The chunks of a split and its closing marker.

        Raises:
            BadData: a value that its column's type cannot hold exactly.
        """
        return chunks(slot, split, self._batches(split))

    def _batches(self, split: Split) -> Iterator[pa.RecordBatch]:
        session = self._connected()
        found = [self.order.table.column(name) for name in self.order.columns]
        columns = [column for column in found if column is not None]
        names = ", ".join(selected(one, self._natives.get(one.name, ("", ""))[0]) for one in columns) or "NULL"
        query = f"SELECT {names} FROM {self.name.sql} WHERE {ranged(session, self.order.key, split)}"
        for block, places in session.stream(query, BLOCK, self.order.batch_rows):
            yield self._batch(block, places, columns)

    def _connected(self) -> Session:
        if self._session is None:
            self._session = self.another(self.order.check)
            self._natives = natives(self._session, self.name)
        return self._session

    def _batch(self, block: bytes, places: list[int], columns: list[Column]) -> pa.RecordBatch:
        if not columns:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(places), pa.struct([])))
        texts = arrays(block, places, [is_binary(column) for column in columns])
        made = [
            array(one, column, self.schema.field(column.name).type, self.where)
            for one, column in zip(texts, columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(made, schema=self.schema)

    def close(self) -> None:
        """End the session, and the query that it may still be running."""
        if self._session is not None:
            self._session.close()
            self._session = None
