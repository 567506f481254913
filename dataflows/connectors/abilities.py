"""What a source or a target may offer beyond the contract: one protocol for each ability, asked for by `isinstance`.

A system has an ability by having its member, and nothing else. `inspection` finds a member whose name is misspelt.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol, runtime_checkable

from dataflows.connectors.contract import Method
from dataflows.data.cursors import CursorRule
from dataflows.data.tables import Column, Table

__all__ = [
    "OF_SOURCES",
    "OF_TARGETS",
    "Growing",
    "Native",
    "Reloading",
    "RowPlaces",
    "SingleProcess",
    "Telling",
    "Unique",
    "Windowed",
]


@runtime_checkable
class RowPlaces(Protocol):
    """A source that can split a table without a key by the place where each row stands."""

    def row_place(self, table: Table) -> Column | None:
        """Column to split a `replace` by where `split_key` has none; None where this table has no such places.

        A place holds only at the point in time that `hold` keeps: an interrupted run begins again.
        """


@runtime_checkable
class Telling(Protocol):
    """A source that can tell whether a cursor is safe before a run."""

    def risks(self, table: Table, cursor: Column, rule: CursorRule) -> tuple[str, ...]:
        """What a person should know of the cursor, each with its evidence and the mend.

        Raises:
            Refused, SchemaMismatch: what `window` would refuse it for.
        """


@runtime_checkable
class Native(Protocol):
    """A target that chooses the types of the tables that it makes."""

    def column_types(self, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """The columns as a table that is made here would have them, in PostgreSQL's spelling.

        Without it a type of the source's own becomes one that carries its values.
        """


@runtime_checkable
class Growing(Protocol):
    """A target that can be given further columns."""

    def add_columns(self, columns: tuple[Column, ...]) -> None:
        """Add columns, which take NULL; one that is there stays as it is. Inside `state.owned`."""


@runtime_checkable
class Unique(Protocol):
    """A target that can tell whether the rows of a `replace` are unique before they are published."""

    def duplicates(self, run: str, columns: tuple[str, ...]) -> int:
        """How many values of `columns` stand in more than one row of the run's shadow; NULL is never equal."""


@runtime_checkable
class Reloading(Protocol):
    """A target whose rows can be loaded again."""

    @property
    def reloads(self) -> Collection[str]:
        """The write modes in which they can."""


@runtime_checkable
class Windowed(Protocol):
    """A target whose rows can be replaced by windows of the cursor."""

    def in_window(self, column: Column) -> Method:
        """How the rows of a window of `column` are replaced."""


@runtime_checkable
class SingleProcess(Protocol):
    """A target that may not be able to take several writing processes at once."""

    @property
    def one_process(self) -> bool:
        """True if all writers have to be in one process."""


OF_SOURCES: Final = (RowPlaces, Telling)
OF_TARGETS: Final = (Native, Growing, Unique, Reloading, Windowed, SingleProcess)
