"""Detection of the target's triggers that change rows.

A trigger that fires before a row is written may change it without a trace. If a table has such a trigger, rows are
therefore staged, and compared with the target's before the split is committed.
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
UNSEEN: Final = "a trigger that this user cannot see without the privilege TRIGGER"


def interferers(session: Session, table: TableName) -> list[str]:
    """Return the triggers that may change written rows; `UNSEEN` if this user may not see triggers."""
    of = (table.schema, table.name)
    found = [f"trigger {name}" for (name,) in session.rows(_TRIGGERS, of)]
    return found or ([] if session.rows(_SEEN, (table.schema, *of)) else [UNSEEN])


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
