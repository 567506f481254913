"""A table or view of a database file as a source, in ranges of a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.reading import chunks
from dataflows.connectors.resolution import ended
from dataflows.connectors.sql.database import Database, Selection
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.connectors.windows import (
    MAX_VALUES,
    Clock,
    Edge,
    Evidence,
    check_cursor,
    check_numbering,
    future_row_notes,
    null_cursor_error,
    risks,
    text_window,
    time_window,
)
from dataflows.data.chunks import Chunk
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.splits import Split, between
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, column_type, parse_type
from penstock.clock import now
from penstock.errors import BadData, MissingTable, SchemaMismatch, did_you_mean

__all__ = ["DatabaseReader", "DatabaseSource"]


@dataclass(frozen=True, slots=True)
class DatabaseSource:
    """One table or view; a session is opened for each question, and closed again."""

    place: Place
    name: ObjectName
    session: Callable[[Callable[[], None]], Database]
    form = None

    @property
    def _where(self) -> str:
        return f"{self.place.where}: {self.name}"

    def _opened(self) -> Database:
        return self.session(lambda: None)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a session open, so that a library that locks the file keeps it locked."""
        with closing(self._opened()):
            yield

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

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        """Return the window of this run; its end is chosen by `connectors/windows.py` so that no row is missed.

        Only one writer at a time can write to a file, so a later row has a greater cursor.

        Raises:
            Refused: a cursor by which rows would be lost.
            SchemaMismatch: a lag on a column that is not a time, or values that are not ordered as their type is.
            BadData: rows whose cursor is NULL; no window would ever contain them.
        """
        with closing(self._opened()) as database:
            evidence = self._checked(database, cursor, rule)
            name = quoted(cursor.name)
            if cursor.nullable and database.rows(f"SELECT 1 FROM {self.name.sql} WHERE {name} IS NULL LIMIT 1"):
                raise null_cursor_error(cursor, self._where)
            outside = database.outside_ranges(cursor)
            if outside and database.rows(f"SELECT 1 FROM {self.name.sql} WHERE {outside} LIMIT 1"):
                raise self._of_another_class(cursor)
            if evidence.is_time:
                return self._time_window(database, evidence, last, rule)
            return self._value_window(database, evidence, last, vouched=rule.ordered)

    def risks(self, table: Table, cursor: Column, rule: CursorRule) -> tuple[str, ...]:
        with closing(self._opened()) as database:
            return risks(self._checked(database, cursor, rule), rule)

    def estimate(self, table: Table, key: Column | None, window: Window) -> int | None:
        """Return the exact number: such files are small, or count fast."""
        with closing(self._opened()) as database:
            if key is not None:
                return self._count(database, key, Split(0, window.lower, window.upper))
            return int(database.rows(f"SELECT count(*) FROM {self.name.sql}")[0][0])

    def _checked(self, database: Database, cursor: Column, rule: CursorRule) -> Evidence:
        kind = parse_type(cursor.type).name
        coarse = zone = None
        if kind.startswith("timestamp"):
            coarse, ordered = database.times(self.name, cursor)
            if not ordered:
                what = f"times in `{cursor.name}` are texts of several forms, or not in UTC, and sort otherwise"
                hint = "write each as 2024-01-01 12:00:00.250 or each as 2024-01-01T12:00:00.250Z"
                raise SchemaMismatch(what, where=self._where, hint=hint)
        if kind in {"date", "timestamp without time zone"}:
            zone = rule.timezone or "UTC"
        alike = database.alike(self.name, cursor) if column_type(cursor).text else None
        evidence = Evidence(cursor, coarse=coarse, zone=zone, client=cursor.constant or not cursor.default, alike=alike)
        check_cursor(evidence, rule, self._where)
        if not database.comparable(cursor):
            what = f"the database does not order `{cursor.name}` of type {cursor.type} as that type is ordered"
            raise SchemaMismatch(what, where=self._where, hint="use a whole number or a time as the cursor")
        return evidence

    def _time_window(self, database: Database, evidence: Evidence, last: str | None, rule: CursorRule) -> Window:
        column = evidence.column
        clock = Clock.of_this_machine(now(), rule)
        top = database.key_text(column, f"max({quoted(column.name)})")
        like = next(iter(database.bounds(f"SELECT {top} FROM {self.name.sql}", (), column)), None) or ""
        spell = partial(_spelled, kind=parse_type(column.type).name, like=like)

        def greatest(edge: Edge) -> str | None:
            return self._greatest(database, column, Split(0, last, spell(edge.upper)))

        def latest(edge: Edge, rows: int, *, distinct: bool) -> Sequence[str | None]:
            return self._latest(database, column, spell(edge.upper), rows, distinct=distinct)

        end = ended(evidence, rule, clock, greatest, latest)
        later = self._count(database, column, Split(0, spell(end.edge.now), None))
        notes = (*future_row_notes(column, later), *end.notes)
        return replace(time_window(end.edge, column, last, end.greatest, spell), notes=notes)

    def _latest(
        self, database: Database, column: Column, upper: str, rows: int, *, distinct: bool
    ) -> Sequence[str | None]:
        """Return as many of the values up to `upper`, the greatest first; without repeats if `distinct`."""
        condition, values = _range(database, column, Split(0, None, upper))
        each = f"SELECT {'DISTINCT ' if distinct else ''}{quoted(column.name)} AS k FROM {self.name.sql}"
        newest = f"{each} WHERE {condition} ORDER BY k DESC LIMIT {rows}"
        return database.bounds(f"SELECT {database.key_text(column, 'k')} FROM ({newest}) s", values, column)

    def _value_window(self, database: Database, evidence: Evidence, last: str | None, *, vouched: bool) -> Window:
        """Return the window of numbers or texts; `vouched` says that no number is used again."""
        column = evidence.column
        end = MAX_VALUES.get(parse_type(column.type).name)
        below = str(int(end) - 1) if end is not None and end.isdecimal() else None
        found = self._greatest(database, column, Split(0, last, below))
        if found is None and last is not None and column_type(column).integer and not vouched:
            drawn, also = database.drawn(self.name, column), "; or `cursor: {ordered: true}` if no number is used again"
            greatest = partial(self._greatest, database, column, Split(0, None, below))
            check_numbering(column, last, drawn, greatest, self._where, also)
        if found is not None and evidence.alike:
            return text_window(last, found, self._greatest(database, column, Split(0, last, found), "<"))
        beyond = self._count(database, column, Split(0, below, None)) if below is not None else 0
        return Window(last, found, notes=future_row_notes(column, beyond, above=True))

    def _greatest(self, database: Database, column: Column, split: Split, upper: str = "<=") -> str | None:
        condition, values = _range(database, column, split, upper)
        greatest = database.key_text(column, f"max({quoted(column.name)})")
        query = f"SELECT {greatest} FROM {self.name.sql} WHERE {condition}"
        found = database.bounds(query, values, column)
        if not found:
            raise self._of_another_class(column)
        return found[0]

    def _of_another_class(self, cursor: Column) -> BadData:
        what = f"`{cursor.name}` holds values of another class than {cursor.type}, which would never be read"
        return BadData(what, where=self._where, hint="correct them, or leave such rows out by a view")

    def _count(self, database: Database, column: Column, split: Split) -> int:
        condition, values = _range(database, column, split)
        return int(database.rows(f"SELECT count(*) FROM {self.name.sql} WHERE {condition}", values)[0][0])

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        """Return ranges of `rows` rows each; rows with the same key stay in one range."""
        if key is None:
            return (Split(first),)
        database = self._opened()
        try:
            name = quoted(key.name)
            condition, values = _range(database, key, Split(0, window.lower, window.upper))
            query = (
                f"SELECT k FROM (SELECT {database.key_text(key, name)} AS k, row_number() OVER (ORDER BY {name}) AS n "
                f"FROM {self.name.sql} WHERE {condition}) s WHERE n % ? = 0 ORDER BY n"
            )
            found = database.bounds(query, (*values, rows), key)
        finally:
            database.close()
        bounds = [one for one in dict.fromkeys(found) if one is not None and one != window.upper]
        return between(window.lower, bounds, window.upper, first)

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return None

    def reader(self, order: ReadOrder) -> DatabaseReader:
        if order.schema is None:
            message = "these databases have no undecoded rows"
            raise AssertionError(message)
        return DatabaseReader(self.name, self.session, order, order.schema)

    def close(self) -> None:
        """Do nothing: no session stays open."""


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
    """Return the time as text in the form of `like`, which separates date and clock by a blank or a T."""
    if kind == "date":
        return str(at.date())
    text = at.strftime(f"%Y-%m-%d{'T' if like[10:11] == 'T' else ' '}%H:%M:%S.%f")
    return f"{text}Z" if kind == "timestamp with time zone" else text


