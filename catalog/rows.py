"""Rows of the projection while a batch is folded, loaded and stored in one statement for each table.

A record yields a list of changes; a change is a function of one row. All changes of a batch are applied in order to
rows that were loaded before, then each changed row is written once. The result does not depend on how records are cut
into batches.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, LiteralString

import orjson
import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import dict_row
from sqlalchemy import Table

__all__ = [
    "Change",
    "Entry",
    "Row",
    "RowCache",
    "Rows",
    "Statements",
    "at_once",
    "fold",
    "folded",
    "parsed",
    "storable",
]

Row = dict[str, Any]
"""A row by its columns; builtins and datetimes only."""
Place = tuple[str, str]
"""A row's table and key."""
Key = tuple[Any, ...]
"""A row's primary key."""
Part = tuple[Table, bool]
"""A table, and whether its rows are new ones of history."""

KEPT: Final = 2000
"""Rows that are cached from one batch to the next."""
KEPT_KEYS: Final = 200_000
"""Keys of rows of history that are."""

_INSERT: Final = (
    "INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, %s::jsonb) "
)
_PUT: Final = "ON CONFLICT ({keys}) DO UPDATE SET {updates}"
_ADD: Final = "ON CONFLICT ({keys}) DO NOTHING"
_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(frozen=True, slots=True)
class Change:
    """A record's change of the row of `table` with key `key`: `fold` changes that row in place.

    A new row has its key only. With `once` an existing row is left alone; otherwise a row that many records name and
    few change would be written each time, with all its indexes. `fold` may add rows of history by `Rows.add`, and drop
    its own by `Rows.drop`.
    """

    table: Table
    key: str
    fold: Callable[[Row, Rows], None]
    once: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of history that a record adds: written once, never changed; the first row of a key wins."""

    table: Table
    row: Row


@dataclass(slots=True)
class Rows:
    """The rows that a batch touches."""

    live: dict[Place, Row] = field(default_factory=dict)
    touched: dict[Table, dict[str, None]] = field(default_factory=dict)
    dropped: dict[Table, set[str]] = field(default_factory=dict)
    history: dict[Table, dict[Key, Row]] = field(default_factory=dict)
    written_before: Mapping[Table, Container[Key]] = field(default_factory=dict)
    """Keys of rows of history that are known to be in the tables."""
    indexed: set[str] = field(default_factory=set)
    """Texts whose words this batch has added."""
    indexed_before: Container[str] = frozenset()
    """Texts whose words are known to be in the tables."""
    derived: dict[Table, dict[str, Callable[[], Row]]] = field(default_factory=dict)

    def apply(self, change: Change | Entry, offset: int) -> None:
        """Fold one change into its row."""
        if isinstance(change, Entry):
            return self.add(change.table, change.row)
        place = (change.table.name, change.key)
        row = self.live.get(place)
        if row is not None and change.once:
            return None
        if row is None:
            row = self.live[place] = {statements(change.table).keys[0]: change.key}
        row["changed"] = offset
        self.touched.setdefault(change.table, {})[change.key] = None
        return change.fold(row, self)

    def add(self, table: Table, row: Row) -> None:
        """Add a row of history: written once, never changed; the first row of a key wins."""
        key = tuple(row[name] for name in statements(table).keys)
        self.history.setdefault(table, {}).setdefault(key, row)

    def derive(self, table: Table, key: str, make: Callable[[], Row]) -> None:
        """Write the whole row that `make` returns once all changes are folded; the last one of a key counts."""
        self.derived.setdefault(table, {})[key] = make

    def drop(self, table: Table, key: str) -> None:
        """Delete the row; a later change starts with an empty one."""
        self.derived.get(table, {}).pop(key, None)
        self.live.pop((table.name, key), None)
        self.touched.get(table, {}).pop(key, None)
        self.dropped.setdefault(table, set()).add(key)

    def load(self, connection: psycopg.Connection[Any], wanted: Mapping[Table, Iterable[str]]) -> None:
        """Read the rows that changes will touch."""
        cursors = []
        for table, keys in wanted.items():
            cursor = connection.cursor(row_factory=dict_row)
            cursor.adapters.register_loader("jsonb", _Untouched)
            cursors.append((table, cursor.execute(statements(table).load, [list(keys)])))
        for table, cursor in cursors:
            key = statements(table).keys[0]
            for row in cursor:
                self.live[table.name, row[key]] = row

    def store(self, connection: psycopg.Connection[Any]) -> None:
        """Write the changes: at most one DELETE and one upsert for each table."""
        for table, keys in self.dropped.items():
            connection.execute(statements(table).drop, [list(keys)])
        for (table, is_new), rows in self.written().items():
            connection.execute(statements(table).add if is_new else statements(table).put, [rows])

    def written(self) -> dict[Part, str]:
        """Return the rows to upsert, by table, as JSON; in a fixed order of tables, so that statements repeat."""
        put = {(t, False): [self.live[t.name, key] for key in keys] for t, keys in self.touched.items()}
        put |= {(t, False): [make() for make in rows.values()] for t, rows in self.derived.items()}
        add = {(t, True): list(rows.values()) for t, rows in self.history.items()}
        found = sorted((put | add).items(), key=lambda one: one[0][0].name)
        return {part: _json(rows) for part, rows in found if rows}


class _Untouched(Loader):
    """Loads jsonb as the server's text, without parsing, so that rows that are written back keep every digit."""

    def load(self, data: Buffer) -> orjson.Fragment:
        return orjson.Fragment(bytes(data))


