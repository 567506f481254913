"""PostgreSQL as a source: plan the window and the splits of a run over a table, view or partitioned table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from psycopg.errors import QueryCanceled

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.postgres.bounds import bound_literal, bound_of, bound_sql, key_range
from dataflows.connectors.postgres.cursors import XID, evidence_of, horizon, key_sql
from dataflows.connectors.postgres.identity import database_of
from dataflows.connectors.postgres.locks import READ, share
from dataflows.connectors.postgres.privileges import mark_unreadable
from dataflows.connectors.postgres.reader import LOCK_SECONDS, PLACE, PostgresReader
from dataflows.connectors.postgres.session import FORM, Session, connect, one_row, release, translated
from dataflows.connectors.postgres.snapshots import hold
from dataflows.connectors.postgres.tables import TableName, describe, escaped, repeats_keys
from dataflows.connectors.resolution import ended
from dataflows.connectors.sql.names import quoted
from dataflows.connectors.windows import (
    MAX_VALUES,
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
from dataflows.data.cursors import CursorRule, Window, split_key
from dataflows.data.splits import Split, between
from dataflows.data.tables import Column, Table
from dataflows.data.types import parse_type
from penstock.errors import AccessDenied, Refused, Unavailable

__all__ = ["PostgresSource", "row_place"]

PLAN_SECONDS: Final = 600.0


OLDER_SECONDS: Final = 60
"""Longest time that a column's older values are looked for."""


_NAMED: Final = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s::oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND position('.' IN n.nspname) = 0"""


class PostgresSource:
    """A table, view or partitioned table."""

    form = FORM

    def __init__(self, place: Place, table: TableName, dsn: str) -> None:
        self._where, self._table, self._dsn = place.where, table, dsn
        self._session = connect(dsn, where=place.where, name="penstock:source", statement=PLAN_SECONDS, whole=True)

    def describe(self) -> Table:
        found = describe(self._session, self._table, self._where)
        found = replace(found, identity=f"{found.identity}@{database_of(self._session, self._where)}")
        try:
            with translated(self._where):  # the server refuses this also if a policy would hide rows
                self._session.execute(f"SELECT * FROM {self._table.sql} LIMIT 0")
        except AccessDenied as error:
            found = mark_unreadable(self._session, found, error, self._where)
            with translated(self._where):
                self._session.execute(f"SELECT FROM {self._table.sql} LIMIT 0")
            return self._own_keys(found)  # row numbers of transactions need a privilege on the whole table
        found = self._own_keys(found)
        return replace(found, columns=(*found.columns, XID)) if found.kind in {"r", "p"} else found

    def _own_keys(self, found: Table) -> Table:
        """Return the table without keys that its children may repeat; asked once the user is known to see it."""
        return replace(found, keys=()) if repeats_keys(self._session, found, self._where) else found

    def knows(self, identity: str) -> bool:
        """True if it is of this database; an identity without a database matches none."""
        return identity.partition("@")[2] == database_of(self._session, self._where)

    def named_now(self, identity: str) -> str | None:
        """Return the name of the table of this number."""
        with translated(self._where):
            found = self._session.execute(_NAMED, (identity.partition("@")[0],)).fetchone()
        return None if found is None else str(found[0])

    def estimate(self, table: Table, key: Column | None, window: Window) -> int | None:
        """Return the planner's estimate, which needs no ANALYZE and knows partitions and views."""
        condition = "true" if key is None else key_range(key_sql(key), key.type, window.lower, window.upper)
        with translated(self._where):
            found = one_row(self._session, f"EXPLAIN (FORMAT JSON) SELECT FROM {table.name.sql} WHERE {condition}")[0]
        return int(found[0]["Plan"]["Plan Rows"])

    def older_values(self, table: Table, key: Column, upto: str, columns: Collection[str]) -> Mapping[str, str | None]:
        """Look for rows with another value than the first one, within a time; `xmin` bounds none."""
        rows = "true" if key == XID else key_range(key_sql(key), key.type, None, upto)
        found: dict[str, str | None] = {}
        for name in columns:
            value = f"SELECT {quoted(name)}::text FROM {table.name.sql} WHERE {rows}"
            with contextlib.suppress(QueryCanceled), translated(self._where), self._session.transaction():
                self._session.execute(f"SET LOCAL statement_timeout = '{OLDER_SECONDS}s'")
                first = self._session.execute(f"{value} LIMIT 1").fetchone()
                given = escaped(f"SELECT EXISTS ({value} AND {quoted(name)}::text IS DISTINCT FROM ") + "%s)"
                if first is None or not one_row(self._session, given, (first[0],))[0]:
                    found[name] = first[0] if first else None
        return found

    def split_key(self, table: Table) -> Column | None:
        return split_key(table if table.keys else describe(self._session, self._table, self._where))

    def row_place(self, table: Table) -> Column | None:
        """Return the row location, to split a table without a key by; it is valid within one snapshot only."""
        return row_place(self._session, table, self._where)

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        share(self._session, table.name, self._where)
        return cursor_window(self._session, table, cursor, last, rule, self._where, self._dsn)

    def risks(self, table: Table, cursor: Column, rule: CursorRule) -> tuple[str, ...]:
        evidence = evidence_of(self._session, table, cursor, rule, self._where, self._dsn)
        check_cursor(evidence, rule, self._where)
        return risks(evidence, rule)

    def min_ahead(self, table: Table, cursor: Column, rule: CursorRule) -> timedelta:
        """Return how far the clocks of sessions are ahead of UTC; without a lag it would look at transactions."""
        evidence = evidence_of(self._session, table, cursor, rule, self._where, self._dsn)
        return horizon(self._session, table, evidence, rule, self._where, self._dsn, LOCK_SECONDS).min_ahead

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        share(self._session, table.name, self._where)
        return plan_splits(self._session, table, key, window, rows, first, self._where)

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return hold(self._session, table, limit, self._where)

    def reader(self, order: ReadOrder) -> PostgresReader:
        where = f"{self._where}: {self._table}"
        return PostgresReader(
            self._dsn,
            order.table,
            order.columns,
            order.key,
            where,
            order.batch_rows,
            order.schema,
            order.check,
            "text" if order.as_text else "binary",
            order.snapshot,
            order.released,
        )

    def close(self) -> None:
        release(self._session)


