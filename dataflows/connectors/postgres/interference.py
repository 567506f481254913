"""Detection of the target's triggers and rules that drop or change rows.

The server does not count a row that a trigger drops, and does not report a row that a trigger changes. If a table has
triggers or rules, rows are therefore staged, and compared with the target's before the split is committed.
"""

from __future__ import annotations

from typing import Final

from dataflows.connectors.postgres.session import Session, translated
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.checks import interfered

__all__ = ["check_merged", "interferers"]

_INTERFERERS: Final = """WITH tables AS (
    SELECT %(table)s::regclass AS oid UNION SELECT relid FROM pg_partition_tree(%(table)s::regclass))
SELECT 'trigger ' || quote_ident(tgname) FROM pg_trigger
WHERE tgrelid IN (SELECT oid FROM tables) AND NOT tgisinternal AND tgenabled IN ('O', 'A')
AND tgtype & %(events)s <> 0
UNION SELECT 'rule ' || quote_ident(rulename) FROM pg_rewrite
WHERE ev_class IN (SELECT oid FROM tables) AND ev_type <> '1' AND ev_enabled IN ('O', 'A')
AND %(rules)s ORDER BY 1"""
_INSERT: Final = 4
_WRITES: Final = 4 | 8 | 16
"""Bits of `tgtype`: INSERT, DELETE, UPDATE."""


def interferers(session: Session, table: TableName, where: str, *, copies: bool = False) -> list[str]:
    """Return the triggers and rules that this session's writes to a table would fire, by kind and name.

    With `copies`, only those that a COPY fires, which does not follow rules.
    """
    values = {"table": table.sql, "events": _INSERT if copies else _WRITES, "rules": not copies}
    with translated(where):
        return [name for (name,) in session.execute(_INTERFERERS, values).fetchall()]


def check_merged(session: Session, unlike: str, named: list[str], where: str) -> None:
    """Refuse a split whose rows differ in the target from those staged; the query `unlike` counts them.

    Raises:
        SchemaMismatch: rows were dropped or changed.
    """
    with translated(where):
        session.execute("SET CONSTRAINTS ALL IMMEDIATE")  # so that deferred triggers fire now
        (count,) = session.execute(unlike).fetchone() or (0,)
    if count:
        raise interfered(f"{count} rows were dropped or changed", named, where)
