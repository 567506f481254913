"""Keys of new tables: InnoDB indexes whole values only up to a length, and a key of prefixes would not be unique."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dataflows.connectors.mysql.types import KEY_VARCHAR
from dataflows.data.tables import Column
from dataflows.data.types import column_type

__all__ = ["key_obstacle"]

PARTS: Final = 16
"""Most columns of an index in MySQL; MariaDB takes twice as many."""
CHARACTER: Final = 4
"""Bytes that an index reserves for a character of utf8mb4."""
_BYTES: Final = {
    "smallint": 2, "integer": 4, "bigint": 8, "real": 4, "double precision": 8, "boolean": 1, "date": 3,
    "timestamp without time zone": 8, "timestamp with time zone": 7, "time without time zone": 6, "uuid": 16,
}  # fmt: skip


def key_obstacle(columns: Sequence[Column], key: Sequence[str], page: int, *, named: bool) -> str | None:
    """Return why a table of these columns, as MySQL stores them, cannot have this key; None if it can.

    `page` is the size of InnoDB's pages. `named`: the pipeline names the key, so that texts without a length are given
    one.
    """
    if len(key) > PARTS:
        return f"MySQL takes {PARTS} columns in a key, and it has {len(key)}"
    size, limit = 0, min(page * 3 // 16, 3072)
    for one in columns:
        if one.name in key:
            part = _bytes(one, named=named)
            if part is None:
                return f"`{one.name}` becomes a {column_type(one).name} without a length, which no index holds whole"
            size += part
    if size > limit:
        return f"({', '.join(key)}) takes up to {size} bytes, and an index of this server {limit}"
    return None


def _bytes(column: Column, *, named: bool) -> int | None:
    """Return the bytes that an index reserves for values of a column; None if they have no limit."""
    kind = column_type(column)
    if kind.name == "character varying":
        return CHARACTER * (kind.precision or 0)
    if kind.name == "numeric":
        return (kind.precision or 0) // 2 + 1
    if kind.name == "bit":
        return ((kind.precision or 1) + 7) // 8
    if named and kind.name in {"text", "bytea"}:
        return KEY_VARCHAR * (CHARACTER if kind.name == "text" else 1)
    return _BYTES.get(kind.name)
