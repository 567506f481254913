"""PostgreSQL as a bounded source: ranges of a key, read by COPY as undecoded bytes or as Arrow batches.

Each split is read by one statement. All readers of a run share one snapshot, for as long as it is held. If the values
of a row's key never change, the row is in exactly one split at any time, so after an interruption splits may also be
read with other snapshots. The location of a row (`ctid`) is a key within one snapshot only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import psycopg
import pyarrow as pa
from psycopg import pq
from pyarrow import csv

from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.formats.readable import readable, without
from dataflows.connectors.postgres.bounds import UNCHECKED, is_unchecked, key_range
from dataflows.connectors.postgres.cursors import key_sql
from dataflows.connectors.postgres.encodings import hex_decoded
from dataflows.connectors.postgres.session import Session, connect, copy_out, release
from dataflows.connectors.postgres.snapshots import MARK, Moment
from dataflows.connectors.postgres.wire import framed, plain, receive, receive_rows
from dataflows.connectors.reading import chunks
from dataflows.connectors.sql.names import quoted
from dataflows.data.chunks import Chunk
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from penstock.errors import BadData

__all__ = ["LOCK_SECONDS", "PLACE", "PostgresReader"]

RAW_BYTES: Final = 1 << 20
LOCK_SECONDS: Final = 10.0
ARROW_BYTES: Final = 4 << 20
CANCEL_SECONDS: Final = 1.0
PLACE: Final = Column("ctid", "tid", nullable=False)
"""Location of a row: a key of every heap table, within one snapshot."""


def _ignore() -> None:
    """Default callback; does nothing."""


@dataclass(slots=True)
class PostgresReader:
    """Reads splits over its own session.

    With `schema`, it yields Arrow batches of at most `batch_rows` rows; without, blocks of a binary COPY. `check` is
    called while it waits for the source; an error that it raises ends the read.
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
    """Format of COPY for undecoded rows."""
    held: str | None = None
    """Snapshot that `hold` exported."""
    released: Callable[[], None] = _ignore
    """Called when the shared snapshot is no longer held; later splits are read with snapshots of their own."""
    _session: Session | None = field(default=None, init=False)
    _moment: Moment = field(init=False)
    _asked: bool = field(default=False, init=False)
    """True if queries may use the socket directly, bypassing libpq."""
    _unchecked: bool = field(default=False, init=False)
    """True if texts may be bytes in any encoding."""

    def __post_init__(self) -> None:
        self._moment = Moment(self.table.name, self.held, self.key == PLACE, self.where, self.released)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the chunks of a split and its closing marker.

        Decoded rows with a value that Arrow cannot represent, such as ``infinity`` in a timestamp, are refused.

        Raises:
            Unavailable: another session locks the table.
            Refused: reading a table without a key took longer than its snapshot may be held.
        """
        return chunks(slot, split, self._read(split))

    def _read(self, split: Split) -> Iterator[Rows | memoryview | int]:
        if self._moment.passed:
            self.close()
        session = self._connected()
        self._moment.begin(session)
        yield from self.in_session(session, split)

    def in_session(self, session: Session, split: Split) -> Iterator[Rows | memoryview | int]:
        """Yield what a split has, over a session whose transaction has the savepoint `MARK`."""
        rows = 0
        for block in self._blocks(session, self._query(split)):
            if isinstance(block, bytes):
                for part in self.batches(block):
                    rows += part.batch.num_rows + len(part.refused)
                    yield part
            elif self.schema is None:
                yield block
            elif block != rows:
                raise BadData(f"the server sent {block} rows and {rows} were decoded", where=self.where)

    def _blocks(self, session: Session, query: str) -> Iterator[bytes | memoryview | int]:
        """Yield what the server sends: raw messages if rows stay undecoded, else whole rows; last the row count."""
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
        """End the session, and the query that may still be running."""
        if self._session is not None:
            if self._asked or self._session.info.transaction_status == pq.TransactionStatus.ACTIVE:
                with contextlib.suppress(psycopg.Error):
                    self._session.cancel_safe(timeout=CANCEL_SECONDS)
                self._session.close()  # not reusable: results may still arrive
            else:
                release(self._session)
            self._session, self._asked = None, False

    def _connected(self) -> Session:
        if self._session is None:
            session = connect(self.dsn, where=self.where, name="penstock:source", lock=LOCK_SECONDS, whole=True)
            self._unchecked = is_unchecked(session)
            if self._unchecked:  # else the server would refuse the whole statement for one value
                session.execute(f"SET client_encoding = '{UNCHECKED}'")
            self._session = session
        return self._session

    def _query(self, split: Split) -> str:
        names = ", ".join(quoted(name) for name in self.columns)
        rows = key_range(key_sql(self.key), self.key.type, split.lower, split.upper) if self.key else "true"
        form = self.undecoded if self.schema is None else "csv"
        return f"COPY (SELECT {names} FROM {self.table.name.sql} WHERE {rows}) TO STDOUT (FORMAT {form})"

    def batches(self, block: bytes) -> Iterator[Rows]:
        """Decode lines of CSV, as the server writes them, to batches of at most `batch_rows` rows."""
        rows = self._decoded(block)
        starts = range(0, max(rows.batch.num_rows, 1), self.batch_rows)
        return (Rows(rows.batch.slice(at, self.batch_rows), () if at else rows.refused) for at in starts)

    def _decoded(self, block: bytes) -> Rows:
        schema = self._schema
        kinds = {one.name: pa.string() if pa.types.is_binary(one.type) else one.type for one in schema}
        try:
            table = _parsed(block, kinds)
            if self._unchecked:
                _check_text(table)
        except pa.ArrowInvalid:
            return self._by_row(block)
        for at, one in enumerate(schema):
            if pa.types.is_binary(one.type):
                table = table.set_column(at, one, hex_decoded(table.column(at)))
        return Rows(_one_batch(table))

    @property
    def _schema(self) -> pa.Schema:
        assert self.schema is not None  # noqa: S101 - only decoded rows have one
        return self.schema

    def _by_row(self, block: bytes) -> Rows:
        """Decode a block that holds a value which cannot be decoded; refuse the rows of such values."""
        raw = _one_batch(_parsed(block, dict.fromkeys(self._schema.names, pa.binary())))
        columns = [
            readable(values, one.type, partial(self._converted, one))
            for values, one in zip(raw.columns, self._schema, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays([array for array, _ in columns], schema=self._schema)
        return without(
            batch, [wrong for _, wrong in columns], lambda at: {n: _shown(raw[n][at]) for n in raw.schema.names}
        )

    def _converted(self, wanted: pa.Field, values: pa.Array) -> pa.Array:
        """Decode values of one column, as the server writes them.

        Raises:
            BadData: one of them cannot be decoded.
        """
        try:
            if wanted.type == pa.string():
                return values.cast(pa.string())
            if pa.types.is_binary(wanted.type):
                return hex_decoded(values.cast(pa.string()))
            text = pa.BufferOutputStream()
            table = pa.table([values.cast(pa.string())], names=[wanted.name])
            csv.write_csv(table, text, csv.WriteOptions(include_header=False, quoting_style="all_valid"))
            return _one_batch(_parsed(text.getvalue(), {wanted.name: wanted.type})).column(0)
        except pa.ArrowInvalid:
            raise self._bad(wanted) from None

    def _bad(self, wanted: pa.Field) -> BadData:
        kind = self.table.column(wanted.name)
        what = f"a value of `{wanted.name}`{f' ({kind.type})' if kind else ''} cannot be kept exactly"
        if wanted.type == pa.string():
            what = f"a text of `{wanted.name}` is not valid UTF-8"
        hint = "infinity, years before 1 or above 9999, 24:00, and NaN in a numeric(p,s) pass only in undecoded rows"
        return BadData(what, where=self.where, hint=hint)


def _parsed(block: bytes | pa.Buffer, kinds: dict[str, pa.DataType]) -> pa.Table:
    return csv.read_csv(
        pa.BufferReader(block),
        csv.ReadOptions(column_names=list(kinds), use_threads=False, block_size=len(block) + 1),
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types=kinds,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            check_utf8=False,
        ),
    )


def _check_text(table: pa.Table) -> None:
    """Raise ArrowInvalid if a text is not valid UTF-8."""
    for column in table.columns:
        if pa.types.is_string(column.type):
            column.cast(pa.binary()).cast(pa.string())


def _shown(value: pa.Scalar) -> str | None:
    """Return a value as a dead letter contains it; invalid UTF-8 as hexadecimal digits."""
    found = value.as_py()
    if found is None:
        return None
    try:
        return str(found, "utf-8")
    except UnicodeDecodeError:
        return "\\x" + bytes(found).hex()


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