SAMPLE_BYTES: Final = 8 << 20


ROW_BYTES: Final = 8
"""Bytes of a row at least, also where a table's storage compresses it; a row of a heap has 28."""


RANGES_VERSION: Final = 140000
"""First server version that reads a range of row locations without a full scan."""


def cursor_window(
    session: Session, table: Table, column: Column, last: str | None, rule: CursorRule, where: str, dsn: str
) -> Window:
    """Return the window of this run; its end is chosen by `connectors/windows.py` so that no row is missed.

    By a time, it ends before the start of the oldest open transaction, since ``DEFAULT now()`` is the time of that
    start. By a number, the run waits for transactions that write to the table when the window's end is taken: a row may
    have drawn its number by then and be committed later.

    Raises:
        Refused: a cursor by which rows would be lost.
        SchemaMismatch: a lag on a column that is not a time.
        BadData: rows whose cursor is NULL; no window would ever contain them.
    """
    evidence = evidence_of(session, table, column, rule, where, dsn)
    check_cursor(evidence, rule, where)
    if column == XID:
        return _xid_window(session, last, where)
    name = quoted(column.name)
    with translated(where):
        unset = f"SELECT 1 FROM {table.name.sql} WHERE {name} IS NULL LIMIT 1"
        if column.nullable and session.execute(unset).fetchone():
            raise null_cursor_error(column, where)
    if not evidence.is_time:
        return _value_window(session, table, evidence, last, where)
    return _time_window(session, table, evidence, last, rule, where, dsn)


