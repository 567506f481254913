# ruff: noqa: INP001 - a package of one module
"""Access logs of web servers as a source: a connector in a package of its own, in one class.

A row is one line; its `position`, the byte at which it begins, is the cursor of a run that reads only new lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import polars as pl
import pyarrow as pa
from pydantic import Field

from dataflows.connectors import (
    AccessDenied,
    BadData,
    Chunk,
    Column,
    ConnectionModel,
    CursorRule,
    ListedObject,
    MissingTable,
    Owner,
    Place,
    ReadOrder,
    Refused,
    Split,
    Table,
    Window,
    chunks,
)

__all__ = ["AccessLog", "AccessLogConnection"]

BLOCK: Final = 1 << 20
BYTES_PER_ROW: Final = 100
LINE: Final = (
    r'^(?P<host>\S+) \S+ (?P<login>\S+) \[(?P<at>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) '
    r'(?P<bytes>\d+|-)(?: "(?P<referrer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)")?\r?$'
)
COLUMNS: Final = (
    Column("position", "bigint", nullable=False), Column("host", "text", nullable=False), Column("login", "text"),
    Column("at", "timestamp with time zone", nullable=False), Column("request", "text", nullable=False),
    Column("status", "smallint", nullable=False), Column("bytes", "bigint"), Column("referrer", "text"),
    Column("agent", "text"),
)  # fmt: skip


class AccessLogConnection(ConnectionModel):
    """The folder that a web server writes its logs to."""

    type: Literal["accesslog"]
    folder: Annotated[str, Field(pattern=r"^/")]


@dataclass(frozen=True, slots=True)
class AccessLog:
    """One log: the connector, the source of a run, and its readers."""

    place: Place
    order: ReadOrder | None = None
    model = AccessLogConnection
    takes_format = False
    form = None

    @staticmethod
    def named(place: Place) -> str:
        return place.object

    @staticmethod
    def source(place: Place) -> AccessLog:
        return AccessLog(place)

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:
        """Yield the files of the folder, for sets of pipelines and discovery."""
        for path in sorted(Path(place.settings.folder).iterdir()):
            check()
            if path.is_file():
                yield ListedObject(path.name, "", path.name.partition(".")[0] or path.name, kind="log")

    @staticmethod
    def target(place: Place, owner: Owner) -> Any:
        raise Refused("access logs are only read", where=place.where, hint="name another connection")

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.place.settings.folder) / self.place.object

    @property
    def where(self) -> str:
        """Location that errors name."""
        return f"{self.place.where}: {self.place.object}"

    def describe(self) -> Table:
        return Table(self.place.object, "log", COLUMNS, (("position",),), self._size() // BYTES_PER_ROW)

    def split_key(self, table: Table) -> Column | None:
        return table.column("position")

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        """Return the window of complete lines after the last one that was read.

        Raises:
            Refused: another cursor, a lag, or a file that is shorter than before, since it was rotated.
        """
        if cursor.name != "position" or rule.lag:
            raise Refused("logs are read by their position", where=self.where, hint="cursor: {field: position}")
        if last is not None and self._size() <= int(last):
            hint = "give each log a name of its own, or read it again by `penstock run --full`"
            raise Refused("the log is shorter than before: it was rotated", where=self.where, hint=hint)
        end = self._last_line()
        return Window(last, str(end) if end > (-1 if last is None else int(last)) else None)

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        """Return ranges of bytes: a split's lines begin above its lower bound and not above its upper one."""
        low = -1 if window.lower is None else int(window.lower)
        high = self._last_line() if window.upper is None else int(window.upper)
        edges = [*range(low, high, rows * BYTES_PER_ROW), high]
        return tuple(Split(first + at, str(edges[at]), str(edges[at + 1])) for at in range(len(edges) - 1))

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return None

    def reader(self, order: ReadOrder) -> AccessLog:
        return replace(self, order=order)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the lines of a split.

        Raises:
            BadData: a line that is not of an access log; names its position.
        """
        return chunks(slot, split, self._batches(int(split.lower or -1), int(split.upper or -1)))

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _batches(self, low: int, high: int) -> Iterator[pa.RecordBatch]:
        assert self.order is not None  # noqa: S101 - readers have one
        assert self.order.schema is not None  # noqa: S101 - logs are never read undecoded
        with self._opened() as log:
            if low >= 0:
                log.seek(low)
                log.readline()
            while (start := log.tell()) <= high:
                self.order.check()
                block = log.read(min(BLOCK, high + 1 - start))
                block += b"" if block.endswith(b"\n") else log.readline()
                found = self._rows(block, start).to_arrow().select(self.order.columns).cast(self.order.schema)
                yield from found.combine_chunks().to_batches(max_chunksize=self.order.batch_rows)

    def _rows(self, block: bytes, start: int) -> pl.DataFrame:
        """Return the complete lines of a block that begins at byte `start`."""
        try:
            lines = pl.Series("line", [block.decode().removesuffix("\n")]).str.split("\n").explode()
        except UnicodeDecodeError as error:
            raise self._no_line(start + error.start) from None
        sizes = lines.str.len_bytes().cast(pl.Int64) + 1
        frame = pl.DataFrame({"position": sizes.cum_sum() - sizes + start, "line": lines})
        frame = frame.with_columns(pl.col("line").str.extract_groups(LINE)).unnest("line")
        time = pl.col("at").str.to_datetime("%d/%b/%Y:%H:%M:%S %z", time_unit="us", strict=False)
        frame = frame.with_columns(
            time.dt.convert_time_zone("UTC"),
            pl.col("login").replace("-", None),
            pl.col("status").cast(pl.Int16),
            pl.col("bytes").cast(pl.Int64, strict=False),
        )
        if (wrong := frame.filter(pl.col("at").is_null())).height:
            raise self._no_line(wrong["position"][0])
        return frame

    def _no_line(self, position: int) -> BadData:
        what = f"the line at byte {position} is not in the Common or Combined Log Format"
        return BadData(what, where=self.where, hint="look at the server's log format")

    def _opened(self) -> Any:
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            raise MissingTable("there is no such log", where=self.place.where, value=self.place.object) from None
        except PermissionError:
            hint = "let this user read it"
            raise AccessDenied("the log may not be read", where=self.where, hint=hint) from None

    def _size(self) -> int:
        with self._opened() as log:
            return int(log.seek(0, 2))

    def _last_line(self) -> int:
        """Return the start of the last line with a line break; -1 if there is none."""
        with self._opened() as log:
            end, tail = log.seek(0, 2), b""
            while end > 0 and tail.count(b"\n") < 2:  # noqa: PLR2004 - the one before the line, and its own
                step = min(end, BLOCK)
                end = log.seek(end - step)
                tail = log.read(step) + tail
            head, newline, _ = tail.rpartition(b"\n")
            return end + len(head.rpartition(b"\n")[0]) + (b"\n" in head) if newline else -1