def parsed(value: Any) -> Any:
    """Return the value of a column of jsonb: a row that was read has its text."""
    return orjson.loads(orjson.dumps(value)) if isinstance(value, orjson.Fragment) else value


def fold(connection: psycopg.Connection[Any], found: Sequence[tuple[int, Change | Entry]]) -> None:
    """Fold changes, each with the offset of its record, into the tables, within the caller's transaction."""
    with connection.pipeline():
        folded(connection, found).store(connection)


def folded(
    connection: psycopg.Connection[Any],
    found: Sequence[tuple[int, Change | Entry]],
    cache: RowCache | None = None,
) -> Rows:
    """Return the changed rows, not yet stored, each with the offset of its record.

    What `cache` has need not be loaded. It is not modified.
    """
    cached = cache if cache is not None else RowCache(())
    rows = Rows(written_before=cached.entries, indexed_before=cached.indexed)
    wanted = dict[Table, dict[str, None]]()
    for _, change in found:
        if isinstance(change, Change):
            place = (change.table.name, change.key)
            if place in cached:
                rows.live[place] = dict(cached[place])
            else:
                wanted.setdefault(change.table, {})[change.key] = None
    with connection.pipeline() if len(wanted) > 1 else nullcontext():
        rows.load(connection, wanted)
    for offset, change in found:
        rows.apply(change, offset)
    return rows


class RowCache(OrderedDict[Place, Row]):
    """Cache of rows that the last batches touched, as they are in the tables; only for tables without other writers.

    Of the tables of `history`, whose rows many records add again, it has the keys; and the texts whose words are known.
    """

    def __init__(self, tables: Iterable[Table], history: Iterable[Table] = ()) -> None:
        super().__init__()
        self._tables = {table.name for table in tables}
        self.entries: dict[Table, set[Key]] = {table: set() for table in history}
        self.indexed: set[str] = set()

    def keep(self, rows: Rows) -> None:
        """Update the cache by a batch that has dropped no row, after its commit."""
        for place, row in rows.live.items():
            if place[0] in self._tables:
                self[place] = row
                self.move_to_end(place)
        while len(self) > KEPT:
            self.popitem(last=False)
        for table, entries in self.entries.items():
            entries.update(rows.history.get(table, ()))
            if len(entries) > KEPT_KEYS:
                entries.clear()
        self.indexed |= rows.indexed
        if len(self.indexed) > KEPT_KEYS:
            self.indexed.clear()

    def clear(self) -> None:
        """Forget everything: what the tables have is not known any more."""
        super().clear()
        self.indexed.clear()
        for entries in self.entries.values():
            entries.clear()


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL of one table; rows travel as ONE JSON text, whose types the server reads from the table."""

    keys: tuple[str, ...]
    load: bytes
    drop: bytes
    put: bytes
    add: bytes
    put_if: bytes
    add_if: bytes


@cache
def statements(table: Table) -> Statements:
    """The SQL of `table`."""
    keys = tuple(str(column.name) for column in table.primary_key.columns)
    names = [str(column.name) for column in table.columns if column.computed is None]
    parts = {
        "table": sql.Identifier(str(table.schema), table.name),
        "key": sql.Identifier(keys[0]),
        "keys": sql.SQL(", ").join(map(sql.Identifier, keys)),
        "columns": sql.SQL(", ").join(map(sql.Identifier, names)),
        "updates": sql.SQL(", ").join(
            sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in names if name not in keys
        ),
    }

    def composed(text: LiteralString) -> bytes:
        return sql.SQL(text).format(**parts).as_bytes()

    return Statements(
        keys=keys,
        load=composed("SELECT {columns} FROM {table} WHERE {key} = ANY(%s)"),
        drop=composed("DELETE FROM {table} WHERE {key} = ANY(%s)"),
        put=composed(_INSERT + _PUT),
        add=composed(_INSERT + _ADD),
        put_if=composed(_INSERT + "WHERE EXISTS (SELECT FROM moved) " + _PUT),
        add_if=composed(_INSERT + "WHERE EXISTS (SELECT FROM moved) " + _ADD),
    )


@cache
def at_once(move: bytes, parts: tuple[Part, ...], last: bytes) -> bytes:
    """Compose one statement: `move`, which returns a row or none; `parts`, if it returned one; then `last` over it."""
    writes = [statements(table).add_if if is_new else statements(table).put_if for table, is_new in parts]
    named = [b"moved AS (%b)" % move, *(b"part%d AS (%b)" % numbered for numbered in enumerate(writes))]
    return b"WITH " + b", ".join(named) + b" " + last


def storable(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document as it comes back from the table, for folds that read what they have stored."""
    data = orjson.dumps(document)
    if b"\\u0000" not in data:
        return document
    found: dict[str, Any] = orjson.loads(_NUL.sub(rb"\1\\ufffd", data))
    return found


def _json(rows: list[Row]) -> str:
    """Return JSON that PostgreSQL accepts: the character NUL, which it cannot store, becomes U+FFFD."""
    data = orjson.dumps(rows, option=orjson.OPT_UTC_Z)
    if b"\\u0000" in data:
        data = _NUL.sub(rb"\1\\ufffd", data)
    return data.decode()