def _time_window(
    session: Session, table: Table, evidence: Evidence, last: str | None, rule: CursorRule, where: str, dsn: str
) -> Window:
    column, name = evidence.column, escaped(quoted(evidence.column.name))
    clock = horizon(session, table, evidence, rule, where, dsn, LOCK_SECONDS)
    kind, of, values = column.type, escaped(table.name.sql), {"last": last}
    above = "true" if last is None else f"{name} > %(last)s::{column.type}"

    def until(edge: Edge) -> dict[str, str | None]:
        return values | {"upper": format_time(edge.upper, column)}

    def greatest(edge: Edge) -> str | None:
        top = f"SELECT max({name})::text FROM {of} WHERE {above} AND {name} <= %(upper)s::{kind}"
        found: str | None = one_row(session, top, until(edge))[0]
        return found

    def latest(edge: Edge, rows: int, *, distinct: bool) -> list[str | None]:
        each = f"SELECT {'DISTINCT ' if distinct else ''}{name} AS k FROM {of}"
        newest = f"{each} WHERE {name} <= %(upper)s::{kind} ORDER BY 1 DESC LIMIT {rows}"
        return [row[0] for row in session.execute(f"SELECT k::text FROM ({newest}) newest", until(edge)).fetchall()]

    with translated(where):
        end = ended(evidence, rule, clock, greatest, latest)
        beyond = f"SELECT count(*) FROM {of} WHERE {name} > %(now)s::{kind}"
        later = int(one_row(session, beyond, {"now": format_time(end.edge.now, column)})[0])
    if end.greatest is not None and not rule.lag:
        await_writers(session, table, where, prepared=True)
    notes = (*future_row_notes(column, later), *open_transaction_notes(clock), *end.notes)
    return replace(time_window(end.edge, column, last, end.greatest), notes=notes)


ENDLESS_VERSION: Final = 140000
"""First server version with infinite numbers, which are less than NaN."""


def _value_window(session: Session, table: Table, evidence: Evidence, last: str | None, where: str) -> Window:
    """Return the window up to the greatest value; without ``max``, which older servers lack for uuid."""
    column = evidence.column
    name, kind, of = escaped(quoted(column.name)), column.type, escaped(table.name.sql)
    greatest = MAX_VALUES.get(parse_type(kind).name)
    if greatest == "NaN" and session.info.server_version >= ENDLESS_VERSION:
        greatest = "Infinity"
    base = parse_type(kind).name
    above = "true" if last is None else f"{name} > {escaped(bound_literal(last, kind))}"
    below = "true" if greatest is None else f"{name} < '{greatest}'::{base}"

    def top(limit: str) -> str | None:
        newest = f"SELECT {name} AS top FROM {of} WHERE {above} AND {limit} ORDER BY {name} DESC LIMIT 1"
        query = f"SELECT (SELECT {bound_sql(session, 'top', kind)} FROM ({newest}) newest)"
        return bound_of(one_row(session, query, {})[0], kind)

    with translated(where):
        found = top(below)
        beyond = f"SELECT count(*) FROM {of} WHERE {name} >= '{greatest}'::{base}"
        rows = int(one_row(session, beyond, {})[0]) if greatest is not None else 0
        if found is None and parse_type(kind).integer:
            highest = f"SELECT max({name})::text FROM {of} WHERE {below}"
            check_numbering(column, last, evidence.drawn, lambda: one_row(session, highest, {})[0], where)
    if found is not None:
        await_writers(session, table, where)
    if found is not None and evidence.alike:
        with translated(where):
            return text_window(last, found, top(f"{name} < {escaped(bound_literal(found, kind))}"))
    return Window(last, found, notes=future_row_notes(column, rows, above=True))


def _xid_window(session: Session, last: str | None, where: str) -> Window:
    """Return the window of transactions below the oldest open one; later runs read those that are open now.

    Raises:
        Refused: the server has assigned fewer transactions than the position names.
    """
    with translated(where):
        oldest, following = one_row(
            session, "SELECT txid_snapshot_xmin(s), txid_snapshot_xmax(s) FROM txid_current_snapshot() s"
        )
    if last is not None and int(last) >= following:
        hint = "read everything by `penstock run NAME --full`"
        what = "the server has assigned fewer transactions than before: it was restored or replaced"
        raise Refused(what, where=where, hint=hint)
    return Window(last, str(oldest - 1) if last is None or oldest - 1 > int(last) else None)


_WRITERS: Final = f"""{READ}
SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{{}}') FROM pg_locks l JOIN read ON read.id = l.relation
WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (NOT %(prepared)s OR l.pid IS NULL) AND (%(seen)s::text[] IS NULL OR l.virtualtransaction = ANY(%(seen)s))"""


