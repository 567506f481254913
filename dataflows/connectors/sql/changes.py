"""Apply changes of rows (`dataflows.data.changes`) by statements, at most one change for each key in a split.

Each change is staged in plain columns next to its values: what it does, which columns were not sent, and the key that
its row had. First values that were not sent are taken from the target; then rows are deleted, and then written. All of
it is in the transaction that moves the position. A table with another unique key gets rows that were there anew, since
its values may move from one row to another.

It is the SQL of database files; MySQL's own is in `mysql/changes.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.sql.database import STAGE
from dataflows.connectors.sql.ledger import Statements
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.data.changes import CHANGE
from dataflows.data.decimals import cast_text
from dataflows.data.tables import Column
from penstock.errors import Refused

__all__ = ["NOT_FREE", "OP", "UNSENT", "Changes", "check_whole", "parsed", "was"]

OP: Final = "_penstock_op"
"""Column that says what a row does: NULL if its values are all known, `kept` once the others are filled in."""
UNSENT: Final = "_penstock_unsent"
"""Column with the numbers of the columns that were not sent, each between commas."""
NOT_FREE: Final = {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "ConstraintException"}
"""States of a row whose value of a unique key another row may have."""


def was(at: int) -> str:
    """Return the name of the column with the value that the key's column of this number had before."""
    return f"_penstock_was_{at}"


def parsed(texts: Sequence[str | None], kind: pa.DataType) -> pa.Array:
    """Return values of which PostgreSQL's texts are given; NULL for those that the type cannot represent."""
    try:
        return _parsed(texts, kind)
    except (pa.ArrowInvalid, ValueError):
        if len(texts) == 1:
            return pa.nulls(1, kind)
    half = len(texts) // 2
    return pa.concat_arrays([parsed(texts[:half], kind), parsed(texts[half:], kind)])


def _parsed(texts: Sequence[str | None], kind: pa.DataType) -> pa.Array:
    if pa.types.is_binary(kind):
        return pa.array([None if one is None else bytes.fromhex(one.removeprefix("\\x")) for one in texts], kind)
    if pa.types.is_boolean(kind):
        return pa.array([None if one is None else one == "t" for one in texts], kind)
    if pa.types.is_time(kind):
        days = pa.array([None if one is None else f"1970-01-01 {one}" for one in texts], pa.string())
        return days.cast(pa.timestamp("us")).cast(kind)
    return cast_text(pa.array(texts, pa.string()), kind)


def check_whole(name: ObjectName, uniques: Sequence[str], own: Sequence[str], where: str) -> None:
    """Refuse a table whose rows have to be written again, and have columns that this would lose.

    Raises:
        Refused: the unique key, and such a column.
    """
    if uniques and own:
        what = (
            f"{name} has another unique key, {uniques[0]}, whose values may move from one row to another: rows would "
            f"be written anew, and lose column `{own[0]}`, which is not written"
        )
        raise Refused(what, where=where, hint=f"drop {uniques[0]}, or the column")


