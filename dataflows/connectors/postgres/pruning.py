"""Delete rows of a table by their keys, or mark them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa

from dataflows.connectors.postgres.session import Session
from dataflows.connectors.postgres.tables import escaped
from dataflows.connectors.sql.names import quoted
from dataflows.data.tables import Table

__all__ = ["pruned"]


def pruned(session: Session, there: Table, keys: pa.RecordBatch, mark: str | None, at: datetime | None) -> int:
    """Delete the rows with these keys, or set their column `mark` to `at`; return the number of rows."""
    columns, table = {one.name: one for one in there.columns}, escaped(there.name.sql)
    key = [columns[name] for name in keys.schema.names]
    lists = ", ".join(f"%s::{one.type.replace('%', '%%')}[]" for one in key)
    names = [escaped(quoted(one.name)) for one in key]
    same = " AND ".join(f"t.{name} = k.{name}" for name in names)
    values: list[Any] = [column.to_pylist() for column in keys.columns]
    of = f"unnest({lists}) AS k({', '.join(names)})"
    if mark is None:
        return session.execute(f"DELETE FROM {table} t USING {of} WHERE {same}", values).rowcount
    column = escaped(quoted(mark))
    sets, where = ("%s", f"t.{column} IS NULL") if at is not None else ("NULL", f"t.{column} IS NOT NULL")
    statement = f"UPDATE {table} t SET {column} = {sets} FROM {of} WHERE {same} AND {where}"
    return session.execute(statement, [*([at] if at is not None else []), *values]).rowcount
