"""Table or view as a bounded source: ranges of a key, each read by one statement with its own snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from math import prod
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.formats.readable import readable, without
from dataflows.connectors.mysql.cursors import NUMBERED, drawn_number, evidence_of, greatest_of, horizon
from dataflows.connectors.mysql.privileges import check_may_wait, mark_unreadable, may_not_wait, unreadable
from dataflows.connectors.mysql.replication import short_lag
from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.tables import TableName, describe, natives
from dataflows.connectors.mysql.texts import charsets, checked_text, key_texts, shown, text_bound, text_literal
from dataflows.connectors.mysql.types import array, bound, dated, is_binary, select_item, without_zeros
from dataflows.connectors.mysql.wire import arrays
from dataflows.connectors.reading import chunks
from dataflows.connectors.resolution import ended
from dataflows.connectors.windows import (
    Edge,
    Evidence,
    check_cursor,
    check_numbering,
    format_time,
    future_row_notes,
    null_cursor_error,
    open_transaction_notes,
    risks,
    text_window,
    time_window,
)
from dataflows.data.chunks import Chunk
from dataflows.data.cursors import CursorRule, Window, split_key
from dataflows.data.splits import Split, between
from dataflows.data.tables import Column, Table
from dataflows.data.types import column_type
from penstock.errors import AccessDenied, BadData, MissingTable, NotFound, Refused, SchemaMismatch, Unavailable

__all__ = ["MysqlReader", "MysqlSource"]

BLOCK: Final = 4 << 20
_INDEXED: Final = """
SELECT 1 FROM information_schema.statistics
WHERE table_schema = ? AND table_name = ? AND column_name = ? AND seq_in_index = 1 LIMIT 1"""


@dataclass(frozen=True, slots=True)
class MysqlSource:
    """One table or view, with a session to inspect it."""

    place: Place
    name: TableName
    session: Session
    another: Callable[[Callable[[], None]], Session]
    form = None

    @property
    def _where(self) -> str:
        return f"{self.place.where}: {self.name}"

    def describe(self) -> Table:
        found = self._described()
        if not self._cleans:
            return found
        if not any(map(dated, found.columns)):
            what, hint = f"{self.name} has no column of dates", "leave it out"
            raise Refused(what, where=f"{self.place.pipeline}: spec.clean.zero_dates", hint=hint)
        return replace(found, columns=tuple(replace(one, nullable=one.nullable or dated(one)) for one in found.columns))

    def _described(self) -> Table:
        """Return the table with what this user may not read marked: the server does not list such columns."""
        try:
            found = describe(self.session, self.name, self.place.where, sink=False)
        except MissingTable:
            self._check_seen()
            raise
        if found is None:
            message = "a source that is missing is refused"
            raise AssertionError(message)
        try:
            self.session.rows(f"SELECT * FROM {self.name.sql} LIMIT 0")
        except AccessDenied:
            return mark_unreadable(self.session, found, self.place.where)
        return found

    def _check_seen(self) -> None:
        """Refuse a table that the server does not list since this user has no privilege on it."""
        try:
            self.session.rows(f"SELECT 1 FROM {self.name.sql} LIMIT 0")
        except AccessDenied:
            raise unreadable(self.session, self.name, self.place.where) from None
        except (MissingTable, NotFound):
            return

    def estimate(self, table: Table, key: Column | None, window: Window) -> int | None:
        """Return the server's estimate; None for a view whose plan this user may not see."""
        condition = "1 = 1" if key is None else self._range(key, Split(0, window.lower, window.upper))
        extended = "EXTENDED " if self.session.mariadb else ""
        try:
            found = self.session.rows(f"EXPLAIN {extended}SELECT 1 FROM {self.name.sql} WHERE {condition}")
        except (AccessDenied, SchemaMismatch):
            return None
        outer = [row for row in found if row[0] == found[0][0]]
        return round(prod(int(row[-3] or 0) * float(row[-2] or 100) / 100 for row in outer))

    @property
    def _cleans(self) -> bool:
        """True if zero dates become NULL."""
        return self.place.clean is not None and self.place.clean.zero_dates is not None

    def split_key(self, table: Table) -> Column | None:
        return split_key(table)

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        """Return the window of this run; its end is chosen by `connectors/windows.py` so that no row is missed.

        By a time, it ends before the start of the oldest open transaction, if this user may see them (PROCESS).
        Otherwise, and by a number, the run waits for transactions that write to the table.

        Raises:
            SchemaMismatch: a lag on a column that is not a time.
            BadData: rows whose cursor is NULL; no window would ever contain them.
            Refused: a cursor by which rows would be lost; without a lag, a user who may not wait for the writers.
        """
        evidence, name = evidence_of(self.session, self.name, cursor, rule), quoted(cursor.name)
        check_cursor(evidence, rule, self._where)
        unset = ([f"{name} IS NULL"] if cursor.nullable else []) + ([_zero(cursor)] if evidence.is_time else [])
        for condition in unset:
            if self.session.rows(f"SELECT 1 FROM {self.name.sql} WHERE {condition} LIMIT 1"):
                raise null_cursor_error(cursor, self._where)
        if not evidence.is_time:
            return self._value_window(evidence, last)
        clock, seen = horizon(self.session, evidence, rule, self._where)

        def greatest(edge: Edge) -> str | None:
            return self._greatest(cursor, Split(0, last, format_time(edge.upper, cursor)))

        end = ended(evidence, rule, clock, greatest, partial(self._latest, cursor))
        if end.greatest is not None and not seen:
            self._await_writers()
        later = self._rows_above(cursor, format_time(end.edge.now, cursor))
        notes = (*future_row_notes(cursor, later), *open_transaction_notes(clock), *end.notes)
        return replace(time_window(end.edge, cursor, last, end.greatest), notes=notes)

    def _latest(self, cursor: Column, edge: Edge, rows: int, *, distinct: bool) -> list[str | None]:
        """Return the latest values, as `resolution.Latest` says."""
        upper = format_time(edge.upper, cursor)
        each = f"SELECT {'DISTINCT ' if distinct else ''}{quoted(cursor.name)} AS k FROM {self.name.sql}"
        newest = f"{each} WHERE {self._range(cursor, Split(0, None, upper))} ORDER BY k DESC LIMIT {rows}"
        return [str(row[0]) for row in self.session.rows(f"SELECT CAST(k AS CHAR) FROM ({newest}) newest")]

    def risks(self, table: Table, cursor: Column, rule: CursorRule) -> tuple[str, ...]:
        evidence = evidence_of(self.session, self.name, cursor, rule)
        check_cursor(evidence, rule, self._where)
        if not (evidence.is_time and rule.lag):
            check_may_wait(self.session, self.name, self._where, sees_transactions=evidence.is_time)
        note = short_lag(self.session, rule.lag)
        return (*risks(evidence, rule), note) if note else risks(evidence, rule)

    def min_ahead(self, table: Table, cursor: Column, rule: CursorRule) -> timedelta:
        """Return how far the clocks of sessions are ahead of UTC; without a lag it would look at transactions."""
        evidence = evidence_of(self.session, self.name, cursor, rule)
        return horizon(self.session, evidence, rule, self._where)[0].min_ahead

    def _value_window(self, evidence: Evidence, last: str | None) -> Window:
        cursor = evidence.column
        end = greatest_of(self.session, self.name, cursor)
        upper = None if end is None else str(int(end) - 1)
        found = self._greatest(cursor, Split(0, last, upper))
        if found is not None:
            self._await_writers()
        elif last is not None and end is not None and evidence.default == NUMBERED:
            drawn = drawn_number(self.session, self.name)
            check_numbering(cursor, last, drawn, lambda: self._greatest(cursor, Split(0, None, upper)), self._where)
        if found is not None and evidence.alike:
            return text_window(last, found, self._greatest(cursor, Split(0, last, found), "<"))
        beyond = 0 if upper is None else self._rows_above(cursor, upper)
        return Window(last, found, notes=future_row_notes(cursor, beyond, above=True))

    def _greatest(self, cursor: Column, split: Split, upper: str = "<=") -> str | None:
        name, condition = quoted(cursor.name), ranged(self.session, self.name, cursor, split, upper)
        query = f"SELECT {self._bounds(cursor, 'k')} FROM (SELECT max({name}) AS k FROM {self.name.sql} WHERE "
        return _bound(self.session.rows(f"{query}{condition}) s"))

    def _bounds(self, key: Column, value: str) -> str:
        """Return the expressions of a key's value for `_bound`."""
        if not column_type(key).text:
            return f"CAST({value} AS CHAR)"
        return key_texts(value, charsets(self.session, self.name).get(key.name))

    def _rows_above(self, cursor: Column, text: str) -> int:
        query = f"SELECT count(*) FROM {self.name.sql} WHERE {self._range(cursor, Split(0, text, None))}"
        return int(self.session.value(query))

    def _await_writers(self) -> None:
        """Wait until the transactions that write to the table have ended, by locking it for reading."""
        try:
            self.session.change(f"LOCK TABLES {self.name.sql} READ")
        except AccessDenied:
            raise may_not_wait(self.session, self.name, self._where) from None
        except Unavailable as error:
            hint = "a transaction has been writing for long; end it, or try again later"
            what = "rows that are not committed yet may belong to this window"
            raise Unavailable(what, where=self._where, hint=hint) from error
        else:
            self.session.change("UNLOCK TABLES")

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        """Return ranges of `rows` rows each; rows with the same key stay in one range."""
        if key is None:
            return (Split(first),)
        indexed = self.session.rows(_INDEXED, (self.name.schema, self.name.name, key.name))
        found = self._steps(key, window, rows) if indexed else self._counted(key, window, rows)
        bounds = [one for one in dict.fromkeys(found) if one != window.upper]
        return between(window.lower, bounds, window.upper, first)

    def _steps(self, key: Column, window: Window, rows: int) -> Iterator[str]:
        """Yield the bounds, each by a step through the index."""
        name, lower = quoted(key.name), window.lower
        found = self._bounds(key, name)
        while True:
            condition = self._range(key, Split(0, lower, window.upper))
            query = f"SELECT {found} FROM {self.name.sql} WHERE {condition} ORDER BY {name} LIMIT 1 OFFSET "
            lower = _bound(self.session.rows(f"{query}{rows - 1}" if rows < 1 << 40 else f"{query}{1 << 40}"))
            if lower is None:
                return
            yield lower

    def _counted(self, key: Column, window: Window, rows: int) -> Iterator[str]:
        name, condition = quoted(key.name), self._range(key, Split(0, window.lower, window.upper))
        query = (
            f"SELECT {self._bounds(key, 'k')} FROM (SELECT {name} AS k, row_number() OVER (ORDER BY {name}) AS "
            f"_penstock_n FROM {self.name.sql} WHERE {condition}) s WHERE _penstock_n % {rows} = 0 ORDER BY _penstock_n"
        )
        for row in self.session.rows(query):
            if (found := _bound([row])) is not None:
                yield found

    def _range(self, key: Column, split: Split) -> str:
        return ranged(self.session, self.name, key, split)

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return None

    def reader(self, order: ReadOrder) -> MysqlReader:
        if order.schema is None:
            message = "these servers have no undecoded rows"
            raise AssertionError(message)
        return MysqlReader(self.name, self.another, order, order.schema, self._where, self._cleans)

    def close(self) -> None:
        self.session.close()


