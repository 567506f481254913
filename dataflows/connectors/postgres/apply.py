"""Apply changes: staged rows, at most one for each key, each with what it does (`dataflows.data.changes`).

First the values that were not sent are taken from the target, by the key that the row had; then rows are deleted, and
then written. A row of which the target lacks values that were not sent is refused, as it cannot be made whole.

The server checks a second unique key row by row, though a value may move from one row to another within a split: rows
in which one changes are deleted first, or, where the target has columns of its own, made NULL there.

A snapshot for a target without rows is not staged: no two of its rows have the same key, and none is there before. In
any other target, rows are deleted once all others are staged, so that their locks are short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa
from psycopg import sql

from dataflows.connectors.postgres.errors import NOT_KEPT
from dataflows.connectors.postgres.merge import STAGE, begin_stage
from dataflows.connectors.postgres.session import Session, one_row, translated
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.names import quoted
from dataflows.data.changes import CHANGE, REPLACE
from dataflows.data.tables import Column

__all__ = ["Apply", "Unique", "new_rows", "replaces"]

WAS: Final = TableName("pg_temp", "_penstock_was")
"""Rows of the target as they were before a trial."""
_UNIQUES: Final = """
SELECT ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = x.indrelid AND a.attnum > 0
    AND NOT a.attisdropped AND (a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])
      OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
      AND d.refclassid = 'pg_class'::regclass
      AND d.refobjid = x.indrelid AND d.refobjsubid = a.attnum)) ORDER BY a.attnum),
  CASE WHEN x.indexprs IS NULL AND to_jsonb(x) ->> 'indnullsnotdistinct' IS DISTINCT FROM 'true' THEN
    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = x.indrelid AND NOT a.attnotnull
    AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1]) ORDER BY a.attnum) ELSE '{}' END,
  EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = x.indrelid AND a.attnum > 0 AND NOT a.attisdropped
    AND a.attgenerated = '' AND NOT a.attname = ANY (%(written)s))
