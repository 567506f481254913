"""`merge` and `scd2`: a split's rows go into a table of the transaction's own first, then by key into the target.

Of the rows of a split that have the same key the last one counts: the one of the greatest version, and of those the one
that was read last. In `merge` it takes the place of the target's row, unless that one's version is greater; a row whose
flag says so deletes it. In `scd2` it closes the current row of its key and opens another one, if anything but the
version differs from it; a row that is not newer than what is known of its key changes nothing. Writers of a history
take turns, since no key of the table keeps two of them from opening a current row each.

Keys are visited in their order, so that two writers wait for each other and never for a circle. A repeat of the same
rows changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dataflows.connectors.history import HISTORY
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.names import quoted
from dataflows.data.tables import Column

__all__ = ["STAGE", "Merge"]

STAGE: Final = TableName("pg_temp", "_penstock_stage")
_NUMBER: Final = "_penstock_n"


@dataclass(frozen=True, slots=True)
class Merge:
    """How rows with `columns` get into the table `into`: by `key`, newer by `version`, gone where `delete` is true."""

    into: TableName
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    version: str | None = None
    delete: str | None = None
    history: bool = False

    @property
    def begin(self) -> str:
        """Make the transaction's own table."""
        kinds = ", ".join(f"{quoted(one.name)} {one.type}" for one in self.columns)
        number = f"{quoted(_NUMBER)} bigint GENERATED ALWAYS AS IDENTITY"
        return f"CREATE TEMP TABLE {quoted(STAGE.name)} ({kinds}, {number}) ON COMMIT DROP"

    @property
    def end(self) -> str:
        """Bring what it holds into the target."""
        return self._history() if self.history else self._upsert()

    @property
    def _written(self) -> list[str]:
        return [one.name for one in self.columns if one.name != self.delete]

    def _last(self, condition: str) -> str:
        """The last row of each key, of those where the condition holds, in the keys' order."""
        keys = _list(self.key)
        newest = f"{quoted(self.version)} DESC NULLS LAST, " if self.version else ""
        return (
            f"SELECT * FROM (SELECT DISTINCT ON ({keys}) * FROM {STAGE.sql} "
            f"ORDER BY {keys}, {newest}{quoted(_NUMBER)} DESC) s WHERE {condition} ORDER BY {keys}"
        )

    def _upsert(self) -> str:
        names, keys = _list(self._written), _list(self.key)
        others = [name for name in self._written if name not in self.key]
        flag = f"s.{quoted(self.delete)}" if self.delete else None
        rows = self._last(f"{flag} IS NOT TRUE" if flag else "true")
        newer = ""
        if self.version:
            version = quoted(self.version)
            newer = f" WHERE t.{version} IS NULL OR t.{version} <= excluded.{version}"
        sets = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in others)
        action = f"UPDATE SET {sets}{newer}" if sets else "NOTHING"
        put = f"INSERT INTO {self.into.sql} AS t ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM ({rows}) r "
        put += f"ON CONFLICT ({keys}) DO {action}"
        return put if flag is None else f"{self._delete(flag)}; {put}"

    def _delete(self, flag: str) -> str:
        same = _same("t", "r", self.key)
        older = ""
        if self.version:
            version = quoted(self.version)
            older = f" AND (t.{version} IS NULL OR t.{version} <= r.{version})"
        return f"DELETE FROM {self.into.sql} t USING ({self._last(f'{flag} IS TRUE')}) r WHERE {same}{older}"

    def _history(self) -> str:
        """Close the rows that are not current any more, then open the new ones."""
        version = quoted(self.version or HISTORY[0])
        begin, end, current = (quoted(name) for name in HISTORY)
        compared = [name for name in self._written if name not in self.key and name != self.version]
        differs = " OR ".join(f"t.{quoted(name)} IS DISTINCT FROM r.{quoted(name)}" for name in compared) or "false"
        gone = f"r.{quoted(self.delete)} IS TRUE" if self.delete else "false"
        names = _list(self._written)
        same = _same("t", "r", self.key)
        close = (
            f"UPDATE {self.into.sql} t SET {end} = r.{version}, {current} = false FROM ({self._last('true')}) r "
            f"WHERE {same} AND t.{current} AND t.{begin} < r.{version} AND ({differs} OR {gone})"
        )
        later = f"t.{current} OR t.{begin} >= r.{version} OR t.{end} > r.{version}"
        known = f"EXISTS (SELECT FROM {self.into.sql} t WHERE {same} AND ({later}))"
        open_ = (
            f"INSERT INTO {self.into.sql} ({names}, {begin}, {end}, {current}) OVERRIDING SYSTEM VALUE "
            f"SELECT {names}, r.{version}, NULL, true FROM ({self._last('true')}) r "
            f"WHERE NOT {known} AND NOT ({gone})"
        )
        return f"LOCK TABLE {self.into.sql} IN SHARE ROW EXCLUSIVE MODE; {close}; {open_}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def _same(one: str, other: str, key: Sequence[str]) -> str:
    return " AND ".join(f"{one}.{quoted(name)} = {other}.{quoted(name)}" for name in key)
