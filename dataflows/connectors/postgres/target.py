"""PostgreSQL as a sink: a table, with the state of its pipeline in the same schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

import pyarrow as pa
from psycopg import sql

from dataflows.connectors.contract import Method, Owner, Place, PublishOrder, WriterOrder
from dataflows.connectors.history import HISTORY, check_history
from dataflows.connectors.postgres.apply import Apply
from dataflows.connectors.postgres.encodings import ODD, binary_values, has_binary_form
from dataflows.connectors.postgres.history import History
from dataflows.connectors.postgres.merge import Merge
from dataflows.connectors.postgres.own_session import OwnSession
from dataflows.connectors.postgres.privileges import missing_grants
from dataflows.connectors.postgres.pruning import pruned
from dataflows.connectors.postgres.session import FORM, Session, connect, one_row, translated
from dataflows.connectors.postgres.shadow_rules import add_rules, drop_shadow
from dataflows.connectors.postgres.state import PostgresState, session_name
from dataflows.connectors.postgres.swap import (
    check_emptied,
    drop_leftovers,
    make_shadow,
    mark_key,
    move_in,
    replace_method,
)
from dataflows.connectors.postgres.tables import TableName, check_exact_key, check_updatable, describe, find
from dataflows.connectors.postgres.writer import PostgresSink
from dataflows.connectors.publication import publishing
from dataflows.connectors.sql.checks import check_key, check_names, check_sink, duplicates
from dataflows.connectors.sql.made import as_made, has_written, marked
from dataflows.connectors.sql.mirrors import check_sharing
from dataflows.connectors.sql.names import quoted, shadow_name, shadow_prefix
from dataflows.connectors.sql.tombstones import Tombstones, tombstone_prefix
from dataflows.connectors.writing import SplitWriter
from dataflows.data.tables import Column, Table
from dataflows.data.types import column_type, portable
from penstock.failpoints import failpoint

__all__ = ["PostgresTarget"]

LOCK_SECONDS: Final = 20.0
NAME_BYTES: Final = 63
"""Longest name in PostgreSQL, which truncates longer ones."""
MODES: Final = ("append", "replace", "merge", "scd2")


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """Table as a sink, with the state of its pipeline in the same schema."""

    place: Place
    owner: Owner
    table: TableName
    dsn: str
    own: OwnSession
    state: PostgresState
    form = FORM
    applies_changes = True
    locks_positions = True
    reloads = ("append", "replace", "merge")
    """Write modes in which rows of earlier runs can be loaded again."""

    @classmethod
    def opened(cls, place: Place, owner: Owner, table: TableName, dsn: str) -> PostgresTarget:
        """Return a target with a session of its own; each wait is bounded by the owner's patience."""
        name = session_name(owner.uid, owner.generation)
        limits: dict[str, Any] = (
            {} if owner.patience is None else {"seconds": owner.patience, "statement": owner.patience}
        )
        lock = owner.patience or LOCK_SECONDS

        def connected(name: str) -> Session:
            return connect(dsn, where=place.where, name=name, lock=lock, planned_once=True, **limits)

        own = OwnSession(connected, name)
        return cls(place, owner, table, dsn, own, PostgresState(owner.uid, owner.source, table, place.where, own))

    @property
    def session(self) -> Session:
        """The target's session."""
        return self.own.session

    @property
    def _replaces(self) -> bool:
        return self.owner.shadowed

    def describe(self) -> Table | None:
        return find(self.session, self.table, self.place.where)

    def check(self, table: Table | None, columns: tuple[Column, ...]) -> Method | None:
        where = f"{self.place.pipeline}: spec.sink"
        check_sink(self.place, self.owner, self.table, table, MODES, kinds="rp")
        check_names(self.place, self.table, table.columns if table else columns, NAME_BYTES, "utf-8")
        if table is None:
            return None
        if self._keyed:
            check_exact_key(self.session, self.table, self.owner.write.key, where)
        if self.owner.write.write == "merge":
            check_key(table, self.owner.write.key, where)
        if self.owner.write.write == "merge":
            others = [one.name for one in columns if one.name not in self.owner.write.key]
            check_updatable(self.session, self.table, others, where)
        if self.owner.changes and self.owner.write.write == "merge":
            check_emptied(self.session, self.table, "the snapshot", self.place.where)
        check_sharing(self.state, self.owner, self.table, self.place)
        if self.owner.write.write == "scd2":
            check_history(table, self.owner.write.key, f"{where}.write")
        return replace_method(self.session, self.table, self.place.where) if self._replaces else None

    def begin(self) -> None:
        """Let no other pipeline begin to write to the table, and check that none has. Inside `state.owned`."""
        self.state.lock_sink()
        check_sharing(self.state, self.owner, self.table, self.place)

    def in_window(self, column: Column) -> Method:
        """Return the method that replaces the rows of a window of `column`."""
        return Method("window", column=column)

    def column_types(self, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """Return the columns of the table that it would create; types unknown to this server become portable ones."""
        with translated(self.place.where):
            return tuple(one if one.builtin else self._known(one) for one in columns)

    def _known(self, column: Column) -> Column:
        there = one_row(self.session, "SELECT to_regtype(%s) IS NOT NULL", (column.type,))[0]
        return column if there else portable(column)

    def make(self, columns: tuple[Column, ...]) -> None:
        key = self.owner.write.key
        self._make(columns, (*key, HISTORY[0]) if self.owner.write.write == "scd2" else key)

    def make_keyed(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> None:
        """Create the table if it is missing, with a key that each run makes after it has loaded its rows."""
        with translated(self.place.where), self.session.transaction():
            self._make(columns, key)
            mark_key(self.session, self.table)

    def _make(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> None:
        with translated(self.place.where):
            self.session.execute(self._create_statement(columns, key))

    def _create_statement(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> str:
        lines = [f"{quoted(one.name)} {one.type}{'' if one.nullable else ' NOT NULL'}" for one in columns]
        lines += [f"PRIMARY KEY ({', '.join(quoted(name) for name in key)})"] if key else []
        return f"CREATE TABLE IF NOT EXISTS {self.table.sql} ({', '.join(lines)})"

    def create_statements(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> tuple[str, ...]:
        """Return the statements that create the table, and its schema if it is missing."""
        with translated(self.place.where):
            there = one_row(self.session, "SELECT to_regnamespace(%s) IS NOT NULL", (quoted(self.table.schema),))[0]
        schema = () if there else (f"CREATE SCHEMA {quoted(self.table.schema)}",)
        return (*schema, self._create_statement(columns, key))

    def add_statements(self, columns: tuple[Column, ...]) -> tuple[str, ...]:
        """Return the statement that adds nullable columns."""
        parts = ", ".join(f"ADD COLUMN IF NOT EXISTS {quoted(one.name)} {one.type}" for one in columns)
        return (f"ALTER TABLE {self.table.sql} {parts}",)

    def add_columns(self, columns: tuple[Column, ...]) -> None:
        """Add nullable columns to the table; existing ones stay as they are. Inside `state.owned`."""
        with translated(self.place.where):
            for statement in self.add_statements(columns):
                self.session.execute(statement)

    def filled_statements(self, column: Column, value: str) -> tuple[str, ...]:
        """Return the statements that add a column which the rows that are there have a value in, unwritten."""
        name, given = quoted(column.name), sql.Literal(value).as_string(None)
        alter = f"ALTER TABLE {self.table.sql}"
        return f"{alter} ADD COLUMN {name} {column.type} DEFAULT {given}", f"{alter} ALTER COLUMN {name} DROP DEFAULT"

    def add_filled(self, column: Column, value: str) -> None:
        """Add a column with a value for the rows that are there. Inside `state.owned`."""
        with translated(self.place.where):
            for statement in self.filled_statements(column, value):
                self.session.execute(statement)

    def widen_statements(self, columns: tuple[Column, ...]) -> tuple[str, ...]:
        """Return the statement that gives columns other types, and lets them be NULL."""
        there, parts = self.describe(), []
        for one in columns:
            now, alter = there.column(one.name) if there else None, f"ALTER COLUMN {quoted(one.name)}"
            parts += [f"{alter} TYPE {one.type}"] if now is None or now.type != one.type else []
            parts += [f"{alter} DROP NOT NULL"] if one.nullable and now is not None and not now.nullable else []
        return (f"ALTER TABLE {self.table.sql} {', '.join(parts)}",) if parts else ()

    def widen_columns(self, columns: tuple[Column, ...]) -> None:
        """Give columns types that store more values, and let them be NULL. Inside `state.owned`."""
        with translated(self.place.where):
            for statement in self.widen_statements(columns):
                self.session.execute(statement)

    def fill(self, column: Column, value: str | None) -> None:
        """Give all rows this value in a column. If it is missing it comes with it, and no row is written."""
        there = self.describe()
        if there is not None and there.column(column.name) is None:
            self.add_columns((column,)) if value is None else self.add_filled(column, value)
            return
        name, literal = quoted(column.name), "NULL" if value is None else f"{sql.Literal(value).as_string(None)}"
        given = f"{literal}::{column.type}"
        with translated(self.place.where):
            self.session.execute(
                f"UPDATE {self.table.sql} SET {name} = {given} WHERE {name}::text IS DISTINCT FROM {given}::text"
            )

    def made_as(self, table: Table) -> str | None:
        """Return how this pipeline made the table, if it is still as it was."""
        return as_made(self.state, table)

    def remember(self, made: str, table: Table | None) -> None:
        """Remember how the table was made. Inside `state.owned`."""
        self.state.remember(marked(made, table))

    def is_unwritten(self) -> bool:
        """True if no run has written to the table, and it has no rows."""
        if has_written(self.state, shadowed=self._replaces):
            return False
        with translated(self.place.where):
            return not one_row(self.session, f"SELECT EXISTS (SELECT FROM {self.table.sql})")[0]

    def unmake(self) -> None:
        """Drop the table, if it is unwritten. Inside `state.owned`."""
        with translated(self.place.where):
            self.session.execute(f"LOCK TABLE {self.table.sql}")
            if self.is_unwritten():
                self.session.execute(f"DROP TABLE {self.table.sql}")
        drop_leftovers(self.session, tombstone_prefix(self.owner.uid), self.table, None, self.place.where)

    def missing_grants(self, *, grows: bool) -> Sequence[tuple[str, str]]:
        """Return what the user may not do at the sink, each with the GRANT that allows it."""
        return missing_grants(self.session, self.table, self.owner, self.place.where, grows=grows)

    def create_load_table(self, run: str, generation: int) -> str:
        shadow = shadow_name(self.owner.uid, run, self.table) if self._replaces else None
        with self.state.owned(generation):
            drop_leftovers(self.session, shadow_prefix(self.owner.uid), self.table, shadow, self.place.where)
            made = shadow is not None and make_shadow(self.session, self.table, shadow, self.place.where)
        if shadow is not None:
            if made:
                add_rules(self.session, self.table, shadow, self.place.where)
            failpoint("prepare.shadow_made")
        return self.load_table(run)

    def load_table(self, run: str) -> str:
        return str(shadow_name(self.owner.uid, run, self.table) if self._replaces else self.table)

    def can_go_on(self, run: str) -> bool:
        shadow = shadow_name(self.owner.uid, run, self.table)
        if (have := find(self.session, shadow, self.place.where)) is not None:
            return have.columns == describe(self.session, self.table, self.place.where).columns
        pending, planned = self.state.pending(run)
        return len(pending) == planned

    def abandon(self, run: str) -> None:
        drop_shadow(self.session, shadow_name(self.owner.uid, run, self.table), self.place.where)

    def finishing(self, columns: tuple[Column, ...]) -> Callable[[pa.RecordBatch], pa.RecordBatch] | None:
        kinds = {column.name: column_type(column) for column in columns}
        odd = {name: kind.name for name, kind in kinds.items() if kind.name in ODD}
        if not odd:
            return None

        def step(batch: pa.RecordBatch) -> pa.RecordBatch:
            if not has_binary_form(kinds, batch.schema):
                return batch
            arrays = [
                binary_values(batch.column(name), odd[name]) if name in odd else batch.column(name)
                for name in batch.schema.names
            ]
            return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)

        return step

    def writer(self, order: WriterOrder) -> SplitWriter:
        where = f"{self.place.where}: {self.table}"
        state, merge = replace(self.state, given=None), self._merge(order)
        own = self.own if order.alone and merge is None else None
        return SplitWriter(order, where, partial(PostgresSink.opened, self.dsn, state, order, where, merge, own))

    def _merge(self, order: WriterOrder) -> Merge | Apply | History | None:
        spec = self.owner.write
        if self.owner.changes and spec.write == "scd2":
            into = TableName.parse(order.into)
            return History(
                Merge(into, order.columns, spec.key, order.version, history=True, changes=True), order.sources
            )
        if self.owner.changes:
            return Apply(TableName.parse(order.into), order.columns, spec.key, order.sources)
        if not self._keyed:
            return None
        history, into = spec.write == "scd2", TableName.parse(order.into)
        gone = None if history else Tombstones.of(self.owner.uid, self.table, spec.key, order.version, spec.delete)
        return Merge(into, order.columns, spec.key, order.version, spec.delete, history, gone, self.owner.mark)

    def others(self) -> list[str]:
        return self.state.others()

    def prune(self, keys: pa.RecordBatch, at: datetime | None) -> int:
        """Delete or mark the rows with these keys. Inside `state.owned`."""
        there = describe(self.session, self.table, self.place.where)
        with translated(self.place.where):
            return pruned(self.session, there, keys, self.owner.mark, at)

    @property
    def _keyed(self) -> bool:
        return self.owner.write.write in {"merge", "scd2"}

    def publish(self, order: PublishOrder) -> dict[str, Any]:
        with publishing(self.state, order, self.place.where) as found:
            if found.ended:
                return found.result
            if order.method is not None:
                self.begin()
                shadow = shadow_name(self.owner.uid, order.run, self.table)
                move_in(self.session, self.table, shadow, order.columns, order.method, found.row)
        failpoint("publish.done")
        return found.result

    def duplicates(self, run: str, columns: Sequence[str]) -> int:
        """Count the values of `columns` that occur in several rows of the run's shadow; NULL never equals NULL."""
        query = duplicates(shadow_name(self.owner.uid, run, self.table), columns)
        with translated(self.place.where):
            return int(one_row(self.session, query)[0])

    def drop(self, *, table: bool) -> None:
        if self.state.exists():
            self.state.drop()
        for prefix in (shadow_prefix(self.owner.uid), tombstone_prefix(self.owner.uid)):
            drop_leftovers(self.session, prefix, self.table, None, self.place.where)
        if table:
            with translated(self.place.where):
                self.session.execute(f"DROP TABLE IF EXISTS {self.table.sql}")

    def close(self) -> None:
        self.own.close()
