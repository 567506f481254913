"""Session with an SQLite file."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.formats.readable import readable, without
from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.sql.database import STAGE, Database, DatabaseFile, Selection, moved, renamed
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.connectors.sqlite.texts import ESCAPED, bound_of, shown, text_of, time_forms, times_of
from dataflows.connectors.sqlite.types import MIXED, array, class_of, ddl_type, listed, sql_type
from dataflows.connectors.windows import is_made
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, column_type
from penstock.errors import (
    AccessDenied,
    BadData,
    OutOfSpace,
    PenstockError,
    Refused,
    SchemaMismatch,
    Unavailable,
)

__all__ = ["COLUMNS", "SqliteDatabase"]

STEPS: Final = 10_000
"""Instructions of SQLite's virtual machine between two calls of `check`."""
CHECK_SECONDS: Final = 0.1
FIRST_ROWS: Final = 1000
BATCH_BYTES: Final = 8 << 20
_TABLE: Final = "SELECT type, wr FROM pragma_table_list(?) WHERE schema = 'main' AND name = ?"
COLUMNS: Final = """
SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?) ORDER BY cid"""
_INDEXES: Final = """
SELECT l.name, i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i
WHERE l."unique" = 1 AND l.partial = 0 AND l.origin <> 'pk' ORDER BY l.seq, i.seqno"""
_NO_SYNTAX: Final = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/""", re.DOTALL)
"""Texts, names and comments."""
_DROPPING: Final = re.compile(r"\bON\s+CONFLICT\s+(REPLACE|IGNORE)\b", re.IGNORECASE)


_COMPARING: Final = {"Eq", "Ne", "Lt", "Le", "Gt", "Ge"}
"""Instructions of SQLite's virtual machine that compare two values, by the collation in their fourth operand."""


class NotUtf8Error(BadData):
    """A text that is not UTF-8 was read strictly."""


