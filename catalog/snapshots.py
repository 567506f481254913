"""Agents' snapshots, in schema `ops`: a cache, so that a start need not fold the whole topic."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from catalog import tables
from catalog.entries import Snapshot

__all__ = ["load", "save"]


def save(connection: Connection, snapshots: Sequence[Snapshot]) -> None:
    """Store `snapshots`, each replacing its agent's last one."""
    if not snapshots:
        return
    rows = [{"agent": s.agent, "offset": s.offset, "rules": s.rules, "state": s.state} for s in snapshots]
    statement = insert(tables.snapshots)
    update = {name: statement.excluded[name] for name in ("offset", "rules", "state")}
    connection.execute(statement.on_conflict_do_update(index_elements=["agent"], set_=update), rows)


def load(connection: Connection) -> dict[str, Snapshot]:
    """Return the snapshot of each agent that has one."""
    table = tables.snapshots
    found = connection.execute(select(table.c.agent, table.c.offset, table.c.rules, table.c.state))
    return {row.agent: Snapshot(row.agent, row.offset, row.rules, row.state) for row in found}