def await_writers(
    session: Session, table: Table, where: str, seconds: float = LOCK_SECONDS, *, prepared: bool = False
) -> None:
    """Wait until the transactions that write to the table, or to the tables of a view, have ended.

    These include prepared transactions; with `prepared`, it waits only for those.

    Raises:
        Unavailable: one of them still writes after `seconds`.
    """
    with translated(where):
        asked = {"table": table.name.sql, "prepared": prepared}
        seen = one_row(session, _WRITERS, asked | {"seen": None})[0]
        end = time.monotonic() + seconds
        while seen and one_row(session, _WRITERS, asked | {"seen": seen})[0]:
            if time.monotonic() > end:
                hint = (
                    "a transaction has been writing for long (pg_locks, pg_prepared_xacts); end it, or try again later"
                )
                raise Unavailable("rows that are not committed yet may belong to this window", where=where, hint=hint)
            time.sleep(0.02)


_PLACED: Final = """SELECT EXISTS (SELECT FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = %s::regclass
AND c.relkind = 'r' AND a.amname = 'heap' AND has_table_privilege(c.oid, 'SELECT')
AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid))"""


def row_place(session: Session, table: Table, where: str) -> Column | None:
    """Return the row location as a key of an ordinary heap table; None for views, parents and other storage."""
    with translated(where):
        ranges = session.info.server_version >= RANGES_VERSION
        return PLACE if ranges and one_row(session, _PLACED, (table.name.sql,))[0] else None


def plan_splits(
    session: Session, table: Table, key: Column | None, window: Window, rows: int, first: int, where: str
) -> tuple[Split, ...]:
    """Return ranges of `key` with about `rows` rows each, numbered from `first`; one split if there is no key."""
    if key is None:
        return (Split(first),)
    name, kind = key_sql(key), key.type
    size = _size(session, table, where)
    if table.kind == "r" and table.keys and size is not None and size <= rows * ROW_BYTES:
        return between(window.lower, [], window.upper, first)
    percent = max(0.01, min(100.0, 100.0 * SAMPLE_BYTES / size)) if size else 100
    sample = f" TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)" if percent < 100 else ""  # noqa: PLR2004 - percent
    query = f"FROM {table.name.sql}{sample} WHERE {key_range(name, kind, window.lower, window.upper)}"
    with translated(where):
        count = one_row(session, f"SELECT count(*) {query}")[0] * 100 / percent
        pieces = max(1, round(count / rows))
        bounds: list[str] = []
        if pieces > 1 and key == PLACE:
            bounds = _places(session, table, pieces)
        elif pieces > 1:
            fractions = [number / pieces for number in range(1, pieces)]
            found = one_row(
                session,
                f"SELECT array_agg({bound_sql(session, 'b', kind)} ORDER BY b) FROM (SELECT DISTINCT b::{kind} AS b "
                f"FROM unnest((SELECT percentile_disc(%(at)s::float8[]) "
                f"WITHIN GROUP (ORDER BY {escaped(name)}) {escaped(query)})) b) s WHERE b IS NOT NULL",
                {"at": fractions},
            )[0]
            each = (bound_of(value, kind) for value in found or [])
            bounds = [value for value in each if value is not None and value != window.upper]
    return between(window.lower, bounds, window.upper, first)


def _places(session: Session, table: Table, pieces: int) -> list[str]:
    """Return bounds between blocks; item numbers begin at 1, so no row is at 0."""
    query = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int"
    blocks = int(one_row(session, query, (table.name.sql,))[0])
    return [f"({block},0)" for block in sorted({blocks * at // pieces for at in range(1, pieces)} - {0})]


def _size(session: Session, table: Table, where: str) -> int | None:
    """Return the bytes of its rows, without those of its children; None of what has no rows of its own."""
    if table.kind not in {"r", "m", "p"}:
        return None
    query = "SELECT coalesce(sum(pg_relation_size(relid)), 0)::bigint FROM pg_partition_tree(%(name)s::regclass)"
    plain = "SELECT pg_relation_size(%(name)s::regclass)"
    with translated(where):
        found = one_row(session, query if table.kind == "p" else plain, {"name": table.name.sql}, same=True)
    return int(found[0])
