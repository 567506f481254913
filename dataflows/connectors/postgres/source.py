"""PostgreSQL as a source: plan the window and the splits of a run over a table, view or partitioned table."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.postgres.locks import READ, share
from dataflows.connectors.postgres.reader import LOCK_SECONDS, PLACE, PostgresReader, key_range
from dataflows.connectors.postgres.session import FORM, Session, connect, one_row, release, translated
from dataflows.connectors.postgres.snapshots import hold
from dataflows.connectors.postgres.tables import TableName, describe, escaped
from dataflows.connectors.sql.names import quoted
from dataflows.data.cursors import TIMES, Window, split_key
from dataflows.data.splits import Split, between
from dataflows.data.tables import Column, Table
from dataflows.data.types import parse_type
from penstock.errors import BadData, Refused, SchemaMismatch, Unavailable

__all__ = ["PostgresSource", "row_place"]

PLAN_SECONDS: Final = 600.0


class PostgresSource:
    """A table, view or partitioned table."""

    form = FORM

    def __init__(self, place: Place, table: TableName, dsn: str) -> None:
        self._where, self._table, self._dsn = place.where, table, dsn
        self._session = connect(dsn, where=place.where, name="penstock:source", statement=PLAN_SECONDS)

    def describe(self) -> Table:
        return describe(self._session, self._table, self._where)

    def split_key(self, table: Table) -> Column | None:
        return split_key(table)

    def row_place(self, table: Table) -> Column | None:
        """What a table without a key can be split by, in a run that is read in one snapshot from its beginning on."""
        return row_place(self._session, table, self._where)

    def window(self, table: Table, cursor: Column, last: str | None, lag: timedelta) -> Window:
        share(self._session, table.name, self._where)
        return cursor_window(self._session, table, cursor, last, lag, self._where)

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
            order.held,
            order.released,
        )

    def close(self) -> None:
        release(self._session)


SAMPLE_BYTES: Final = 8 << 20


RANGES_VERSION: Final = 140000
"""Servers from here on read a range of places without reading the rest."""


def cursor_window(
    session: Session, table: Table, column: Column, last: str | None, lag: timedelta, where: str
) -> Window:
    """The window of this run: above `last`, up to the greatest value now, and older than `lag`.

    `now` is the source's. Transactions that were writing to the table when the window's end was taken are waited for,
    so that a row whose cursor was given by the INSERT itself (a sequence, ``clock_timestamp()``) and committed after
    the end was taken is not passed by. What was given before the row's INSERT needs a `lag` longer than the longest
    transaction: ``DEFAULT now()`` is the time at which the transaction began, and it may begin to write only later;
    so does a number that the application took from a sequence beforehand.

    Raises:
        Refused: without a lag, a materialized view or foreign table: nobody can tell who writes to what it shows.
        SchemaMismatch: a lag on a column that is no time.
        BadData: rows whose cursor is NULL: no window would ever hold them.
    """
    kind = parse_type(column.type)
    if lag and kind.name not in TIMES:
        raise SchemaMismatch(f"a lag needs a time; `{column.name}` is {column.type}", where=where, hint="drop the lag")
    name = quoted(column.name)
    with translated(where):
        if not lag and (hidden := session.execute(_HIDDEN, {"table": table.name.sql}).fetchone()):
            hint = "give the cursor a lag, or read the tables behind it"
            raise Refused(f"late rows behind {hidden[0]} cannot be waited for", where=where, hint=hint)
        if (
            column.nullable
            and session.execute(f"SELECT 1 FROM {table.name.sql} WHERE {name} IS NULL LIMIT 1").fetchone()
        ):
            hint = f"fill `{column.name}`, or leave such rows out by a view"
            raise BadData(
                f"rows without a cursor (`{column.name}` IS NULL) would never be read", where=where, hint=hint
            )
        found = one_row(session, _top(table, column, kind.name, after=last is not None), {"last": last, "lag": lag})[0]
        if found is not None and last is not None and kind.name in TIMES:  # a text is compared as its column is, above
            later = one_row(session, f"SELECT %(a)s::{column.type} > %(b)s::{column.type}", {"a": found, "b": last})[0]
            found = found if later else None
    if found is not None:
        await_writers(session, table, where)
    return Window(last, found)


def _top(table: Table, column: Column, kind: str, *, after: bool) -> str:
    """The query for the greatest value of the cursor; not by ``max``, which a uuid has not everywhere."""
    name = escaped(quoted(column.name))
    above = f"{name} > %(last)s::{column.type}" if after else "true"
    greatest = (
        f"SELECT {name} AS top FROM {escaped(table.name.sql)} "
        f"WHERE {above} AND {name} IS NOT NULL ORDER BY {name} DESC LIMIT 1"
    )
    value = "top"
    if kind in TIMES:
        value = f"least(top, (statement_timestamp() - %(lag)s::interval)::{column.type})"
    return f"SELECT (SELECT {value}::text FROM ({greatest}) newest)"


_HIDDEN: Final = f"""{READ}
SELECT c.oid::regclass::text FROM read JOIN pg_class c ON c.oid = read.id WHERE c.relkind IN ('m', 'f') LIMIT 1"""


_WRITERS: Final = f"""{READ}
SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{{}}') FROM pg_locks l JOIN read ON read.id = l.relation
WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (%(seen)s::text[] IS NULL OR l.virtualtransaction = ANY(%(seen)s))"""


def await_writers(session: Session, table: Table, where: str, seconds: float = LOCK_SECONDS) -> None:
    """Wait until the transactions that write to the table, or to what it reads, have ended; prepared ones too.

    Raises:
        Unavailable: one of them still writes after `seconds`.
    """
    with translated(where):
        seen = one_row(session, _WRITERS, {"table": table.name.sql, "seen": None})[0]
        end = time.monotonic() + seconds
        while seen and one_row(session, _WRITERS, {"table": table.name.sql, "seen": seen})[0]:
            if time.monotonic() > end:
                hint = "a transaction has been writing for long; end it, or try again later"
                raise Unavailable("rows that are not committed yet may belong to this window", where=where, hint=hint)
            time.sleep(0.02)


_PLACED: Final = """SELECT EXISTS (SELECT FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = %s::regclass
AND c.relkind = 'r' AND a.amname = 'heap' AND has_table_privilege(c.oid, 'SELECT')
AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid))"""


def row_place(session: Session, table: Table, where: str) -> Column | None:
    """The key that is where a row stands, of a plain table; None of all that is made of others, or not a heap."""
    with translated(where):
        ranges = session.info.server_version >= RANGES_VERSION
        return PLACE if ranges and one_row(session, _PLACED, (table.name.sql,))[0] else None


def plan_splits(
    session: Session, table: Table, key: Column | None, window: Window, rows: int, first: int, where: str
) -> tuple[Split, ...]:
    """Ranges of `key` that hold about `rows` rows each, numbered from `first`; one split where there is no key."""
    if key is None:
        return (Split(first),)
    name, kind = quoted(key.name), key.type
    percent = _sample_percent(session, table, where)
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
                f"SELECT array_agg(DISTINCT b::{kind} ORDER BY b::{kind})::text[] "
                f"FROM unnest((SELECT percentile_disc(%(at)s::float8[]) "
                f"WITHIN GROUP (ORDER BY {escaped(name)}) {escaped(query)})) b",
                {"at": fractions},
            )[0]
            bounds = [value for value in found or [] if value is not None and value != window.upper]
    return between(window.lower, bounds, window.upper, first)


def _places(session: Session, table: Table, pieces: int) -> list[str]:
    """Bounds between blocks: no row of a block stands at 0."""
    query = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int"
    blocks = int(one_row(session, query, (table.name.sql,))[0])
    return [f"({block},0)" for block in sorted({blocks * at // pieces for at in range(1, pieces)} - {0})]


def _sample_percent(session: Session, table: Table, where: str) -> float:
    if table.kind not in {"r", "m", "p"}:
        return 100
    query = "SELECT coalesce(sum(pg_relation_size(relid)), 0)::bigint FROM pg_partition_tree(%(name)s::regclass)"
    plain = "SELECT pg_relation_size(%(name)s::regclass)"
    with translated(where):
        size = one_row(session, query if table.kind == "p" else plain, {"name": table.name.sql})[0]
    return max(0.01, min(100.0, 100.0 * SAMPLE_BYTES / size)) if size else 100
