"""Optional abilities of sources and targets: one protocol for each, tested by `isinstance`.

A system has an ability by having its member, and nothing else. `inspection` finds a member whose name is misspelt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Final, Protocol, runtime_checkable

import pyarrow as pa

from dataflows.connectors.contract import Method
from dataflows.connectors.streaming import ChangeSource, Partitioned, Selective, Streaming
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.tables import Column, Table

__all__ = [
    "OF_SOURCES",
    "OF_TARGETS",
    "ChangeTarget",
    "CreateReporting",
    "Estimating",
    "Filling",
    "GrantChecking",
    "Growing",
    "GrowthReporting",
    "KeyLimits",
    "Keyed",
    "LastKept",
    "Lingering",
    "Lockable",
    "Locking",
    "Native",
    "OlderRows",
    "Pruning",
    "Reloading",
    "Remaking",
    "RiskReporting",
    "RowPlaces",
    "Shared",
    "SingleProcess",
    "Tracking",
    "Unique",
    "Widening",
    "Windowed",
    "Zoned",
]


@runtime_checkable
class RowPlaces(Protocol):
    """A source that can split a table without a key by the physical location of each row."""

    def row_place(self, table: Table) -> Column | None:
        """Return the column to split a `replace` by if `split_key` has none; None if the table has no row locations.

        A location is valid only within the snapshot of `hold`: an interrupted run starts over.
        """


@runtime_checkable
class Locking(Protocol):
    """A source in a file that no other process can write to while this one reads it."""

    def lock(self) -> AbstractContextManager[None]:
        """Return a context that keeps the file open, in whatever order its sessions come and go."""


@runtime_checkable
class RiskReporting(Protocol):
    """A source that can report the risks of a cursor before a run."""

    def risks(self, table: Table, cursor: Column, rule: CursorRule) -> tuple[str, ...]:
        """Return the risks of the cursor, each with its evidence and the remedy.

        Raises:
            Refused, SchemaMismatch: `window` would refuse the cursor for the same reason.
        """


@runtime_checkable
class Estimating(Protocol):
    """A source that can estimate how many rows a run would read."""

    def estimate(self, table: Table, key: Column | None, window: Window) -> int | None:
        """Return about how many rows the window has, without reading them all; None if that is unknown."""


@runtime_checkable
class OlderRows(Protocol):
    """A source that can tell if all rows up to a position of a cursor have the same value in a column."""

    def older_values(self, table: Table, key: Column, upto: str, columns: Collection[str]) -> Mapping[str, str | None]:
        """Return that value, as PostgreSQL's text, by column; without columns in which they differ or that take too
        long.
        """


@runtime_checkable
class Tracking(Protocol):
    """A source whose tables have an `identity`, which they keep when they get another name."""

    def knows(self, identity: str) -> bool:
        """True if it comes from the database that is read now: in another one it may be that of another object."""

    def named_now(self, identity: str) -> str | None:
        """Return the name that the object with this identity has now; None if there is none."""


@runtime_checkable
class Zoned(Protocol):
    """A source whose times without a zone are in a zone of its own."""

    def min_ahead(self, table: Table, cursor: Column, rule: CursorRule) -> timedelta:
        """Return by how much the cursor's clock is ahead of UTC, at least, from `rule.lag` ago until now."""


@runtime_checkable
class GrantChecking(Protocol):
    """A target that knows, before a run, what its user may not do there."""

    def missing_grants(self, *, grows: bool) -> Collection[tuple[str, str]]:
        """Return each missing privilege, as what the user may not do, and the command that grants it.

        `grows`: the run would add columns to the table.
        """


