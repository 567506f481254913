"""Tombstones of a `merge` with a `delete`: the keys of deleted rows, each with the version that deleted it.

A deleted row leaves no version in the target, so an older one that is read later, by a `backfill` or because the
version is not the cursor, would restore it. Each pipeline therefore has a small table next to its target, changed in
the same transactions as the rows, and dropped when the pipeline is deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.data.tables import Column

__all__ = ["Tombstones", "tombstone_prefix"]


def tombstone_prefix(uid: str) -> str:
    """Return the common prefix of the names of a pipeline's tombstone tables."""
    return f"_penstock_deleted_{hashlib.sha256(uid.encode()).hexdigest()[:12]}_"


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Tombstone table of one target; another key or version has another table."""

    table: ObjectName
    key: tuple[str, ...]
    version: str

    @classmethod
    def of(
        cls, uid: str, sink: ObjectName, key: tuple[str, ...], version: str | None, delete: str | None
    ) -> Tombstones | None:
        """Return the tombstones of a target that rows are deleted from; None if versions cannot tell older rows."""
        if delete is None or version is None or version in key:
            return None
        digest = hashlib.sha256("\x1f".join((str(sink), *key, version)).encode()).hexdigest()[:16]
        return cls(sink.sibling(tombstone_prefix(uid) + digest), key, version)

    def make(self, columns: Sequence[Column], ddl_type: Callable[[Column], str]) -> str:
        """Return the statement that creates the table, if it is missing."""
        kinds = {one.name: ddl_type(one) for one in columns}
        lines = [f"{self._name(name)} {kinds[name]} NOT NULL" for name in (*self.key, self.version)]
        return f"CREATE TABLE IF NOT EXISTS {self.table.sql} ({', '.join(lines)}, PRIMARY KEY ({self._keys()}))"

    def insert(self, deleted: str) -> str:
        """Return the statement that records the keys and versions of `deleted`, a query; the greatest version stays."""
        version = self._name(self.version)
        return (
            f"INSERT INTO {self.table.sql} AS g ({self._keys()}, {version}) SELECT {self._keys('r.')}, r.{version} "
            f"FROM ({deleted}) r WHERE r.{version} IS NOT NULL ORDER BY {self._keys('r.')} "
            f"ON CONFLICT ({self._keys()}) DO UPDATE SET {version} = excluded.{version} "
            f"WHERE g.{version} < excluded.{version}"
        )

    def allows(self, row: str) -> str:
        """Return the condition that no newer deletion of the key of `row`, an alias, is recorded."""
        version, of = self._name(self.version), self.table.sql
        same = " AND ".join(f"g.{self._name(name)} = {row}.{self._name(name)}" for name in self.key)
        older = f"({row}.{version} IS NULL OR g.{version} > {row}.{version})"
        return f"NOT EXISTS (SELECT 1 FROM {of} g WHERE {same} AND {older})"

    def _name(self, name: str) -> str:
        return quoted(name, mark=self.table.mark)

    def _keys(self, of: str = "") -> str:
        return ", ".join(of + self._name(name) for name in self.key)
