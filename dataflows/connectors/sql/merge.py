"""`merge` in a database file: the last staged row of each key replaces the target's, unless that one is newer.

The last row of a key is the one with the greatest version; among equal versions, the one staged last. A row whose
`delete` flag is true deletes the target's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataflows.connectors.sql.database import STAGE
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.connectors.sql.tombstones import Tombstones

__all__ = ["Merge", "appended"]


def _list(names: Sequence[str], of: str = "") -> str:
    return ", ".join(of + quoted(name) for name in names)


def appended(into: ObjectName, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the statements that append all staged rows."""
    return (f"INSERT INTO {into.sql} ({_list(columns)}) SELECT {_list(columns)} FROM {STAGE}",)


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge of staged rows with `columns` into `into` by `key`: the greater `version` wins, a true `delete` deletes."""

    into: ObjectName
    columns: tuple[str, ...]
    key: tuple[str, ...]
    version: str | None = None
    delete: str | None = None
    tombstones: Tombstones | None = None
    """Table of deleted keys."""

    @property
    def statements(self) -> tuple[str, ...]:
        """Statements of the merge, in order."""
        if self.delete is None:
            return (self._upsert(),)
        deleted = f"SELECT * FROM {self._last} d WHERE d.{quoted(self.delete)} IS TRUE"
        buried = (self.tombstones.bury(deleted),) if self.tombstones else ()
        return (*buried, self._gone(), self._upsert())

    @property
    def _last(self) -> str:
        newest = f"{quoted(self.version)} DESC NULLS LAST, " if self.version else ""
        return (
            f"(SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY {_list(self.key)} "
            f'ORDER BY {newest}rowid DESC) AS "_penstock_n" FROM {STAGE}) s WHERE s."_penstock_n" = 1)'
        )

    def _newer(self, one: str) -> str:
        if self.version is None:
            return "true"
        version = quoted(self.version)
        return f"(t.{version} IS NULL OR t.{version} <= {one}.{version})"

    def _upsert(self) -> str:
        written = [name for name in self.columns if name != self.delete]
        kept = f"r.{quoted(self.delete)} IS NOT TRUE" if self.delete else "true"
        kept += f" AND {self.tombstones.spares('r')}" if self.tombstones else ""
        sets = ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in written if n not in self.key)
        action = f"UPDATE SET {sets} WHERE {self._newer('excluded')}" if sets else "NOTHING"
        return (
            f"INSERT INTO {self.into.sql} AS t ({_list(written)}) SELECT {_list(written, 'r.')} FROM {self._last} r "
            f"WHERE {kept} ON CONFLICT ({_list(self.key)}) DO {action}"
        )

    def _gone(self) -> str:
        same = " AND ".join(f"t.{quoted(name)} = r.{quoted(name)}" for name in self.key)
        flag = f"r.{quoted(self.delete or '')} IS TRUE"
        found = f"SELECT 1 FROM {self._last} r WHERE {same} AND {flag} AND {self._newer('r')}"
        return f"DELETE FROM {self.into.sql} AS t WHERE EXISTS ({found})"