@runtime_checkable
class CreateReporting(Protocol):
    """A target that can report the statements by which it would create its table."""

    def create_statements(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> Collection[str]:
        """Return the statements, in order and exactly as they would run, that create the table with this key."""


@runtime_checkable
class GrowthReporting(Protocol):
    """A target that can report the statements by which it would add columns to its table."""

    def add_statements(self, columns: tuple[Column, ...]) -> Collection[str]:
        """Return the statements, in order and exactly as they would run, that add nullable columns to the table."""


@runtime_checkable
class Native(Protocol):
    """A target that chooses the types of the tables that it creates."""

    def column_types(self, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """Return the columns of the table that it would create, types in PostgreSQL's spelling.

        Without this ability, a type that only the source has becomes one that can store its values.
        """


@runtime_checkable
class Growing(Protocol):
    """A target to which columns can be added."""

    def add_columns(self, columns: tuple[Column, ...]) -> None:
        """Add nullable columns; existing ones stay as they are. Inside `state.owned`."""


@runtime_checkable
class Filling(Protocol):
    """A target to which a column can be added with a value for all rows that are there."""

    def filled_statements(self, column: Column, value: str) -> Collection[str]:
        """Return the statements, in order and exactly as they would run, that add a nullable column with a value."""

    def add_filled(self, column: Column, value: str) -> None:
        """Add the column, with PostgreSQL's text of a value for the rows that are there, in one step or not at all.

        Inside `state.owned`.
        """


@runtime_checkable
class Widening(Protocol):
    """A target whose columns can get types that store more values, and allow NULL."""

    def widen_statements(self, columns: tuple[Column, ...]) -> Collection[str]:
        """Return the statements, in order and exactly as they would run, that make existing columns like these."""

    def widen_columns(self, columns: tuple[Column, ...]) -> None:
        """Give existing columns these types, and allow NULL in those that are nullable here.

        Each stores all that is there. May run again. Inside `state.owned`.
        """


@runtime_checkable
class Keyed(Protocol):
    """A target that can create a table with the source's key."""

    def make_keyed(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> None:
        """Create the table if it is missing, as `make` does, with a primary key."""


@runtime_checkable
class KeyLimits(Protocol):
    """A target that cannot create every key."""

    def key_obstacle(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> str | None:
        """Return why a table of these columns cannot be created with this key of the source; None if it can."""


@runtime_checkable
class Unique(Protocol):
    """A target that can count duplicate rows of a `replace` before they are published."""

    def duplicates(self, run: str, columns: tuple[str, ...]) -> int:
        """Count the values of `columns` that occur in several rows of the run's shadow; NULL never equals NULL."""


@runtime_checkable
class Reloading(Protocol):
    """A target whose rows can be loaded again."""

    @property
    def reloads(self) -> Collection[str]:
        """Write modes in which they can be loaded again."""


@runtime_checkable
class Windowed(Protocol):
    """A target whose rows can be replaced by windows of the cursor."""

    def in_window(self, column: Column) -> Method:
        """Return the method that replaces the rows of a window of `column`."""


@runtime_checkable
class ChangeTarget(Protocol):
    """A target to which changes of rows can be applied, each with a column `CHANGE`."""

    @property
    def applies_changes(self) -> bool:
        """True if it can."""

    def fill(self, column: Column, value: str | None) -> None:
        """Give all rows this value, as text, in a column that is added if it is missing. Inside `state.owned`."""


@runtime_checkable
class Lockable(Protocol):
    """A target whose writers can commit under a condition on a stream that writes there: `WriterOrder.standing`."""

    @property
    def locks_positions(self) -> bool:
        """True if they can."""


@runtime_checkable
class Pruning(Protocol):
    """A target in which rows can be deleted by key, or marked."""

    def prune(self, keys: pa.RecordBatch, at: datetime | None) -> int:
        """Delete the rows with these keys; return their number. Inside `state.owned`, in its transaction.

        `keys` has the columns of the sink's key, as they are read from the target, and no key twice. If the owner has a
        `mark`, rows are not deleted: that column gets the time `at` where it is NULL, and NULL if `at` is None.
        """

    def others(self) -> list[str]:
        """Return the other pipelines whose last run wrote to this target."""


@runtime_checkable
class Shared(Protocol):
    """A target that knows which other pipelines write to it."""

    def begin(self) -> None:
        """Refuse an object to which another pipeline has begun to write since the check, if rows would not stay.

        Until `state.owned` ends, in which it is called, no other pipeline can begin.
        """


@runtime_checkable
class LastKept(Protocol):
    """A target that may keep the row of each key that was written last, and cannot compare versions."""

    @property
    def keeps_last(self) -> bool:
        """True if it does so in this write mode."""


@runtime_checkable
class Remaking(Protocol):
    """A target that can recreate its table, as long as nothing was written to it."""

    def made_as(self, table: Table) -> str | None:
        """Return what `remember` was told, if the table that is there now is as this pipeline made it; else None."""

    def remember(self, made: str, table: Table | None) -> None:
        """Remember how the table was made that is there now. Inside `state.owned`."""

    def is_unwritten(self) -> bool:
        """True if no run of the pipeline has written to the table, and it has no rows."""

    def unmake(self) -> None:
        """Drop the table, if it is unwritten. Inside `state.owned`."""


@runtime_checkable
class Lingering(Protocol):
    """A target whose commits leave something behind each, such as a file."""

    @property
    def linger(self) -> float:
        """Seconds that a stream waits for more rows before it commits, if its pipeline does not say."""


@runtime_checkable
class SingleProcess(Protocol):
    """A target that may not support several writing processes at once."""

    @property
    def one_process(self) -> bool:
        """True if all writers must run in one process."""


OF_SOURCES: Final = (
    RowPlaces, RiskReporting, Estimating, Streaming, Partitioned, Selective, ChangeSource, Locking, OlderRows,
    Tracking, Zoned,
)  # fmt: skip
OF_TARGETS: Final = (
    Native, Growing, Keyed, KeyLimits, Unique, Reloading, Windowed, SingleProcess, GrantChecking, CreateReporting,
    GrowthReporting, ChangeTarget, LastKept, Lingering, Remaking, Shared, Widening, Filling, Pruning,
    Lockable,
)  # fmt: skip