def ranged(session: Session, name: TableName, key: Column | None, split: Split, upper: str = "<=") -> str:
    """Return the condition of a split; `upper` is how values compare with its upper bound."""
    parts = [
        f"{quoted(key.name)} {sign} {text_literal(session, name, key, text) or bound(key, text, session.literal)}"
        for sign, text in ((">", split.lower), (upper, split.upper))
        if key is not None and text is not None
    ]
    return " AND ".join(parts) or "1 = 1"


def _zero(cursor: Column) -> str:
    """Return the condition that a time is a zero date, which sorts below all others, so only a first window has it."""
    first = "1970-01-01 00:00:01" if column_type(cursor).name == "timestamp with time zone" else "0001-01-01"
    return f"{quoted(cursor.name)} < '{first}'"


def _bound(rows: Sequence[tuple[Any, ...]]) -> str | None:
    """Return the first value, a key's, as a bound; None without one."""
    if not rows or rows[0][0] is None:
        return None
    return str(rows[0][0]) if len(rows[0]) == 1 else text_bound(*rows[0])


@dataclass(slots=True)
class MysqlReader:
    """Reads splits over its own session."""

    name: TableName
    another: Callable[[Callable[[], None]], Session]
    order: ReadOrder
    schema: pa.Schema
    where: str
    cleans: bool = False
    """True if zero dates become NULL."""
    _session: Session | None = field(default=None, init=False)
    _natives: dict[str, tuple[str, str]] = field(default_factory=dict, init=False)
    _charsets: dict[str, str] = field(default_factory=dict, init=False)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the chunks of a split and its closing marker; refuse rows with values that their types cannot hold."""
        return chunks(slot, split, self._batches(split))

    def _batches(self, split: Split) -> Iterator[pa.RecordBatch | Rows]:
        session = self._connected()
        found = [self.order.table.column(name) for name in self.order.columns]
        columns = [column for column in found if column is not None]
        names = ", ".join(map(self._item, columns)) or "NULL"
        query = f"SELECT {names} FROM {self.name.sql} WHERE {ranged(session, self.name, self.order.key, split)}"
        for block, places in session.stream(query, BLOCK, self.order.batch_rows):
            yield self._batch(block, places, columns)

    def _connected(self) -> Session:
        if self._session is None:
            self._session = self.another(self.order.check)
            self._natives = natives(self._session, self.name)
            self._charsets = charsets(self._session, self.name)
        return self._session

    def _item(self, column: Column) -> str:
        item = select_item(column, self._natives.get(column.name, ("", ""))[0])
        return checked_text(item, self._charsets.get(column.name))

    def _batch(self, block: bytes, places: list[int], columns: list[Column]) -> pa.RecordBatch | Rows:
        if not columns:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(places), pa.struct([])))
        texts = arrays(block, places, [is_binary(column) for column in columns])
        made = [self._array(one, column) for one, column in zip(texts, columns, strict=True)]
        batch = pa.RecordBatch.from_arrays([one for one, _ in made], schema=self.schema)
        raw = [(one.name, found, is_binary(one)) for one, found in zip(columns, texts, strict=True)]
        return without(
            batch,
            [wrong for _, wrong in made],
            lambda at: {name: shown(found[at].cast(pa.binary()).as_py(), binary=bytes_) for name, found, bytes_ in raw},
        )

    def _array(self, texts: pa.Array, column: Column) -> tuple[pa.Array, dict[int, BadData]]:
        texts = without_zeros(texts) if self.cleans and dated(column) else texts
        wanted = self.schema.field(column.name).type
        return readable(texts, wanted, lambda part: array(part, column, wanted, self.where))

    def close(self) -> None:
        """End the session, and the query that may still be running."""
        if self._session is not None:
            self._session.close()
            self._session = None
