"""`merge` and `scd2`: stage a split's rows in a temporary table, then merge them into the target by key.

In `merge`, only the last row of each key counts: the one with the greatest version, and among equal versions the one
read last. It replaces the target's row unless that one's version is greater; a row whose `delete` flag is true deletes
it. In `scd2` every row counts, in the order of versions: it closes the current row and opens a new one, if anything
except the version differs; a row that is not newer than the key's history is ignored. Writers of a history lock
the table, since no unique key prevents two of them from opening a current row each.

Keys are visited in order, so that two writers cannot deadlock. Merging the same rows again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dataflows.connectors.history import HISTORY
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.names import quoted
from dataflows.connectors.sql.tombstones import Tombstones
from dataflows.data.changes import CHANGE
from dataflows.data.tables import Column

__all__ = ["NUMBER", "STAGE", "Merge", "begin_stage"]

STAGE: Final = TableName("pg_temp", "_penstock_stage")
CHANGES: Final = TableName("pg_temp", "_penstock_changes")
NUMBER: Final = "_penstock_n"
_NEXT: Final = '"_penstock_next"'
_GONE: Final = '"_penstock_gone"'
_KNOWN: Final = '"_penstock_known"'
_BEFORE: Final = '"_penstock_before"'


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge of rows with `columns` into `into` by `key`: the greater `version` wins, a true `delete` deletes."""

    into: TableName
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    version: str | None = None
    delete: str | None = None
    history: bool = False
    tombstones: Tombstones | None = None
    """Table of deleted keys."""
    cleared: str | None = None
    """Column that becomes NULL in each row that is written."""
    changes: bool = False
    """True for a history of changes: its version is not written, and what a row does is in the column `CHANGE`."""

    @property
    def begin(self) -> str:
        """Statement that creates the staging table."""
        return begin_stage(self.columns)

    @property
    def end(self) -> str:
        """Statements that merge the staged rows into the target."""
        return self._history() if self.history else self._upsert()

    @property
    def _written(self) -> list[str]:
        unwritten = {CHANGE, self.version} if self.changes else {self.delete}
        return [one.name for one in self.columns if one.name not in unwritten]

    @property
    def _staged(self) -> list[str]:
        """What is written, and the version."""
        return [*self._written, *([self.version] if self.changes and self.version else [])]

    @property
    def _is_gone(self) -> str:
        """Condition of a staged row after which its key has none."""
        if self.changes:
            return f"({quoted(CHANGE)} ->> 'op' = 'delete') IS TRUE"
        return f"{quoted(self.delete)} IS TRUE" if self.delete else "false"

    def _last(self, condition: str) -> str:
        """Return a query for the last row of each key, in key order, if it meets the condition."""
        keys = _list(self.key)
        newest = f"{quoted(self.version)} DESC NULLS LAST, " if self.version else ""
        return (
            f"SELECT * FROM (SELECT DISTINCT ON ({keys}) * FROM {STAGE.sql} "
            f"ORDER BY {keys}, {newest}{quoted(NUMBER)} DESC) s WHERE {condition} ORDER BY {keys}"
        )

    def _upsert(self) -> str:
        names, keys = _list(self._written), _list(self.key)
        others = [name for name in self._written if name not in self.key]
        flag = f"s.{quoted(self.delete)}" if self.delete else None
        allowed = f" AND {self.tombstones.allows('s')}" if self.tombstones else ""
        rows = self._last(f"{flag} IS NOT TRUE{allowed}" if flag else "true")
        newer = ""
        if self.version:
            version = quoted(self.version)
            newer = f" WHERE t.{version} IS NULL OR t.{version} <= excluded.{version}"
        sets = ", ".join(
            [f"{quoted(name)} = excluded.{quoted(name)}" for name in others]
            + ([f"{quoted(self.cleared)} = NULL"] if self.cleared else [])
        )
        action = f"UPDATE SET {sets}{newer}" if sets else "NOTHING"
        put = f"INSERT INTO {self.into.sql} AS t ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM ({rows}) r "
        put += f"ON CONFLICT ({keys}) DO {action}"
        if flag is None:
            return put
        recorded = [self.tombstones.insert(self._last(f"{flag} IS TRUE"))] if self.tombstones else []
        return "; ".join((*recorded, self._delete(flag), put))

    @property
    def unlike(self) -> str:
        """Query that counts merged rows that differ in the target, to be asked before the commit."""
        return f"SELECT count(*) FROM ({self._unlike_history() if self.history else self._unlike_rows()}) u"

    def _unlike_rows(self) -> str:
        allowed = f" AND {self.tombstones.allows('s')}" if self.tombstones else ""
        flag = f"s.{quoted(self.delete)}" if self.delete else "false"
        there = f"FROM {self.into.sql} t WHERE {_same('t', 'r', self.key)}"
        newer = ""
        if self.version:
            version = quoted(self.version)
            others = "t.xmin::text <> (txid_current() & 4294967295)::text"  # not made newer by a trigger just now
            newer = f" OR (NOT coalesce(t.{version} IS NULL OR t.{version} <= r.{version}, false) AND {others})"
        kept = f"SELECT {there} AND (({self._alike(self._written)}){newer})"
        stays = f"SELECT {there} AND NOT (false{newer})"
        rows = f"SELECT FROM ({self._last(f'{flag} IS NOT TRUE{allowed}')}) r WHERE NOT EXISTS ({kept})"
        gone = f" UNION ALL SELECT FROM ({self._last(f'{flag} IS TRUE')}) r WHERE EXISTS ({stays})"
        return rows + (gone if self.delete else "")

    def _unlike_history(self) -> str:
        begin, _, current = (quoted(name) for name in HISTORY)
        version = quoted(self.version or HISTORY[0])
        there = f"SELECT FROM {self.into.sql} t WHERE {_same('t', 'r', self.key)}"
        opened = f"t.{begin} = r.{version} AND t.{current} = (r.{_NEXT} IS NULL) AND {self._alike(self._written)}"
        closed = f"{there} AND t.{current} AND t.{begin} < r.{version}"
        missing = f"NOT {_GONE} AND NOT EXISTS ({there} AND {opened})"
        return f"SELECT FROM {CHANGES.sql} r WHERE ({missing}) OR EXISTS ({closed})"

    @staticmethod
    def _alike(names: Sequence[str]) -> str:
        """Return the condition that `t` and `r` are the same, by their texts, since some types cannot be compared."""
        return " AND ".join(f"t.{quoted(name)}::text IS NOT DISTINCT FROM r.{quoted(name)}::text" for name in names)

    def _delete(self, flag: str) -> str:
        same = _same("t", "r", self.key)
        older = ""
        if self.version:
            version = quoted(self.version)
            older = f" AND (t.{version} IS NULL OR t.{version} <= r.{version})"
        return f"DELETE FROM {self.into.sql} t USING ({self._last(f'{flag} IS TRUE')}) r WHERE {same}{older}"

    def _history(self) -> str:
        """Return statements that close the current row of each changed key, then insert a row for each change."""
        begin, end, current = (quoted(name) for name in HISTORY)
        names, same = _list(self._written), _same("t", "r", self.key)
        version = quoted(self.version or HISTORY[0])
        close = (
            f"UPDATE {self.into.sql} t SET {end} = r.{version}, {current} = false FROM {CHANGES.sql} r "
            f"WHERE r.{quoted(NUMBER)} = 1 AND {same} AND t.{current}"
        )
        open_ = (
            f"INSERT INTO {self.into.sql} ({names}, {begin}, {end}, {current}) OVERRIDING SYSTEM VALUE "
            f"SELECT {names}, {version}, {_NEXT}, {_NEXT} IS NULL FROM {CHANGES.sql} WHERE NOT {_GONE}"
        )
        made = f"DROP TABLE IF EXISTS {CHANGES.sql}; "  # of an earlier attempt of the same trial
        made += f"CREATE TEMP TABLE {quoted(CHANGES.name)} ON COMMIT DROP AS {self._changes(version)}"
        return f"LOCK TABLE {self.into.sql} IN SHARE ROW EXCLUSIVE MODE; {made}; {close}; {open_}"

    def _changes(self, version: str) -> str:
        """Return a query for the staged rows newer than their key's history that differ from the preceding row."""
        begin, end, current = (quoted(name) for name in HISTORY)
        keys, names, gone = _list(self.key), _list(self._staged), self._is_gone
        # By their texts: some types cannot be compared, and of others values that differ are equal (1.0 and 1.00).
        texts = [f'{quoted(name)}::text COLLATE "C"' for name in self._compared]
        values = ["false" if gone == "false" else _GONE, *texts]
        known = f"SELECT FROM {self.into.sql} t WHERE {_same('t', 'r', self.key)}"
        newer = (
            f"SELECT {names}, {gone} AS {_GONE} FROM (SELECT DISTINCT ON ({keys}, {version}) * FROM {STAGE.sql} "
            f"ORDER BY {keys}, {version}, {quoted(NUMBER)} DESC) r "
            f"WHERE NOT EXISTS ({known} AND (t.{begin} >= r.{version} OR t.{end} > r.{version}))"
        )
        there = [f"t.{begin}" if name == self.version else f"t.{quoted(name)}" for name in self._staged]
        of_key = f"OVER (PARTITION BY {keys} ORDER BY {version} NULLS FIRST)"
        return (
            f"WITH newer AS ({newer}), lined AS (SELECT *, lag(ROW({', '.join(values)})) {of_key} AS {_BEFORE} FROM ("
            f"SELECT *, false AS {_KNOWN} FROM newer UNION ALL SELECT {', '.join(there)}, false, true "
            f"FROM {self.into.sql} t WHERE t.{current} AND EXISTS (SELECT FROM newer r WHERE "
            f"{_same('t', 'r', self.key)})) u), changed AS (SELECT * FROM lined "
            f"WHERE NOT {_KNOWN} AND {_BEFORE} IS DISTINCT FROM ROW({', '.join(values)})) "
            f"SELECT {names}, {_GONE}, lead({version}) {of_key} AS {_NEXT}, "
            f"row_number() {of_key} AS {quoted(NUMBER)} FROM changed ORDER BY {keys}, {version}"
        )

    @property
    def _compared(self) -> list[str]:
        return [name for name in self._written if name not in self.key and name != self.version]


def begin_stage(columns: Sequence[Column]) -> str:
    """Return the statement that creates the staging table, whose rows are numbered."""
    kinds = ", ".join(f"{quoted(one.name)} {one.type}" for one in columns)
    number = f"{quoted(NUMBER)} bigint GENERATED ALWAYS AS IDENTITY"
    return f"CREATE TEMP TABLE {quoted(STAGE.name)} ({kinds}, {number}) ON COMMIT DROP"


def _list(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def _same(one: str, other: str, key: Sequence[str]) -> str:
    return " AND ".join(f"{one}.{quoted(name)} = {other}.{quoted(name)}" for name in key)
