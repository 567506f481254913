"""Windows of event time over a stream: a row for each window and key, made once, when the watermark passes its end.

Windows that follow each other or overlap are made of panes: times from a multiple of `every` up to the next one. A row
is in all windows of its pane, or in none: once the first of them is over, it is late. Sessions are runs of rows of a
key in which each follows the one before in less than `gap`; a row is late if a session of it alone would be over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl
import pyarrow as pa

from dataflows.data.state import StateChange
from dataflows.data.types import SqlType, arrow_type
from dataflows.transforms.aggregates import Aggregate
from dataflows.transforms.remembering import Aside, Memory, Passed, Rows, latest, newest, shown
from dataflows.transforms.values import arrow_of

__all__ = ["Panes", "Sessions", "Windows"]


class Shape(Protocol):
    """The kind of windows; frames have the columns of the key, `start`, `end` and the partial results."""

    @property
    def identity(self) -> tuple[str, ...]:
        """Columns whose rows a change of the state replaces together, besides the key."""

    def late(self, watermark: int) -> pl.Expr:
        """Return the condition for rows whose windows are over."""

    def grouped(self, rows: pl.DataFrame, keys: Sequence[str], aggregates: Sequence[Aggregate]) -> pl.DataFrame:
        """Return the rows of a chunk as a state of their own."""

    def merged(self, state: pl.DataFrame, keys: Sequence[str], aggregates: Sequence[Aggregate]) -> pl.DataFrame:
        """Return the state with what belongs together made one."""

    def closed(
        self, state: pl.DataFrame, keys: Sequence[str], aggregates: Sequence[Aggregate], since: int | None, upto: int
    ) -> pl.DataFrame:
        """Return the windows that end after `since` and not after `upto`."""

    def needed(self, watermark: int) -> pl.Expr:
        """Return the condition for state that windows which are not over need."""


def _all(aggregates: Sequence[Aggregate], *, partial: bool) -> list[pl.Expr]:
    return [one for each in aggregates for one in (each.partials() if partial else each.merged())]


@dataclass(frozen=True, slots=True)
class Panes:
    """Windows of `size` that begin at each multiple of `every`, in microseconds since 1970 in UTC."""

    every: int
    size: int
    identity: tuple[str, ...] = ("start",)

    def late(self, watermark: int) -> pl.Expr:
        return pl.col("t") // self.every * self.every + self.every <= watermark

    def grouped(self, rows: pl.DataFrame, keys: Sequence[str], aggregates: Sequence[Aggregate]) -> pl.DataFrame:
        placed = rows.with_columns((pl.col("t") // self.every * self.every).alias("start"))
        return self._with_end(placed.group_by([*keys, "start"]).agg(_all(aggregates, partial=True)), self.every)

    def merged(self, state: pl.DataFrame, keys: Sequence[str], aggregates: Sequence[Aggregate]) -> pl.DataFrame:
        return state.group_by([*keys, "start", "end"]).agg(_all(aggregates, partial=False))

    def closed(
        self, state: pl.DataFrame, keys: Sequence[str], aggregates: Sequence[Aggregate], since: int | None, upto: int
    ) -> pl.DataFrame:
        ready = state.filter(pl.col("end") <= upto)
        if self.size == self.every:
            return ready
        shifts = range(0, self.size, self.every)
        placed = pl.concat([ready.with_columns(pl.col("start") - back) for back in shifts])
        over = pl.col("start") + self.size <= upto
        placed = placed.filter(over if since is None else over & (pl.col("start") + self.size > since))
        return self._with_end(placed.group_by([*keys, "start"]).agg(_all(aggregates, partial=False)), self.size)

    def needed(self, watermark: int) -> pl.Expr:
        return pl.col("start") + self.size > watermark

    def _with_end(self, frame: pl.DataFrame, length: int) -> pl.DataFrame:
        return frame.with_columns((pl.col("start") + length).alias("end"))


@dataclass(frozen=True, slots=True)
class Sessions:
    """Runs of rows less than `gap` apart, in microseconds; `end` is the time of the last row plus the gap."""

    gap: int
    identity: tuple[str, ...] = ()

    def late(self, watermark: int) -> pl.Expr:
        return pl.col("t") + self.gap <= watermark

    def grouped(self, rows: pl.DataFrame, keys: Sequence[str], aggregates: Sequence[Aggregate]) -> pl.DataFrame:
        begun = pl.col("start") - pl.col("start").shift(1).over(keys) >= self.gap
        placed = rows.with_columns(pl.col("t").alias("start")).sort([*keys, "start"])
        numbered = placed.with_columns(begun.fill_null(value=True).cum_sum().alias("_"))
        bounds = [pl.col("start").min(), (pl.col("start").max() + self.gap).alias("end")]
        return numbered.group_by([*keys, "_"]).agg(*bounds, *_all(aggregates, partial=True)).drop("_")

    def merged(self, state: pl.DataFrame, keys: Sequence[str], aggregates: Sequence[Aggregate]) -> pl.DataFrame:
        before = pl.col("end").cum_max().shift(1).over(keys)
        placed = state.sort([*keys, "start"])
        numbered = placed.with_columns((pl.col("start") >= before).fill_null(value=True).cum_sum().alias("_"))
        bounds = [pl.col("start").min(), pl.col("end").max()]
        return numbered.group_by([*keys, "_"]).agg(*bounds, *_all(aggregates, partial=False)).drop("_")

    def closed(
        self, state: pl.DataFrame, keys: Sequence[str], aggregates: Sequence[Aggregate], since: int | None, upto: int
    ) -> pl.DataFrame:
        return state.filter(pl.col("end") <= upto)

    def needed(self, watermark: int) -> pl.Expr:
        return pl.col("end") > watermark


@dataclass(slots=True)
class Windows:
    """The step. `keys` are its key columns by id, as names and types; `made` the columns of its rows, in order."""

    name: str
    shape: Shape
    rows: Rows
    keys: Mapping[str, tuple[str, SqlType]]
    aggregates: Sequence[Aggregate]
    made: Mapping[str, SqlType]
    memory: Memory
    where: str
    _state: pl.DataFrame | None = field(default=None, init=False)
    _changes: list[pl.DataFrame] = field(default_factory=list, init=False)
    _schema: dict[str, Any] | None = field(default=None, init=False)

    def __call__(self, batch: pa.RecordBatch) -> Passed:
        rows, aside = self.rows(batch)
        watermark, counted = self.memory.watermark, self.memory.counted
        times = newest(rows)
        if watermark.at is not None:
            over = rows.select(self.shape.late(watermark.at).alias("_"))["_"]
            if over.any():
                reason = f"its window was over: the watermark is {shown(watermark.at)}"
                aside.append(Aside(rows["row"].filter(over).to_list(), "late", reason))
                rows = rows.filter(~over)
        for one in aside:
            counted[one.code] = counted.get(one.code, 0) + len(one.rows)
        counted["rows"] = counted.get("rows", 0) + rows.height
        self._add(rows)
        self.memory.touched = True
        since = watermark.at
        watermark.advance(times)
        emitted, unfit = self._close(since, watermark.at)
        counted["windows"] = counted.get("windows", 0) + emitted.num_rows
        return Passed(emitted, None, aside, unfit)

    def _add(self, rows: pl.DataFrame) -> None:
        if self._state is None:
            self._state = self._empty
        if not rows.height:
            return
        keys = list(self.keys) or ["k"]
        rows = rows if self.keys else rows.with_columns(pl.lit(0, dtype=pl.Int8).alias("k"))
        new = self.shape.grouped(rows, keys, self.aggregates).select(self._empty.columns)
        same = [*keys, *self.shape.identity]
        wanted = new.select(same).unique()
        touched = self._state.join(wanted, on=same, how="semi", nulls_equal=True)
        if touched.height:
            self._state = self._state.join(wanted, on=same, how="anti", nulls_equal=True)
            new = self.shape.merged(pl.concat([touched, new]), keys, self.aggregates).select(self._empty.columns)
        self._state = pl.concat([self._state, new])
        self._changes.append(new)

    @property
    def _empty(self) -> pl.DataFrame:
        """A state without rows, whose columns have the types that grouping makes."""
        if self._schema is None:
            nothing = pa.RecordBatch.from_pylist([], schema=self._given)
            rows, _ = self.rows(nothing)
            rows = rows if self.keys else rows.with_columns(pl.lit(0, dtype=pl.Int8).alias("k"))
            keys = list(self.keys) or ["k"]
            made = self.shape.grouped(rows, keys, self.aggregates)
            partial = [name for name in made.columns if name not in {*keys, "start", "end"}]
            self._schema = dict(made.select([*keys, "start", "end", *partial]).schema)
        return pl.DataFrame(schema=self._schema)

    @property
    def _given(self) -> pa.Schema:
        kinds = {self.rows.time: pa.timestamp("us", "UTC")}
        kinds |= {name: arrow_type(kind) or pa.string() for name, kind in self.rows.columns.values()}
        return pa.schema(list(kinds.items()))

    def _close(self, since: int | None, upto: int | None) -> tuple[pa.RecordBatch, Sequence[int]]:
        state, keys = self._empty if self._state is None else self._state, list(self.keys) or ["k"]
        over = self._empty if upto is None else self.shape.closed(state, keys, self.aggregates, since, upto)
        if upto is not None:
            self._state = state.filter(self.shape.needed(upto))
        return self._made(over.sort(["start", *keys]))

    def _made(self, over: pl.DataFrame) -> tuple[pa.RecordBatch, Sequence[int]]:
        """Return finished windows as rows, and the numbers of those with a value that no column can hold."""
        arrays = [arrow_of(over[id_], kind, self.where) for id_, (_, kind) in self.keys.items()]
        arrays += [over["start"].to_arrow(), over["end"].to_arrow()]
        unfit: set[int] = set()
        for one in self.aggregates:
            values, wrong = one.values(over)
            arrays.append(values)
            unfit.update(wrong)
        kinds = [arrow_type(kind) for kind in self.made.values()]
        fitting = [array if array.type == kind else array.cast(kind) for array, kind in zip(arrays, kinds, strict=True)]
        return pa.RecordBatch.from_arrays(fitting, names=list(self.made)), sorted(unfit)

    def flush(self) -> Passed:
        batch, unfit = self._close(self.memory.watermark.at, 1 << 62)
        return Passed(batch, None, (), unfit)

    def change(self) -> StateChange | None:
        if not self.memory.touched:
            return None
        keys = list(self.keys) or ["k"]
        frames = list(enumerate(self._changes))
        delta = latest(frames, [*keys, *self.shape.identity], self._empty)
        if self.memory.watermark.at is not None:
            delta = delta.filter(self.shape.needed(self.memory.watermark.at))
        state = self._empty if self._state is None else self._state
        self._changes, self.memory.touched = [], False
        return self.memory.journal.change(delta, state, self.memory.rest())

    def load(self, pieces: Sequence[tuple[int, str]]) -> None:
        keys = list(self.keys) or ["k"]
        frame = self.memory.restored(pieces, self._empty.schema, [*keys, *self.shape.identity])
        at = self.memory.watermark.at
        self._state = frame if at is None else frame.filter(self.shape.needed(at))

    def counts(self) -> Mapping[str, int]:
        return {**self.memory.counted, "open": 0 if self._state is None else self._state.height}
