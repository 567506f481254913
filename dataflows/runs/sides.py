"""Both sides of a pipeline, read so that their rows can be compared: the source's as the pipeline maps them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from shlex import quote
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from dataflows.connectors.abilities import Zoned
from dataflows.connectors.contract import Place, ReadOrder, Source
from dataflows.connectors.history import HISTORY
from dataflows.connectors.registry import open_source
from dataflows.connectors.state import State, StreamState
from dataflows.data.changes import CHANGE, COMMITTED
from dataflows.data.cursors import CursorRule, Window, since, time_text
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, parse_type
from dataflows.runs.job import BY_CHUNK, Job, depends_on_chunks
from dataflows.runs.survey import Ends, decoded_mapping, forecast
from dataflows.transforms.chain import Chain
from dataflows.transforms.mapping import BoundMapping
from penstock.clock import now
from penstock.errors import Refused
from penstock.models.sets import DATABASES
from penstock.models.traits import traits

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Sides"]

ONE_SPLIT: Final = 1 << 50
"""Rows of a split larger than any table."""
ALL_ROWS: Final = Window(None, None)
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(slots=True)
class Sides:
    """Both sides, and how their rows are made comparable: `names` are the columns compared, `key` those that match.

    With `since`, a value of the cursor, only rows from there on are read.
    """

    job: Job
    ends: Ends
    mapping: BoundMapping
    chain: Chain
    table: Table
    written: Table
    names: tuple[str, ...]
    key: tuple[str, ...]
    position: str | None
    told: Callable[[int], None]
    lacking: tuple[str, ...] = ()
    """Columns that the target does not have."""
    since: str | None = None
    refused: int = 0
    read: int = 0

    @classmethod
    def of(cls, job: Job, ends: Ends, told: Callable[[int], None], since: str | None = None) -> Sides:
        """Look at both sides; `told` learns how many rows were read so far.

        Raises:
            Refused: nothing was loaded yet, one of the sides cannot be read back, or `since` has no meaning here.
        """
        if job.changes and job.write == "append":
            what, where = "a log of changes is not comparable to its table", f"{job.pipeline}: spec.sink.write"
            raise Refused(what, where=where, hint="compare a pipeline that writes by merge or scd2")
        if not _has_loaded(ends.target.state):
            hint = f"penstock run {quote(job.pipeline)}"
            raise Refused("nothing was loaded yet, so there is nothing to compare", where=job.pipeline, hint=hint)
        if depends_on_chunks(job.spec):
            hint = "deduplicate by all columns of the key, or compare what comes before the step"
            raise Refused(BY_CHUNK, where=f"{job.pipeline}: spec.transforms", hint=hint)
        surveyed = forecast(job, ends, known=True).survey
        mapping = _of_rows(decoded_mapping(job, surveyed))
        if not isinstance(mapping.chain, Chain):
            hint = "compare what comes before the step"
            what = "rows of a step that remembers others cannot be made again"
            raise Refused(what, where=f"{job.pipeline}: spec.transforms", hint=hint)
        with closing(_readable(job.sink)) as back:
            written = back.describe()
        there = {one.name for one in written.columns}
        names = tuple(one.name for one in mapping.columns if one.name in there and one.name not in HISTORY)
        if not names:
            hint = "is it the table that the pipeline has written? "
            hint += f"`penstock plan {quote(job.pipeline)}` says what it needs"
            raise Refused("the target has none of the columns that the pipeline writes", where=job.at_sink, hint=hint)
        keys = [job.spec.sink.key, *(key for key in written.keys if not set(key) & set(HISTORY))]
        key = next((tuple(one) for one in keys if one and set(one) <= set(names)), ())
        position = ends.target.state.loaded().position if job.cursor else None
        unwritten = {*there, *HISTORY, job.spec.sink.delete}
        lacking = tuple(one.name for one in mapping.columns if one.name not in unwritten)
        found = cls(job, ends, mapping, mapping.chain, surveyed.source, written, names, key, position, told, lacking)
        if since is not None:
            found.since = since
            found.since = found.since_value(since)
            found.target_window()  # refused before anything is read
        return found

    def source_window(self, upto: str | None = None, *, every: bool = False) -> tuple[Window, Column | None]:
        """Return the rows of the source that are read, and the column whose ranges they are; None = the split key."""
        if (self.since is None or every) and upto is None:
            return ALL_ROWS, None
        lower = None if every or self.since is None else since(self.since, self.cursor, self._where)
        return Window(lower, upto), self.cursor

    def target_window(self) -> tuple[Window, Column | None]:
        """Return the rows of the target that are read, and the column whose ranges they are.

        Raises:
            Refused: the target does not have the cursor's values, or cannot be read by them.
        """
        if self.since is None:
            return ALL_ROWS, None
        name = self.mapping.unchanged(self.job.cursor or "")
        column = self.written.column(name) if name is not None else None
        if column is None or parse_type(column.type).name != parse_type(self.cursor.type).name:
            what = f"the target does not have the values of `{self.job.cursor}` as they are"
            raise Refused(what, where=self._where, hint="leave it out: all rows are compared")
        if self.job.sink.settings.type not in DATABASES:
            what = f"rows of a connection of type {self.job.sink.settings.type} cannot be found by their cursor"
            raise Refused(what, where=self._where, hint="leave it out: all rows are compared")
        return Window(since(self.since, column, self._where), None), column

    @property
    def _where(self) -> str:
        return f"{self.job.pipeline}: --since"

    @property
    def cursor(self) -> Column:
        """The cursor's column at the source.

        Raises:
            Refused: the pipeline has none.
        """
        cursor = self.table.column(self.job.cursor or "")
        if cursor is None:
            what = "the pipeline has no cursor, so nothing shows which rows are newer"
            raise Refused(what, where=self._where, hint="leave it out: all rows are compared")
        return cursor

    def since_value(self, text: str) -> str:
        """Return the value of the cursor that `text` is, or that it was so long ago (``90m``, ``7d``).

        Raises:
            Refused: the pipeline has no cursor, or one without windows, or it is no value of the cursor.
        """
        found = re.fullmatch(r"(\d+)([smhd])", text)
        if found is not None:
            try:
                ago = timedelta(**{UNITS[found[2]]: int(found[1])})
                at = now() - ago
            except (OverflowError, ValueError):
                raise Refused("no time is so long ago", where=self._where, value=text, hint="write 7d") from None
            source, zone = self.ends.source, self.job.rule.timezone
            has_zone = parse_type(self.cursor.type).name == "timestamp with time zone"
            if zone is None and not has_zone and isinstance(source, Zoned):
                at += source.min_ahead(self.table, self.cursor, CursorRule(max(ago, timedelta(seconds=1))))
            text = time_text(at, self.cursor, zone, self._where)
        since(text, self.cursor, self._where)
        return text

    def source(self, upto: str | None = None, *, every: bool = False) -> Iterator[pl.DataFrame]:
        """Yield the rows that the target should have; with `upto`, those of a cursor up to there.

        With `every` also those before `since`.
        """
        self.refused = 0
        for batch in self.source_batches(self._count_refused, *self.source_window(upto, every=every)):
            made, refused, _ = self.chain.apply(batch)
            self._count_refused(0 if refused is None else refused.num_rows)
            yield self.written_rows(made, self.names)

    @property
    def by_cursor(self) -> bool:
        """True if the next run reads what is above the position; every row, if no run has read one yet."""
        return self.job.cursor is not None and self.job.continued

    def committed(self, *, every: bool = False) -> Iterator[pl.DataFrame]:
        """Yield the rows of the source that runs have read, up to the cursor's position."""
        return iter(()) if self.position is None else self.source(self.position, every=every)

    def _count_refused(self, rows: int) -> None:
        self.refused += rows

    def written_rows(self, made: pa.RecordBatch, names: Sequence[str]) -> pl.DataFrame:
        """Return these columns of the target of rows that the steps have made, without those they flag as deleted."""
        import polars as pl

        columns = [one.name for one in self.mapping.columns]
        frame = pl.DataFrame(pl.from_arrow(pa.RecordBatch.from_arrays(made.columns, names=columns)))
        if (column := self.job.spec.sink.delete) is not None and column in frame.columns:
            frame = frame.filter(~pl.col(column).fill_null(value=False))
        return self.canonical(frame.select(names))

    def target(self, *, every: bool = False) -> Iterator[pl.DataFrame]:
        """Yield the target's rows: of a history, the current ones; none that is marked as deleted.

        With `every` also those before `since`.
        """
        import polars as pl

        historic, mark = self.job.write == "scd2", self.job.mark
        mark = mark if mark is not None and self.written.column(mark) is not None else None
        names = (*self.names, *(("is_current",) if historic else ()), *((mark,) if mark else ()))
        window = (ALL_ROWS, None) if every else self.target_window()
        for batch in self.target_batches(names, lambda _: None, *window):
            frame = pl.DataFrame(pl.from_arrow(batch))
            frame = frame.filter("is_current") if historic else frame
            yield self.canonical((frame.filter(pl.col(mark).is_null()) if mark else frame).select(self.names))

    def source_batches(
        self,
        refused: Callable[[int], None],
        window: Window = ALL_ROWS,
        cursor: Column | None = None,
        *,
        at_once: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows of the source that the steps take; `refused` learns how many of them cannot be read.

        With `at_once` one statement reads them, which sees all of them at one point in time.
        """
        schema = self.mapping.schema
        assert schema is not None  # noqa: S101 - decoded rows have one
        return self._batches(self.job.source, self.table, schema, refused, window, cursor, at_once=at_once)

    def target_batches(
        self,
        names: Sequence[str],
        refused: Callable[[int], None],
        window: Window = ALL_ROWS,
        column: Column | None = None,
        *,
        at_once: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Yield these columns of the target's rows, as `source_batches` does."""
        kinds = {one.name: arrow_type(parse_type(one.type)) or pa.string() for one in self.written.columns}
        schema = pa.schema([(name, kinds[name]) for name in names])
        return self._batches(self.job.sink, self.written, schema, refused, window, column, at_once=at_once)

    def _batches(
        self,
        place: Place,
        table: Table,
        schema: pa.Schema,
        refused: Callable[[int], None],
        window: Window,
        column: Column | None,
        *,
        at_once: bool,
    ) -> Iterator[pa.RecordBatch]:
        rows = ONE_SPLIT if at_once else self.job.split_rows
        with closing(_readable(place)) as source:
            key = column or source.split_key(table)
            order = ReadOrder(table, tuple(schema.names), key, schema, self.job.batch_rows, lambda: None)
            with closing(source.reader(order)) as reader:
                for split in source.plan(table, key, window, rows, 0):
                    for chunk in reader.read("check", split):
                        if chunk.refused is not None:
                            refused(chunk.refused.num_rows)
                        if isinstance(chunk.data, pa.RecordBatch):
                            self.read += chunk.data.num_rows
                            self.told(self.read)
                            yield chunk.data

    def canonical(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Give equal values one form: numbers without trailing zeros, JSON with sorted keys, no trailing blanks."""
        kinds = {one.name: parse_type(one.type) for one in self.mapping.columns}
        return frame.with_columns(_in_one_form(frame[name], kinds[name].name) for name in frame.columns)


def _has_loaded(state: State) -> bool:
    """True if a run of this pipeline has ended or committed; others may keep their state in the same place."""
    if not state.exists():
        return False
    if state.finished() is not None or state.loaded().write is not None:
        return True
    return isinstance(state, StreamState) and bool(state.positions())


def _of_rows(mapping: BoundMapping) -> BoundMapping:
    """Return the mapping of changes as one of the table's rows, which do not say what they do."""
    said = {CHANGE, COMMITTED}
    chain, schema = mapping.chain, mapping.schema
    if not isinstance(chain, Chain) or schema is None or CHANGE not in schema.names:
        return mapping
    outputs = tuple(one for one in chain.output_columns if one.target.name not in said)
    return replace(
        mapping,
        targets=tuple(name for name in mapping.targets if name not in said),
        reads=tuple(name for name in mapping.reads if name not in said),
        schema=pa.schema([one for one in schema if one.name not in said]),
        columns=tuple(one for one in mapping.columns if one.name not in said),
        chain=replace(chain, output_columns=outputs, change=None),
    )


def _readable(place: Place) -> Source:
    """Open one side to read all of its rows.

    Raises:
        Refused: rows of such a system cannot be read back.
    """
    if traits(place.settings).only_streams:
        what = f"rows of a connection of type {place.settings.type} cannot be read back"
        raise Refused(what, where=place.where, hint="compare the numbers in `penstock status`")
    return open_source(replace(place, stream=None))


def _in_one_form(values: pl.Series, kind: str) -> pl.Series:
    import polars as pl

    if kind in {"json", "jsonb"}:
        return values.map_elements(_one_json, return_dtype=pl.String)
    if kind == "character":
        return values.str.strip_chars_end(" ")
    if kind == "numeric":
        texts = values.cast(pl.String)
        return texts.str.replace(r"(\.[0-9]*?)0+$", "$1").str.strip_suffix(".")
    return values


def _one_json(text: str) -> str:
    """Return one text for equal values; what is no JSON, as others may have written it, is compared as it is."""
    try:
        return json.dumps(json.loads(text, parse_float=_number, parse_int=_number), sort_keys=True)
    except (ValueError, RecursionError):
        return text


def _number(text: str) -> str:
    """Return one text for equal numbers, with all their digits; no text within JSON is like it but by intent."""
    exact = Context(prec=len(text), Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
    found = Decimal(text, exact).normalize(exact)
    return f"\0number {found if found.is_finite() else text}"
