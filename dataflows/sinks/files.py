"""Files as a sink: a file for each split, staged below ``_penstock/``, and one entry of the folder's log commits it.

Publishing puts a run's files beside those of other runs, under names that no other run has, then writes the entry that
makes them the folder's, then takes away what they replace. Who reads by the log (Penstock's own source does) sees whole
runs only, before or after. A tool that only lists ``*.parquet`` sees no file of an unfinished run, but while a run is
being published, for as long as copying takes, it may see a part of it, in `replace` beside what it replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.contract import Owner, Place, WriterOrder
from dataflows.connectors.publication import finished
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, parse_type
from dataflows.files.formats import FileWriter, ending_of, format_of, packed
from dataflows.files.log import FolderLog, taken_away
from dataflows.files.manifest import STAGED, published, staged
from dataflows.files.names import FileSet
from dataflows.files.state import FilesState
from dataflows.files.store import Gone, Store, patiently, translated
from dataflows.files.types import file_field
from penstock.errors import PenstockError, Refused, SchemaMismatch
from penstock.failpoints import failpoint
from penstock.models.formats import CsvFormat, Format, JsonlFormat, ParquetFormat

__all__ = ["FilesTarget", "FilesWriter", "Folder"]

MODES: Final = {"append", "replace"}
AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that a sink's object names, and the format of its files."""

    name: str
    form: Format
    codec: str | None

    @classmethod
    def parse(cls, text: str, given: Format | None, where: str) -> Folder:
        """``sales/orders``, ``sales/orders.parquet`` (a folder too) or ``sales/orders/*.jsonl.gz``; else Parquet.

        Raises:
            Refused: another pattern.
        """
        folder, _, last = text.rstrip("/").rpartition("/")
        pattern = last.startswith("*.")
        found = FileSet.parse(folder if pattern else text, where)
        if not found.plain:
            hint = "name a folder; its files are named for you"
            raise Refused("rows are written to one folder", where=where, value=text, hint=hint)
        told = given or (None if pattern or "." in last else ParquetFormat(type="parquet"))
        form, codec = format_of(last, told, where)
        return cls(found.pattern, form, codec)

    @property
    def ending(self) -> str:
        """What its files' names end with."""
        plain = ending_of(self.form)
        packed_as = {"gzip": ".gz", "zstd": ".zst"}.get(self.codec or "", "")
        return plain if plain.endswith((".gz", ".zst")) else plain + packed_as


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

    @classmethod
    def opened(cls, place: Place, owner: Owner, store: Store) -> FilesTarget:
        """The folder; nothing is asked of the store yet."""
        where = f"{place.where}: {place.object}"
        if owner.write.write not in MODES:
            hint = "write: append or replace; or merge into a table of a database"
            raise Refused(f"files cannot be written by `{owner.write.write}`", where=where, hint=hint)
        folder = Folder.parse(place.object, place.format, where)
        log = FolderLog(store, folder.name, where)
        return cls(place, owner, folder, store, FilesState(owner.uid, owner.source, log, where, folder.ending))

    @property
    def where(self) -> str:
        """Where an error with this folder is."""
        return self.state.where

    @property
    def _replaces(self) -> bool:
        return self.owner.shadowed

    def describe(self) -> Table | None:
        table = self.state.log.refresh()
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
            raise Refused(f"the folder holds files *{ending}", where=self.where, value=self.folder.ending, hint=hint)

    def _check_empty(self) -> None:
        """Files that nobody here has written are neither added to nor taken away."""
        replaced = set(self.state.log.table.replaced)
        for one in self.store.list(self.folder.name):
            name = one.path.removeprefix(self.folder.name).lstrip("/")
            if not name.startswith(("_", ".")) and name not in replaced:
                hint = "name an empty folder, or one that does not exist"
                raise Refused("the folder holds files that no pipeline wrote", where=self.where, hint=hint)

    def _check_column(self, column: Column) -> None:
        kind = arrow_type(parse_type(column.type))
        if kind is None:
            hint = "give a numeric its precision, or cast it in the mapping"
            what = f"`{column.name}` of type {column.type} cannot be written to files"
            raise SchemaMismatch(what, where=self.where, hint=hint)
        if self.folder.form.type != "parquet" and (pa.types.is_binary(kind) or pa.types.is_nested(kind)):
            what = f"`{column.name}` of type {column.type} has no form in {self.folder.form.type}"
            raise SchemaMismatch(what, where=self.where, hint="write Parquet, or leave it out")

    def make(self, columns: tuple[Column, ...]) -> None:
        self.state.make_table([asdict(Column(one.name, one.type, one.nullable)) for one in columns])

    def load(self, run: str, generation: int) -> str:
        self._sweep(generation)
        failpoint("prepare.shadow_made")
        return self.loads(run)

    def _sweep(self, generation: int) -> None:
        """Take away what was replaced, and what earlier generations left.

        A name that nothing refers to after our claim and that carries an older generation can never be referred to
        again: so this is safe even where we were taken for dead meanwhile.
        """
        log = self.state.log
        table = log.refresh()
        replaced, kept = list(table.replaced), table.referenced(self.owner.uid)
        if replaced:
            self.store.delete([log.at(path) for path in replaced])
            with self.state.owned(generation):
                self.state.swept(replaced)
        below = [one.path for one in self.store.list(log.at(f"{STAGED}{self.owner.uid}"))]
        beside = [one.path for one in self.store.list(self.folder.name) if self._ours(self._name(one.path))]
        old = [path for path in below + beside if self._generation(path) < generation and self._name(path) not in kept]
        self.store.delete(old)

    def _name(self, path: str) -> str:
        return path.removeprefix(self.folder.name).lstrip("/") if self.folder.name else path

    def _ours(self, name: str) -> bool:
        return name.startswith(f"part-{self.owner.uid}-")

    @staticmethod
    def _generation(path: str) -> int:
        """The generation that a file's name carries; very great where the name is none of ours."""
        number = path.rpartition("/")[2].partition(".")[0].rpartition("-")[2]
        return int(number) if number.isdigit() else 1 << 62

    def loads(self, run: str) -> str:
        return run

    def can_go_on(self, run: str) -> bool:
        log = self.state.log
        there = {one.path for one in self.store.list(log.at(f"{STAGED}{self.owner.uid}"))}
        return all(log.at(one["path"]) in there for one in self.state.files(run))

    def abandon(self, run: str) -> None:
        """What it staged is a leftover as soon as its plan is forgotten."""

    def finishing(self, columns: tuple[Column, ...]) -> None:  # noqa: ARG002 - batches are written as they come
        return None

    def writer(self, order: WriterOrder) -> FilesWriter:
        log = FolderLog(self.store, self.folder.name, self.where)
        state = FilesState(self.owner.uid, self.owner.source, log, self.where, self.folder.ending)
        return FilesWriter(self.store, self.folder, state, order)

    def publish(
        self, run: str, generation: int, cursor: str | None,
        columns: Sequence[str],  # noqa: ARG002 - files hold what was written
        told: dict[str, Any], method: Any,  # noqa: ARG002 - there is one way
    ) -> dict[str, Any]:  # fmt: skip
        log, before = self.state.log, self.state.files(run)
        with self.state.owned(generation):
            failpoint("publish.locked")
            found = finished(self.state, run, told, self.where)
            if found.ended:
                return found.result
            try:
                self._copy([(log.at(one["path"]), log.at(published(one["path"]))) for one in before])
            except Gone:
                self.state.check(log.refresh(), generation)  # a newer run has published them, or taken them away
                raise taken_away(self.where) from None
            self.state.finish(run, cursor, found.result)
            failpoint("publish.moved")
        replaced = log.table.replaced if self._replaces else []
        self.store.delete([log.at(path) for path in [*replaced, *(one["path"] for one in before)]])
        failpoint("publish.done")
        return found.result

    def _copy(self, pairs: list[tuple[str, str]]) -> None:
        with ThreadPoolExecutor(AT_ONCE if self.store.remote else 1) as pool:
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
        """Nothing is held."""


