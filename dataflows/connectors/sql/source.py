"""A table or view of a database file as a source, in ranges of a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.reading import chunks
from dataflows.connectors.sql.database import Database
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.data.chunks import Chunk
from dataflows.data.cursors import TIMES, Window
from dataflows.data.splits import Split, between
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, column_type, parse_type
from penstock.clock import now
from penstock.errors import BadData, MissingTable, SchemaMismatch, did_you_mean

__all__ = ["DatabaseReader", "DatabaseSource"]


@dataclass(frozen=True, slots=True)
class DatabaseSource:
    """One table; sessions are opened for what has to be asked, and closed again."""

    place: Place
    name: ObjectName
    session: Callable[[Callable[[], None]], Database]
    form = None

    @property
    def _where(self) -> str:
        return f"{self.place.where}: {self.name}"

    def _opened(self) -> Database:
        return self.session(lambda: None)

    def describe(self) -> Table:
        database = self._opened()
        try:
            found = database.describe(self.name, sink=False)
            if found is None:
                hint = did_you_mean(self.name.name, database.tables(self.name.schema))
                raise MissingTable("there is no such table", where=self.place.where, value=str(self.name), hint=hint)
            return found
        finally:
            database.close()

    def split_key(self, table: Table) -> Column | None:
        for key in table.keys:
            column = table.column(key[0])
            if column is not None and arrow_type(column_type(column)) is not None and _ordered(column):
                return column
        return None

    def window(self, table: Table, cursor: Column, last: str | None, lag: timedelta) -> Window:
        """The window of this run: up to the greatest value, and of times not beyond now, in UTC, less the lag.

        Writers of one file take turns: what comes later has the greater cursor.

        Raises:
            SchemaMismatch: a lag on a column that is no time, or values whose order is not that of their type.
            BadData: rows whose cursor is NULL: no window would ever hold them.
        """
        database = self._opened()
        try:
            return self._window(database, cursor, last, lag)
        finally:
            database.close()

    def _window(self, database: Database, cursor: Column, last: str | None, lag: timedelta) -> Window:
        kind = parse_type(cursor.type).name
        if lag and kind not in TIMES:
            what = f"a lag needs a time; `{cursor.name}` is {cursor.type}"
            raise SchemaMismatch(what, where=self._where, hint="drop the lag")
        if not database.comparable(cursor):
            what = f"`{cursor.name}` of type {cursor.type} is not in order there"
            raise SchemaMismatch(what, where=self._where, hint="take a whole number or a time for a cursor")
        name, bound = quoted(cursor.name), database.bound(cursor)
        if cursor.nullable and database.rows(f"SELECT 1 FROM {self.name.sql} WHERE {name} IS NULL LIMIT 1"):
            what = f"rows without a cursor (`{cursor.name}` IS NULL) would never be read"
            hint = f"fill `{cursor.name}`, or leave such rows out by a view"
            raise BadData(what, where=self._where, hint=hint)
        condition, values = ("", []) if last is None else (f" WHERE {name} > {bound}", [database.value(cursor, last)])
        query = f"SELECT CAST(max({name}) AS VARCHAR) FROM {self.name.sql}{condition}"
        found = database.rows(query, values)[0][0]
        if found is not None and kind in TIMES:  # one row with a time to come would hide all until then
            found = self._earlier(database, cursor, found, _spelled(now() - lag, kind, like=found))
            if last is not None and self._earlier(database, cursor, found, last) == found:
                found = None
        return Window(last, found)

    def _earlier(self, database: Database, cursor: Column, one: str, other: str) -> str:
        bound = database.bound(cursor)
        values = [database.value(cursor, text) for text in (one, other)]
        return one if database.rows(f"SELECT {bound} <= {bound}", values)[0][0] else other

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        """Ranges with just `rows` rows each, as far as rows with the same key let them."""
        if key is None:
            return (Split(first),)
        database = self._opened()
        try:
            name = quoted(key.name)
            condition, values = _range(database, key, Split(0, window.lower, window.upper))
            query = (
                f"SELECT CAST(k AS VARCHAR) FROM (SELECT {name} AS k, row_number() OVER (ORDER BY {name}) AS n "
                f"FROM {self.name.sql} WHERE {condition}) s WHERE n % ? = 0 ORDER BY n"
            )
            found = [row[0] for row in database.rows(query, (*values, rows))]
        finally:
            database.close()
        bounds = [one for one in dict.fromkeys(found) if one is not None and one != window.upper]
        return between(window.lower, bounds, window.upper, first)

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return None

    def reader(self, order: ReadOrder) -> DatabaseReader:
        if order.schema is None:
            message = "such databases hand out no undecoded rows"
            raise AssertionError(message)
        return DatabaseReader(self.name, self.session, order, order.schema)

    def close(self) -> None:
        """Nothing is held."""


def _ordered(column: Column) -> bool:
    return parse_type(column.type).name in {
        "smallint",
        "integer",
        "bigint",
        "text",
        "uuid",
        "date",
        "timestamp without time zone",
        "timestamp with time zone",
    }


def _spelled(at: datetime, kind: str, *, like: str) -> str:
    """The time as text that is in order with `like`, whose date and clock stand apart by a blank or a T."""
    if kind == "date":
        return str(at.date())
    text = at.strftime(f"%Y-%m-%d{'T' if like[10:11] == 'T' else ' '}%H:%M:%S.%f")
    return f"{text}Z" if kind == "timestamp with time zone" else text


def _range(database: Database, key: Column | None, split: Split) -> tuple[str, list[Any]]:
    """The condition of a split, with the values that are bound in it."""
    parts, values = [], []
    for sign, text in ((">", split.lower), ("<=", split.upper)):
        if key is not None and text is not None:
            parts.append(f"{quoted(key.name)} {sign} {database.bound(key)}")
            values.append(database.value(key, text))
    return " AND ".join(parts) or "1 = 1", values


@dataclass(slots=True)
class DatabaseReader:
    """Reads splits over one session of its own."""

    name: ObjectName
    session: Callable[[Callable[[], None]], Database]
    order: ReadOrder
    schema: pa.Schema
    _database: Database | None = field(default=None, init=False)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """The chunks of a split and its closing marker.

        Raises:
            BadData: a value that its column's type cannot hold exactly.
        """
        return chunks(slot, split, self._batches(split))

    def _batches(self, split: Split) -> Iterator[pa.RecordBatch]:
        self._database = self._database or self.session(self.order.check)
        condition, values = _range(self._database, self.order.key, split)
        found = [self.order.table.column(name) for name in self.order.columns]
        columns = [column for column in found if column is not None]
        yield from self._database.batches(self.name, columns, condition, values, self.schema, self.order.batch_rows)

    def close(self) -> None:
        """End the session."""
        if self._database is not None:
            self._database.close()
            self._database = None
