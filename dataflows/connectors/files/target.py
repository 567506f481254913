"""Files as a sink: a file for each split, staged below ``_penstock/`` and committed by one entry of the folder's log.

Publishing copies a run's files next to those of other runs, under unique names, writes the entry that adds them to the
folder, then deletes the files that they replace. Readers that use the log (as Penstock's own source does) see whole
runs only. A tool that just lists ``*.parquet`` sees no file of an unfinished run; but while a run is being published,
it may see a part of its files, in `replace` together with those that they replace.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.contract import Owner, Place, PublishOrder, WriterOrder
from dataflows.connectors.files.folder import Folder
from dataflows.connectors.files.log import FolderLog, folder_removed
from dataflows.connectors.files.manifest import STAGED, published
from dataflows.connectors.files.state import FilesState
from dataflows.connectors.files.store import Gone, Store
from dataflows.connectors.files.writer import FilesSink
from dataflows.connectors.publication import publishing
from dataflows.connectors.writing import SplitWriter
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import Refused, SchemaMismatch
from penstock.failpoints import failpoint

__all__ = ["FilesTarget"]

MODES: Final = {"append", "replace"}
MAX_COPIES: Final = 8


@dataclass(frozen=True, slots=True)
class FilesTarget:
    """A folder with its log."""

    place: Place
    owner: Owner
    folder: Folder
    store: Store
    state: FilesState
    form = None
    reloads = ("append", "replace")
    linger = 10.0

    @classmethod
    def open(cls, place: Place, owner: Owner, store: Store) -> FilesTarget:
        """Open the folder; does not contact the store yet."""
        where = f"{place.where}: {place.object}"
        if owner.write.write not in MODES:
            hint = "write: append or replace; or merge into a table of a database"
            raise Refused(f"files cannot be written by `{owner.write.write}`", where=where, hint=hint)
        folder = Folder.parse(place.object, place.format, where)
        folder.check_options(where)
        log = FolderLog(store, folder.name, where)
        return cls(place, owner, folder, store, FilesState(owner.uid, owner.source, log, where, folder.ending))

    @property
    def where(self) -> str:
        """Location that errors of this folder name."""
        return self.state.where

    @property
    def _replaces(self) -> bool:
        return self.owner.shadowed

    def describe(self) -> Table | None:
        table = self.state.current()
        if table.columns is None:
            return None
        rows = sum(one["rows"] for one in table.files)
        return Table(self.folder.name, "files", tuple(Column(**one) for one in table.columns), (), rows)

    def check(self, table: Table | None, columns: tuple[Column, ...]) -> None:
        if table is None:
            self._check_empty()
        for column in table.columns if table is not None else columns:
            self._check_column(column)
        ending = self.state.log.table.ending
        if ending not in (None, self.folder.ending) and not self._replaces:
            hint = f"keep *{ending}, or write: replace"
            raise Refused(f"the folder contains files *{ending}", where=self.where, value=self.folder.ending, hint=hint)

    def missing_grants(self, *, grows: bool) -> Sequence[tuple[str, str]]:
        """Return what this account, or this key, may not do in the folder, and what allows it."""
        found = self.store.missing_grant(self.folder.name)
        return () if found is None else (found,)

    def _check_empty(self) -> None:
        """Refuse a folder with files that no pipeline wrote: Penstock neither adds to them nor deletes them."""
        replaced = set(self.state.log.table.replaced)
        for one in self.store.list(self.folder.name):
            name = one.path.removeprefix(self.folder.name).lstrip("/")
            if not name.startswith(("_", ".")) and name not in replaced:
                hint = "name an empty folder, or one that does not exist"
                raise Refused("the folder contains files that no pipeline wrote", where=self.where, hint=hint)

    def _check_column(self, column: Column) -> None:
        kind = arrow_type(parse_type(column.type))
        if kind is None:
            hint = "convert it to text in a view of the source, or leave it out"
            what = f"`{column.name}` of type {column.type} cannot be written to files"
            raise SchemaMismatch(what, where=self.where, hint=hint)
        if self.folder.form.type != "parquet" and (pa.types.is_binary(kind) or pa.types.is_nested(kind)):
            what = f"`{column.name}` of type {column.type} cannot be written as {self.folder.form.type}"
            raise SchemaMismatch(what, where=self.where, hint="write Parquet, or leave it out")

    def make(self, columns: tuple[Column, ...]) -> None:
        self.state.make_table([asdict(Column(one.name, one.type, one.nullable)) for one in columns])

    def made_as(self, table: Table) -> str:
        """Return the folder's columns, which only pipelines make."""
        return json.dumps([[one.name, one.type, one.nullable] for one in table.columns])

    def remember(self, made: str, table: Table | None) -> None:
        """Do nothing: the log has the columns."""

    def is_unwritten(self) -> bool:
        """True if the folder has no rows, and no other pipeline uses it."""
        return self.state.log.refresh().is_as_made(self.owner.uid)

    def unmake(self) -> None:
        """Forget the folder's columns, if it has no rows. Inside `state.owned`."""
        self.state.unmake_table()

    def create_load_table(self, run: str, generation: int) -> str:
        self._sweep(generation)
        failpoint("prepare.shadow_made")
        return self.load_table(run)

    def _sweep(self, generation: int) -> None:
        """Delete replaced files and leftovers of earlier generations.

        A file of an older generation that is not referenced after our claim can never be referenced again, so this is
        safe even if a newer run has taken over since.
        """
        log = self.state.log
        table = log.refresh()
        replaced, kept = list(table.replaced), table.referenced(self.owner.uid)
        if replaced:
            self.store.delete([log.at(path) for path in replaced])
            with self.state.owned(generation):
                self.state.record_swept(replaced)
        below = [one.path for one in self.store.list(log.at(f"{STAGED}{self.owner.uid}"))]
        published_files = [one.path for one in self.store.list(self.folder.name) if self._ours(self._name(one.path))]
        old = [
            path
            for path in below + published_files
            if self._generation(path) < generation and self._name(path) not in kept
        ]
        self.store.delete(old)

    def _name(self, path: str) -> str:
        return path.removeprefix(self.folder.name).lstrip("/") if self.folder.name else path

    def _ours(self, name: str) -> bool:
        return name.startswith(f"part-{self.owner.uid}-")

    @staticmethod
    def _generation(path: str) -> int:
        """Return the generation in a file's name; a huge number if the name is not one of Penstock's."""
        number = path.rpartition("/")[2].partition(".")[0].rpartition("-")[2]
        return int(number) if number.isdigit() else 1 << 62

    def load_table(self, run: str) -> str:
        return run

    def can_go_on(self, run: str) -> bool:
        log = self.state.log
        existing = {one.path for one in self.store.list(log.at(f"{STAGED}{self.owner.uid}"))}
        return all(log.at(one["path"]) in existing for one in self.state.files(run))

    def abandon(self, run: str) -> None:
        """Do nothing: its staged files are leftovers once its plan is deleted."""

    def finishing(self, columns: tuple[Column, ...]) -> None:
        return None

    def writer(self, order: WriterOrder) -> SplitWriter:
        log = FolderLog(self.store, self.folder.name, self.where)
        state = FilesState(self.owner.uid, self.owner.source, log, self.where, self.folder.ending)
        return SplitWriter(order, self.where, partial(FilesSink.open, self.store, self.folder, state, order))

    def publish(self, order: PublishOrder) -> dict[str, Any]:
        log, before = self.state.log, self.state.files(order.run)
        with publishing(self.state, order, self.where) as outcome:
            if outcome.ended:
                return outcome.result
            try:
                self._copy([(log.at(one["path"]), log.at(published(one["path"]))) for one in before])
            except Gone:
                self.state.check(log.refresh(), order.generation)  # fenced if a newer run has published or deleted them
                raise folder_removed(self.where) from None
        replaced = log.table.replaced if self._replaces else []
        self.store.delete([log.at(path) for path in [*replaced, *(one["path"] for one in before)]])
        failpoint("publish.done")
        return outcome.result

    def _copy(self, pairs: list[tuple[str, str]]) -> None:
        with ThreadPoolExecutor(MAX_COPIES if self.store.remote else 1) as pool:
            list(pool.map(lambda pair: self.store.copy(*pair), pairs))

    def drop(self, *, table: bool) -> None:
        log = self.state.log
        if not self.state.exists():
            return
        self.state.drop_with(table=table)
        replaced = log.table.replaced if table else []
        left = [one.path for one in self.store.list(log.at(f"{STAGED}{self.owner.uid}"))]
        self.store.delete([*left, *(log.at(path) for path in replaced)])

    def close(self) -> None:
        """Do nothing: a target of files has no session."""
