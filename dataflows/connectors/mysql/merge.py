"""`merge`: the last staged row of each key replaces the target's, unless that one is newer.

The last row of a key is the one with the greatest version; among equal versions, the one staged last. A row whose
`delete` flag is true deletes the target's row. Rows are visited in key order, so that two writers cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dataflows.connectors.mysql.session import quoted
from dataflows.connectors.mysql.tables import TableName
from dataflows.connectors.sql.tombstones import Tombstones

__all__ = ["STAGE", "Merge", "clashes"]

STAGE: Final = "_penstock_stage"
_NUMBER: Final = "_penstock_n"


def _alike(name: str) -> str:
    """Return the condition that `t` and `r` are identical to the byte; floats are compared with all their digits."""
    one, other = f"t.{quoted(name)}", f"r.{quoted(name)}"
    return f"{one} <=> {other} AND CAST({one} AS BINARY) <=> CAST({other} AS BINARY)"


def _list(names: Sequence[str], of: str = "") -> str:
    return ", ".join(of + quoted(name) for name in names)


def clashes(into: TableName, key: Sequence[str]) -> tuple[str, ...]:
    """Return queries that count staged keys that the collation of `into` treats as equal to a different key."""
    stage = quoted(into.schema, STAGE)
    exact = ", ".join(f"CAST({quoted(one)} AS BINARY)" for one in key)
    same = " AND ".join(f"t.{quoted(one)} = s.{quoted(one)}" for one in key)
    differs = " OR ".join(f"CAST(t.{quoted(one)} AS BINARY) <> CAST(s.{quoted(one)} AS BINARY)" for one in key)
    each = f"SELECT 1 FROM {stage} GROUP BY {_list(key)} HAVING count(DISTINCT {exact}) > 1"
    return (
        f"SELECT count(*) FROM ({each}) d",
        f"SELECT count(*) FROM {stage} s JOIN {into.sql} t ON {same} WHERE {differs}",
    )


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge of staged rows with `columns` into `into` by `key`: the greater `version` wins, a true `delete` deletes."""

    into: TableName
    columns: tuple[str, ...]
    key: tuple[str, ...]
    version: str | None = None
    delete: str | None = None
    tombstones: Tombstones | None = None
    """Table of deleted keys."""
    texts: bool = False
    """True if a text is part of the key: its collation may treat different texts as equal."""
    appends: bool = False
    """True if each staged row is added."""
    cleared: str | None = None
    """Column that becomes NULL in each row that is written."""

    @property
    def make_stage(self) -> tuple[str, ...]:
        """Statements, before the transaction, that create the session's empty staging table with the target's types."""
        flag = f", {quoted(self.delete)} TINYINT(1)" if self.delete else ""
        name = quoted(self.into.schema, STAGE)
        made = (
            f"CREATE TEMPORARY TABLE {name} ({quoted(_NUMBER)} BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY{flag}) "
            f"ENGINE = InnoDB SELECT {_list(self._written)} FROM {self.into.sql} LIMIT 0"
        )
        return f"DROP TEMPORARY TABLE IF EXISTS {name}", made

    @property
    def statements(self) -> tuple[str, ...]:
        """Statements that move the staged rows into the target, in order."""
        if self.appends:
            names, stage = _list(self.columns), quoted(self.into.schema, STAGE)
            return (f"INSERT INTO {self.into.sql} ({names}) SELECT {names} FROM {stage} ORDER BY {quoted(_NUMBER)}",)
        if self.delete is None:
            return (self._upsert(),)
        return (*((self._record_deletions(self.tombstones),) if self.tombstones else ()), self._gone(), self._upsert())

    @property
    def clashes(self) -> tuple[str, ...]:
        """Return queries that count keys that the target's collation treats as equal to a different key."""
        return clashes(self.into, self.key)

    @property
    def outrun(self) -> str:
        """Statements that delete staged rows of which the target has a newer version: all others have to be in it."""
        same = " AND ".join(f"t.{quoted(one)} = s.{quoted(one)}" for one in self.key)
        version = quoted(self.version or "")
        older = f"NOT coalesce(t.{version} IS NULL OR t.{version} <= s.{version}, false)"
        return f"DELETE s FROM {quoted(self.into.schema, STAGE)} s JOIN {self.into.sql} t ON {same} WHERE {older}"

    @property
    def unlike(self) -> tuple[str, ...]:
        """Queries that count staged rows that differ in the target, to be asked before the commit."""
        same = " AND ".join(f"t.{quoted(one)} = r.{quoted(one)}" for one in self.key)
        there = f"SELECT 1 FROM {self.into.sql} t WHERE {same}"
        last = f"{quoted(self.into.schema, STAGE)}" if self.appends else self._last
        alike = " AND ".join(map(_alike, self._written))
        flag = f"r.{quoted(self.delete)} IS NOT TRUE AND " if self.delete else ""
        allowed = f"{self.tombstones.allows('r')} AND " if self.tombstones else ""
        return (f"SELECT count(*) FROM {last} r WHERE {flag}{allowed}NOT EXISTS ({there} AND {alike})",)

    @property
    def attempt(self) -> tuple[str, ...]:
        """Statements that move the staged rows into the target and empty the stage, inside a transaction."""
        return *self.statements, f"DELETE FROM {quoted(self.into.schema, STAGE)}"

    @property
    def _written(self) -> list[str]:
        return [name for name in self.columns if name != self.delete]

    @property
    def _last(self) -> str:
        newest = f"{quoted(self.version)} IS NULL, {quoted(self.version)} DESC, " if self.version else ""
        return (
            f"(SELECT * FROM (SELECT s.*, row_number() OVER (PARTITION BY {_list(self.key)} "
            f"ORDER BY {newest}{quoted(_NUMBER)} DESC) AS {quoted('_penstock_r')} "
            f"FROM {quoted(self.into.schema, STAGE)} s) n WHERE {quoted('_penstock_r')} = 1)"
        )

    def _upsert(self) -> str:
        names = self._written
        kept = f"WHERE r.{quoted(self.delete)} IS NOT TRUE " if self.delete else ""
        kept += f"AND {self.tombstones.allows('r')} " if self.tombstones else ""
        others = [name for name in names if name not in {*self.key, self.version}]
        others += [self.version] if self.version and self.version not in self.key else []  # set last: others compare it
        clears = [f"{self._place(self.cleared)} = {self._newer(self.cleared, 'NULL')}"] if self.cleared else []
        sets = ", ".join([*clears, *(f"{self._place(name)} = {self._newer(name)}" for name in others)])
        sets = sets or f"{self._place(self.key[0])} = {self._place(self.key[0])}"
        return (
            f"INSERT INTO {self.into.sql} ({_list(names)}) SELECT {_list(names, 'r.')} FROM {self._last} r {kept}"
            f"ORDER BY {_list(self.key, 'r.')} ON DUPLICATE KEY UPDATE {sets}"
        )

    def make_tombstones(self, gone: Tombstones) -> str:
        """Return the statement that creates the table of deleted keys, with the target's types."""
        return (
            f"CREATE TABLE IF NOT EXISTS {gone.table.sql} (PRIMARY KEY ({_list(self.key)})) ENGINE = InnoDB "
            f"SELECT {_list((*self.key, gone.version))} FROM {self.into.sql} LIMIT 0"
        )

    def _record_deletions(self, gone: Tombstones) -> str:
        version = quoted(gone.version)
        return (
            f"INSERT INTO {gone.table.sql} ({_list(self.key)}, {version}) SELECT {_list(self.key, 'r.')}, r.{version} "
            f"FROM {self._last} r WHERE r.{quoted(self.delete or '')} IS TRUE AND r.{version} IS NOT NULL "
            f"ORDER BY {_list(self.key, 'r.')} ON DUPLICATE KEY UPDATE "
            f"{version} = GREATEST({gone.table.sql}.{version}, VALUES({version}))"
        )

    def _place(self, name: str) -> str:
        return f"{self.into.sql}.{quoted(name)}"

    def _newer(self, name: str, value: str | None = None) -> str:
        given = value or f"VALUES({quoted(name)})"
        if self.version is None:
            return given
        have = self._place(self.version)
        return f"IF({have} IS NULL OR {have} <= VALUES({quoted(self.version)}), {given}, {self._place(name)})"

    def _gone(self) -> str:
        same = " AND ".join(f"t.{quoted(name)} = r.{quoted(name)}" for name in self.key)
        older = ""
        if self.version:
            version = quoted(self.version)
            older = f" AND (t.{version} IS NULL OR t.{version} <= r.{version})"
        return (
            f"DELETE t FROM {self.into.sql} t JOIN {self._last} r ON {same} "
            f"WHERE r.{quoted(self.delete or '')} IS TRUE{older}"
        )
