"""Rules of a target that ``LIKE`` does not copy: with them, a shadow refuses a row when it is loaded.

Without them, all rows are refused together when the shadow's rows are put into the target, and the error names none.
"""

from __future__ import annotations

import contextlib
from typing import Final

from dataflows.connectors.postgres.session import Session, ask, one_message, one_row, translated
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.names import quoted
from penstock.errors import PenstockError, Unavailable

__all__ = ["add_rules", "drop_shadow"]

MAX_PARTITIONS: Final = 100
"""More than these make a check that costs more than it is worth."""
ROUTED: Final = "a partition takes the row"
"""Name of the check that says so; a dead letter shows it."""
LOCK_WAIT: Final = "1s"
"""Longest wait for a referenced table; meanwhile its writers wait, too."""
DROP_WAIT: Final = "200ms"
"""Longest wait to drop a foreign key, in which others wait, too; PostgreSQL looks for deadlocks after 1 s."""
_RULES: Final = f"""
SELECT '{ROUTED}', format('CHECK (%%s)', string_agg(format('(%%s)', pg_get_partition_constraintdef(p.relid)), ' OR '))
FROM pg_partition_tree(%(table)s::regclass) p WHERE p.isleaf
AND NOT EXISTS (SELECT FROM pg_partitioned_table h WHERE h.partstrat = 'h'
  AND h.partrelid IN (SELECT q.relid FROM pg_partition_tree(%(table)s::regclass) q))
HAVING count(*) <= {MAX_PARTITIONS} AND bool_and(pg_get_partition_constraintdef(p.relid) IS NOT NULL)
UNION ALL SELECT k.conname, pg_get_constraintdef(k.oid) FROM pg_constraint k
WHERE k.contype = 'f' AND k.conrelid = %(table)s::regclass AND k.confrelid <> k.conrelid AND k.conparentid = 0
AND has_table_privilege(k.confrelid, 'REFERENCES') ORDER BY 1"""


def add_rules(session: Session, sink: TableName, shadow: TableName, where: str) -> None:
    """Let the shadow refuse rows that no partition of the target takes, or that refer to no row of another table.

    A foreign key of the table to itself is checked at the end, when all rows are there; so is one to a table that
    another session locks now, and any that this user may not name. Each rule is added in a transaction of its own:
    one that fails, or waits, undoes and holds nothing else. It must not be called inside of one.
    """
    with translated(where):
        rules = ask(session, _RULES, {"table": sink.sql}).fetchall()
    for name, rule in rules:
        adding = f"ALTER TABLE {shadow.sql} ADD CONSTRAINT {quoted(name)} {rule}"
        try:
            one_message(session, f"BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT}'; {adding}; COMMIT", where)
        except PenstockError:
            with contextlib.suppress(PenstockError):
                one_message(session, "ROLLBACK", where)


_KEYED: Final = """
SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid = to_regclass(%(table)s)),
  current_setting('lock_timeout')"""


def drop_shadow(session: Session, shadow: TableName, where: str) -> None:
    """Drop a shadow; or empty it, for a later run to drop, while others use a table that it refers to.

    With a foreign key goes a trigger of the other table, for which PostgreSQL has to lock that one against all, even
    its readers: a backup would keep the run from publishing, and the run would keep them waiting.
    """
    with translated(where):
        keyed, wait = one_row(session, _KEYED, {"table": shadow.sql}, same=True)
    drop = f"DROP TABLE IF EXISTS {shadow.sql}"
    if not keyed:
        one_message(session, drop, where)
        return
    try:
        with translated(where), session.transaction():
            limited = f"SET LOCAL lock_timeout = '{DROP_WAIT}'; {drop}; SET LOCAL lock_timeout = '{wait}'"
            one_message(session, limited, where)
    except Unavailable:
        one_message(session, f"TRUNCATE {shadow.sql}", where)
