"""PostgreSQL as a bounded source: ranges of a key, read by COPY as undecoded bytes or as Arrow batches.

Each split is read by one statement; all of a run's, by however many readers, in one snapshot, for as long as that is
held. A key that never changes puts each row into exactly one split whatever is written meanwhile, so that splits may be
read at other points in time too, after a break. Where a row stands (`ctid`) is a key within one snapshot only.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import psycopg
import pyarrow as pa
from psycopg import pq, sql
from pyarrow import csv

from dataflows.data.chunks import Chunk
from dataflows.data.cursors import TIMES, Window
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from dataflows.data.types import parse_type
from dataflows.postgres.encodings import hex_decoded
from dataflows.postgres.locks import READ
from dataflows.postgres.session import Session, connect, copy_out, one_row, translated
from dataflows.postgres.snapshots import MARK, Moment
from dataflows.postgres.tables import escaped, quoted
from dataflows.postgres.wire import framed, plain, receive, receive_rows
from penstock.errors import BadData, Refused, SchemaMismatch, Unavailable
from penstock.failpoints import failpoint

__all__ = ["PLACE", "PostgresReader", "cursor_window", "plan_splits", "row_place"]

RAW_BYTES: Final = 1 << 20
ARROW_BYTES: Final = 4 << 20
SAMPLE_BYTES: Final = 8 << 20
LOCK_SECONDS: Final = 10.0
CANCEL_SECONDS: Final = 1.0
PLACE: Final = Column("ctid", "tid", nullable=False)
"""Where a row stands: a key of every heap table, for as long as one snapshot lasts."""
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
    sample = f" TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)" if percent < 100 else ""  # noqa: PLR2004
    query = f"FROM {table.name.sql}{sample} WHERE {_range(name, kind, window.lower, window.upper)}"
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
    edges: list[str | None] = [window.lower, *bounds, window.upper]
    return tuple(Split(first + at, edges[at], edges[at + 1]) for at in range(len(edges) - 1))


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


def _range(name: str, kind: str, lower: str | None, upper: str | None) -> str:
    parts = []
    if lower is not None:
        parts.append(f"{name} > {sql.Literal(lower).as_string(None)}::{kind}")
    if upper is not None:
        parts.append(f"{name} <= {sql.Literal(upper).as_string(None)}::{kind}")
    return " AND ".join(parts) or "true"


def _nothing() -> None:
    """Nobody wants to know."""


@dataclass(slots=True)
class PostgresReader:
    """Reads splits over one session of its own.

    With `schema`, as Arrow batches of at most `batch_rows` rows; without, as blocks of a binary COPY. `check` is called
    while the source keeps us waiting, and ends the read by raising.
    """

    dsn: str
    table: Table
    columns: Sequence[str]
    key: Column | None
    where: str
    batch_rows: int
    schema: pa.Schema | None
    check: Callable[[], None]
    undecoded: str = "binary"
    """The form of COPY that undecoded rows are read in."""
    held: str | None = None
    """The point in time that `hold` keeps."""
    released: Callable[[], None] = _nothing
    """Called where that is not held any more, and splits are read at points in time of their own from then on."""
    _session: Session | None = field(default=None, init=False)
    _moment: Moment = field(init=False)
    _asked: bool = field(default=False, init=False)
    """A query goes over the socket behind the driver's back."""

    def __post_init__(self) -> None:
        self._moment = Moment(self.table.name, self.held, self.key == PLACE, self.where, self.released)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """The chunks of a split and its closing marker.

        Raises:
            BadData: a value that Arrow cannot hold, such as ``infinity`` in a timestamp.
            Unavailable: the table is locked by somebody.
            Refused: a table without a key took longer than its snapshot may be held.
        """
        failpoint("read.begin", split.number)
        if self._moment.passed:
            self.close()
        session = self._connected()
        self._moment.begin(session)
        sequence = rows = counted = 0
        for block in self._blocks(session, self._query(split)):
            if isinstance(block, int):
                counted = block
                continue
            failpoint("read.block", split.number)
            for batch in [block] if isinstance(block, memoryview) else self._batches(block):
                held = 0 if isinstance(batch, memoryview) else batch.num_rows
                rows += held
                yield Chunk(slot, split.number, sequence, batch, held, read=held)
                sequence += 1
        if self.schema is not None and rows != counted:
            raise BadData(f"the server sent {counted} rows and {rows} were decoded", where=self.where)
        failpoint("read.end", split.number)
        yield Chunk(slot, split.number, sequence, None, counted, last=True, read=counted)

    def _blocks(self, session: Session, query: str) -> Iterator[bytes | memoryview | int]:
        """What the server sends: messages, where nothing has to look at them, else whole rows; at the end the count."""
        if not plain(session):
            size = RAW_BYTES if self.schema is None else ARROW_BYTES
            for block in copy_out(session, query, size, self.check, self.where):
                yield framed(block) if isinstance(block, bytes) and self.schema is None else block
            return
        self._asked = True
        if self.schema is None:
            yield from receive(session, query, self.check, self.where, RAW_BYTES, MARK)
        else:
            yield from receive_rows(session, query, self.check, self.where, ARROW_BYTES, MARK)
        self._asked = False

    def close(self) -> None:
        """End the session, and the query that it may still be running."""
        if self._session is not None:
            if self._asked or self._session.info.transaction_status == pq.TransactionStatus.ACTIVE:
                with contextlib.suppress(psycopg.Error):
                    self._session.cancel_safe(timeout=CANCEL_SECONDS)
            self._session.close()
            self._session = None

    def _connected(self) -> Session:
        if self._session is None:
            self._session = connect(self.dsn, where=self.where, name="penstock:source", lock=LOCK_SECONDS)
        return self._session

    def _query(self, split: Split) -> str:
        names = ", ".join(quoted(name) for name in self.columns)
        rows = _range(quoted(self.key.name), self.key.type, split.lower, split.upper) if self.key else "true"
        form = self.undecoded if self.schema is None else "csv"
        return f"COPY (SELECT {names} FROM {self.table.name.sql} WHERE {rows}) TO STDOUT (FORMAT {form})"

    def _batches(self, block: bytes) -> list[pa.RecordBatch]:
        batch = self._decoded(block)
        return [batch.slice(start, self.batch_rows) for start in range(0, batch.num_rows, self.batch_rows)]

    def _decoded(self, block: bytes) -> pa.RecordBatch:
        schema = self.schema
        assert schema is not None  # noqa: S101 - only called where there is one
        kinds = {one.name: pa.string() if pa.types.is_binary(one.type) else one.type for one in schema}
        try:
            table = csv.read_csv(
                pa.BufferReader(block),
                csv.ReadOptions(column_names=schema.names, use_threads=False, block_size=len(block) + 1),
                csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                csv.ConvertOptions(
                    column_types=kinds, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""],
                    true_values=["t"], false_values=["f"], check_utf8=False,
                ),
            )  # fmt: skip
        except pa.ArrowInvalid as error:
            raise self._bad(str(error)) from None
        for at, one in enumerate(schema):
            if pa.types.is_binary(one.type):
                table = table.set_column(at, one, hex_decoded(table.column(at)))
        return _one_batch(table)

    def _bad(self, message: str) -> BadData:
        found = re.search(r"column #(\d+)", message)
        name = self.columns[int(found.group(1))] if found else "?"
        kind = self.table.column(name)
        what = f"a value of `{name}`{f' ({kind.type})' if kind else ''} is outside of what can be kept exactly"
        hint = (
            "infinity, years before 1 or above 9999, 24:00, and NaN in a numeric(p,s) pass in rows that are not decoded"
        )
        return BadData(what, where=self.where, hint=hint)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