FROM pg_index x WHERE x.indrelid = to_regclass(%(table)s) AND (x.indisunique OR x.indisexclusion)"""
_DOES: Final = f"s.{quoted(CHANGE)}"


@dataclass(frozen=True, slots=True)
class Unique:
    """Written columns of a unique key other than the key; one that may be NULL, if that frees the value."""

    columns: tuple[str, ...]
    cleared: str | None
    extra: bool
    """True if the target has columns that are not written, which a deletion would lose."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Changes with `columns` to rows of `into` by `key`; `sources` are the names of columns at the source."""

    into: TableName
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    sources: Mapping[str, str]
    uniques: tuple[Unique, ...] = ()
    tombstones: None = None

    def on(self, session: Session, where: str) -> Apply:
        """Return the same with the target's other unique keys."""
        asked = {"table": self.into.sql, "written": self._written}
        with translated(where):
            found = session.execute(_UNIQUES, asked).fetchall()
        free = set(self._written) - set(self.key)
        keys = [
            Unique(
                tuple(one for one in names if one in free), next((one for one in nullable if one in free), None), own
            )
            for names, nullable, own in found
        ]
        return replace(self, uniques=tuple(one for one in keys if one.columns and (one.cleared or not one.extra)))

    @property
    def begin(self) -> str:
        """Statements that create the staging table, and leave what may wait to the commit."""
        return f"SET CONSTRAINTS ALL DEFERRED; {begin_stage(self.columns)}"

    def is_empty(self, session: Session, where: str) -> bool:
        """True if the target has no rows."""
        with translated(where):
            return bool(one_row(session, f"SELECT NOT EXISTS (SELECT FROM {self.into.sql})")[0])

    @property
    def begin_trial(self) -> str:
        """Statements that create a table for rows as they were."""
        names = _list(self._written)
        made = (
            f"CREATE TEMP TABLE {quoted(WAS.name)} ON COMMIT DROP AS SELECT {names} FROM {self.into.sql} WITH NO DATA"
        )
        return f"{made}; CREATE UNIQUE INDEX ON {WAS.sql} ({_list(self.key)})"

    def has_truncate(self, session: Session, where: str) -> bool:
        """True if a staged change deletes all rows."""
        with translated(where):
            return bool(one_row(session, f"SELECT EXISTS (SELECT FROM {STAGE.sql} s WHERE {_op('truncate')})")[0])

    @property
    def empty(self) -> str:
        """Statement that deletes all rows, if a change says so; such a split leaves no value unsent."""
        there = f"EXISTS (SELECT FROM {STAGE.sql} s WHERE {_op('truncate')})"
        return f"DELETE FROM {self.into.sql} WHERE {there}"

    @property
    def end(self) -> str:
        """Statements that apply the other staged changes."""
        return "; ".join((*self.kept(self.into.sql), *self._changed()))

    @property
    def end_trial(self) -> str:
        """Statements that apply a part of a split's changes, with unsent values as they were before the split."""
        saved, before = self.before_trial(self.into.sql)
        return "; ".join((saved, *self.kept(before), *self._changed()))

    def before_trial(self, now: str) -> tuple[str, str]:
        """Return a statement that keeps the rows `now` of staged keys as they were, and a query for all such rows."""
        names = _list(self._written)
        same = f"SELECT FROM {STAGE.sql} s WHERE {self._same}"
        saved = f"INSERT INTO {WAS.sql} ({names}) SELECT {names} FROM {now} t WHERE EXISTS ({same})"
        known = " AND ".join(f"w.{quoted(name)} = t.{quoted(name)}" for name in self.key)
        others = f"SELECT {names} FROM {now} t WHERE NOT EXISTS (SELECT FROM {WAS.sql} w WHERE {known})"
        return f"{saved} ON CONFLICT DO NOTHING", f"(SELECT {names} FROM {WAS.sql} UNION ALL {others})"

    def _changed(self) -> Sequence[str]:
        gone = f"DELETE FROM {self.into.sql} t USING {STAGE.sql} s WHERE {_op('delete')} AND {self._same}"
        return (gone, *map(self._vacate, self.uniques), self._put())

    def _vacate(self, unique: Unique) -> str:
        """Return the statement that frees the values of a unique key that change."""
        differ = " OR ".join(f"t.{quoted(one)}::text IS DISTINCT FROM s.{quoted(one)}::text" for one in unique.columns)
        rows = f"{STAGE.sql} s WHERE ({_DOES} IS NULL OR {_op('kept')}) AND {self._same} AND ({differ})"
        if not unique.extra:
            return f"DELETE FROM {self.into.sql} t USING {rows}"
        return f"UPDATE {self.into.sql} t SET {quoted(unique.cleared or '')} = NULL FROM {rows}"

    @property
    def unlike(self) -> str:
        """Query that counts changes that the target does not have, to be asked before the commit."""
        pairs = ((f"t.{quoted(name)}::text", f"s.{quoted(name)}::text") for name in self._written)
        alike = " AND ".join(f"{one} IS NOT DISTINCT FROM {other}" for one, other in pairs)
        there = f"SELECT FROM {self.into.sql} t WHERE {self._same}"
        put = f"SELECT FROM {STAGE.sql} s WHERE {self._same} AND ({_DOES} IS NULL OR {_op('kept')})"
        stays = f"SELECT FROM {self.into.sql} t WHERE NOT EXISTS ({put})"
        return (
            f"SELECT count(*) FROM {STAGE.sql} s WHERE CASE {_DOES} ->> 'op' WHEN 'truncate' THEN EXISTS ({stays}) "
            f"WHEN 'delete' THEN EXISTS ({there}) ELSE NOT EXISTS ({there} AND {alike}) END"
        )

    @property
    def _written(self) -> list[str]:
        return [one.name for one in self.columns if one.name != CHANGE]

    @property
    def _same(self) -> str:
        return " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in self.key)

    def kept(self, before: str) -> Sequence[str]:
        """Return statements that fill in values that were not sent, from `before`, and fail if there are none."""
        names = [name for name in self._written if name not in self.key and name in self.sources]
        if not names:
            return ()
        kinds = {one.name: one.type for one in self.columns}
        was = " AND ".join(
            f"t.{quoted(name)} = coalesce(({_DOES} -> 'key' ->> {at})::{kinds[name]}, s.{quoted(name)})"
            for at, name in enumerate(self.key)
        )
        sets = ", ".join(
            f"{quoted(name)} = CASE WHEN {_DOES} -> 'columns' ? {_literal(self.sources[name])} "
            f"THEN t.{quoted(name)} ELSE s.{quoted(name)} END"
            for name in names
        )
        filled = (
            f'UPDATE {STAGE.sql} s SET {sets}, {quoted(CHANGE)} = \'{{"op": "kept"}}\' '
            f"FROM {before} t WHERE {_op('keep')} AND {was}"
        )
        # A cast that fails, so that the row is found and refused as any other that the target cannot take.
        found = f"EXISTS (SELECT FROM {STAGE.sql} s WHERE {_op('keep')})"
        lacks = f"SELECT (CASE WHEN {found} THEN '{NOT_KEPT}' ELSE '1' END)::int"
        return (filled, lacks)

    def _put(self) -> str:
        names, keys = _list(self._written), _list(self.key)
        others = [name for name in self._written if name not in self.key]
        sets = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in others)
        action = f"UPDATE SET {sets}" if sets else "NOTHING"
        return (
            f"INSERT INTO {self.into.sql} AS t ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {STAGE.sql} s "
            f"WHERE {_DOES} IS NULL OR {_op('kept')} ORDER BY {keys} ON CONFLICT ({keys}) DO {action}"
        )


def replaces(data: object) -> bool:
    """True for the chunk that begins a snapshot: its only row deletes all others, and each that follows is new."""
    if not isinstance(data, pa.RecordBatch) or data.num_rows != 1 or CHANGE not in data.schema.names:
        return False
    change = data.column(CHANGE)[0].as_py()
    return (change if isinstance(change, bytes) else str(change).encode()).endswith(REPLACE.encode())


def new_rows(data: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows of a snapshot's chunk, without the column of changes."""
    rows = data.slice(1) if replaces(data) else data
    if rows.column(CHANGE).null_count < rows.num_rows:
        message = "a snapshot has a change among its rows"
        raise AssertionError(message)
    return rows.select([name for name in rows.schema.names if name != CHANGE])


def _op(name: str) -> str:
    return f"{_DOES} ->> 'op' = '{name}'"


def _list(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)
