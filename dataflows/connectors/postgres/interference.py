"""Triggers and rules of the target that drop or change rows.

The server counts nothing for a row that a trigger drops, and a trigger that changes a row leaves no trace: so where a
table has any of them, the rows that were merged are compared with the target's before the split is committed.
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
_HINT: Final = (
    "nothing of it was committed; disable it (`ALTER TABLE … DISABLE`), or let it leave these rows as they are"
)


def interferers(session: Session, table: TableName, where: str) -> list[str]:
    """The triggers and rules of a table and its partitions that this session's writes set off, by kind and name."""
    with translated(where):
        return [name for (name,) in session.execute(_INTERFERERS, {"table": table.sql}).fetchall()]


def check_merged(session: Session, unlike: str, named: list[str], where: str) -> None:
    """Refuse a split of which the target does not hold each row as it was staged; `unlike` is the query that counts.

    Raises:
        SchemaMismatch: rows were dropped or changed.
    """
    with translated(where):
        (count,) = session.execute(unlike).fetchone() or (0,)
    if count:
        raise _interfered(f"{count} rows were dropped or changed", named, where)


def dropped(session: Session, table: TableName, sent: int, written: int, where: str) -> PenstockError | None:
    """The error of a split of which the target took fewer rows than were sent; None where nothing may drop them."""
    named = interferers(session, table, where) if written < sent else []
    return _interfered(f"{sent - written} of {sent} rows were dropped", named, where) if named else None


def _interfered(what: str, named: list[str], where: str) -> SchemaMismatch:
    return SchemaMismatch(f"{what} by what the table sets off: {', '.join(named)}", where=where, hint=_HINT)
