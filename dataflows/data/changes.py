"""Changes of rows: the operation that a row of a change stream applies to the row of its key.

A source of changes gives each row one more column, `CHANGE`: NULL for a row whose values are all known, else a JSON
object. ``{"op": "delete"}`` deletes the row of the key, ``{"op": "truncate"}`` all rows there were before; with
``"then": "insert"``, each row behind it in its split is a new one, with a key of its own. In
``{"op": "keep", "columns": [...], "key": [...]}`` the values of some source columns were not sent, since they did not
change: they stay as the target has them, in the row of this key, or of `key` (as text) if the key was changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from dataflows.data.tables import Column

__all__ = ["CHANGE", "CHANGE_COLUMN", "DELETE", "PART", "REPLACE", "TRUNCATE", "keep"]

CHANGE: Final = "_penstock_change"
CHANGE_COLUMN: Final = Column(CHANGE, "jsonb", hidden=True)
PART: Final = "changes"
"""Name of the one partition of a stream of changes."""
DELETE: Final = '{"op": "delete"}'
TRUNCATE: Final = '{"op": "truncate"}'
REPLACE: Final = '{"op": "truncate", "then": "insert"}'
"""Begins a snapshot, as a chunk of its own: a sink without rows may load the others as they come."""


def keep(columns: Sequence[str], key: Sequence[str] | None = None) -> str:
    """Return the change of a row of which `columns` were not sent; `key` is the key that it had before, if another."""
    data: dict[str, object] = {"op": "keep", "columns": list(columns)}
    return json.dumps(data if key is None else data | {"key": list(key)})
