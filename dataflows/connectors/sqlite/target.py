"""Table of an SQLite file as a sink whose columns can grow, although SQLite cannot alter a column.

A declared type is a text in SQLite's own table of tables, which is edited in the transaction of the change, as SQLite's
documentation describes for changes that leave the stored rows as they are. What the new type stores otherwise, such as
whole numbers in a column of decimals, is written again in the same transaction. SQLite then says what it has read: if
a column is not as it should be, or another one has changed, everything is rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dataflows.connectors.sql.names import quoted
from dataflows.connectors.sql.target import DatabaseTarget
from dataflows.connectors.sql.tombstones import Tombstones
from dataflows.connectors.sqlite.database import COLUMNS
from dataflows.connectors.sqlite.declarations import Declared, redeclared
from dataflows.data.tables import Column, Table
from dataflows.data.types import SqlType, column_type
from penstock.errors import Refused, SchemaMismatch

__all__ = ["SqliteTarget"]

_TABLE: Final = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE"
_KIND: Final = "SELECT type, strict, wr FROM pragma_table_list(?) WHERE schema = 'main'"
_KEYS: Final = """
SELECT m.name, k."table", k."from", k."to" FROM sqlite_schema m, pragma_foreign_key_list(m.name) k
WHERE m.type = 'table' AND ? IN (lower(m.name), lower(k."table"))"""
_CHECK: Final = "change it by hand, by a new table in its place"


@dataclass(frozen=True, slots=True)
class SqliteTarget(DatabaseTarget):
    """Table as a sink, with columns that can get types that store more values, and allow NULL."""

    def widen_statements(self, columns: tuple[Column, ...]) -> tuple[str, ...]:
        """Return the statements that edit the table's text, and those that write values again.

        Raises:
            SchemaMismatch: the table, or the column's part in it, is one whose types cannot be edited safely.
        """
        there = self.describe()
        changes = {} if there is None else dict(_changes(there, columns))
        if there is None or not changes:
            return ()
        self._check(there, changes)
        declared = {
            name: Declared(
                None if one.type == now.type else self.database.ddl_type(one), one.nullable and not now.nullable
            )
            for name, (now, one) in changes.items()
        }
        ((before,),) = self.database.rows(_TABLE, (self.name.name,))
        after = redeclared(before, declared)
        if after is None:
            raise self._error("its CREATE TABLE statement cannot be parsed")
        ((version,),) = self.database.rows("PRAGMA schema_version")
        text, name = (one.replace("'", "''") for one in (after, self.name.name))
        rewritten = [made for now, one in changes.values() if (made := self._rewritten(now, one))]
        return (
            "PRAGMA writable_schema = ON",
            f"UPDATE sqlite_schema SET sql = '{text}' WHERE type = 'table' AND name = '{name}' COLLATE NOCASE",
            f"PRAGMA schema_version = {version + 1}",
            "PRAGMA writable_schema = RESET",
            *rewritten,
            *([f"REINDEX {self.name.sql}"] if rewritten else []),
        )

    def widen_columns(self, columns: tuple[Column, ...]) -> None:
        """Change the columns. Inside `state.owned`.

        Raises:
            Refused: SQLite does not read the edited text as intended; nothing is changed.
        """
        statements = self.widen_statements(columns)
        if not statements:
            return
        before = self.database.rows(COLUMNS, (self.name.name,))
        with self._schema():
            for statement in (*statements, "SELECT 1 FROM sqlite_schema"):  # the last one reads the edited text
                self.database.change(statement)  # none has to wait: the transaction holds the lock
            self._check_shape(before, columns)

    @contextmanager
    def _schema(self) -> Iterator[None]:
        """Let the session edit SQLite's own table for a while only."""
        try:
            yield
        finally:
            self.database.change("PRAGMA writable_schema = OFF")

    def _check_shape(self, before: list[tuple[object, ...]], columns: tuple[Column, ...]) -> None:
        """Check that SQLite reads every other column as before, and these as they should be."""
        changed = {one.name for one in columns}
        after = self.database.rows(COLUMNS, (self.name.name,))
        others = [[row for row in rows if row[0] not in changed] for rows in (before, after)]
        same = [[(row[0], *row[3:]) for row in rows] for rows in (before, after)]
        there = self.describe()
        made = [there.column(one.name) if there else None for one in columns]
        fits = all(
            now is not None and now.type == one.type and now.nullable >= one.nullable
            for now, one in zip(made, columns, strict=True)
        )
        if others[0] != others[1] or same[0] != same[1] or not fits:
            raise Refused("SQLite does not read the changed types as they were meant", where=self._at, hint=_CHECK)

    def _check(self, there: Table, changes: dict[str, tuple[Column, Column]]) -> None:
        kind = self.database.rows(_KIND, (self.name.name,))
        if not kind or kind[0][0] != "table" or kind[0][1]:
            raise self._error("it is a strict or virtual table")
        keys = [(str(row[0]), str(row[1])) for row in self.database.rows(COLUMNS, (self.name.name,)) if row[4]]
        for name, declared in keys:
            if declared.upper() == "INTEGER" and name in changes:
                raise self._error(f"`{name}` is the number of its rows")
        rewritten = {name for name, (now, one) in changes.items() if self._rewritten(now, one)}
        if rewritten:
            self._check_rewritten(rewritten, {name for name, _ in keys}, without_rowid=bool(kind[0][2]))

    def _check_rewritten(self, names: set[str], key: set[str], *, without_rowid: bool) -> None:
        """Refuse to write values again on which something else depends."""
        if triggers := self.database.triggers(self.name):
            raise self._error(f"{triggers[0]} would see its values change")
        if without_rowid and (found := sorted(names & key)):
            raise self._error(f"its rows are stored by the values of `{found[0]}` (WITHOUT ROWID)")
        folded, table = {one.lower() for one in names}, self.name.name.lower()
        for child, parent, column, to in self.database.rows(_KEYS, (table,)):
            own = {column} if child.lower() == table else set[str]()
            own |= ({to} if to else key) if parent.lower() == table else set()
            if folded & {one.lower() for one in own}:
                raise self._error(f"a foreign key of {child} to {parent} compares its values")
        write = self.owner.write
        gone = Tombstones.of(self.owner.uid, self.name, write.key, write.version, write.delete)
        kept = {*gone.key, gone.version} if gone and self.database.describe(gone.table, sink=True) else set[str]()
        if found := sorted(names & kept):
            raise self._error(f"deleted rows are remembered by the values of `{found[0]}`")

    def _rewritten(self, now: Column, one: Column) -> str | None:
        """Return the statement that writes a column's values as the new type stores them; None if they are so already.

        Raises:
            SchemaMismatch: they would have to be, and it is not known how.
        """
        old, new, name = column_type(now), column_type(one), quoted(one.name)
        if now.type == one.type or _stored(old) == _stored(new):
            return None
        if new.name == "numeric" and old.integer:
            value, where = f"{name} || '{_fraction(new.scale or 0)}'", f"typeof({name}) = 'integer'"
        elif new.name == old.name == "numeric":
            zeros = _fraction(new.scale or 0)[len(_fraction(old.scale or 0)) :]
            value, where = f"{name} || '{zeros}'", f"typeof({name}) = 'text'"
        elif (old.name, new.name) == ("date", "timestamp without time zone"):
            value, where = f"{name} || ' 00:00:00.000000'", f"typeof({name}) = 'text'"
        elif old.integer and new.name in {"real", "double precision"}:
            return None  # SQLite reads a whole number in such a column as a float
        else:
            raise self._error(f"{now.type} and {one.type} are stored in different ways")
        return f"UPDATE {self.name.sql} SET {name} = {value} WHERE {where}"

    @property
    def _at(self) -> str:
        return f"{self.place.where}: {self.name}"

    def _error(self, what: str) -> SchemaMismatch:
        return SchemaMismatch(f"its types cannot be changed: {what}", where=self._at, hint=_CHECK)


def _changes(there: Table, columns: tuple[Column, ...]) -> Iterator[tuple[str, tuple[Column, Column]]]:
    for one in columns:
        now = there.column(one.name)
        if now is not None and (now.type != one.type or (one.nullable and not now.nullable)):
            yield now.name, (now, one)


def _fraction(scale: int) -> str:
    return f".{'0' * scale}" if scale else ""


def _stored(kind: SqlType) -> str:
    """Return how SQLite stores the values: two types of one kind have the same values."""
    if kind.integer:
        return "integer"
    if kind.name == "numeric":
        return f"decimals of {kind.scale}"
    if kind.name in {"real", "double precision"}:
        return "real"
    exact = {"boolean", "bytea", "date", "timestamp without time zone", "timestamp with time zone"}
    return kind.name if kind.name in exact else "text"
