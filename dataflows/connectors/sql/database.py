"""Protocol of a database in one file, whichever library opens it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import pyarrow as pa

from dataflows.connectors.contract import Place
from dataflows.connectors.file_access import denied
from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.data.tables import Column, Table
from dataflows.data.types import carried, column_type
from penstock.errors import MissingTable, OutOfSpace, Unavailable

__all__ = ["STAGE", "Database", "DatabaseFile", "LateKeys", "NoMemory", "Selection", "moved", "renamed", "storable"]

T = TypeVar("T")

LEAST_PAUSE: Final = 0.02
"""Seconds between two attempts, so that an error that comes at once does not keep a processor busy."""
LOCK_SECONDS: Final = 5.0
"""Longest wait for another process that writes to the file, if nothing else is said."""
STAGE: Final = 'temp."_penstock_stage"'
_STORABLE: Final = {
    "smallint", "integer", "bigint", "real", "double precision", "boolean", "date", "timestamp without time zone",
    "timestamp with time zone", "time without time zone", "bytea", "uuid", "json", "jsonb",
}  # fmt: skip


_NAME: Final = r"""(?:"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*'|[^\s("'`\[.]+)"""
_TABLE: Final = re.compile(rf"CREATE\s+TABLE\s+{_NAME}(?:\.{_NAME})*\s*(?=\()", re.IGNORECASE)
_UNIQUE: Final = re.compile(
    rf"CREATE\s+UNIQUE\s+INDEX\s+{_NAME}(?:\.{_NAME})*\s+ON\s+{_NAME}(?:\.{_NAME})*\s*(?=\()", re.IGNORECASE
)


def renamed(table: str, indexes: Sequence[str], other: ObjectName, on: str | None = None) -> tuple[str, ...]:
    """Return the statements that created a table and its unique indexes, changed to create `other`, if it is missing.

    `on` is the name of the table in an index's statement, if that is not its full name.
    """
    found = [f"CREATE TABLE IF NOT EXISTS {other.sql} {table[_end_of(_TABLE, table) :]}"]
    for at, index in enumerate(one for one in indexes if _UNIQUE.match(one)):
        what = f"CREATE UNIQUE INDEX IF NOT EXISTS {quoted(f'{other.name}_{at}')} ON {on or other.sql}"
        found.append(f"{what} {index[_end_of(_UNIQUE, index) :]}")
    return tuple(found)


def _end_of(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.match(text)
    if found is None:
        message = "the database's own statement has an unknown form"
        raise AssertionError(message)
    return found.end()


@dataclass(frozen=True, slots=True)
class DatabaseFile:
    """File of a session: its location for errors, and how long to wait for other processes; `check` may end a wait."""

    path: Path
    where: str
    write: bool
    patience: float = LOCK_SECONDS
    check: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, place: Place, *, write: bool, patience: float | None = None) -> DatabaseFile:
        """Return the file of a connection; `patience` comes before that of the place."""
        seconds = patience or place.patience or LOCK_SECONDS
        return cls(Path(place.settings.path).absolute(), place.where, write, seconds)

    def check_readable(self) -> None:
        """Raise MissingTable if there is nothing to read, AccessDenied if this account may not read or write it."""
        if (error := denied(self.path, self.where, write=self.write)) is not None:
            raise error
        if not self.write and not self.path.exists():
            raise MissingTable("there is no such database file", where=self.where, value=str(self.path))

    def check_there(self, known: int | None = None) -> None:
        """Raise if the file is gone or replaced by another one; `known` is the inode that the session opened."""
        try:
            found = self.path.stat().st_ino
        except OSError:
            raise moved(self.where) from None
        if known not in {None, found}:
            raise moved(self.where)

    def patiently(self, work: Callable[[], T], pause: float = 0.0) -> T:
        """Do `work`; repeat it every `pause` seconds while another process locks the file, until patience ends."""
        end = time.monotonic() + self.patience
        while True:
            self.check()
            try:
                return work()
            except Unavailable as error:
                if not error.transient or time.monotonic() > end:
                    raise
            time.sleep(max(pause, LEAST_PAUSE))


def moved(where: str) -> Unavailable:
    """Return the error for a file that vanished; further writes would be lost."""
    hint = "put it back, or let the next run create it again; then run again"
    return Unavailable("the database file was moved or deleted in the middle", where=where, hint=hint)


def storable(column: Column) -> Column:
    """Return the column as these databases can store it: text if its type has no exact counterpart."""
    kind = column_type(column)
    exact = kind.name in _STORABLE or (kind.name == "numeric" and not carried(kind))
    spelled = str(kind) if kind.name == "numeric" else kind.name
    return Column(column.name, spelled if exact else "text", column.nullable)


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of a table for which a condition is true, to read in batches of at most `rows` rows and exactly `schema`."""

    name: ObjectName
    columns: Sequence[Column]
    condition: str
    values: Sequence[Any]
    """Values of the condition's placeholders."""
    schema: pa.Schema
    rows: int


class NoMemory(OutOfSpace):
    """The database has no memory left for a statement; its transaction is rolled back."""


class LateKeys(Protocol):
    """Keys that a database makes after each load, since their indexes would not fit into its memory during it."""

    def mark(self, name: ObjectName, key: tuple[str, ...]) -> None:
        """Mark the key of a table just created as one to make after each load."""

    def of(self, name: ObjectName) -> tuple[str, ...]:
        """Return the columns of the table's marked key; none if it has no such key, or has become a person's own."""

    def swap(self, name: ObjectName, shadow: ObjectName, *, keyed: bool) -> None:
        """Put a loaded shadow in the place of a table with a marked key; with `keyed` make the key.

        Raises:
            BadData: rows repeat the key.
            NoMemory: there is too little memory to make it.
        """


class Database(Protocol):
    """One session with a database file; its errors are Penstock's, and hold no value of a row."""

    where: str
    one_process: bool
    """True if no other process can open the file while one writes to it."""
    indexed: bool
    """True if an index pays off even on small tables."""

    @property
    def late_keys(self) -> LateKeys | None:
        """Keys that are made after each load; None if all are made with their tables."""

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement and return all rows; few are expected."""

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement and return the number of rows inserted, updated or deleted."""

    def transaction(self) -> AbstractContextManager[None]:
        """Return a context of one atomic transaction, in which no other process writes to the file.

        Raises:
            Unavailable: another process has been writing for longer than the session's patience.
        """

    def make(self) -> None:
        """Create the file, if it is missing."""

    def another(self, check: Callable[[], None]) -> Database:
        """Open another session with the same file, which calls `check` while it waits."""

    def describe(self, name: ObjectName, *, sink: bool) -> Table | None:
        """Return the table, types in PostgreSQL's spelling: as values are read, or for a `sink` as they are written."""

    def tables(self, schema: str, prefix: str = "") -> list[str]:
        """Return the names of tables and views."""

    def like(self, name: ObjectName, other: ObjectName) -> tuple[str, ...]:
        """Return the statements that create `other`, if it is missing, with the table's columns and constraints."""

    def collated(self, name: ObjectName, key: Sequence[str]) -> str | None:
        """Return the first key column whose collation treats different texts as equal; None if there is none."""

    def alike(self, name: ObjectName, column: Column) -> str | None:
        """Return the collation by which different texts of a column are equal; None if its collation has none such."""

    def drawn(self, name: ObjectName, column: Column) -> int | None:
        """Return the last number that the database has handed out for a column; None if it cannot begin again."""

    def times(self, name: ObjectName, column: Column) -> tuple[timedelta | None, bool]:
        """Return the resolution of a column's times, if its type has a finer one; False if they are not ordered."""

    def referrer(self, name: ObjectName) -> str | None:
        """Return an enforced foreign key, and its table, that prevents the table from being emptied; None if none."""

    def other_keys(self, name: ObjectName, key: Sequence[str]) -> list[str]:
        """Return the names of the table's unique constraints and indexes over anything but exactly `key`."""

    def triggers(self, name: ObjectName) -> list[str]:
        """Return the names of the triggers that writes to the table fire."""

    def drops_rows(self, name: ObjectName) -> str | None:
        """Return the clause of the table by which rows vanish that break a constraint; None if it has none."""

    def ddl_type(self, column: Column) -> str:
        """Return the type of a column for ``CREATE TABLE``."""

    def key_text(self, column: Column, value: str) -> str:
        """Return the expression that gives `value`, an expression of a key's values, to `bounds`."""

    def bounds(self, statement: str, values: Sequence[Any], column: Column) -> list[str | None]:
        """Return the first value of each row, one of a key, as the text of a bound; None for NULL.

        Values that cannot be bounds are left out.
        """

    def bound(self, column: Column) -> str:
        """Return a placeholder of the column's type."""

    def value(self, column: Column, text: str) -> Any:
        """Return the value for such a placeholder, from a bound stored as text."""

    def parameter(self, values: pa.Array, name: str) -> Any:
        """Return the only value of an array, of column `name`, as the value of a placeholder.

        Raises:
            BadData: the database cannot hold it.
        """

    def outside_ranges(self, column: Column) -> str | None:
        """Return the condition for values of another class than the column's type: no range of it has them.

        None if a column has values of one class only.
        """

    def comparable(self, column: Column) -> bool:
        """True if the database orders such values as the type does."""

    def batches(self, selection: Selection) -> Iterator[Rows]:
        """Yield the selected rows; refuse those with a value that the type of its column cannot represent exactly."""

    def make_stage(self, columns: Sequence[Column]) -> None:
        """Create the session's own empty table `STAGE`; writing to it locks no other session."""

    def stage(self, batch: pa.RecordBatch) -> None:
        """Insert rows into `STAGE`.

        Raises:
            BadData: a value that the database cannot hold.
        """

    def close(self) -> None:
        """Close the session, which rolls back an open transaction."""