def _range(database: Database, key: Column | None, split: Split, upper: str = "<=") -> tuple[str, list[Any]]:
    """Return the condition of a split, and the values of its placeholders; `upper` compares with its upper bound."""
    parts, values = [], []
    for sign, text in ((">", split.lower), (upper, split.upper)):
        if key is not None and text is not None:
            parts.append(f"{quoted(key.name)} {sign} {database.bound(key)}")
            values.append(database.value(key, text))
    return " AND ".join(parts) or "1 = 1", values


@dataclass(slots=True)
class DatabaseReader:
    """Reads splits over its own session."""

    name: ObjectName
    session: Callable[[Callable[[], None]], Database]
    order: ReadOrder
    schema: pa.Schema
    _database: Database | None = field(default=None, init=False)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the chunks of a split and its closing marker; refuse rows with values that their types cannot hold."""
        return chunks(slot, split, self._batches(split))

    def _batches(self, split: Split) -> Iterator[Rows]:
        self._database = self._database or self.session(self.order.check)
        condition, values = _range(self._database, self.order.key, split)
        found = [self.order.table.column(name) for name in self.order.columns]
        columns = [column for column in found if column is not None]
        yield from self._database.batches(
            Selection(self.name, columns, condition, values, self.schema, self.order.batch_rows)
        )

    def close(self) -> None:
        """End the session."""
        if self._database is not None:
            self._database.close()
            self._database = None
