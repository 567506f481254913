"""The projection: turns the control topic into rows of schema `catalog`, in one transaction with its position."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import orjson
import psycopg
from psycopg import errors

from catalog import tables
from catalog.dataset_folds import Seen
from catalog.folds import FOLDS, asked, unreadable
from catalog.rows import Change, Entry, RowCache, at_once, fold, folded
from catalog.waiting import CHANNEL
from penstock.errors import Fenced
from penstock.postgres import address, connect, translated
from penstock.records import Reading, Record
from penstock.records.families import body, is_known

__all__ = ["Prepared", "Projector", "changes", "prepared", "without_collection"]

_ID: Final = "control"
LARGE: Final = 500
"""Records of a batch, as they come while a projector catches up."""
_BAD_ROW: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
"""Errors of a valid record that cannot be folded, or that the database refuses: a key too large, a tree too deep."""

Prepared = Sequence[tuple[Seen, Sequence[Change | Entry]]]
"""Records with the changes that each makes."""


def changes(offset: int, record: Record) -> list[Change | Entry]:
    """Return the changes by the record at `offset`; none if this release does not know its type.

    Never raises: a record that does not validate becomes an entry of `errors`.
    """
    seen = Seen(offset, record)
    if record.kind == "command":
        return list(asked(seen))
    apply = FOLDS.get(record.type)
    if apply is None or not is_known(record):
        return []
    try:
        return list(apply(seen, body(record)))
    except Exception as error:  # noqa: BLE001 - no record may stop the projection; the error is recorded
        return list(unreadable(seen, error))


def prepared(records: Iterable[tuple[int, Record]]) -> Prepared:
    """Return the changes of each record, which depend on nothing but the record: another thread may make them."""
    return [(Seen(offset, record), changes(offset, record)) for offset, record in records]


class Projector:
    """Folds batches of the control topic into the catalog. Only one may work on a catalog; a second one is fenced.

    The result depends on the records only, not on the batches or the time of folding.
    """

    def __init__(self, dsn: str) -> None:
        self._where = address(dsn)
        self._connection = connect(dsn, "penstock:projector", autocommit=True)
        self._next: int | None = None
        self._cache = RowCache((tables.commands, tables.pipelines, tables.runs, tables.tasks), history=(tables.words,))
        # Commits lost in a crash are folded again, with rows and position together: none has to wait for the disk.
        self._connection.execute("SET synchronous_commit TO off")

    def position(self) -> tuple[int, Reading]:
        """Return the next offset to read, and the reader's state there; this projector relies on both from now on.

        Raises Unavailable when the database cannot be used, MissingTable before `migrate`.
        """
        try:
            self._connection.execute(_BEGIN, [_ID, orjson.dumps(Reading().to_dict()).decode()])
            row = self._connection.execute(_POSITION, [_ID]).fetchone()
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error
        if row is None:
            raise self._fenced()
        self._next = int(row[0])
        self._cache.clear()
        return self._next, Reading.from_dict(orjson.loads(row[1]))

    def apply(self, records: Sequence[tuple[int, Record]], next_offset: int, reading: Reading) -> None:
        """Fold `records` (offset and record, in order, those that `reading` kept) and move to `next_offset`.

        See `apply_prepared`.
        """
        with without_collection(len(records)):
            self.apply_prepared(prepared(records), next_offset, reading)

    def apply_prepared(self, batch: Prepared, next_offset: int, reading: Reading) -> None:
        """Fold prepared records and move to `next_offset`.

        `reading` is the state after them. Atomic. A record of a type or version that this release does not know
        is skipped; one that does not validate becomes an entry of `errors`.

        Raises:
            Fenced: another projector has moved the position; nothing was written, and this one must stop.
            Unavailable: the database cannot be used; nothing was written, unless the connection broke at the commit,
                so a new Projector must ask for the position.
        """
        if self._next is None:
            self.position()
        try:
            with without_collection(len(batch)):
                self._fold(batch, next_offset, reading)
        except psycopg.Error as error:
            raise translated(error, where=self._where) from error
        self._next = next_offset

    def _fold(self, batch: Prepared, next_offset: int, reading: Reading) -> None:
        try:
            self._write(batch, next_offset, reading)
        except _BAD_ROW:
            self._cache.clear()
            self._write_parts(batch, next_offset, reading)

    def _write(self, batch: Prepared, next_offset: int, reading: Reading) -> None:
        """Write the batch's changes and the position in one statement."""
        rows = folded(self._connection, _flat(batch), self._cache)
        if rows.dropped:  # a row may be dropped and recreated, which one statement cannot do
            self._cache.clear()
            return self._write_parts(batch, next_offset, reading)
        written = rows.written()
        statement = at_once(_MOVE, tuple(written), _TELL)
        values = [*self._move(next_offset, reading), *written.values(), CHANNEL]
        if self._connection.execute(statement, values).fetchone() is None:
            raise self._fenced()
        return self._cache.keep(rows)

    def _write_parts(self, batch: Prepared, next_offset: int, reading: Reading) -> None:
        with self._connection.transaction():
            # First, because its row lock makes a second projector wait here and then be fenced.
            if self._connection.execute(_MOVE, self._move(next_offset, reading)).fetchone() is None:
                raise self._fenced()
            self._fold_parts(batch)
            self._connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(next_offset)])

    def _move(self, next_offset: int, reading: Reading) -> list[object]:
        return [next_offset, orjson.dumps(reading.to_dict()).decode(), _ID, self._next]

    def _fold_parts(self, batch: Prepared) -> None:
        """Fold all that can be folded: halve the batch until only records that the database refuses are left out."""
        try:
            with self._connection.transaction():
                fold(self._connection, _flat(batch))
        except _BAD_ROW as error:
            half = len(batch) // 2
            if not half:
                seen = batch[0][0]
                return fold(self._connection, _flat([(seen, list(unreadable(seen, error)))]))
            self._fold_parts(batch[:half])
            return self._fold_parts(batch[half:])

    def _fenced(self) -> Fenced:
        hint = "stop this one; the other one's position is kept"
        return Fenced("another projector works on this catalog", where=self._where, value=self._next, hint=hint)

    def close(self) -> None:
        """Close the connection; may be called more than once."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


@contextmanager
def without_collection(records: int = LARGE) -> Iterator[None]:
    """Fold many records without garbage collection: all that they make stays until the end, and nothing in cycles."""
    if records < LARGE or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _flat(batch: Prepared) -> list[tuple[int, Change | Entry]]:
    return [(seen.offset, change) for seen, found in batch for change in found]


_BEGIN: Final = "INSERT INTO catalog.position (id, next, reading) VALUES (%s, 0, %s::jsonb) ON CONFLICT (id) DO NOTHING"
_POSITION: Final = "SELECT next, reading::text FROM catalog.position WHERE id = %s"
_MOVE: Final = b"UPDATE catalog.position SET next = %s, reading = %s::jsonb WHERE id = %s AND next = %s RETURNING next"
_TELL: Final = b"SELECT pg_notify(%s, next::text) FROM moved"
