"""What a source and a sink need from a database that is one file, whichever library opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from dataflows.connectors.sql.names import ObjectName
from dataflows.data.tables import Column, Table
from dataflows.data.types import carried, column_type
from penstock.errors import Unavailable

__all__ = ["LOCK_SECONDS", "STAGE", "Database", "check_there", "kept", "moved"]

LOCK_SECONDS: Final = 5.0
"""How long a commit waits for whoever else writes to the file."""
STAGE: Final = 'temp."_penstock_stage"'
_KEPT: Final = {
    "smallint", "integer", "bigint", "real", "double precision", "boolean", "date", "timestamp without time zone",
    "timestamp with time zone", "time without time zone", "bytea", "uuid", "json", "jsonb",
}  # fmt: skip


def check_there(path: Path, where: str, known: int | None = None) -> None:
    """Raise where the file is not there any more, or another one is: `known` is the one that a session is with."""
    try:
        found = path.stat().st_ino
    except OSError:
        raise moved(where) from None
    if known not in {None, found}:
        raise moved(where)


def moved(where: str) -> Unavailable:
    """What is told of a file that was there before: what is written to it then is written for nobody."""
    hint = "put it back, or let the next run make it anew; then run again"
    return Unavailable("the database file was moved or deleted in the middle", where=where, hint=hint)


def kept(column: Column) -> Column:
    """The column as these databases can be made to hold it: what has no exact counterpart there is text."""
    kind = column_type(column)
    exact = kind.name in _KEPT or (kind.name == "numeric" and not carried(kind))
    told = str(kind) if kind.name == "numeric" else kind.name
    return Column(column.name, told if exact else "text", column.nullable)


class Database(Protocol):
    """One session with a database file; its errors are Penstock's, and hold no value of a row."""

    where: str
    one_process: bool
    """Whether nobody else can open the file while one process writes to it."""
    indexed: bool
    """Whether small tables are worth an index."""

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute, and all rows that come of it; few are expected."""

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute; how many rows were inserted, updated or deleted, as the database says it."""

    def transaction(self) -> AbstractContextManager[None]:
        """A change of the file as a whole; nobody else writes to it meanwhile.

        Raises:
            Unavailable: somebody else has been writing for longer than the session's patience.
        """

    def make(self) -> None:
        """Make the file, if it is missing."""

    def another(self, check: Callable[[], None]) -> Database:
        """A further session with the same file, that calls `check` while it is kept waiting."""

    def describe(self, name: ObjectName, *, sink: bool) -> Table | None:
        """The table with its types in PostgreSQL's spelling: as values come from it, or as they may be put in."""

    def tables(self, schema: str, prefix: str = "") -> list[str]:
        """The names of tables and views there."""

    def declared(self, column: Column) -> str:
        """What the type of a column is called in ``CREATE TABLE``."""

    def bound(self, column: Column) -> str:
        """A placeholder of the column's type."""

    def value(self, column: Column, text: str) -> Any:
        """What is given for such a placeholder, of a bound that is kept as text."""

    def comparable(self, column: Column) -> bool:
        """Whether the database's order of such values is that of the type."""

    def batches(
        self,
        name: ObjectName,
        columns: Sequence[Column],
        condition: str,
        values: Sequence[Any],
        schema: pa.Schema,
        rows: int,
    ) -> Iterator[pa.RecordBatch]:
        """The rows where the condition holds, at most `rows` in a batch, of just that schema.

        Raises:
            BadData: a value that is not kept exactly by its column's type.
        """

    def make_stage(self, columns: Sequence[Column]) -> None:
        """Make the session's own table `STAGE`, empty; rows in it lock nobody out."""

    def stage(self, batch: pa.RecordBatch) -> None:
        """Put rows into `STAGE`.

        Raises:
            BadData: a value that the database cannot hold.
        """

    def close(self) -> None:
        """End the session; a transaction that is open is rolled back."""
