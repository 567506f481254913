"""Comparison of both sides of a pipeline: do the source's rows, mapped as the pipeline maps them, equal the target's?

Both sides are read once, and each row falls into one of 65,536 buckets by a hash of its key; of each bucket only the
number of rows and a sum of their hashes is kept. The rows of buckets that differ are then looked at by key, twice: what
does not differ in the same way both times is still on its way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from dataflows.connectors.contract import Place, ReadOrder, Source
from dataflows.connectors.history import HISTORY
from dataflows.connectors.registry import open_source
from dataflows.connectors.state import State, StreamState
from dataflows.data.changes import CHANGE
from dataflows.data.cursors import Window
from dataflows.data.tables import Table
from dataflows.data.types import arrow_type, parse_type
from dataflows.runs.job import Job
from dataflows.runs.survey import Ends, decoded_mapping, forecast
from dataflows.transforms.chain import Chain
from dataflows.transforms.mapping import BoundMapping
from penstock.errors import BadData, Refused

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Comparison", "Difference", "compare"]

BUCKETS: Final = 1 << 16
MAX_ROWS: Final = 200_000
"""Rows of differing buckets that are kept in memory, of each side; with more, only their number is told."""
SHOWN: Final = 100
WAIT_SECONDS: Final = 2.0
"""Seconds between the two looks at what differs."""
_HASH: Final = "_penstock_hash"
_OTHER: Final = "_penstock_other"


@dataclass(frozen=True, slots=True)
class Difference:
    """A key whose rows differ: `missing` in the target, `extra` there, or `changed`, in these columns."""

    kind: str
    key: dict[str, Any]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result; `position` is up to where a cursor was compared, `in_flight` the keys that the next run will mend."""

    pipeline: str
    source_rows: int
    target_rows: int
    missing: int = 0
    extra: int = 0
    changed: int = 0
    in_flight: int = 0
    refused: int = 0
    """Rows of the source that the pipeline's steps refuse."""
    position: str | None = None
    key: tuple[str, ...] = ()
    """Columns by which rows were matched; empty = by all of them."""
    differences: tuple[Difference, ...] = ()
    """The first of them."""
    run: str | None = None
    """The last run that has ended."""
    not_compared: tuple[str, ...] = ()
    """Columns that the pipeline writes and the target does not have."""
    counted_only: bool = False
    """True if so much differs that only the numbers of rows were compared."""

    @property
    def agree(self) -> bool:
        """True if nothing differs but what is on its way."""
        return not (self.missing or self.extra or self.changed or self.counted_only)


@dataclass(slots=True)
class _Sums:
    """Number of rows and sum of their hashes, by bucket."""

    rows: Any = field(default_factory=lambda: np.zeros(BUCKETS, np.int64))
    sums: Any = field(default_factory=lambda: np.zeros(BUCKETS, np.uint64))

    def add(self, buckets: Any, hashes: Any) -> None:
        self.rows += np.bincount(buckets, minlength=BUCKETS)
        np.add.at(self.sums, buckets, hashes)  # wraps around, on both sides alike

    def differing(self, other: _Sums) -> Any:
        """Return for each bucket whether it differs."""
        return (self.rows != other.rows) | (self.sums != other.sums)


def compare(
    job: Job, ends: Ends, told: Callable[[int], None] = lambda _: None, *, wait: float = WAIT_SECONDS
) -> Comparison:
    """Compare both sides; `told` learns how many rows were read so far.

    Raises:
        Refused: nothing was loaded yet, or one of the sides cannot be read back.
        PenstockError: what would refuse a run, or end it.
    """
    sides, last = _Sides.of(job, ends, told), ends.target.state.finished()
    first, second = _Sums(), _Sums()
    for frame in sides.source():
        first.add(*sides.hashed(frame))
    for frame in sides.target():
        second.add(*sides.hashed(frame))
    found = Comparison(
        job.pipeline,
        int(first.rows.sum()),
        int(second.rows.sum()),
        refused=sides.refused,
        position=sides.position,
        key=sides.key,
        not_compared=sides.lacking,
        run=last.run if last is not None else None,
    )
    differing = first.differing(second)
    if not differing.any():
        return found
    if int(max(first.rows[differing].sum(), second.rows[differing].sum())) > MAX_ROWS:
        return replace(found, counted_only=True)
    before = sides.detail(differing)
    time.sleep(wait)
    after = sides.detail(differing)
    return _result(replace(found, in_flight=sides.on_its_way), before, after)


