"""A few rows of a table or view, as text, for tables that PostgreSQL has no statistics of."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from dataflows.connectors.cataloguing import DOCUMENTS, Found
from dataflows.connectors.postgres.session import Session, one_row
from dataflows.connectors.postgres.tables import TableName, escaped
from dataflows.connectors.sql.names import quoted
from dataflows.data.statistics import LONGEST, SAMPLED_VALUES, Statistics, of_table

__all__ = ["documents", "sampled"]

SAMPLE_BYTES: Final = 8 << 20
"""Bytes of a table that are read, about."""
SAMPLED_DOCUMENTS: Final = 5000
"""Documents that are read, of all columns together."""
LARGEST: Final = 16_384
"""Bytes of the largest one, as it is stored."""


def sampled(session: Session, name: TableName, found: Found, rows: int) -> dict[str, Statistics]:
    """Return statistics of some rows: of blocks chosen by the server if the table is large, else of the first ones.

    The choice is the same each time, so that a table that has not changed looks the same.
    """
    columns = [field.name for field in found.schema.fields]
    most = max(1, min(rows, SAMPLED_VALUES // len(columns)))
    texts = ", ".join(f"left({escaped(quoted(column))}::text, {LONGEST})" for column in columns)
    part = _part(session, name, found.kind)
    query = f"SELECT {texts} FROM {escaped(name.sql)}{part} LIMIT %(most)s"
    read = session.execute(query, {"most": most}).fetchall()
    values = [pa.array([row[at] for row in read], pa.string()) for at in range(len(columns))]
    return of_table(pa.table(values, columns), whole=not part and len(read) < most)


def documents(session: Session, name: TableName, found: Found, rows: int) -> pa.Table:
    """Return documents of some rows, chosen in the same way, as text; large ones are NULL."""
    columns = [field.name for field in found.schema.fields if field.type in DOCUMENTS]
    most = max(1, min(rows, SAMPLED_DOCUMENTS // len(columns)))
    texts = ", ".join(
        f"CASE WHEN pg_column_size({one}) <= {LARGEST} THEN {one}::text END"
        for one in (escaped(quoted(column)) for column in columns)
    )
    query = f"SELECT {texts} FROM {escaped(name.sql)}{_part(session, name, found.kind)} LIMIT %(most)s"
    read = session.execute(query, {"most": most}).fetchall()
    return pa.table([pa.array([row[at] for row in read], pa.string()) for at in range(len(columns))], columns)


def _part(session: Session, name: TableName, kind: str) -> str:
    if kind not in {"table", "materialized view"}:
        return ""
    size = one_row(session, "SELECT pg_relation_size(%(name)s::regclass)", {"name": name.sql})[0]
    percent = 100 * SAMPLE_BYTES / size if size else 100
    return f" TABLESAMPLE SYSTEM ({percent:.6f}) REPEATABLE (1)" if percent < 100 else ""  # noqa: PLR2004 - per cent
