"""PostgreSQL as a bounded source: ranges of a key, read by COPY as undecoded bytes or as Arrow batches.

Each split is read by one statement. All readers of a run share one snapshot, for as long as it is held. If the values
of a row's key never change, the row is in exactly one split at any time, so after an interruption splits may also be
read with other snapshots. The location of a row (`ctid`) is a key within one snapshot only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg
import pyarrow as pa
from psycopg import pq, sql
from pyarrow import csv

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

__all__ = ["LOCK_SECONDS", "PLACE", "PostgresReader", "key_range"]

RAW_BYTES: Final = 1 << 20
LOCK_SECONDS: Final = 10.0
ARROW_BYTES: Final = 4 << 20
CANCEL_SECONDS: Final = 1.0
PLACE: Final = Column("ctid", "tid", nullable=False)
"""Location of a row: a key of every heap table, within one snapshot."""


def key_range(name: str, kind: str, lower: str | None, upper: str | None) -> str:
    parts = []
    if lower is not None:
        parts.append(f"{name} > {sql.Literal(lower).as_string(None)}::{kind}")
    if upper is not None:
        parts.append(f"{name} <= {sql.Literal(upper).as_string(None)}::{kind}")
    return " AND ".join(parts) or "true"


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

    def __post_init__(self) -> None:
        self._moment = Moment(self.table.name, self.held, self.key == PLACE, self.where, self.released)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the chunks of a split and its closing marker.

        Raises:
            BadData: a value that Arrow cannot represent, such as ``infinity`` in a timestamp.
            Unavailable: another session locks the table.
            Refused: reading a table without a key took longer than its snapshot may be held.
        """
        return chunks(slot, split, self._read(split))

    def _read(self, split: Split) -> Iterator[pa.RecordBatch | memoryview | int]:
        if self._moment.passed:
            self.close()
        session = self._connected()
        self._moment.begin(session)
        rows = 0
        for block in self._blocks(session, self._query(split)):
            if isinstance(block, bytes):
                for batch in self._batches(block):
                    rows += batch.num_rows
                    yield batch
            elif self.schema is not None and block != rows:
                raise BadData(f"the server sent {block} rows and {rows} were decoded", where=self.where)
            else:
                yield block

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
            self._session = connect(self.dsn, where=self.where, name="penstock:source", lock=LOCK_SECONDS, whole=True)
        return self._session

    def _query(self, split: Split) -> str:
        names = ", ".join(quoted(name) for name in self.columns)
        rows = key_range(key_sql(self.key), self.key.type, split.lower, split.upper) if self.key else "true"
        form = self.undecoded if self.schema is None else "csv"
        return f"COPY (SELECT {names} FROM {self.table.name.sql} WHERE {rows}) TO STDOUT (FORMAT {form})"

    def _batches(self, block: bytes) -> list[pa.RecordBatch]:
        batch = self._decoded(block)
        return [batch.slice(start, self.batch_rows) for start in range(0, batch.num_rows, self.batch_rows)]

    def _decoded(self, block: bytes) -> pa.RecordBatch:
        schema = self.schema
        assert schema is not None  # noqa: S101 - only called if there is one
        kinds = {one.name: pa.string() if pa.types.is_binary(one.type) else one.type for one in schema}
        try:
            table = csv.read_csv(
                pa.BufferReader(block),
                csv.ReadOptions(column_names=schema.names, use_threads=False, block_size=len(block) + 1),
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
        what = f"a value of `{name}`{f' ({kind.type})' if kind else ''} cannot be kept exactly"
        hint = "infinity, years before 1 or above 9999, 24:00, and NaN in a numeric(p,s) pass only in undecoded rows"
        return BadData(what, where=self.where, hint=hint)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
