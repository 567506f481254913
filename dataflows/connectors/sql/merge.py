"""Move staged rows into a table of a database file.

In `merge`, the last staged row of each key replaces the target's, unless that one is newer. The last row of a key is
the one with the greatest version; among equal versions, the one staged last. A row whose `delete` flag is true deletes
the target's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataflows.connectors.sql.database import STAGE
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.connectors.sql.tombstones import Tombstones

__all__ = ["Merge", "differing"]


def _list(names: Sequence[str], of: str = "") -> str:
    return ", ".join(of + quoted(name) for name in names)


def differing(sink: ObjectName, shadow: ObjectName, columns: Sequence[str]) -> str:
    """Return a query that counts the distinct rows of `shadow` that occur less often in `sink`."""
    each = (f'SELECT {_list(columns)}, {n} AS "_penstock_n" FROM {of.sql}' for of, n in ((shadow, 1), (sink, -1)))
    same = ", ".join(f"{quoted(name)} COLLATE BINARY" for name in columns)
    grouped = f'SELECT 1 FROM ({" UNION ALL ".join(each)}) u GROUP BY {same} HAVING sum("_penstock_n") > 0'
    return f"SELECT count(*) FROM ({grouped}) x"


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
    cleared: str | None = None
    """Column that becomes NULL in each row that is written."""
    appends: bool = False
    """True if each staged row is added; `key` then only identifies rows for the comparison, if there is one."""

    @property
    def statements(self) -> tuple[str, ...]:
        """Statements of the move, in order."""
        if self.appends:
            names = _list(self.columns)
            return (f"INSERT INTO {self.into.sql} ({names}) SELECT {names} FROM {STAGE}",)
        if self.delete is None:
            return (self._upsert(),)
        deleted = f"SELECT * FROM {self._last} d WHERE d.{quoted(self.delete)} IS TRUE"
        recorded = (self.tombstones.insert(deleted),) if self.tombstones else ()
        return (*recorded, self._gone(), self._upsert())

    @property
    def outrun(self) -> tuple[str, ...]:
        """Statements that delete staged rows of which the target has a newer version: all others have to be in it."""
        if self.version is None:
            return ()
        newer = f"SELECT 1 FROM {self.into.sql} t WHERE {self._same('s')} AND NOT coalesce({self._newer('s')}, false)"
        return (f"DELETE FROM {STAGE} AS s WHERE EXISTS ({newer})",)

    @property
    def unlike(self) -> str:
        """Query that counts staged rows that differ in the target, to be asked before the commit."""
        written = [name for name in self.columns if name != self.delete]
        alike = " AND ".join(f"t.{quoted(name)} IS r.{quoted(name)} COLLATE BINARY" for name in written)
        there, rows = f"SELECT 1 FROM {self.into.sql} t WHERE {self._same('r')}", STAGE if self.appends else self._last
        flag = f"r.{quoted(self.delete)} IS NOT TRUE AND " if self.delete else ""
        allowed = f"{self.tombstones.allows('r')} AND " if self.tombstones else ""
        kept = f"SELECT 1 FROM {rows} r WHERE {flag}{allowed}NOT EXISTS ({there} AND {alike})"
        stays = f" UNION ALL SELECT 1 FROM {rows} r WHERE r.{quoted(self.delete or '')} IS TRUE AND EXISTS ({there})"
        return f"SELECT count(*) FROM ({kept}{stays if self.delete else ''}) u"

    def _same(self, one: str) -> str:
        return " AND ".join(f"t.{quoted(name)} = {one}.{quoted(name)}" for name in self.key)

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
        kept += f" AND {self.tombstones.allows('r')}" if self.tombstones else ""
        clears = [f"{quoted(self.cleared)} = NULL"] if self.cleared else []
        sets = ", ".join([*(f"{quoted(n)} = excluded.{quoted(n)}" for n in written if n not in self.key), *clears])
        action = f"UPDATE SET {sets} WHERE {self._newer('excluded')}" if sets else "NOTHING"
        return (
            f"INSERT INTO {self.into.sql} AS t ({_list(written)}) SELECT {_list(written, 'r.')} FROM {self._last} r "
            f"WHERE {kept} ON CONFLICT ({_list(self.key)}) DO {action}"
        )

    def _gone(self) -> str:
        flag = f"r.{quoted(self.delete or '')} IS TRUE"
        found = f"SELECT 1 FROM {self._last} r WHERE {self._same('r')} AND {flag} AND {self._newer('r')}"
        return f"DELETE FROM {self.into.sql} AS t WHERE EXISTS ({found})"