@dataclass(slots=True)
class _Open:
    """The split whose file is open; `file` and `stream` only once it has rows."""

    split: int
    sequence: int = 0
    rows: int = 0
    bytes: int = 0
    path: str = ""
    held: AbstractContextManager[Any] | None = None
    stream: Any = None
    file: FileWriter | None = None


class _GivenUp(Exception):
    pass


@dataclass(slots=True)
class FilesWriter:
    """Writes the chunks of one slot: a staged file for each split, then the entry that commits it."""

    store: Store
    folder: Folder
    state: FilesState
    order: WriterOrder
    _open: _Open | None = field(default=None, init=False)
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    def open(self) -> None:
        """Read the log."""
        if self.store.remote:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._asked(self.state.log.refresh)

    def close(self) -> None:
        """Give up what is not committed."""
        current, self._open = self._open, None
        if current is not None and current.held is not None:
            with suppress(_GivenUp, PenstockError):
                current.held.__exit__(_GivenUp, _GivenUp(), None)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def idle(self) -> None:
        """No session has to be watched."""

    def done(self) -> None:
        """Check that no split was left open when the stream ended."""
        if self._open is not None:
            message = f"the stream ended inside split {self._open.split}"
            raise AssertionError(message)

    def write(self, chunk: Chunk) -> None:
        """Write a chunk; the last one of a split commits it.

        Raises:
            Fenced: a newer run took over.
            BadData: a value that the format has no form for.
        """
        current = self._open = self._open or self._begun(chunk.split)
        if (chunk.split, chunk.sequence) != (current.split, current.sequence):
            message = f"chunk {chunk.split}.{chunk.sequence} came where {current.split}.{current.sequence} was due"
            raise AssertionError(message)
        current.sequence += 1
        if chunk.data is not None:
            if chunk.rows:
                self._asked(lambda: self._put(current, chunk))
            failpoint("commit.mid_copy", chunk.split)
        if chunk.last:
            self._commit(current, chunk)

    def _asked(self, work: Callable[[], Any]) -> Any:
        with translated(self.state.where):
            return patiently(self._pool, self.order.check, work)

    def _begun(self, split: int) -> _Open:
        failpoint("commit.begin", split)
        return _Open(split)

    def _put(self, current: _Open, chunk: Chunk) -> None:
        if current.file is None:
            order = self.order
            current.path = staged(self.state.uid, order.run, current.split, order.generation, self.folder.ending)
            current.held = self.store.writer(self.state.log.at(current.path))
            current.stream = packed(current.held.__enter__(), self.folder.codec)
            current.file = self._file(current.stream)
        current.file.write(chunk.data)
        current.rows += chunk.rows
        current.bytes += chunk.size

    def _file(self, stream: Any) -> FileWriter:
        form = self.folder.form
        schema = pa.schema([file_field(column) for column in self.order.columns])
        if isinstance(form, CsvFormat):
            from dataflows.files.csv import CsvWriter  # noqa: PLC0415 - only what is needed

            return CsvWriter(stream, schema, form)
        if isinstance(form, JsonlFormat):
            from dataflows.files.jsonl import JsonlWriter  # noqa: PLC0415

            return JsonlWriter(stream, self.state.where)
        from dataflows.files.parquet import ParquetWriter  # noqa: PLC0415

        return ParquetWriter(stream, schema, form.compression)

    def _commit(self, current: _Open, marker: Chunk) -> None:
        file = self._asked(lambda: self._closed(current))
        failpoint("commit.copied", current.split)
        counted = self._counted(current, marker, file["rows"] if file else 0)
        failpoint("commit.before_fence", current.split)
        order = self.order
        self._asked(lambda: self.state.commit(order.run, order.generation, current.split, counted, file))
        failpoint("commit.sent", current.split)
        failpoint("commit.done", current.split)
        self._open = None
        order.committed(counted)

    def _closed(self, current: _Open) -> dict[str, Any] | None:
        """The split's file, durable; None where it has no rows."""
        if current.file is None or current.held is None:
            return None
        rows = current.file.close()
        if self.folder.codec is not None:
            current.stream.close()
        held, current.held = current.held, None
        held.__exit__(None, None, None)
        size = self.store.head(self.state.log.at(current.path)).size
        return {"path": current.path, "rows": rows, "bytes": size}

    def _counted(self, current: _Open, marker: Chunk, rows: int) -> Counters:
        """The split's counters, checked against what the file says that it holds."""
        filtered = marker.read - current.rows - marker.dead
        counted = Counters(marker.read, rows, filtered, marker.dead, current.bytes)
        if rows != current.rows or not counted.balanced or filtered < 0:
            raise PenstockError(
                f"split {current.split} does not add up: {marker.read} rows read, {current.rows} sent, {rows} written",
                where=self.state.where, hint="this is a defect: nothing of the split was committed",
            )  # fmt: skip
        return counted
