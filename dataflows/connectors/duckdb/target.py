"""Table of a DuckDB file as a sink whose columns can grow: the one file database that alters a column in place."""

from __future__ import annotations

from dataclasses import dataclass

from dataflows.connectors.sql.names import quoted
from dataflows.connectors.sql.target import DatabaseTarget
from dataflows.data.tables import Column

__all__ = ["DuckdbTarget"]


@dataclass(frozen=True, slots=True)
class DuckdbTarget(DatabaseTarget):
    """Table as a sink, with columns that can get types that store more values, and allow NULL."""

    def widen_statements(self, columns: tuple[Column, ...]) -> tuple[str, ...]:
        """Return a statement for each change."""
        there, found = self.describe(), []
        for one in columns:
            now, alter = there.column(one.name) if there else None, f"ALTER TABLE {self.name.sql}"
            alter += f" ALTER COLUMN {quoted(one.name)}"
            if now is None or now.type != one.type:
                found.append(f"{alter} SET DATA TYPE {self.database.ddl_type(one)}")
            if one.nullable and now is not None and not now.nullable:
                found.append(f"{alter} DROP NOT NULL")
        return tuple(found)

    def widen_columns(self, columns: tuple[Column, ...]) -> None:
        """Change the columns. Inside `state.owned`."""
        for statement in self.widen_statements(columns):
            self.database.change(statement)
