"""Columns of a table, a file set or a list of records: the one form in which pipelines are checked against any system.

Types are spelled as PostgreSQL's `format_type` spells them: a connector translates its own types, and refuses a column
by name if its values cannot be represented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Column", "Table"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `type` as ``format_type`` spells it: ``numeric(15,2)``, ``character varying(40)``, ``integer``."""

    name: str
    type: str
    nullable: bool = True
    default: bool = False
    """Filled by the server if it is omitted: a default, an identity or a generated column."""
    generated: bool = False
    """Computed by the server; cannot be written."""
    builtin: bool = True
    """Its type, and its element type, exist on every server of its kind."""
    label: bool = False
    """An enum: travels as its label."""
    hidden: bool = False
    """Read only if a mapping or cursor names it, such as the path of a row's file."""
    base: str | None = None
    """For a domain, its base type, if that exists on every server."""

    constant: bool = False
    """True if it is known that the server fills it with the same value each time."""
    unreadable: str | None = None
    """Reason why its values cannot be read; an error only if a mapping uses the column."""

    def summary(self) -> dict[str, Any]:
        """Return the column as the result file describes it."""
        return {"name": self.name, "type": self.type, "nullable": self.nullable}


@dataclass(frozen=True, slots=True)
class Table:
    """An object to read rows from or write them to; `kind` is the system's own word for it."""

    name: Any
    """Its name in its system; ``str(name)`` is how a person writes it."""
    kind: str
    columns: tuple[Column, ...]
    keys: tuple[tuple[str, ...], ...] = ()
    """Unique keys over NOT NULL columns, the primary key first."""
    estimated_rows: int = 0
    types_from: str | None = None
    """Origin of the columns' types, if they were inferred from a part of the data."""
    identity: str | None = None
    """Identity that survives a rename, if the system has one."""

    def column(self, name: str) -> Column | None:
        """Return the column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)
