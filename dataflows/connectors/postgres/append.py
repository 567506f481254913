"""`append` to a table with triggers: rows are staged, and compared at the locations that the server returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dataflows.connectors.postgres.merge import STAGE, begin_stage
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.names import quoted
from dataflows.data.tables import Column

__all__ = ["Append"]

PLACED: Final = TableName("pg_temp", "_penstock_placed")


@dataclass(frozen=True, slots=True)
class Append:
    """Append of staged rows with `columns` to the table `into`."""

    into: TableName
    columns: tuple[Column, ...]
    tombstones: None = None

    @property
    def begin(self) -> str:
        """Statements that create the staging table, and the table of locations."""
        placed = f"CREATE TEMP TABLE {quoted(PLACED.name)} (place tid, part oid) ON COMMIT DROP"
        return f"{begin_stage(self.columns)}; {placed}"

    @property
    def end(self) -> str:
        """Statement that moves the staged rows into the target, and records the location of each."""
        names = ", ".join(quoted(one.name) for one in self.columns)
        return (
            f"WITH r AS (INSERT INTO {self.into.sql} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {STAGE.sql} "
            f"RETURNING ctid, tableoid) INSERT INTO {PLACED.sql} SELECT * FROM r"
        )

    @property
    def unlike(self) -> str:
        """Query that counts staged rows that are missing at their location, or differ there."""
        here, there = (", ".join(f"{of}.{quoted(one.name)}::text" for one in self.columns) for of in ("s", "t"))
        put = f"FROM {self.into.sql} t JOIN {PLACED.sql} p ON t.ctid = p.place AND t.tableoid = p.part"
        return f"SELECT count(*) FROM (SELECT {here} FROM {STAGE.sql} s EXCEPT ALL SELECT {there} {put}) u"
