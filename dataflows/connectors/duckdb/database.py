"""Session with a DuckDB file.

DuckDB lets either one process write to a file or several processes read it. Inside a process all sessions with a file
have to be of one kind, so a source opens the file for writing if the process writes to it.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from dataflows.connectors.duckdb.swap import DuckKeys
from dataflows.connectors.duckdb.tables import COLUMNS, TABLES, all_described, described
from dataflows.connectors.duckdb.types import ALIKE, bound_type, ddl_type, select_item
from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.formats.readable import readable, without
from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.sql.bounds import bound_bytes, bound_text
from dataflows.connectors.sql.database import STAGE, Database, DatabaseFile, NoMemory, Selection, renamed
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.data.tables import Column, Table
from dataflows.data.times import outside
from dataflows.data.types import column_type
from penstock.errors import (
    AccessDenied,
    BadData,
    OutOfSpace,
    PenstockError,
    Refused,
    SchemaMismatch,
    Unavailable,
)

__all__ = ["DuckDatabase"]

CHECK_SECONDS: Final = 0.2
MIN_BATCH_ROWS: Final = 2048
MAX_BATCH_VALUES: Final = 2_000_000
"""A batch of a wide table has fewer rows, but not fewer than MIN_BATCH_ROWS."""
_CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {
    "threads": 2, "memory_limit": "64MB",
    "autoinstall_known_extensions": False, "autoload_known_extensions": False,
}  # fmt: skip
_OF_TABLE: Final = "database_name = current_database() AND schema_name = ? AND table_name = ?"

_writing_sessions: Counter[Path] = Counter()
"""Sessions of this process that write to each file; `_lock` guards it."""
_lock = threading.Lock()


class DuckDatabase:
    """Session with a file; `make` creates the file."""

    one_process = True
    indexed = False

    def __init__(self, file: DatabaseFile) -> None:
        self.where, self._file = file.where, file
        self.late_keys = DuckKeys(self)
        self._is_writing = False
        self._inode: int | None = None
        file.check_readable()
        self._session = self._connected()

    def _connected(self) -> duckdb.DuckDBPyConnection:
        if not self._file.path.exists():
            return _at_utc(duckdb.connect(":memory:", config=_CONFIG))
        return self._opened()

    def _opened(self) -> duckdb.DuckDBPyConnection:
        """Return an open session; retry for a while, since a process that has just ended may still lock the file."""
        return self._file.patiently(self._try, CHECK_SECONDS / 2)

    def _try(self) -> duckdb.DuckDBPyConnection:
        path = self._file.path
        with _lock, _translated(self.where):
            write = self._file.write or _writing_sessions[path] > 0
            try:
                session = duckdb.connect(str(path), read_only=not write, config=_CONFIG)
            except duckdb.IOException as error:
                if "not a valid" in str(error) and _is_being_made(path):
                    raise _unfinished(self.where) from None
                raise
            if write:
                _writing_sessions[path] += 1
                self._is_writing = True
                self._inode = path.stat().st_ino
            return _at_utc(session)

    def make(self) -> None:
        if not self._is_writing:
            self._session.close()
            self._session = self._opened()

    def another(self, check: Callable[[], None]) -> Database:
        self._file.check_there()
        return DuckDatabase(replace(self._file, check=check))

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._watched():
            return self._session.execute(statement, values).fetchall()

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        found = self.rows(statement, values)
        return int(found[0][0]) if found and isinstance(found[0][0], int) else 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._file.check_there(self._inode)
        self.change("BEGIN")
        try:
            yield
            self._file.check_there(self._inode)
            self.change("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._session.execute("ROLLBACK")
            raise

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Interrupt the current statement as soon as `check` raises."""
        done, stopped = threading.Event(), list[BaseException]()

        def watch() -> None:
            while not done.wait(CHECK_SECONDS):
                try:
                    self._file.check()
                except BaseException as error:  # noqa: BLE001 - raised again below
                    stopped.append(error)
                    self._session.interrupt()
                    return

        thread = threading.Thread(target=watch, daemon=True, name="check")
        thread.start()
        try:
            with _translated(self.where):
                yield
        except PenstockError as error:
            if stopped:
                raise stopped[0] from error
            raise
        finally:
            done.set()
            thread.join()

    def describe(self, name: ObjectName, *, sink: bool) -> Table | None:
        return described(self.rows, name, sink=sink)

    def describe_all(self) -> Callable[[ObjectName], Table | None]:
        """Return a function that describes tables as they are now: to ask for each takes time by their number."""
        return all_described(self.rows)

    def tables(self, schema: str, prefix: str = "") -> list[str]:
        return [row[0] for row in self.rows(TABLES, (schema,)) if row[0].startswith(prefix)]

    def like(self, name: ObjectName, other: ObjectName) -> tuple[str, ...]:
        if self.late_keys.of(name):
            return (self.late_keys.shadow(name, other),)
        of = (name.schema, name.name)
        table = self.rows(f"SELECT sql FROM duckdb_tables() WHERE {_OF_TABLE}", of)[0][0]
        indexes = [row[0] for row in self.rows(f"SELECT sql FROM duckdb_indexes() WHERE {_OF_TABLE}", of)]
        if self.rows(f"SELECT 1 FROM duckdb_constraints() WHERE referenced_table = table_name AND {_OF_TABLE}", of):
            return (f"CREATE TABLE IF NOT EXISTS {other.sql} AS SELECT * FROM {name.sql} LIMIT 0",)
        return renamed(table, indexes, other)

    def collated(self, name: ObjectName, key: Sequence[str]) -> str | None:
        text = self.rows(f"SELECT sql FROM duckdb_tables() WHERE {_OF_TABLE}", (name.schema, name.name))[0][0]
        forms = {one: rf"[(,]\s*(?:{re.escape(quoted(one))}|{re.escape(one)}) VARCHAR COLLATE " for one in key}
        return next((one for one, form in forms.items() if re.search(form, text)), None)

    def alike(self, name: ObjectName, column: Column) -> str | None:
        """Compare texts by the column's collation, which DuckDB names only in a table's declaration."""
        compared = ", ".join(f"coalesce({quoted(column.name)}, {one}) = {other}" for one, other in ALIKE.values())
        found = self.rows(f"SELECT {compared} FROM (SELECT 1) LEFT JOIN {name.sql} ON false")[0]
        return next((what for what, equal in zip(ALIKE, found, strict=True) if equal), None)

    def drawn(self, name: ObjectName, column: Column) -> None:
        """Return None: no statement sets a sequence of DuckDB back."""

    def times(self, name: ObjectName, column: Column) -> tuple[None, bool]:
        return None, True

    def referrer(self, name: ObjectName) -> str | None:
        query = (
            "SELECT constraint_name, table_name FROM duckdb_constraints() WHERE database_name = current_database() "
            "AND schema_name = ? AND referenced_table = ? LIMIT 1"
        )
        found = self.rows(query, (name.schema, name.name))
        return f"foreign key {found[0][0]} of {found[0][1]}" if found else None

    def other_keys(self, name: ObjectName, key: Sequence[str]) -> list[str]:
        of = (name.schema, name.name)
        keys = f"SELECT constraint_name, constraint_column_names FROM duckdb_constraints() WHERE {_OF_TABLE}"
        kinds = "constraint_type IN ('PRIMARY KEY', 'UNIQUE')"
        found = [one for one, columns in self.rows(f"{keys} AND {kinds}", of) if set(columns) != set(key)]
        indexes = f"SELECT index_name FROM duckdb_indexes() WHERE {_OF_TABLE} AND is_unique"
        return sorted([*found, *(row[0] for row in self.rows(indexes, of))])

    def triggers(self, name: ObjectName) -> list[str]:
        return []

    def drops_rows(self, name: ObjectName) -> str | None:
        return None

    def ddl_type(self, column: Column) -> str:
        return ddl_type(column)

    def key_text(self, column: Column, value: str) -> str:
        return f"CAST({value} AS VARCHAR)"

    def bounds(self, statement: str, values: Sequence[Any], column: Column) -> list[str | None]:
        found = (row[0] for row in self.rows(statement, values))
        if column_type(column).name != "text":
            return list(found)
        return [None if one is None else bound_text(one.encode()) for one in found]

    def parameter(self, values: pa.Array, name: str) -> Any:
        return values[0].as_py()

    def outside_ranges(self, column: Column) -> str | None:
        return None

    def bound(self, column: Column) -> str:
        return f"CAST(? AS {bound_type(column)})"

    def value(self, column: Column, text: str) -> Any:
        raw = bound_bytes(text) if column_type(column).name == "text" else None
        return text if raw is None else raw.decode()

    def comparable(self, column: Column) -> bool:
        return not column.label

    def batches(self, selection: Selection) -> Iterator[Rows]:
        name = selection.name
        kinds = {row[0]: row[1] for row in self.rows(COLUMNS, (name.schema, name.name))}
        shown = [select_item(quoted(one.name), one, kinds[one.name]) for one in selection.columns] or ["1"]
        query = f"SELECT {', '.join(shown)} FROM {name.sql} WHERE {selection.condition}"
        size = max(1, min(selection.rows, max(MIN_BATCH_ROWS, MAX_BATCH_VALUES // len(shown))))
        with self._watched():
            reader = self._session.sql(query, params=list(selection.values)).to_arrow_reader(size)
        with reader:
            while True:
                with self._watched():
                    found = next(reader, None)
                if found is None:
                    return
                if found.num_rows:
                    yield _rows(found, selection, f"{self.where}: {name}")

    def make_stage(self, columns: Sequence[Column]) -> None:
        lines = ", ".join(f"{quoted(one.name)} {'VARCHAR' if one.label else ddl_type(one)}" for one in columns)
        self.change(f'CREATE TEMP TABLE "_penstock_stage" ({lines})')

    def stage(self, batch: pa.RecordBatch) -> None:
        self._session.register("_penstock_batch", pa.Table.from_batches([batch]))
        try:
            self.change(f"INSERT INTO {STAGE} SELECT * FROM _penstock_batch")
        finally:
            self._session.unregister("_penstock_batch")

    def close(self) -> None:
        with _lock:
            self._session.close()
            if self._is_writing:
                _writing_sessions[self._file.path] -= 1
                self._is_writing = False


def _rows(found: pa.RecordBatch, selection: Selection, where: str) -> Rows:
    """Return the rows in the wanted schema, without those whose times no other system can hold; these are refused."""
    columns, schema = selection.columns, selection.schema
    if not columns:
        return Rows(pa.RecordBatch.from_struct_array(pa.array([{}] * found.num_rows, pa.struct([]))))
    made = []
    for column, values in zip(columns, found.columns, strict=True):
        wanted = schema.field(column.name).type
        made.append(readable(values, wanted, partial(_exact, column=column, wanted=wanted, where=where)))
    batch = pa.RecordBatch.from_arrays([array for array, _ in made], schema=schema)
    raw = dict(zip(schema.names, found.columns, strict=True))
    return without(batch, [wrong for _, wrong in made], lambda at: {name: _shown(one[at]) for name, one in raw.items()})


def _exact(values: pa.Array, column: Column, wanted: pa.DataType, where: str) -> pa.Array:
    if outside(values):
        what = f"a value of `{column.name}` is not a valid {column.type}, or cannot be kept exactly"
        raise BadData(what, where=where, hint="leave infinite times and years beyond 1 to 9999 out by a view")
    return values.cast(wanted)


def _shown(value: pa.Scalar) -> Any:
    """Return a value as a dead letter contains it: bytes as hexadecimal digits, a time out of range as its number."""
    try:
        found = value.as_py()
    except (ValueError, OverflowError):
        return str(value.value)
    return "\\x" + found.hex() if isinstance(found, bytes) else found


def _at_utc(session: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    return session.execute("SET TimeZone = 'UTC'")


def _is_being_made(path: Path) -> bool:
    """True if the file is empty, or a database by now: DuckDB creates a file before it locks it and writes its head."""
    with path.open("rb") as file:
        head = file.read(12)
    return not head or head.endswith(b"DUCK")


def _unfinished(where: str) -> Unavailable:
    hint = "if no process is just creating it, delete it: the next run creates it again"
    return Unavailable("the database file is empty", where=where, hint=hint)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise _penstock_error(error, where) from None


def _penstock_error(error: duckdb.Error, where: str) -> PenstockError:  # noqa: PLR0911 - a table of kinds
    """Return Penstock's error. DuckDB's texts may quote values, so only the parts that name objects are kept."""
    text = str(error)
    if "No space left" in text:
        return OutOfSpace(
            "the disk is full", where=where, hint="make room and run again: nothing was partially applied"
        )
    if isinstance(
        error,
        duckdb.ConstraintException
        | duckdb.ConversionException
        | duckdb.OutOfRangeException
        | duckdb.InvalidInputException,
    ):
        found = _CONSTRAINT.search(text)
        what = f"the database refused a value or row: {found[0] if found else type(error).__name__}"
        hint = "compare the rows with the table's types and constraints"
        waits = "does not exist in the referenced table" in text
        return RowRefused(what, where=where, hint=hint, state=type(error).__name__, waits=waits)
    if isinstance(error, duckdb.IOException):
        return _of_file(text, where)
    if isinstance(error, duckdb.OutOfMemoryException) or "allocate" in text:
        return NoMemory(
            "DuckDB has no memory or room left", where=where, hint="make the splits smaller, or drop keys and indexes"
        )
    if isinstance(error, duckdb.CatalogException | duckdb.BinderException):
        return SchemaMismatch(text.partition("\n")[0], where=where)
    if isinstance(error, duckdb.ConnectionException):
        hint = "another part of this run reads the file; write to another file"
        return Unavailable("the file is open in another mode", where=where, hint=hint)
    return Unavailable(f"DuckDB failed: {type(error).__name__}", where=where, hint="try again")


_CONSTRAINT: Final = re.compile(
    r"NOT NULL constraint failed: \S+|CHECK constraint failed on table \S+"
    r"|(?:primary|unique|foreign) key constraint|unique constraint"
)


def _of_file(text: str, where: str) -> PenstockError:
    if "lock" in text:
        hint = "DuckDB lets one process write at a time; end the other one, or try again later"
        return Unavailable("another process has the database file open", where=where, hint=hint)
    if "not a valid" in text:
        return Refused("the file is not a DuckDB database", where=where, hint="look at the connection's `path`")
    if "ermission denied" in text or "o such file" in text:
        return AccessDenied("the database file cannot be opened or created", where=where, hint="look at its folder")
    return Unavailable("the database file cannot be read or written", where=where, hint="look at its disk")
