"""Table of a database file as a sink, with the state of its pipeline in the same file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, Self

import pyarrow as pa

from dataflows.connectors.contract import Owner, Place, PublishOrder, WriterOrder
from dataflows.connectors.publication import publishing
from dataflows.connectors.sql.changes import Changes, check_whole, parsed
from dataflows.connectors.sql.checks import (
    check_appended,
    check_distinct,
    check_key,
    check_sink,
    check_untriggered,
    duplicates,
    interfered,
)
from dataflows.connectors.sql.database import Database, NoMemory, storable
from dataflows.connectors.sql.made import as_made, has_written, marked
from dataflows.connectors.sql.merge import Merge, differing
from dataflows.connectors.sql.mirrors import check_sharing
from dataflows.connectors.sql.names import ObjectName, quoted, shadow_name, shadow_prefix
from dataflows.connectors.sql.pruning import pruned
from dataflows.connectors.sql.state import DatabaseState
from dataflows.connectors.sql.tombstones import Tombstones, tombstone_prefix
from dataflows.connectors.sql.writer import DatabaseSink
from dataflows.connectors.writing import SplitWriter
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, column_type
from penstock.errors import Refused
from penstock.failpoints import failpoint

__all__ = ["DatabaseTarget"]

MODES: Final = ("append", "replace", "merge")


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """Table as a sink; a `replace` loads a shadow table, whose rows then replace the target's."""

    place: Place
    owner: Owner
    name: ObjectName
    database: Database
    state: DatabaseState
    form = None
    applies_changes = True
    locks_positions = True
    reloads = ("append", "replace")

    @classmethod
    def opened(cls, place: Place, owner: Owner, name: ObjectName, database: Database) -> Self:
        """Return a target on an open session."""
        return cls(
            place, owner, name, database, DatabaseState(database, owner.uid, owner.source, str(name), place.where)
        )

    @property
    def one_process(self) -> bool:
        """True if all writers must run in one process."""
        return self.database.one_process

    @property
    def _replaces(self) -> bool:
        return self.owner.shadowed

    def describe(self) -> Table | None:
        return self.database.describe(self.name, sink=True)

    def check(self, table: Table | None, columns: tuple[Column, ...]) -> None:
        write, where = self.owner.write, f"{self.place.pipeline}: spec.sink"
        check_sink(self.place, self.owner, self.name, table, MODES)
        check_distinct(self.place, table.columns if table else columns, ascii_only=True)
        if table is not None and (clause := self.database.drops_rows(self.name)):
            hint = "create the table without it"
            raise Refused(f"{clause} of {self.name} would drop rows in silence", where=where, hint=hint)
        check_sharing(self.state, self.owner, self.name, self.place)
        if self.owner.changes:
            self._check_mirror(table, columns, where)
        if write.write == "merge":
            self._check_merge(table or Table(self.name, "r", columns, (write.key,)), where)
        elif table is not None and self._replaces:
            if found := self.database.referrer(self.name):
                hint = "drop the key, or write to a table that nothing refers to"
                raise Refused(f"`replace` would break {found}", where=where, hint=hint)
        elif table is not None:
            check_appended(self.name, table.keys, self.database.triggers(self.name), where)

    def _check_mirror(self, table: Table | None, written: tuple[Column, ...], where: str) -> None:
        """Refuse a table whose rows cannot be those of the source, or be deleted.

        Raises:
            Refused: by name.
        """
        if table is None:
            return
        check_untriggered(self.name, self.database.triggers(self.name), where)
        if found := self.database.referrer(self.name):
            hint = "drop the key, or write to a table that nothing refers to"
            raise Refused(f"the snapshot would break {found}", where=where, hint=hint)
        names = {one.name for one in written}
        own = [one.name for one in table.columns if one.name not in names and not one.generated]
        check_whole(self.name, self.database.other_keys(self.name, self.owner.write.key), own, where)

    def begin(self) -> None:
        """Check that no other pipeline has begun to write to the table. Inside `state.owned`, which excludes others."""
        check_sharing(self.state, self.owner, self.name, self.place)

    def fill(self, column: Column, value: str | None) -> None:
        """Give all rows this value, as PostgreSQL's text, in a column that is added if it is missing."""
        there = self.describe()
        if there is None or there.column(column.name) is None:
            self.add_columns((replace(column, nullable=True),))
        kind = arrow_type(column_type(column)) or pa.string()
        made = self.database.parameter(parsed([value], kind), column.name)
        name, given = quoted(column.name), f"CAST(? AS {self.database.ddl_type(column)})"
        given = "?" if self.database.indexed else given
        self.database.change(
            f"UPDATE {self.name.sql} SET {name} = {given} WHERE {name} IS DISTINCT FROM {given}", (made, made)
        )

    def _check_merge(self, table: Table, where: str) -> None:
        key, version = self.owner.write.key, self.owner.write.version
        check_key(table, key, where, "create the table with such a PRIMARY KEY")
        if self.describe() is not None and (name := self.database.collated(self.name, key)):
            what = f"the collation of the key `{name}` treats different texts as equal: their rows would become one"
            raise Refused(what, where=f"{where}.key", hint="make the column without it, or merge by another key")
        column = table.column(version) if version else None
        if column is not None and not self.database.comparable(column):
            what = f"the database cannot compare values of `{column.name}` ({column.type})"
            raise Refused(what, where=f"{where}.version", hint="use a whole number or a time")

    def column_types(self, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """Return the columns of the table that it would create."""
        return tuple(map(storable, columns))

    def make(self, columns: tuple[Column, ...]) -> None:
        self._make(columns, self.owner.write.key)

    def make_keyed(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> None:
        """Create the table if it is missing, with a key, which some databases make after each load."""
        self._make(columns, key)
        if self.database.late_keys is not None:
            self.database.late_keys.mark(self.name, key)

    def _make(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> None:
        for statement in self.create_statements(columns, key):
            self.database.change(statement)

    def create_statements(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> tuple[str, ...]:
        """Return the statement that creates the table, if it is missing."""
        lines = [
            f"{quoted(one.name)} {self.database.ddl_type(one)}"
            f"{'' if one.nullable and one.name not in key else ' NOT NULL'}"
            for one in columns
        ]
        lines += [f"PRIMARY KEY ({', '.join(map(quoted, key))})"] if key else []
        return (f"CREATE TABLE IF NOT EXISTS {self.name.sql} ({', '.join(lines)})",)

    def add_columns(self, columns: tuple[Column, ...]) -> None:
        """Add nullable columns to the table; existing ones stay as they are. Inside `state.owned`."""
        for statement in self.add_statements(columns):
            self.database.change(statement)

    def add_statements(self, columns: tuple[Column, ...]) -> tuple[str, ...]:
        """Return a statement for each column that is missing."""
        there = self.describe()
        return tuple(
            f"ALTER TABLE {self.name.sql} ADD COLUMN {quoted(one.name)} {self.database.ddl_type(one)}"
            for one in columns
            if there is None or there.column(one.name) is None
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
        return not self.database.rows(f"SELECT 1 FROM {self.name.sql} LIMIT 1")

    def unmake(self) -> None:
        """Drop the table, if it is unwritten. Inside `state.owned`."""
        if self.is_unwritten():
            self.database.change(f"DROP TABLE {self.name.sql}")
            for name in self.database.tables(self.name.schema, tombstone_prefix(self.owner.uid)):
                self.database.change(f"DROP TABLE {quoted(self.name.schema, name)}")

    def create_load_table(self, run: str, generation: int) -> str:
        shadow = shadow_name(self.owner.uid, run, self.name)
        with self.state.owned(generation):
            self._drop_shadows(keep=shadow.name if self._replaces else None)
            if self._replaces:
                for statement in self.database.like(self.name, shadow):
                    self.database.change(statement)
        if self._replaces:
            failpoint("prepare.shadow_made")
        return self.load_table(run)

    def _drop_shadows(self, keep: str | None = None) -> None:
        for name in self.database.tables(self.name.schema, shadow_prefix(self.owner.uid)):
            if name != keep:
                self.database.change(f"DROP TABLE {quoted(self.name.schema, name)}")

    def load_table(self, run: str) -> str:
        return shadow_name(self.owner.uid, run, self.name).name if self._replaces else self.name.name

    def can_go_on(self, run: str) -> bool:
        shadow = self.database.describe(shadow_name(self.owner.uid, run, self.name), sink=True)
        target = self.describe()
        if shadow is not None and target is not None:
            return [one.name for one in shadow.columns] == [one.name for one in target.columns]
        pending, planned = self.state.pending(run)
        return len(pending) == planned

    def abandon(self, run: str) -> None:
        self.database.change(f"DROP TABLE IF EXISTS {shadow_name(self.owner.uid, run, self.name).sql}")

    def finishing(self, columns: tuple[Column, ...]) -> Callable[[pa.RecordBatch], pa.RecordBatch] | None:
        return None

    def writer(self, order: WriterOrder) -> SplitWriter:
        write, into = self.owner.write, self.name.sibling(order.into)
        columns, where = tuple(column.name for column in order.columns), f"{self.place.where}: {self.name}"
        merge: Merge | Changes
        if self.owner.changes:
            merge = self._changes(order, into)
        elif write.write == "merge":
            gone = Tombstones.of(self.owner.uid, self.name, write.key, order.version, write.delete)
            merge = Merge(into, columns, write.key, order.version, write.delete, gone, self.owner.mark)
        else:
            merge = Merge(into, columns, self._written_key(into, set(columns), where), appends=True)
        return SplitWriter(
            order, where, partial(DatabaseSink.opened, self.database.another, self.state, order, where, merge)
        )

    def _changes(self, order: WriterOrder, into: ObjectName) -> Changes:
        anew = bool(self.database.other_keys(into, self.owner.write.key))
        return Changes.of(into, order.columns, self.owner.write.key, order.sources, anew=anew)

    def _written_key(self, into: ObjectName, columns: set[str], where: str) -> tuple[str, ...]:
        """Return the key that identifies appended rows, if there is a trigger that may change them."""
        if not (triggers := self.database.triggers(into)):
            return ()
        table = self.database.describe(into, sink=True)
        keys = [key for key in (table.keys if table else ()) if set(key) <= columns]
        check_appended(into, keys, triggers, where)
        return keys[0]

    def others(self) -> list[str]:
        return self.state.others()

    def prune(self, keys: pa.RecordBatch, at: datetime | None) -> int:
        """Delete or mark the rows with these keys. Inside `state.owned`."""
        return pruned(self.database, self.name, keys, self.owner.mark, at)

    def publish(self, order: PublishOrder) -> dict[str, Any]:
        late = self.database.late_keys
        key = late.of(self.name) if late is not None and self._replaces else ()
        if late is None or not key:
            return self._published(order, partial(self._refill, order.columns))
        try:
            return self._published(order, partial(late.swap, self.name, keyed=True))
        except NoMemory as error:
            note = f"{self.name} has no key ({', '.join(key)}): {error.what} to make it"
            return self._published(order, partial(late.swap, self.name, keyed=False), note)

    def _published(self, order: PublishOrder, move: Callable[[ObjectName], None], note: str = "") -> dict[str, Any]:
        with publishing(self.state, order, self.place.where) as found:
            if found.ended:
                return found.result
            if self._replaces:
                self.begin()
                move(shadow_name(self.owner.uid, order.run, self.name))
            if note:
                found.result["notes"] = [*found.result.get("notes", ()), note]
        failpoint("publish.done")
        return found.result

    def _refill(self, columns: tuple[str, ...], shadow: ObjectName) -> None:
        """Replace only the rows: the table stays, with everything that depends on it."""
        names = ", ".join(map(quoted, columns))
        self.database.change(f"DELETE FROM {self.name.sql}")
        self.database.change(f"INSERT INTO {self.name.sql} ({names}) SELECT {names} FROM {shadow.sql}")
        triggers = self.database.triggers(self.name)
        if triggers and (count := self.database.rows(differing(self.name, shadow, columns))[0][0]):
            raise interfered(f"{count} rows were dropped or changed", triggers, self.place.where)
        self.database.change(f"DROP TABLE {shadow.sql}")

    def duplicates(self, run: str, columns: tuple[str, ...]) -> int:
        """Count the values of `columns` that occur in several rows of the run's shadow; NULL never equals NULL."""
        query = duplicates(shadow_name(self.owner.uid, run, self.name), columns)
        return int(self.database.rows(query)[0][0])

    def drop(self, *, table: bool) -> None:
        if self.state.exists():
            self.state.drop()
        self._drop_shadows()
        for name in self.database.tables(self.name.schema, tombstone_prefix(self.owner.uid)):
            self.database.change(f"DROP TABLE {quoted(self.name.schema, name)}")
        if table:
            self.database.change(f"DROP TABLE IF EXISTS {self.name.sql}")

    def close(self) -> None:
        self.database.close()