def _result(found: Comparison, before: _Detail, after: _Detail) -> Comparison:
    """Return the differences that both looks show in the same way."""
    lasting = {key: one for key, one in after.items() if before.get(key, (None,))[0] == one[0]}
    kinds = [one[1].kind for one in lasting.values()]
    shown = sorted((one[1] for one in lasting.values()), key=lambda one: (one.kind, str(one.key)))
    return replace(
        found,
        missing=kinds.count("missing"),
        extra=kinds.count("extra"),
        changed=kinds.count("changed"),
        in_flight=found.in_flight + len(before.keys() | after.keys()) - len(lasting),
        differences=tuple(shown[:SHOWN]),
    )


_Detail = dict[str, tuple[Any, Difference]]


@dataclass(slots=True)
class _Sides:
    """Both sides, and how their rows are made comparable: `names` are the columns compared, `key` those that match."""

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
    refused: int = 0
    read: int = 0
    on_its_way: int = 0
    """Keys above the cursor's position, when `detail` last looked."""

    @classmethod
    def of(cls, job: Job, ends: Ends, told: Callable[[int], None]) -> _Sides:
        if not _has_loaded(ends.target.state):
            hint = f"penstock run {job.pipeline}"
            raise Refused("nothing was loaded yet, so there is nothing to compare", where=job.pipeline, hint=hint)
        surveyed = forecast(job, ends, known=True).survey
        mapping = decoded_mapping(job, surveyed)
        if not isinstance(mapping.chain, Chain):
            hint = "compare what comes before the step"
            what = "rows of a step that remembers others cannot be made again"
            raise Refused(what, where=f"{job.pipeline}: spec.transforms", hint=hint)
        with closing(_readable(job.sink)) as back:
            written = back.describe()
        there = {one.name for one in written.columns}
        names = tuple(one.name for one in mapping.columns if one.name in there and one.name not in HISTORY)
        if not names:
            hint = f"is it the table that the pipeline has written? `penstock plan {job.pipeline}` says what it needs"
            raise Refused("the target has none of the columns that the pipeline writes", where=job.at_sink, hint=hint)
        keys = [job.spec.sink.key, *(key for key in written.keys if not set(key) & set(HISTORY))]
        key = next((tuple(one) for one in keys if one and set(one) <= set(names)), ())
        position = ends.target.state.loaded().position if job.cursor else None
        unwritten = {*there, *HISTORY, CHANGE, job.spec.sink.delete}
        lacking = tuple(one.name for one in mapping.columns if one.name not in unwritten)
        return cls(job, ends, mapping, mapping.chain, surveyed.source, written, names, key, position, told, lacking)

    def source(self, upto: str | None = None) -> Iterator[pl.DataFrame]:
        """Yield the rows that the target should have; with `upto`, those of a cursor up to there."""
        with closing(_readable(self.job.source)) as source:
            cursor = self.table.column(self.job.cursor or "") if upto is not None else None
            key = cursor or source.split_key(self.table)
            schema = self.mapping.schema
            assert schema is not None  # noqa: S101 - decoded rows have one
            self.refused = 0
            for batch in self._read(source, self.table, key, schema, Window(None, upto), self._count_refused):
                made, refused, _ = self.chain.apply(batch)
                self._count_refused(0 if refused is None else refused.num_rows)
                names = [one.name for one in self.mapping.columns]
                yield self._without_deleted(pa.RecordBatch.from_arrays(made.columns, names=names))

    def _count_refused(self, rows: int) -> None:
        self.refused += rows

    def _without_deleted(self, made: pa.RecordBatch) -> pl.DataFrame:
        import polars as pl

        frame = pl.DataFrame(pl.from_arrow(made))
        if (column := self.job.spec.sink.delete) is not None and column in frame.columns:
            frame = frame.filter(~pl.col(column).fill_null(value=False))
        return self._canonical(frame.select(self.names))

    def target(self) -> Iterator[pl.DataFrame]:
        """Yield the target's rows: of a history, the current ones."""
        import polars as pl

        historic = self.job.write == "scd2"
        names = (*self.names, *(("is_current",) if historic else ()))
        kinds = {one.name: arrow_type(parse_type(one.type)) or pa.string() for one in self.written.columns}
        schema = pa.schema([(name, kinds[name]) for name in names])
        with closing(_readable(self.job.sink)) as source:
            key = source.split_key(self.written)
            for batch in self._read(source, self.written, key, schema, Window(None, None), lambda _: None):
                frame = pl.DataFrame(pl.from_arrow(batch))
                yield self._canonical((frame.filter("is_current") if historic else frame).select(self.names))

    def _read(
        self,
        source: Source,
        table: Table,
        key: Any,
        schema: pa.Schema,
        window: Window,
        refused: Callable[[int], None],
    ) -> Iterator[pa.RecordBatch]:
        order = ReadOrder(table, tuple(schema.names), key, schema, self.job.batch_rows, lambda: None)
        with closing(source.reader(order)) as reader:
            for split in source.plan(table, key, window, self.job.split_rows, 0):
                for chunk in reader.read("check", split):
                    if chunk.refused is not None:
                        refused(chunk.refused.num_rows)
                    if isinstance(chunk.data, pa.RecordBatch):
                        self.read += chunk.data.num_rows
                        self.told(self.read)
                        yield chunk.data

    def _canonical(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Give equal values one form: numbers without trailing zeros, JSON with sorted keys, no trailing blanks."""
        kinds = {one.name: parse_type(one.type) for one in self.mapping.columns}
        return frame.with_columns(_in_one_form(frame[name], kinds[name].name) for name in frame.columns)

    def hashed(self, frame: pl.DataFrame) -> tuple[Any, Any]:
        """Return the bucket of each row, and the hash of the row."""
        hashes = frame.hash_rows(1).to_numpy()
        keys = frame.select(self.key).hash_rows(2).to_numpy() if self.key else hashes
        return (keys % np.uint64(BUCKETS)).astype(np.int64), hashes

    def detail(self, differing: Any) -> _Detail:
        """Return what differs among the rows of these buckets, by key, with a fingerprint of both sides."""
        import polars as pl

        first = self._kept(self.source(), differing)
        second = _like(self._kept(self.target(), differing), first)
        first, by = _like(first, second), list(self.key or self.names)
        both = first.join(second, on=by, how="full", nulls_equal=True, coalesce=True, suffix=_OTHER)
        both = both.filter(pl.col(_HASH).ne_missing(pl.col(_HASH + _OTHER)))
        if self.position is not None:
            height = both.height
            both = both.join(self._on_its_way(first, differing, by), on=by, how="anti", nulls_equal=True)
            self.on_its_way = height - both.height
        return {str([row[name] for name in by]): self._difference(row, by) for row in both.iter_rows(named=True)}

    def _on_its_way(self, every: pl.DataFrame, differing: Any, by: list[str]) -> pl.DataFrame:
        """Return the keys of rows above the cursor's position."""
        import polars as pl

        within = _like(self._kept(self.source(self.position), differing), every)
        both = every.join(within, on=by, how="left", nulls_equal=True, suffix=_OTHER)
        return both.filter(pl.col(_HASH).ne_missing(pl.col(_HASH + _OTHER))).select(by)

    def _kept(self, frames: Iterator[pl.DataFrame], differing: Any) -> pl.DataFrame:
        """Return the rows of these buckets, one for each key, with a hash over all rows of the key.

        Raises:
            BadData: there are too many of them by now.
        """
        import polars as pl

        kept, count = [], 0
        for frame in frames:
            buckets, hashes = self.hashed(frame)
            chosen = frame.with_columns(pl.Series(_HASH, hashes)).filter(differing[buckets])
            kept.append(chosen)
            if (count := count + chosen.height) > 2 * MAX_ROWS:
                raise BadData("more changes now than can be compared", where=self.job.pipeline, hint="check it later")
        by = list(self.key or self.names)
        rest = [name for name in self.names if name not in by]
        if not kept:
            return pl.DataFrame(schema=dict.fromkeys((*by, *rest), pl.Null) | {_HASH: pl.UInt64})
        whole = pl.concat(kept, how="vertical_relaxed")
        return whole.group_by(by).agg(*(pl.col(name).last() for name in rest), pl.col(_HASH).sum() + pl.len())

    def _difference(self, row: dict[str, Any], by: list[str]) -> tuple[Any, Difference]:
        key = {name: row[name] for name in by}
        prints = (row[_HASH], row[_HASH + _OTHER])
        if row[_HASH] is None or row[_HASH + _OTHER] is None:
            return prints, Difference("extra" if row[_HASH] is None else "missing", key)
        columns = tuple(name for name in self.names if name not in by and row[name] != row[name + _OTHER])
        return prints, Difference("changed", key, columns)


def _like(rows: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Return the rows; if there are none, of which the types may be unknown, none with the types of the other ones."""
    return other.clear() if rows.is_empty() else rows


def _has_loaded(state: State) -> bool:
    """True if a run of this pipeline has ended or committed; others may keep their state in the same place."""
    if not state.exists():
        return False
    if state.finished() is not None or state.loaded().write is not None:
        return True
    return isinstance(state, StreamState) and bool(state.positions())


def _readable(place: Place) -> Source:
    """Open one side to read all of its rows.

    Raises:
        Refused: rows of such a system cannot be read back.
    """
    if getattr(place.settings, "only_streams", False):
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
