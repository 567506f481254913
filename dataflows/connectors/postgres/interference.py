"""Detection of what the target does to rows: of triggers and rules that drop or change them, and of altered columns.

The server does not count a row that a trigger drops, and does not report a row that a trigger changes. If a table has
triggers or rules, rows are therefore staged, and compared with the target's before the split is committed.

A session may last for months, and in a binary COPY a number of one type is a valid number of another. Columns, triggers
and rules are therefore looked at in each split again, under the lock that its rows have taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dataflows.connectors.postgres.session import Session, ask, translated
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.checks import altered, interfered
from dataflows.data.tables import Column

__all__ = ["Definition", "check_merged"]

_DEFINITION: Final = """WITH tables AS (
    SELECT %(table)s::regclass AS oid UNION SELECT relid FROM pg_partition_tree(%(table)s::regclass))
SELECT true, 'trigger ' || quote_ident(tgname) FROM pg_trigger
WHERE tgrelid IN (SELECT oid FROM tables) AND NOT tgisinternal AND tgenabled IN ('O', 'A')
AND tgtype & %(events)s <> 0
UNION SELECT true, 'rule ' || quote_ident(rulename) FROM pg_rewrite
WHERE ev_class IN (SELECT oid FROM tables) AND ev_type <> '1' AND ev_enabled IN ('O', 'A')
AND %(rules)s
UNION SELECT false, attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = %(table)s::regclass AND attname = ANY (%(columns)s) AND attnum > 0 ORDER BY 1, 2"""
_INSERT: Final = 4
_WRITES: Final = 4 | 8 | 16
"""Bits of `tgtype`: INSERT, DELETE, UPDATE."""


@dataclass(frozen=True, slots=True)
class Definition:
    """Written columns of a table with their types, and the triggers and rules that this session's writes fire."""

    columns: tuple[str, ...]
    interferers: tuple[str, ...]

    @classmethod
    def of(
        cls, session: Session, table: TableName, columns: Sequence[Column], where: str, *, copies: bool
    ) -> Definition:
        """Look at the table; with `copies`, only at what a COPY fires, which does not follow rules."""
        values = {
            "table": table.sql,
            "events": _INSERT if copies else _WRITES,
            "rules": not copies,
            "columns": [one.name for one in columns],
        }
        with translated(where):
            found = ask(session, _DEFINITION, values).fetchall()
        return cls(tuple(one for fires, one in found if not fires), tuple(one for fires, one in found if fires))

    def check_planned(self, columns: Sequence[Column], where: str) -> None:
        """Raise Unavailable if a column has another type than the rows were planned for."""
        if not set(self.columns) <= {f"{one.name} {one.type}" for one in columns}:
            raise altered(where)

    def check(self, now: Definition, where: str) -> None:
        """Raise Unavailable if the table is not as it was."""
        if now != self:
            raise altered(where)


def check_merged(session: Session, unlike: str, named: Sequence[str], where: str) -> None:
    """Refuse a split whose rows differ in the target from those staged; the query `unlike` counts them.

    Raises:
        SchemaMismatch: rows were dropped or changed.
    """
    with translated(where):
        session.execute("SET CONSTRAINTS ALL IMMEDIATE")  # so that deferred triggers fire now
        (count,) = session.execute(unlike).fetchone() or (0,)
    if count:
        raise interfered(f"{count} rows were dropped or changed", named, where)