@dataclass(frozen=True)
class Changes:
    """Changes with `columns` to rows of `into` by `key`; `sources` are the names of columns at the source."""

    into: ObjectName
    columns: tuple[Column, ...]
    """Those that are written."""
    key: tuple[str, ...]
    sources: Mapping[str, str]
    anew: bool = False
    """True if existing rows are deleted and written again."""
    appends = False
    tombstones = None

    @classmethod
    def of(
        cls,
        into: ObjectName,
        columns: Sequence[Column],
        key: tuple[str, ...],
        sources: Mapping[str, str],
        *,
        anew: bool = False,
    ) -> Self:
        """Return changes whose rows come with `columns`, one of which says what each does."""
        return cls(into, tuple(one for one in columns if one.name != CHANGE), key, sources, anew)

    @property
    def stage(self) -> str:
        """The staging table, quoted."""
        return STAGE

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that are written."""
        return tuple(one.name for one in self.columns)

    @cached_property
    def staged(self) -> tuple[Column, ...]:
        """Columns of the staging table."""
        kinds = {one.name: one for one in self.columns}
        before = [Column(was(at), kinds[name].type, label=kinds[name].label) for at, name in enumerate(self.key)]
        return (*self.columns, Column(OP, "text"), Column(UNSENT, "text"), *before)

    def flat(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows as they are staged."""
        changes = batch.column(CHANGE)
        found = _loaded(changes) if changes.null_count < len(changes) else [{}] * len(changes)
        marks = [self._marks(one) for one in found]
        does = [
            one.get("op") if mark or one.get("op") != "keep" else None for one, mark in zip(found, marks, strict=True)
        ]
        made = [pa.array(does, pa.string()), pa.array(marks, pa.string())]
        for at, name in enumerate(self.key):
            values = batch.column(name)
            moved = [one["key"][at] if "key" in one else None for one in found]
            made.append(pc.coalesce(parsed(moved, values.type), values) if moved.count(None) < len(moved) else values)
        values = [batch.column(name) for name in self.names]
        return pa.RecordBatch.from_arrays([*values, *made], names=[one.name for one in self.staged])

    def _marks(self, change: Mapping[str, Any]) -> str | None:
        """Return the numbers of the columns that were not sent; None if there are none."""
        unsent = set(change.get("columns", ()))
        found = [at for at, name in enumerate(self.names) if name not in self.key and self.sources.get(name) in unsent]
        return f",{','.join(map(str, found))}," if found else None

    def apply(self, session: Statements, where: str) -> None:
        """Apply the staged changes. Inside a transaction.

        Raises:
            RowRefused: the target refused a row, or lacks values that were not sent.
        """
        op = self._name(OP)
        does = dict(session.rows(f"SELECT {op}, count(*) FROM {self.stage} WHERE {op} IS NOT NULL GROUP BY {op}"))
        if "truncate" in does:
            session.change(f"DELETE FROM {self.into.sql}")
        if "keep" in does:
            session.change(self._fill())
            if session.rows(f"SELECT 1 FROM {self.stage} WHERE {op} = 'keep' LIMIT 1"):
                what = "the update leaves out values that it did not change, and the target has no row with them"
                raise RowRefused(
                    what, where=where, hint="was the row refused before, or deleted there?", state="not_kept"
                )
        if "delete" in does:
            session.change(self._delete(f"s.{op} = 'delete'"))
        fresh = "truncate" in does
        if self.anew and not fresh:
            session.change(self._delete(self._puts))
        session.change(self._put(upserts=not (self.anew or fresh)))

    @property
    def _puts(self) -> str:
        """Condition for staged rows that are written."""
        return f"coalesce(s.{self._name(OP)}, 'kept') = 'kept'"

    def _fill(self) -> str:
        """Return the statement that fills in values that were not sent, and marks the rows of which it has done so."""
        values = (f"{self._name(name)} = {self._kept(at, name)}" for at, name in self._others)
        sets = ", ".join((*values, f"{self._name(OP)} = 'kept'"))
        before = " AND ".join(f"t.{self._name(name)} = s.{self._name(was(at))}" for at, name in enumerate(self.key))
        return (
            f"UPDATE {self.stage} AS s SET {sets} FROM {self.into.sql} t WHERE s.{self._name(OP)} = 'keep' AND {before}"
        )

    def _kept(self, at: int, name: str) -> str:
        one, column = f"instr(s.{self._name(UNSENT)}, ',{at},') > 0", self._name(name)
        return f"CASE WHEN {one} THEN t.{column} ELSE s.{column} END"

    @property
    def _others(self) -> list[tuple[int, str]]:
        return [(at, name) for at, name in enumerate(self.names) if name not in self.key]

    def _delete(self, condition: str) -> str:
        """Return the statement that deletes the rows of which a staged row meets the condition."""
        keys = self._list(self.key)
        gone = f"SELECT {self._list(self.key, 's.')} FROM {self.stage} s WHERE {condition}"
        return f"DELETE FROM {self.into.sql} WHERE {f'({keys})' if len(self.key) > 1 else keys} IN ({gone})"

    def _put(self, *, upserts: bool) -> str:
        """Return the statement that writes rows; `upserts` unless none of them is there, which needs less memory."""
        names, keys = self._list(self.names), self._list(self.key)
        sets = ", ".join(f"{self._name(name)} = excluded.{self._name(name)}" for _, name in self._others)
        action = "" if not upserts else f" ON CONFLICT ({keys}) DO {f'UPDATE SET {sets}' if sets else 'NOTHING'}"
        return (
            f"INSERT INTO {self.into.sql} ({names}) SELECT {self._list(self.names, 's.')} FROM {self.stage} s "
            f"WHERE {self._puts} ORDER BY {self._list(self.key, 's.')}{action}"
        )

    def _name(self, name: str) -> str:
        return quoted(name, mark=self.into.mark)

    def _list(self, names: Sequence[str], of: str = "") -> str:
        return ", ".join(of + self._name(name) for name in names)


def _loaded(changes: pa.Array) -> list[dict[str, Any]]:
    """Return each change; most of those in a split have the same few texts."""
    known: dict[str | None, dict[str, Any]] = {None: {}}
    found = []
    for text in changes.to_pylist():
        if text not in known:
            known[text] = json.loads(text)
        found.append(known[text])
    return found
