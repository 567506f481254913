"""Table as a sink, with the state of its pipeline in the same database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.contract import Method, Owner, Place, PublishOrder, WriterOrder
from dataflows.connectors.mysql.changes import MysqlChanges
from dataflows.connectors.mysql.interference import UNSEEN, interferers
from dataflows.connectors.mysql.keys import key_obstacle
from dataflows.connectors.mysql.merge import Merge
from dataflows.connectors.mysql.privileges import missing_grants
from dataflows.connectors.mysql.pruning import pruned
from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.state import MysqlState
from dataflows.connectors.mysql.swap import (
    aside_name,
    check_unreferred,
    drop_leftovers,
    make_shadow,
    refill,
    rename,
    replace_method,
)
from dataflows.connectors.mysql.tables import TableName, describe, exists, modified
from dataflows.connectors.mysql.types import ddl_type, is_exact, literal_of, short_enough, storable
from dataflows.connectors.mysql.writer import MysqlSink
from dataflows.connectors.publication import publishing
from dataflows.connectors.sql.changes import parsed
from dataflows.connectors.sql.checks import (
    check_appended,
    check_distinct,
    check_key,
    check_names,
    check_sink,
    check_untriggered,
    duplicates,
)
from dataflows.connectors.sql.made import as_made, has_written, marked
from dataflows.connectors.sql.mirrors import check_sharing
from dataflows.connectors.sql.names import shadow_name, shadow_prefix
from dataflows.connectors.sql.tombstones import Tombstones, tombstone_prefix
from dataflows.connectors.writing import SplitWriter
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, column_type
from penstock.errors import Refused
from penstock.failpoints import failpoint

__all__ = ["MysqlTarget"]

MODES: Final = ("append", "replace", "merge")
NAME_CHARACTERS: Final = 64
"""Longest name in MySQL, which refuses longer ones."""
ROW_ROOM: Final = 48_000
"""Limit of bytes for all texts of limited length in a row; the server's own limit is 65535 for all columns."""
UUIDS: Final = (10, 7, 0)
"""First version of MariaDB with a type for UUIDs."""
EXACT: Final = {True: "utf8mb4_nopad_bin", False: "utf8mb4_0900_bin"}
"""Collation in which only identical texts are equal; True for MariaDB, False for MySQL."""
_ENGINE: Final = "SELECT coalesce(engine, '') FROM information_schema.tables WHERE table_schema = ? AND table_name = ?"
_OTHER_KEYS: Final = """
SELECT s.index_name, GROUP_CONCAT(s.column_name ORDER BY s.seq_in_index SEPARATOR '\\n'),
       max(CASE WHEN c.extra LIKE '%auto_increment%' THEN c.column_name END)
FROM information_schema.statistics s JOIN information_schema.columns c USING (table_schema, table_name, column_name)
WHERE table_schema = ? AND table_name = ? AND s.non_unique = 0 GROUP BY s.index_name"""


