"""Detection of the target's triggers and rules that drop or change rows.

The server does not count a row that a trigger drops, and does not report a row that a trigger changes. If a table has
triggers or rules, the merged rows are therefore compared with the target's before the split is committed.
"""

from __future__ import annotations

from typing import Final

from dataflows.connectors.postgres.session import Session, translated
from dataflows.connectors.postgres.tables import TableName
from penstock.errors import PenstockError, SchemaMismatch

__all__ = ["check_merged", "dropped", "interferers"]

_INTERFERERS: Final = """WITH tables AS (
    SELECT %(table)s::regclass AS oid UNION SELECT relid FROM pg_partition_tree(%(table)s::regclass))
SELECT 'trigger ' || quote_ident(tgname) FROM pg_trigger
WHERE tgrelid IN (SELECT oid FROM tables) AND NOT tgisinternal AND tgenabled IN ('O', 'A')
UNION SELECT 'rule ' || quote_ident(rulename) FROM pg_rewrite
WHERE ev_class IN (SELECT oid FROM tables) AND ev_type <> '1' AND ev_enabled IN ('O', 'A') ORDER BY 1"""
_HINT: Final = "the split was not committed; disable it (`ALTER TABLE … DISABLE`), or let it leave these rows unchanged"


def interferers(session: Session, table: TableName, where: str) -> list[str]:
    """Return the triggers and rules that this session's writes to a table would fire, by kind and name."""
    with translated(where):
        return [name for (name,) in session.execute(_INTERFERERS, {"table": table.sql}).fetchall()]


def check_merged(session: Session, unlike: str, named: list[str], where: str) -> None:
    """Refuse a split whose rows differ in the target from those staged; the query `unlike` counts them.

    Raises:
        SchemaMismatch: rows were dropped or changed.
    """
    with translated(where):
        (count,) = session.execute(unlike).fetchone() or (0,)
    if count:
        raise _interfered(f"{count} rows were dropped or changed", named, where)


def dropped(session: Session, table: TableName, sent: int, written: int, where: str) -> PenstockError | None:
    """Return the error of a split with fewer rows written than sent; None if no trigger or rule can explain it."""
    named = interferers(session, table, where) if written < sent else []
    return _interfered(f"{sent - written} of {sent} rows were dropped", named, where) if named else None


def _interfered(what: str, named: list[str], where: str) -> SchemaMismatch:
    return SchemaMismatch(f"{what} by the table's {', '.join(named)}", where=where, hint=_HINT)
