"""Files as a bounded source: Parquet by row groups, CSV and JSON lines by whole files.

A split is a list of pieces of files, each with the version of the file that was planned: a file that has changed before
it is read is an error, never a mixture. With a cursor on `_modified` each file is read once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, timedelta
from itertools import islice
from typing import Final

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.files.folder import Folder
from dataflows.connectors.files.log import PENSTOCK_FOLDER, FolderLog
from dataflows.connectors.files.names import FileSet, partition_columns
from dataflows.connectors.files.packing import BYTES_PER_ROW, Piece, packed_files, packs, spread
from dataflows.connectors.files.reader import GOES_ON, MODIFIED, FilesReader, inside, reader_of
from dataflows.connectors.files.seen import Seen
from dataflows.connectors.files.store import Gone, Listed, Store
from dataflows.connectors.files.watched import LISTING_SHARE, PART, FolderWatcher, begun, restarted
from dataflows.connectors.formats.contract import (
    Shape,
    declared_columns,
    decompress_stream,
    decompression_errors,
    format_of,
)
from dataflows.connectors.formats.types import check_headers, union_columns
from dataflows.connectors.streaming import Beginning, Restarted, StreamOrder
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from penstock.clock import now
from penstock.errors import BadData, MissingTable, Refused, SchemaMismatch, Unavailable
from penstock.models.profiles import DatasetProfile, about

__all__ = ["FilesSource"]

HIDDEN: Final = (
    Column("_path", "text", nullable=False, hidden=True),
    Column(MODIFIED, "timestamp with time zone", nullable=False, hidden=True),
)
MAX_SAMPLED_FILES: Final = {"parquet": 1000, "csv": 64, "jsonl": 64}
"""Files from which columns are inferred; of more files, evenly spaced ones, including the first and the last."""
GLANCED_FILES: Final = 32
"""The same for a glance: each file of a bucket costs a request or two."""
SAMPLE_BYTES: Final = (64 << 10, 1 << 20, 8 << 20)
"""Sample size of each text file, at least and at most, and of all files together."""
SPREAD_FILES: Final = 16
"""Files of which a sample has rows."""
MAX_REQUESTS: Final = 8
MAX_LISTINGS: Final = 3


@dataclass(slots=True)
class FilesSource:
    """A set of files; in a folder with a log, only the files that the log lists."""

    place: Place
    store: Store
    most: int | None = None
    """Files that are listed at most, by path, for a glance at them; None for all."""
    form: None = field(default=None, init=False)
    _shapes: dict[tuple[str, str], Shape] = field(default_factory=dict, init=False)
    _table: Table | None = field(default=None, init=False)
    _listing: list[Listed] | None = field(default=None, init=False)
    _own: bool = field(default=False, init=False)
    """True if the columns come from the folder's log."""
    _seen_in: int | None = field(default=None, init=False)
    """Files in which the columns were seen, if others may have more."""
    _part: bool = field(default=False, init=False)
    """True if there may be more files than were listed last."""
    _count: tuple[float, int] = field(default=(0.0, 0), init=False)
    """When `behind` counts again, and what it has counted."""

    @property
    def where(self) -> str:
        """Location that errors of these files name."""
        return f"{self.place.where}: {self.place.object}"

    def files(self) -> Sequence[Listed]:
        """Return the files of the set by path, as they are now; none if there is none."""
        return self._listed()[0]

    def describe(self) -> Table:
        if self._table is None:
            self._table = self._describe()
        return self._table

    def _describe(self) -> Table:
        files, columns = self._listed()
        self._listing, self._own = files, columns is not None
        if not files and columns is None:
            columns = self._declared_columns()
        types_from = None
        if columns is None:
            columns, sampled = self._infer_columns(files)
            kinds = {format_of(one.path, self.place.format, self.where)[0].type for one in files}
            whole = sampled == len(files) and not self._part
            if kinds == {"jsonl"}:  # each is seen in part
                whole = bool(getattr(self.place.format, "columns", None))
            self._seen_in = None if whole else sampled
            types_from = f"types inferred from {sampled} of {len(files)} files" if sampled < len(files) else None
        names = {column.name for column in columns}
        columns += tuple(column for column in HIDDEN if column.name not in names)
        return Table(self.place.object, "files", columns, (), self._estimate(files), types_from)

    def _declared_columns(self) -> tuple[Column, ...]:
        """Return the columns of a folder without files: those that the pipeline declares."""
        if declared := getattr(self.place.format, "columns", None):
            return declared_columns(declared, self.where)
        hint = "check the pattern; names that begin with _ or . are ignored"
        raise MissingTable("no file matches", where=self.place.where, value=self.place.object, hint=hint)

    def _infer_columns(self, files: Sequence[Listed]) -> tuple[tuple[Column, ...], int]:
        """Return the columns, and the number of files sampled."""
        kinds = {format_of(one.path, self.place.format, self.where)[0].type for one in files}
        if len(kinds) > 1:
            hint = "narrow the pattern, such as *.parquet"
            raise Refused(
                f"files of {' and '.join(sorted(kinds))} cannot be read together", where=self.where, hint=hint
            )
        kind = kinds.pop()
        sampled = spread(files, MAX_SAMPLED_FILES[kind] if self.most is None else GLANCED_FILES)
        shapes = [(one.path, shape.columns) for one, shape in zip(sampled, self._shapes_of(sampled), strict=True)]
        if kind == "csv" and getattr(self.place.format, "header", True):
            check_headers([(path, [one.name for one in made]) for path, made in shapes], self.where)
        declared = getattr(self.place.format, "columns", {})
        folders = partition_columns((one.path for one in files), declared, self.where)
        columns = union_columns(shapes, self.where, text=kind != "parquet")
        if double := {one.name for one in folders} & {one.name for one in columns}:
            raise SchemaMismatch(
                f"`{double.pop()}` is a column and a folder's key", where=self.where, hint="rename one"
            )
        if not columns:
            hint = "declare them in `format.columns`" if kind != "parquet" else "name other files"
            raise SchemaMismatch("the files have no columns", where=self.where, hint=hint)
        return columns + folders, len(sampled)

    def _listed(self) -> tuple[list[Listed], tuple[Column, ...] | None]:
        """Return the files of the set by path, and the columns if the set is just one folder with a log.

        Below a folder with a log, only files in the log count: others belong to unfinished or replaced runs.

        Raises:
            Unavailable: a file of the log does not exist; a run that replaces it may be publishing.
        """
        files = FileSet.parse(self.place.object, self.where)
        logs: dict[str, FolderLog] = {}
        for _ in range(MAX_LISTINGS):
            below = list(islice(self.store.list(files.folder), self.most))
            self._part = len(below) == self.most
            self._read_logs(logs, below)
            matching = [one for one in below if files.matches(one.path)]
            if not logs:
                alone = files.plain and not matching and "." in files.folder.rpartition("/")[2]
                return self._single_file(files.folder) if alone else matching, None
            logged = (log.at(one["path"]) for log in logs.values() for one in log.table.files)
            rows, ours = set(filter(files.matches, logged)), tuple(f"{home}/" for home in logs)
            existing = [one for one in matching if one.path in rows or not one.path.startswith(ours)]
            if rows <= {one.path for one in existing} or self._part:
                own = logs[files.folder].table.columns if files.folder in logs else None
                return existing, None if own is None else tuple(Column(**column) for column in own)
        hint = "try again; if it was deleted by hand, restore it, or write the folder again by write: replace"
        raise Unavailable("a file of the folder is missing", where=self.where, hint=hint)

    def _read_logs(self, logs: dict[str, FolderLog], below: Sequence[Listed]) -> None:
        """Read the logs of all folders that Penstock writes to, except those without columns."""
        homes = {
            home for home, separator, _ in (one.path.partition(f"/{PENSTOCK_FOLDER}") for one in below) if separator
        }
        for home in homes:
            log = logs.pop(home, None) or FolderLog(self.store, home, self.where)
            if log.refresh().columns is not None:
                logs[home] = log

    def _single_file(self, path: str) -> list[Listed]:
        try:
            return [self.store.head(path)]
        except Gone:
            return []

    def _shapes_of(self, files: Sequence[Listed]) -> list[Shape]:
        """Return the columns of files; concurrently from a remote store.

        Raises:
            Unavailable: one is gone since it was listed, and the folder is watched.
        """
        try:
            with ThreadPoolExecutor(MAX_REQUESTS if self.store.remote else 1) as pool:
                return list(pool.map(self._shape, files))
        except Gone as error:
            if self.place.stream is None:
                raise
            raise Unavailable("a file is gone since it was listed", where=self.where, hint=GOES_ON) from error

    def _shape(self, file: Listed) -> Shape:
        key = (file.path, file.version)
        if key not in self._shapes:
            form, codec = format_of(file.path, self.place.format, self.where)
            where = f"{self.place.where}: {file.path}"
            least, most, together = SAMPLE_BYTES
            sample = max(least, min(most, together // max(1, len(self._listing or ()))))
            reader = reader_of(inside(form, file.path), remote=self.store.remote)
            with self.store.reader(file.path) as stream, decompression_errors(where):
                self._shapes[key] = reader.shape(decompress_stream(stream, codec), where, sample)
        return self._shapes[key]

    def _estimate(self, files: Sequence[Listed]) -> int:
        known = [
            (one.size, sum(shape.groups))
            for one in files
            if (shape := self._shapes.get((one.path, one.version))) and shape.groups is not None
        ]
        size, rows = sum(one for one, _ in known), sum(one for _, one in known)
        total = sum(one.size for one in files)
        return round(total * rows / size) if size else total // BYTES_PER_ROW or min(total, 1)

    def profile(self) -> DatasetProfile:
        """Return how many files there are and how large, the day of the newest, and the rows of Parquet."""
        files = self._listing if self._listing is not None else self._listed()[0]
        kinds = sorted({format_of(one.path, self.place.format, self.where)[0].type for one in files})
        days = [one.modified.astimezone(UTC).date() for one in files]
        return DatasetProfile(
            rows=about(self._estimate(files)) if kinds == ["parquet"] else None,
            bytes=None if self._part else about(sum(one.size for one in files)),
            files=about(len(files)),
            newest=max(days, default=None),
            format=" and ".join(kinds) or None,
        )

    def looked_at(self) -> int | None:
        """Return the number of files in which the columns were seen; lines of JSON are only seen in part."""
        return self._seen_in

    def spread(self, rows: int) -> tuple[tuple[Split, ...], bool]:
        """Return one split for each of some files, if it has rows; of Parquet its first row group."""
        files = self._listing if self._listing is not None else self._listed()[0]
        some = spread(files, SPREAD_FILES)
        pieces = [piece for piece, _ in self._pieces(some)]
        first = {piece[0]: piece for piece in reversed(pieces)}
        splits = tuple(Split(at, json.dumps([piece])) for at, piece in enumerate(reversed(first.values())))
        return splits, len(splits) == len(pieces) and len(some) == len(files) and not self._part

    def split_key(self, table: Table) -> Column | None:
        return None

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        """Return the window of files that were not read yet and are older than the lag.

        Raises:
            Refused: another column than `_modified`, or a file that has changed since it was read.
        """
        if cursor.name != MODIFIED:
            hint = f"write cursor: {{field: {MODIFIED}}}: each file is read once"
            raise Refused("files can only be read as a whole", where=self.where, value=cursor.name, hint=hint)
        seen, limit = Seen.parse(last), now() - rule.lag
        files = self._listing if self._listing is not None else self._listed()[0]
        if changed := [one.path for one in files if seen.changed(one)]:
            hint = "restore it and write changes to new files, or read everything by write: replace"
            raise Refused(f"{changed[0]} has changed since its rows were read", where=self.where, hint=hint)
        new = [one for one in files if not seen.has(one) and (not rule.lag or one.modified <= limit)]
        return Window(last, seen.with_files(new, files, self.where).text() if new else None)

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        files = self._listing if self._listing is not None else self._listed()[0]
        if key is not None:
            before, after = Seen.parse(window.lower), Seen.parse(window.upper)
            files = [one for one in files if after.has(one) and not before.has(one)]
        made = packs(self._pieces(files), rows)
        return tuple(Split(first + at, json.dumps(pack, separators=(",", ":"))) for at, pack in enumerate(made))

    def _pieces(self, files: Sequence[Listed]) -> Iterator[tuple[Piece, int]]:
        """Yield row groups of Parquet and whole text files, each with its approximate number of rows."""
        parquet = [one for one in files if format_of(one.path, self.place.format, self.where)[0].type == "parquet"]
        shapes = dict(zip((one.path for one in parquet), self._shapes_of(parquet), strict=True))
        for file in files:
            shape = shapes.get(file.path)
            if shape is None or shape.groups is None:
                yield [file.path, file.version, None], file.size // BYTES_PER_ROW + 1
                continue
            for at, rows in enumerate(shape.groups):
                yield [file.path, file.version, [at]], rows

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return None

    # -- as a stream --

    def beginnings(self, known: Mapping[str, str], begin: Beginning) -> Mapping[str, str]:
        return {} if known else {PART: begun(self._listed()[0], begin, self.where).text()}

    def restarted(self, known: Mapping[str, str], begin: Beginning | Mapping[str, str]) -> Restarted:
        return restarted(self._listed()[0], known, begin, self.where)

    def picks(self, partition: str) -> bool:
        return True

    def includes(self, place: Place) -> bool:
        folder = Folder.parse(place.object, place.format, place.where)
        return FileSet.parse(self.place.object, self.where).matches(f"{folder.name}/a{folder.ending}")

    @property
    def lag_unit(self) -> str:
        return "files"

    def behind(self, positions: Mapping[str, str]) -> Mapping[str, int]:
        """Return how many files are not read; what takes long to count is counted more rarely."""
        due, found = self._count
        if (start := time.monotonic()) >= due:
            seen = Seen.parse(positions[PART])
            found = sum(not seen.has(one) for one in self._listed()[0])
            end = time.monotonic()
            self._count = end + LISTING_SHARE * (end - start), found
        return {PART: found}

    def stream(self, order: StreamOrder) -> FolderWatcher:
        def packed(files: Sequence[Listed]) -> Iterator[tuple[str, Sequence[Listed]]]:
            return packed_files(files, order.read.batch_rows)

        def listed() -> Sequence[Listed]:
            return self._listed()[0]

        reader = replace(self.reader(order.read), watched=True)
        return FolderWatcher(order, self.where, listed, packed, self._check_columns, reader, self.store.remote)

    def _check_columns(self, files: Sequence[Listed]) -> None:
        """Check that new files have only columns that are known; what a reader does not know it cannot read.

        Raises:
            Unavailable: one has more; the next attempt infers the columns once more, and follows the pipeline's policy.
            Unavailable: one is gone, or has changed since it was listed.
        """
        if getattr(self.place.format, "columns", None):
            return
        known = {one.name for one in self.describe().columns}
        try:
            shapes = self._shapes_of(files)
        except BadData:
            self._check_there(files)
            raise
        for file, shape in zip(files, shapes, strict=True):
            if new := [one.name for one in shape.columns if one.name not in known]:
                what = f"{file.path} has columns that no file had before: {', '.join(new)}"
                raise Unavailable(what, where=self.where, hint="the stream goes on with them by itself")
            self._shapes.pop((file.path, file.version), None)  # a stream never ends

    def _check_there(self, files: Sequence[Listed]) -> None:
        for file in files:
            try:
                lost = self.store.head(file.path).version != file.version
            except Gone:
                lost = True
            if lost:
                what = f"{file.path} is gone, or has changed since it was listed"
                raise Unavailable(what, where=self.where, hint=GOES_ON)

    def reader(self, order: ReadOrder) -> FilesReader:
        self.describe()
        return FilesReader(self.place, self.store, order, self._own)

    def close(self) -> None:
        """Do nothing: a source of files has no session."""
