"""Apply changes of rows by MySQL's statements, which join where those of database files select.

All of it is in the transaction that moves the position: rows are emptied by DELETE, since TRUNCATE commits. A staged
row may lack values, also where the target's column is NOT NULL: an outer join makes the columns of the stage nullable.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataflows.connectors.mysql.merge import STAGE, clashes
from dataflows.connectors.mysql.session import quoted
from dataflows.connectors.mysql.tables import TableName
from dataflows.connectors.mysql.types import is_exact
from dataflows.connectors.sql.changes import OP, UNSENT, Changes, was

__all__ = ["MysqlChanges"]


class MysqlChanges(Changes):
    """Changes to rows of a table of MySQL; it has no other unique key."""

    into: TableName

    @property
    def stage(self) -> str:
        """The staging table, quoted."""
        return quoted(self.into.schema, STAGE)

    @property
    def texts(self) -> bool:
        """True if a text is part of the key: its collation may treat different texts as equal."""
        return any(one.name in self.key and not is_exact(one) for one in self.columns)

    @property
    def clashes(self) -> tuple[str, ...]:
        """Return queries that count keys that the target's collation treats as equal to a different key."""
        return clashes(self.into, self.key)

    @property
    def make_stage(self) -> Sequence[str]:
        """Statements, before the transaction, that create the session's empty staging table with the target's types."""
        before = (f"t.{quoted(name)} AS {quoted(was(at))}" for at, name in enumerate(self.key))
        columns = ", ".join((self._list(self.names, "t."), *before))
        marks = f"{quoted(OP)} VARCHAR(10), {quoted(UNSENT)} TEXT"
        made = (
            f"CREATE TEMPORARY TABLE {self.stage} ({marks}) ENGINE = InnoDB SELECT {columns} "
            f"FROM (SELECT 1 AS one) d LEFT JOIN {self.into.sql} t ON FALSE LIMIT 0"
        )
        return f"DROP TEMPORARY TABLE IF EXISTS {self.stage}", made

    def _fill(self) -> str:
        values = (f"s.{quoted(name)} = {self._kept(at, name)}" for at, name in self._others)
        sets = ", ".join((*values, f"s.{quoted(OP)} = 'kept'"))
        before = " AND ".join(f"t.{quoted(name)} = s.{quoted(was(at))}" for at, name in enumerate(self.key))
        return f"UPDATE {self.stage} s JOIN {self.into.sql} t ON {before} SET {sets} WHERE s.{quoted(OP)} = 'keep'"

    def _delete(self, condition: str) -> str:
        same = " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in self.key)
        return f"DELETE t FROM {self.stage} s JOIN {self.into.sql} t ON {same} WHERE {condition}"

    def _put(self, *, upserts: bool) -> str:
        sets = ", ".join(f"{quoted(name)} = VALUES({quoted(name)})" for _, name in self._others)
        place = f"{self.into.sql}.{quoted(self.key[0])}"
        action = f" ON DUPLICATE KEY UPDATE {sets or f'{place} = {place}'}" if upserts else ""
        return (
            f"INSERT INTO {self.into.sql} ({self._list(self.names)}) SELECT {self._list(self.names, 's.')} "
            f"FROM {self.stage} s WHERE {self._puts} ORDER BY {self._list(self.key, 's.')}{action}"
        )
