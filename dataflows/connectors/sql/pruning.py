"""Delete rows of a table of a database file by their keys, or mark them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.sql.database import Database
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, column_type

__all__ = ["pruned"]

AT_ONCE: Final = 500
"""Keys in one statement."""


def pruned(database: Database, name: ObjectName, keys: pa.RecordBatch, mark: str | None, at: datetime | None) -> int:
    """Delete the rows with these keys, or set their column `mark` to `at`; return the number of rows."""
    there = database.describe(name, sink=True)
    columns = {one.name: one for one in (there.columns if there is not None else ())}
    key = [columns[one] for one in keys.schema.names]
    listed, count = f"({', '.join(quoted(one.name) for one in key)})", 0
    change, given, condition = f"DELETE FROM {name.sql} WHERE", list[Any](), ""
    if mark is not None:
        column = quoted(mark)
        given = [] if at is None else [database.parameter(_time(columns[mark], at), mark)]
        value = "NULL" if at is None else _placeholder(database, columns[mark])
        change = f"UPDATE {name.sql} SET {column} = {value} WHERE"
        condition = f" AND {column} IS {'NOT ' if at is None else ''}NULL"
    for first in range(0, keys.num_rows, AT_ONCE):
        part = keys.slice(first, AT_ONCE)
        row = f"({', '.join(_placeholder(database, one) for one in key)})"
        rows = ", ".join([row] * part.num_rows)
        values = [
            database.parameter(array.slice(at_row, 1), one.name)
            for at_row in range(part.num_rows)
            for one, array in zip(key, part.columns, strict=True)
        ]
        count += database.change(f"{change} {listed} IN (VALUES {rows}){condition}", [*given, *values])
    return count


def _placeholder(database: Database, column: Column) -> str:
    return "?" if database.indexed else f"CAST(? AS {database.ddl_type(column)})"


def _time(column: Column, at: datetime) -> pa.Array:
    """Return the time as a value of the column."""
    kind, moment = arrow_type(column_type(column)), pa.array([at], pa.timestamp("us", "UTC"))
    return moment.cast(kind) if kind is not None and pa.types.is_timestamp(kind) else pa.array([at.isoformat()])