@dataclass(frozen=True, slots=True)
class MysqlTarget:
    """Table as a sink; a `replace` loads a shadow table, which then replaces it."""

    place: Place
    owner: Owner
    name: TableName
    session: Session
    another: Callable[[Callable[[], None]], Session]
    state: MysqlState
    form = None
    applies_changes = True
    locks_positions = True
    reloads = ("append", "replace")

    @property
    def _replaces(self) -> bool:
        return self.owner.shadowed

    def _shadow(self, run: str) -> TableName:
        return shadow_name(self.owner.uid, run, self.name)

    def _aside(self, run: str) -> TableName:
        return aside_name(self.owner.uid, run, self.name)

    def describe(self) -> Table | None:
        return describe(self.session, self.name, self.place.where, sink=True)

    def check(self, table: Table | None, columns: tuple[Column, ...]) -> Method | None:
        check_sink(self.place, self.owner, self.name, table, MODES)
        check_names(self.place, self.name, table.columns if table else columns, NAME_CHARACTERS, None)
        check_distinct(self.place, table.columns if table else columns)
        if not self.session.value("SELECT @@local_infile"):
            hint = "SET GLOBAL local_infile = 1"
            raise Refused("the server does not allow LOAD DATA LOCAL", where=self.place.where, hint=hint)
        if table is None:
            self._check_new_key(columns)
            return None
        engine = self.session.value(_ENGINE, (self.name.schema, self.name.name))
        if engine != "InnoDB":
            hint = f"ALTER TABLE {self.name.sql} ENGINE = InnoDB"
            what = f"a table of engine {engine} has no transactions: rows and position could not be written together"
            raise Refused(what, where=self.place.where, value=str(self.name), hint=hint)
        check_sharing(self.state, self.owner, self.name, self.place)
        if self.owner.changes:
            self._check_mirror()
        if self.owner.write.write == "merge":
            self._check_merge(table, {one.name for one in columns}, f"{self.place.pipeline}: spec.sink")
        appends = self.owner.write.write == "append" and not self._replaces
        if appends and (named := interferers(self.session, self.name)) != [UNSEEN]:
            check_appended(self.name, table.keys, named, f"{self.place.pipeline}: spec.sink")
        return replace_method(self.session, self.name, self.place.where) if self._replaces else None

    def _check_new_key(self, columns: tuple[Column, ...]) -> None:
        if why := self._obstacle(columns, self.owner.write.key, named=True):
            hint = "create the table yourself, with a key of shorter columns"
            raise Refused(f"the key cannot be made: {why}", where=f"{self.place.pipeline}: spec.sink.key", hint=hint)

    def key_obstacle(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> str | None:
        """Return why a table of these columns cannot be created with this key of the source; None if it can."""
        return self._obstacle(columns, key, named=False)

    def _obstacle(self, columns: tuple[Column, ...], key: tuple[str, ...], *, named: bool) -> str | None:
        return key_obstacle(columns, key, int(self.session.value("SELECT @@innodb_page_size")), named=named)

    def _check_mirror(self) -> None:
        """Refuse a table whose rows cannot be those of the source, or be deleted.

        Raises:
            Refused: by name.
        """
        where, named = f"{self.place.pipeline}: spec.sink", interferers(self.session, self.name, every=True)
        check_untriggered(self.name, [one for one in named if one != UNSEEN], where)
        check_unreferred(self.session, self.name, "the snapshot", where)

    def begin(self) -> None:
        """Let no other pipeline begin to write to the table, and check that none has. Inside `state.owned`."""
        self.state.lock_sink()
        check_sharing(self.state, self.owner, self.name, self.place)

    def fill(self, column: Column, value: str | None) -> None:
        """Give all rows this value, as PostgreSQL's text, in a column that is added if it is missing.

        The column is there before its values are: what is repeated after a crash in between does the rest.
        """
        self.add_columns((column,))
        kind = arrow_type(column_type(column)) or pa.string()
        given = literal_of(self.session, parsed([value], kind), column, self.place.where)
        name = quoted(column.name)
        self.session.change(f"UPDATE {self.name.sql} SET {name} = {given} WHERE NOT ({name} <=> {given})")

    def _check_merge(self, table: Table, written: Collection[str], where: str) -> None:
        """Refuse a key that is not unique, and other unique keys, unless the server draws a new number for each row."""
        check_key(table, self.owner.write.key, where)
        key = set(self.owner.write.key)
        for index, names, drawn in self.session.rows(_OTHER_KEYS, (self.name.schema, self.name.name)):
            if set(str(names).split("\n")) != key and (drawn is None or drawn in written):
                what = f"{self.name} has another unique key, {index}, by which a row could replace an unrelated one"
                raise Refused(what, where=f"{where}.key", hint=f"merge by it, or drop {index}")

    def column_types(self, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """Return the columns of the table that it would create."""
        uuids = self.session.mariadb and self.session.version >= UUIDS
        return short_enough(tuple(storable(one, uuids=uuids) for one in columns), room=ROW_ROOM)

    def make(self, columns: tuple[Column, ...]) -> None:
        self.make_keyed(columns, self.owner.write.key)

    def make_keyed(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> None:
        """Create the table if it is missing, with a key; InnoDB keeps rows by it in any case."""
        for statement in self.create_statements(columns, key):
            self.session.change(statement)

    def create_statements(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> tuple[str, ...]:
        """Return the statement that creates the table, if it is missing."""
        lines = [
            f"{quoted(one.name)} {ddl_type(one, key=one.name in key)}"
            f"{' NULL' if one.nullable and one.name not in key else ' NOT NULL'}"
            for one in columns
        ]
        lines += [f"PRIMARY KEY ({', '.join(map(quoted, key))})"] if key else []
        exact = EXACT[self.session.mariadb]
        options = f"ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE {exact}"
        return (f"CREATE TABLE IF NOT EXISTS {self.name.sql} ({', '.join(lines)}) {options}",)

    def add_columns(self, columns: tuple[Column, ...]) -> None:
        """Add nullable columns to the table; existing ones stay as they are. Inside `state.owned`."""
        for statement in self.add_statements(columns):
            self.session.change(statement)

    def add_statements(self, columns: tuple[Column, ...]) -> tuple[str, ...]:
        """Return a statement for each column that is missing."""
        there = describe(self.session, self.name, self.place.where, sink=True)
        return tuple(
            f"ALTER TABLE {self.name.sql} ADD COLUMN {quoted(one.name)} {ddl_type(one)} NULL"
            for one in columns
            if there is None or there.column(one.name) is None
        )

    def widen_statements(self, columns: tuple[Column, ...]) -> tuple[str, ...]:
        """Return the statement that gives columns other types, with all else that is declared of them."""
        parts = [part for one in columns if (part := modified(self.session, self.name, one, self.place.where))]
        return (f"ALTER TABLE {self.name.sql} {', '.join(parts)}",) if parts else ()

    def widen_columns(self, columns: tuple[Column, ...]) -> None:
        """Give columns types that store more values, and let them be NULL. Inside `state.owned`."""
        for statement in self.widen_statements(columns):
            self.session.change(statement)

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
        return not self.session.rows(f"SELECT 1 FROM {self.name.sql} LIMIT 1")

    def unmake(self) -> None:
        """Drop the table, if it is unwritten. Inside `state.owned`."""
        if not self.is_unwritten():
            return
        self.session.change(f"LOCK TABLES {self.name.sql} WRITE")
        try:
            if not self.session.rows(f"SELECT 1 FROM {self.name.sql} LIMIT 1"):
                self.session.change(f"DROP TABLE {self.name.sql}")
        finally:
            self.session.change("UNLOCK TABLES")
        drop_leftovers(self.session, tombstone_prefix(self.owner.uid), self.name, ())

    def missing_grants(self, *, grows: bool) -> Sequence[tuple[str, str]]:
        """Return what the user may not do at the sink, each with the GRANT that allows it."""
        return missing_grants(self.session, self.name, self.state.schema, self.owner, grows=grows)

    def create_load_table(self, run: str, generation: int) -> str:
        shadow, aside = self._shadow(run), self._aside(run)
        with self.state.owned(generation):
            keep = (shadow.name, aside.name) if self._replaces else ()
            drop_leftovers(self.session, shadow_prefix(self.owner.uid), self.name, keep)
            if self._replaces and not exists(self.session, aside):
                make_shadow(self.session, self.name, shadow)
        if self._replaces:
            failpoint("prepare.shadow_made")
        return self.load_table(run)

    def load_table(self, run: str) -> str:
        return self._shadow(run).name if self._replaces else self.name.name

    def can_go_on(self, run: str) -> bool:
        shadow = describe(self.session, self._shadow(run), self.place.where, sink=True)
        target = self.describe()
        if shadow is not None and target is not None:
            return shadow.columns == target.columns
        pending, planned = self.state.pending(run)
        return len(pending) == planned or (not pending and exists(self.session, self._aside(run)))

    def abandon(self, run: str) -> None:
        for name in (self._shadow(run), self._aside(run)):
            self.session.change(f"DROP TABLE IF EXISTS {name.sql}")

    def finishing(self, columns: tuple[Column, ...]) -> Callable[[pa.RecordBatch], pa.RecordBatch] | None:
        return None

    def writer(self, order: WriterOrder) -> SplitWriter:
        write, into = self.owner.write, self.name.sibling(order.into)
        names = tuple(column.name for column in order.columns)
        gone = Tombstones.of(self.owner.uid, self.name, write.key, order.version, write.delete)
        texts = any(one.name in write.key and not is_exact(one) for one in order.columns)
        merge: Merge | MysqlChanges | None = None
        if self.owner.changes:
            merge = MysqlChanges.of(into, order.columns, write.key, order.sources)
        elif write.write == "merge":
            cleared = self.owner.mark
            merge = Merge(into, names, write.key, order.version, write.delete, gone, texts, cleared=cleared)
        where = f"{self.place.where}: {self.name}"
        opened = partial(MysqlSink.opened, self.another, self.state, order, where, into, merge, shadowed=self._replaces)
        return SplitWriter(order, where, opened)

    def others(self) -> list[str]:
        return self.state.others()

    def prune(self, keys: pa.RecordBatch, at: datetime | None) -> int:
        """Delete or mark the rows with these keys. Inside `state.owned`."""
        return pruned(self.session, self.name, keys, self.owner.mark, at, self.place.where)

    def publish(self, order: PublishOrder) -> dict[str, Any]:
        with publishing(self.state, order, self.place.where) as found:
            if found.ended:
                return found.result
            self._move_in(order)
        if self._replaces:
            self.abandon(order.run)
        failpoint("publish.done")
        return found.result

    def _move_in(self, order: PublishOrder) -> None:
        """Replace the target by the shadow.

        A rename takes effect before the run's end is recorded, so the state is marked first: a later `append` must not
        continue from the old position.
        """
        if not self._replaces:
            return
        self.begin()
        if order.method is not None and order.method.name == "rename" and self.owner.write.write == "replace":
            self.state.mark_partial()
            rename(self.session, self.name, self._shadow(order.run), self._aside(order.run), self.place.where)
        else:
            refill(self.session, self.name, self._shadow(order.run), order.columns, self.place.where)

    def duplicates(self, run: str, columns: tuple[str, ...]) -> int:
        """Count the values of `columns` that occur in several rows of the run's shadow; NULL never equals NULL."""
        query = duplicates(self._shadow(run), columns)
        return int(self.session.value(query))

    def drop(self, *, table: bool) -> None:
        if self.state.exists():
            self.state.drop()
        for prefix in (shadow_prefix(self.owner.uid), tombstone_prefix(self.owner.uid)):
            drop_leftovers(self.session, prefix, self.name, ())
        if table:
            self.session.change(f"DROP TABLE IF EXISTS {self.name.sql}")

    def close(self) -> None:
        self.session.close()
