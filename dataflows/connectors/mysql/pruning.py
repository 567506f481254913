"""Delete rows of a table by their keys, or mark them."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import pyarrow as pa

from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.tables import TableName, describe
from dataflows.connectors.mysql.types import literal_of
from dataflows.data.types import arrow_type, column_type

__all__ = ["pruned"]

AT_ONCE: Final = 1000
"""Keys in one statement."""


_TOUCHED: Final = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = ? AND table_name = ? AND lower(extra) LIKE '%on update%'"""
"""Columns that the server sets to now in each row that is updated, unless the statement sets them."""


def pruned(
    session: Session, table: TableName, keys: pa.RecordBatch, mark: str | None, at: datetime | None, where: str
) -> int:
    """Delete the rows with these keys, or set their column `mark` to `at`; return the number of rows."""
    there, names = describe(session, table, where, sink=True), keys.schema.names
    columns = {one.name: one for one in (there.columns if there is not None else ())}
    listed, count = f"({', '.join(map(quoted, names))})", 0
    of = (table.schema, table.name)
    touched = [quoted(str(row[0])) for row in session.rows(_TOUCHED, of) if row[0] != mark] if mark is not None else []
    for first in range(0, keys.num_rows, AT_ONCE):
        part = keys.slice(first, AT_ONCE)
        literals = (
            [literal_of(session, array.slice(row, 1), columns[name], where) for row in range(part.num_rows)]
            for name, array in zip(names, part.columns, strict=True)
        )
        rows = ", ".join(f"({', '.join(row)})" for row in zip(*literals, strict=True))
        among = f"{listed} IN ({rows})"
        if mark is None:
            count += session.change(f"DELETE FROM {table.sql} WHERE {among}")
            continue
        name, given = quoted(mark), "NULL"
        if at is not None:
            kind = arrow_type(column_type(columns[mark])) or pa.string()
            value = pa.array([at], pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
            given = literal_of(session, value.cast(kind), columns[mark], where)
        same = "".join(f", {one} = {one}" for one in touched)
        where_not = "IS NULL" if at is not None else "IS NOT NULL"
        count += session.change(f"UPDATE {table.sql} SET {name} = {given}{same} WHERE {among} AND {name} {where_not}")
    return count
