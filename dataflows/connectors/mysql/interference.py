"""Triggers of the target that change rows.

A trigger that runs before a row is written may change it and leaves no trace: so where a table has one, rows are staged
and compared with the target's before the split is committed.
"""

from __future__ import annotations

from typing import Final

from dataflows.connectors.mysql.merge import Merge
from dataflows.connectors.mysql.session import Session
from dataflows.connectors.mysql.tables import TableName, describe
from dataflows.connectors.sql.checks import check_appended, interfered

__all__ = ["check_merged", "interferers", "staged"]

_TRIGGERS: Final = """
SELECT trigger_name FROM information_schema.triggers WHERE event_object_schema = ? AND event_object_table = ?
AND action_timing = 'BEFORE' AND event_manipulation IN ('INSERT', 'UPDATE') ORDER BY 1"""
_SEEN: Final = """
SELECT 1 FROM information_schema.user_privileges WHERE privilege_type IN ('TRIGGER', 'SUPER') UNION ALL
SELECT 1 FROM information_schema.schema_privileges WHERE privilege_type = 'TRIGGER' AND ? LIKE table_schema UNION ALL
SELECT 1 FROM information_schema.table_privileges
WHERE privilege_type = 'TRIGGER' AND table_schema = ? AND table_name = ? LIMIT 1"""
UNSEEN: Final = "a trigger that this user cannot see without the right TRIGGER"


def interferers(session: Session, table: TableName) -> list[str]:
    """The triggers that may change what is written; `UNSEEN` where this user is not shown them."""
    of = (table.schema, table.name)
    found = [f"trigger {name}" for (name,) in session.rows(_TRIGGERS, of)]
    return found or ([] if session.rows(_SEEN, (table.schema, *of)) else [UNSEEN])


def staged(session: Session, into: TableName, columns: tuple[str, ...], named: list[str], where: str) -> Merge | None:
    """How rows are appended so that they can be compared; None if no trigger is known and no key tells them apart.

    Raises:
        Refused: a trigger is known, and no key among `columns` tells which row became which.
    """
    table = describe(session, into, where, sink=True)
    key = next((one for one in (table.keys if table else ()) if set(one) <= set(columns)), None)
    if key is None:
        if UNSEEN not in named:
            check_appended(into, (), named, where)
        return None
    return Merge(into, columns, key, appends=True)


def check_merged(session: Session, merge: Merge, named: list[str], where: str) -> None:
    """Refuse a split of which the target does not hold each row as it was staged.

    Raises:
        SchemaMismatch: rows were changed.
    """
    if count := sum(int(session.value(query)) for query in merge.unlike):
        raise interfered(f"{count} rows were changed", named, where)
