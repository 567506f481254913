"""Changes of rows: the operation that a row of a change stream applies to the row of its key.

A source of changes gives each row one more column, `CHANGE`: NULL for a row whose values are all known, else a JSON
object. ``{"op": "delete"}`` deletes the row of the key, ``{"op": "truncate"}`` all rows there were before; with
``"then": "insert"``, each row behind it in its split is a new one, with a key of its own. In
``{"op": "keep", "columns": [...], "key": [...]}`` the values of some source columns were not sent, since they did not
change: they stay as the target has them, in the row of this key, or of `key` (as text) if the key was changed.

For a history (`scd2`) a split has each change, in order, not only the last one of each key; another hidden column,
`COMMITTED`, has the time since which it holds. A log (`append`) has each change as a row with `LOG_COLUMNS`: there,
`CHANGE` is not needed, since nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from dataflows.data.tables import Column

__all__ = [
    "CHANGE",
    "CHANGE_COLUMN",
    "COMMITTED",
    "COMMITTED_COLUMN",
    "DELETE",
    "LOG_COLUMNS",
    "PART",
    "PLACE_OF_CHANGE",
    "REPLACE",
    "TRUNCATE",
    "UNCHANGED",
    "keep",
    "of_table",
]

CHANGE: Final = "_penstock_change"
CHANGE_COLUMN: Final = Column(CHANGE, "jsonb", hidden=True)
COMMITTED: Final = "_penstock_committed"
COMMITTED_COLUMN: Final = Column(COMMITTED, "timestamp with time zone", nullable=False, hidden=True)
UNCHANGED: Final = "_unchanged"
LOG_COLUMNS: Final = (
    Column("_op", "text", nullable=False),
    Column("_lsn", "bigint", nullable=False),
    Column("_seq", "bigint", nullable=False),
    Column("_committed_at", "timestamp with time zone", nullable=False),
    Column(UNCHANGED, "text"),
)
"""What a row of a log does (snapshot, insert, update, delete, truncate); the place of its commit in the server's WAL,
in bytes; its number within the transaction, 0 in a snapshot; the time of the commit, or of the snapshot; and the
columns that an update left out, as they did not change, as a JSON array: NULL there says nothing.
"""
PLACE_OF_CHANGE: Final = ("_lsn", "_seq")
"""Columns of a log that together say which change a row is, but in a snapshot."""
PART: Final = "changes"
"""Name of the one partition of a stream of changes."""
DELETE: Final = '{"op": "delete"}'
TRUNCATE: Final = '{"op": "truncate"}'
REPLACE: Final = '{"op": "truncate", "then": "insert"}'
"""Begins a snapshot, as a chunk of its own: a sink without rows may load the others as they come."""


def of_table(columns: Sequence[str]) -> list[str]:
    """Return those of the columns that are read which are the table's own."""
    added = {CHANGE, COMMITTED} if CHANGE in columns else {one.name for one in LOG_COLUMNS}
    return [name for name in columns if name not in added]


def keep(columns: Sequence[str], key: Sequence[str] | None = None) -> str:
    """Return the change of a row of which `columns` were not sent; `key` is the key that it had before, if another."""
    data: dict[str, object] = {"op": "keep", "columns": list(columns)}
    return json.dumps(data if key is None else data | {"key": list(key)})