class SqliteDatabase:
    """Session with a file; `make` creates the file and puts it into WAL mode."""

    one_process = False
    indexed = True
    late_keys = None

    def __init__(self, file: DatabaseFile) -> None:
        self.where, self._file = file.where, file
        self._stopped: BaseException | None = None
        self._inode: int | None = None
        file.check_readable()
        self._session = self._connected()

    def _connected(self) -> sqlite3.Connection:
        path = self._file.path
        there = path.exists()
        name = f"{path.as_uri()}?mode={'rw' if self._file.write else 'ro'}" if there else ":memory:"
        with self._translated():
            session = sqlite3.connect(
                name, uri=there, timeout=CHECK_SECONDS, isolation_level=None, check_same_thread=False
            )
        session.set_progress_handler(self._look, STEPS)
        self._inode = path.stat().st_ino if there else None
        return session

    def make(self) -> None:
        if not self._file.path.exists():
            try:
                self._file.path.touch()
            except OSError as error:
                what = f"the database file cannot be created: {error.strerror}"
                raise AccessDenied(what, where=self.where, value=str(self._file.path)) from None
        self._session.close()
        self._session = self._connected()
        self.rows("PRAGMA journal_mode = WAL")  # so that readers do not block writers

    def another(self, check: Callable[[], None]) -> Database:
        self._file.check_there()
        return SqliteDatabase(replace(self._file, check=check))

    def _look(self) -> int:
        try:
            self._file.check()
        except BaseException as error:  # noqa: BLE001 - raised again once SQLite has interrupted the statement
            self._stopped = error
            return 1
        return 0

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            stopped, self._stopped = self._stopped, None
            if stopped is not None:
                raise stopped from None
            raise _penstock_error(error, self.where) from None

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = self._patiently(statement, values)
        with self._translated():
            return cursor.fetchall()

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        with self._translated():
            return max(0, self._session.execute(statement, values).rowcount)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._patiently("BEGIN IMMEDIATE")
        try:
            self._file.check_there(self._inode)
            yield
            self._file.check_there(self._inode)
            self._patiently("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._session.execute("ROLLBACK")
            raise

    def _patiently(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Execute, and wait while another process locks the file."""

        def execute() -> sqlite3.Cursor:
            with self._translated():
                return self._session.execute(statement, values)

        return self._file.patiently(execute)

    def describe(self, name: ObjectName, *, sink: bool) -> Table | None:
        kind = self.rows(_TABLE, (name.name, name.name))
        if not kind:
            return None
        found = self.rows(COLUMNS, (name.name,))
        primary = [row[0] for row in sorted(found, key=lambda row: row[4]) if row[4]]
        alias = len(primary) == 1 and any(row[4] and row[1].upper() == "INTEGER" for row in found) and not kind[0][1]
        full = set(primary) if kind[0][1] or alias else set[str]()
        columns = tuple(
            Column(
                row[0],
                self._type(name, row[0], row[1], sink=sink),
                nullable=not (row[2] or row[0] in full),
                default=row[3] is not None or (alias and row[0] in primary),
                generated=row[5] in {2, 3},
                constant=row[3] is not None and not is_made(row[3]),
            )
            for row in found
            if row[5] != 1
        )
        filled = {column.name for column in columns if not column.nullable}
        keys = [tuple(primary)] if primary else []
        indexed = self.rows(_INDEXES, (name.name,))
        keys += [tuple(row[1] for row in indexed if row[0] == index) for index in dict.fromkeys(i for i, _ in indexed)]
        usable = tuple(key for key in keys if set(key) <= filled)
        return Table(name, "r" if kind[0][0] == "table" else "v", columns, usable)

    def _type(self, table: ObjectName, column: str, text: str, *, sink: bool) -> str:
        """Return a column's type; without a declared one that says something, that of all its current values."""
        known = sql_type(text, sink=sink)
        if known or sink:
            return known or MIXED
        name = quoted(column)
        found = self.rows(f"SELECT DISTINCT typeof({name}) FROM {table.sql} WHERE {name} IS NOT NULL LIMIT 3")
        return class_of(text, {row[0] for row in found})

    def tables(self, schema: str, prefix: str = "") -> list[str]:
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND substr(name, 1, ?) = ?"
        return [row[0] for row in self.rows(query, (len(prefix), prefix))]

    def like(self, name: ObjectName, other: ObjectName) -> tuple[str, ...]:
        query = (
            "SELECT type, sql FROM sqlite_master WHERE tbl_name = ? COLLATE NOCASE AND sql IS NOT NULL ORDER BY rowid"
        )
        found = self.rows(query, (name.name,))
        table = next(sql for kind, sql in found if kind == "table")
        return renamed(table, [sql for kind, sql in found if kind == "index"], other, quoted(other.name))

    def collated(self, name: ObjectName, key: Sequence[str]) -> str | None:
        query = (
            "SELECT x.name, x.coll FROM pragma_index_list(?) l, pragma_index_xinfo(l.name) x "
            'WHERE l."unique" = 1 AND x.key = 1 AND x.name IS NOT NULL'
        )
        found = {column: collation for column, collation in self.rows(query, (name.name,)) if collation != "BINARY"}
        return next((one for one in key if one in found), None)

    def alike(self, name: ObjectName, column: Column) -> str | None:
        """Look at how SQLite compares the column, since it lists the collations of indexes only."""
        steps = self.rows(f"EXPLAIN SELECT +{quoted(column.name)} > '' FROM {name.sql}")
        found = {str(step[5]).rpartition("-")[0] for step in steps if step[1] in _COMPARING}
        return next(iter(found - {"BINARY", ""}), None)

    def drawn(self, name: ObjectName, column: Column) -> int | None:
        """Return the number of the last row; without AUTOINCREMENT the next one follows the greatest there is.

        None if the column is not the table's row number, such as one with a time by default.
        """
        shown = self.rows(COLUMNS, (name.name,)) if column.default else []
        if not any(row[0] == column.name and row[3] is None for row in shown):
            return None
        if self.rows("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"):
            counted = self.rows("SELECT seq FROM sqlite_sequence WHERE name = ? COLLATE NOCASE", (name.name,))
            if counted:
                return int(counted[0][0])
        found = self.rows(f"SELECT coalesce(max({quoted(column.name)}), 0) FROM {name.sql}")
        return int(found[0][0])

    def times(self, name: ObjectName, column: Column) -> tuple[timedelta | None, bool]:
        with self._escaping():
            return times_of(self.rows(time_forms(column.name, name.sql)))

    def referrer(self, name: ObjectName) -> str | None:
        """Return None: SQLite enforces foreign keys only in sessions that ask for it, which these do not."""
        return None

    def other_keys(self, name: ObjectName, key: Sequence[str]) -> list[str]:
        query = (
            "SELECT l.name, x.name, l.partial FROM pragma_index_list(?) l, pragma_index_xinfo(l.name) x "
            'WHERE l."unique" = 1 AND x.key = 1'
        )
        found: dict[str, set[str | None]] = {}
        for index, column, partial_ in self.rows(query, (name.name,)):
            found.setdefault(index, set()).update({column, None} if partial_ else {column})
        return sorted(index for index, columns in found.items() if columns != set(key))

    def triggers(self, name: ObjectName) -> list[str]:
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY name"
        return [f"trigger {row[0]}" for row in self.rows(query, (name.name,))]

    def drops_rows(self, name: ObjectName) -> str | None:
        query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        found = self.rows(query, (name.name,))
        clause = _DROPPING.search(_NO_SYNTAX.sub(" ", found[0][0])) if found else None
        return f"ON CONFLICT {clause[1].upper()}" if clause else None

    def ddl_type(self, column: Column) -> str:
        return ddl_type(column)

    def key_text(self, column: Column, value: str) -> str:
        return value

    def bounds(self, statement: str, values: Sequence[Any], column: Column) -> list[str | None]:
        whole = column_type(column).integer
        with self._escaping():
            found = [(row[0], bound_of(row[0], whole=whole)) for row in self.rows(statement, values)]
        return [bound for value, bound in found if value is None or bound is not None]

    def parameter(self, values: pa.Array, name: str) -> Any:
        return listed(values, name, self.where)[0]

    def outside_ranges(self, column: Column) -> str | None:
        name = quoted(column.name)
        return f"{name} >= ''" if column_type(column).integer else f"{name} < '' OR {name} >= x''"

    def bound(self, column: Column) -> str:
        return "?" if column_type(column).integer else "CAST(? AS TEXT)"

    def value(self, column: Column, text: str) -> Any:
        if not column_type(column).integer:
            return text_of(text)
        try:
            return int(text)
        except ValueError:
            what = f"`{column.name}` holds values that are not whole numbers"
            raise BadData(what, where=self.where, hint="leave such rows out by a view") from None

    def comparable(self, column: Column) -> bool:
        kind = arrow_type(column_type(column))
        return kind is not None and not pa.types.is_decimal(kind)

    def batches(self, selection: Selection) -> Iterator[Rows]:
        self._patiently("BEGIN")
        with ExitStack() as held:
            held.callback(self._ended)
            read, size = 0, min(selection.rows, FIRST_ROWS)
            cursor = self._selected(selection)
            while True:
                try:
                    with self._translated():
                        found = cursor.fetchmany(size)
                except NotUtf8Error:  # the same rows again, in the same order, as the transaction keeps its snapshot
                    held.enter_context(self._escaping())
                    cursor = self._selected(selection, skip=read)
                    continue
                if not found:
                    return
                rows = _rows(found, selection, f"{self.where}: {selection.name}")
                yield rows
                read += len(found)
                each = max(1, rows.batch.nbytes // len(found))
                size = max(1, min(selection.rows, size * 4, BATCH_BYTES // each))

    def _selected(self, selection: Selection, skip: int = 0) -> sqlite3.Cursor:
        names = ", ".join(quoted(column.name) for column in selection.columns) or "NULL"
        query = f"SELECT {names} FROM {selection.name.sql} WHERE {selection.condition}"
        cursor = self._patiently(query, selection.values)
        with self._translated():
            while skip > 0:
                skip -= len(cursor.fetchmany(min(skip, FIRST_ROWS)))
        return cursor

    @contextmanager
    def _escaping(self) -> Iterator[None]:
        """Read texts that are not UTF-8 as strings that cannot be encoded; slower than reading them strictly."""
        self._session.text_factory = ESCAPED
        try:
            yield
        finally:
            self._session.text_factory = str

    def _ended(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._session.execute("ROLLBACK")

    def make_stage(self, columns: Sequence[Column]) -> None:
        self.change(f'CREATE TEMP TABLE "_penstock_stage" ({", ".join(quoted(column.name) for column in columns)})')

    def stage(self, batch: pa.RecordBatch) -> None:
        lists = [listed(batch.column(name), name, self.where) for name in batch.schema.names]
        marks = ", ".join("?" * len(lists))
        with self._translated():
            self._session.execute("BEGIN")
            try:
                self._session.executemany(f"INSERT INTO {STAGE} VALUES ({marks})", zip(*lists, strict=True))
            finally:
                self._session.execute("COMMIT")

    def close(self) -> None:
        self._session.close()


def _rows(rows: list[tuple[Any, ...]], selection: Selection, where: str) -> Rows:
    """Return the rows as Arrow, without those with a value that its column's type cannot hold; these are refused."""
    columns, schema = selection.columns, selection.schema
    if not columns:
        return Rows(pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([]))))
    made = []
    for values, column in zip(zip(*rows, strict=True), columns, strict=True):
        wanted = schema.field(column.name).type
        made.append(readable(values, wanted, partial(array, column=column, wanted=wanted, where=where)))
    batch = pa.RecordBatch.from_arrays([found for found, _ in made], schema=schema)
    names = [column.name for column in columns]
    return without(batch, [wrong for _, wrong in made], lambda at: dict(zip(names, map(shown, rows[at]), strict=True)))


def _penstock_error(error: sqlite3.Error, where: str) -> PenstockError:  # noqa: PLR0911 - a table of codes
    """Return Penstock's error; SQLite's own texts name tables and columns, never a value."""
    text = str(error)
    code = getattr(error, "sqlite_errorname", "") or ""
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        hint = "another process writes to the file, or has stopped in the middle of it; end it, or try again later"
        return Unavailable("the database is locked", where=where, hint=hint)
    if code == "SQLITE_READONLY_DBMOVED":
        return moved(where)
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return AccessDenied(text, where=where, hint="let this user read and write the file and its folder")
    if code.startswith("SQLITE_FULL"):
        return OutOfSpace(text, where=where)
    if code.startswith("SQLITE_CORRUPT"):
        hint = "restore it from a backup, or try `sqlite3 FILE .recover`"
        return BadData(f"the database file is damaged: {text}", where=where, hint=hint)
    if code.startswith("SQLITE_NOTADB"):
        return Refused("the file is not an SQLite database", where=where, hint="look at the connection's `path`")
    if code.startswith(("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")):
        what, hint = f"the table refused a row: {text}", "correct the source's rows, or the table"
        named = re.search(r"(?:NOT NULL|datatype).*?([^.\s]+)$", text)
        waits = code == "SQLITE_CONSTRAINT_FOREIGNKEY"
        return RowRefused(what, where=where, hint=hint, state=code, column=named and named[1], waits=waits)
    if "decode" in text.lower():
        return NotUtf8Error("a text is not UTF-8", where=where, hint="leave such rows out by a view")
    if code == "SQLITE_ERROR":
        return SchemaMismatch(text, where=where)
    return Unavailable(text, where=where, hint="see SQLite's documentation of this error")
