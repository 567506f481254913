"""What happened: commands, runs, tasks, decisions, errors, by the order of the topic."""

from __future__ import annotations

from sqlalchemy import Connection, select

from catalog import tables
from catalog.entries import Command

__all__ = ["command"]


def command(connection: Connection, id: str) -> Command | None:  # noqa: A002
    """The command `id`, if the projection has it; an answer without its command is not one."""
    table = tables.commands
    row = connection.execute(select(table).where(table.c.id == id, table.c.at.is_not(None))).mappings().first()
    return None if row is None else Command(**row)
