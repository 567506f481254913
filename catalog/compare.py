"""Digests of the catalog's tables: a rebuilt catalog must have the same ones."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import Table

from catalog.tables import CATALOG, metadata
from penstock.postgres import address, connect, translated

__all__ = ["Digest", "digest", "digest_at"]

Digest = tuple[int, str]
"""A table's number of rows, and the SHA-256 of all of them in the order of their keys."""

_COPY: Final = "COPY (SELECT {columns} FROM {table} ORDER BY {keys}) TO STDOUT"
_SESSION: Final = "SET LOCAL timezone TO 'UTC'; SET LOCAL datestyle TO 'ISO'; SET LOCAL extra_float_digits TO 1"


def digest(dsn: str) -> dict[str, Digest]:
    """Return row count and SHA-256 of every table of schema `catalog`, from one snapshot, in constant memory.

    Equal digests mean equal rows, column by column, including positions and offsets. Raises Unavailable, and
    MissingTable before `migrate`.
    """
    return digest_at(dsn)[1]


def digest_at(dsn: str) -> tuple[int, dict[str, Digest]]:
    """Return the position of the projection, the next offset it reads, and the `digest` there."""
    try:
        with closing(connect(dsn, "penstock:digest", autocommit=True)) as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.execute(_SESSION)
            row = connection.execute("SELECT coalesce(max(next), 0) FROM catalog.position").fetchone()
            found = {t.name: _digest(connection, t) for t in metadata.sorted_tables if t.schema == CATALOG}
            return int(row[0]) if row else 0, found
    except psycopg.Error as error:
        raise translated(error, where=address(dsn)) from error


def _digest(connection: psycopg.Connection[Any], table: Table) -> Digest:
    keys = sql.SQL(", ").join(
        _ordered(column.name, text=column.type.python_type is str) for column in table.primary_key
    )
    # By name: the order of columns differs between a migrated table and a new one.
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
    query = sql.SQL(_COPY).format(columns=columns, table=sql.Identifier(CATALOG, table.name), keys=keys)
    rows, found = 0, hashlib.sha256()
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for data in copy:
            found.update(data)
            rows += bytes(data).count(b"\n")
    return rows, found.hexdigest()


def _ordered(name: str, *, text: bool) -> sql.Composable:
    column = sql.Identifier(name)
    return sql.SQL('{} COLLATE "C"').format(column) if text else column
