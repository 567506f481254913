"""Detection of what the target does to rows: of triggers that change them, and of an altered table.

A trigger that fires before a row is written may change it without a trace. If a table has such a trigger, rows are
therefore staged, and compared with the target's before the split is committed.

A session may last for months, so the table is looked at before each split's rows, and locked against changes until
their commit: other types would round, another engine has no transactions, and without its key a merge would add rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dataflows.connectors.mysql.merge import Merge
from dataflows.connectors.mysql.session import Session
from dataflows.connectors.mysql.tables import TableName, describe
from dataflows.connectors.sql.checks import altered, check_appended, interfered

__all__ = ["UNSEEN", "Definition", "check_merged", "interferers", "staged"]

_TRIGGERS: Final = """
SELECT trigger_name FROM information_schema.triggers WHERE event_object_schema = ? AND event_object_table = ?
AND (? OR action_timing = 'BEFORE' AND event_manipulation IN ('INSERT', 'UPDATE')) ORDER BY 1"""
_SEEN: Final = """
SELECT 1 FROM information_schema.user_privileges WHERE privilege_type IN ('TRIGGER', 'SUPER') UNION ALL
SELECT 1 FROM information_schema.schema_privileges WHERE privilege_type = 'TRIGGER' AND ? LIKE table_schema UNION ALL
SELECT 1 FROM information_schema.table_privileges
WHERE privilege_type = 'TRIGGER' AND table_schema = ? AND table_name = ? LIMIT 1"""
_DEFINITION: Final = """
SELECT 'column', column_name, column_type, coalesce(collation_name, '') FROM information_schema.columns
WHERE table_schema = ? AND table_name = ? UNION ALL
SELECT 'engine', engine, '', '' FROM information_schema.tables WHERE table_schema = ? AND table_name = ? UNION ALL
SELECT 'key', index_name, column_name, seq_in_index FROM information_schema.statistics
WHERE table_schema = ? AND table_name = ? AND non_unique = 0 UNION ALL
SELECT 'trigger', trigger_name, action_timing, event_manipulation FROM information_schema.triggers
WHERE event_object_schema = ? AND event_object_table = ?"""
UNSEEN: Final = "a trigger that this user cannot see without the privilege TRIGGER"


def interferers(session: Session, table: TableName, *, every: bool = False) -> list[str]:
    """Return the triggers that may change written rows, or `every` trigger; `UNSEEN` if this user may see none."""
    of = (table.schema, table.name)
    found = [f"trigger {name}" for (name,) in session.rows(_TRIGGERS, (*of, every))]
    return found or ([] if session.rows(_SEEN, (table.schema, *of)) else [UNSEEN])


@dataclass(frozen=True, slots=True)
class Definition:
    """A table's engine, unique keys, triggers, and the columns among `columns` with their types."""

    table: TableName
    columns: Sequence[str]
    parts: frozenset[tuple[str, ...]]

    @classmethod
    def of(cls, session: Session, table: TableName, columns: Sequence[str]) -> Definition:
        """Look at the table."""
        found = (tuple(map(str, row)) for row in session.rows(_DEFINITION, (table.schema, table.name) * 4))
        return cls(table, columns, frozenset(row for row in found if row[0] != "column" or row[1] in columns))

    def check(self, session: Session, where: str) -> None:
        """Raise Unavailable if the table is not as it was; else it stays so until the transaction ends."""
        session.rows(f"SELECT 1 FROM {self.table.sql} LIMIT 0")  # takes the lock of its definition
        if self.of(session, self.table, self.columns) != self:
            raise altered(where)


def staged(session: Session, into: TableName, columns: tuple[str, ...], named: list[str], where: str) -> Merge | None:
    """Return an append by which rows can be compared; None if no trigger is known and no key identifies them.

    Raises:
        Refused: a trigger is known, and no key among `columns` identifies rows.
    """
    table = describe(session, into, where, sink=True)
    key = next((one for one in (table.keys if table else ()) if set(one) <= set(columns)), None)
    if key is None:
        if UNSEEN not in named:
            check_appended(into, (), named, where)
        return None
    return Merge(into, columns, key, appends=True)


def check_merged(session: Session, merge: Merge, named: list[str], where: str) -> None:
    """Refuse a split whose rows differ in the target from those staged.

    Raises:
        SchemaMismatch: rows were changed.
    """
    if count := sum(int(session.value(query)) for query in merge.unlike):
        raise interfered(f"{count} rows were changed", named, where)
