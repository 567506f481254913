"""Deduplication of a stream: a row passes if no row with its key has passed whose event time is near to its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from dataflows.data.state import StateChange
from dataflows.data.types import SqlType, arrow_type
from dataflows.transforms.remembering import Aside, Memory, Passed, Rows, newest, shown

__all__ = ["Deduplication"]


@dataclass(slots=True)
class Deduplication:
    """The step. It remembers key and time of rows that passed, as long as later rows may be near to them."""

    name: str
    within: int
    rows: Rows
    keys: Mapping[str, tuple[str, SqlType]]
    memory: Memory
    _state: pl.DataFrame | None = field(default=None, init=False)
    _changes: list[pl.DataFrame] = field(default_factory=list, init=False)

    def __call__(self, batch: pa.RecordBatch) -> Passed:
        rows, aside = self.rows(batch)
        watermark, counted = self.memory.watermark, self.memory.counted
        times = newest(rows)
        if watermark.at is not None:
            old = rows["t"] < watermark.at
            if old.any():
                reason = f"it is too old to know what came before: the watermark is {shown(watermark.at)}"
                aside.append(Aside(rows["row"].filter(old).to_list(), "late", reason))
                rows = rows.filter(~old)
        for one in aside:
            counted[one.code] = counted.get(one.code, 0) + len(one.rows)
        kept = self._kept(rows)
        counted["deduplicated"] = counted.get("deduplicated", 0) + rows.height - kept.height
        new = kept.select([*self.keys, "t"])
        self._state = pl.concat([self._known, new])
        self._changes.append(new)
        self.memory.touched = True
        watermark.advance(times)
        self._forget()
        passing = kept["row"].sort().to_arrow()
        return Passed(batch.take(passing), passing, aside)

    def _kept(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that pass, by the order in which they came."""
        left = self._apart(rows, self._known)
        kept = []
        while left.height:
            first = left.unique(list(self.keys), keep="first", maintain_order=True)
            kept.append(first)
            left = left.clear() if first.height == left.height else self._apart(left, first)
        return pl.concat(kept) if kept else left

    def _apart(self, rows: pl.DataFrame, from_: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that are near to none with the same key in `from_`, in order."""
        others = from_.select([*self.keys, pl.col("t").alias("other")])
        pairs = rows.select(["row", *self.keys, "t"]).join(others, on=list(self.keys), nulls_equal=True)
        near = pairs.filter((pl.col("t") - pl.col("other")).abs() < self.within)["row"].unique()
        return rows.filter(~pl.col("row").is_in(near.implode())) if near.len() else rows

    @property
    def _known(self) -> pl.DataFrame:
        return self._empty if self._state is None else self._state

    @property
    def _empty(self) -> pl.DataFrame:
        kinds = {self.rows.time: pa.timestamp("us", "UTC")}
        kinds |= {name: arrow_type(kind) or pa.string() for name, kind in self.keys.values()}
        frame, _ = self.rows(pa.RecordBatch.from_pylist([], schema=pa.schema(list(kinds.items()))))
        return frame.select([*self.keys, "t"])

    def _forget(self) -> None:
        if (at := self.memory.watermark.at) is not None:
            self._state = self._known.filter(self._needed(at))

    def _needed(self, watermark: int) -> pl.Expr:
        return pl.col("t") + self.within > watermark

    def flush(self) -> None:
        return None

    def change(self) -> StateChange | None:
        if not self.memory.touched:
            return None
        delta = pl.concat([self._empty, *self._changes])
        if (at := self.memory.watermark.at) is not None:
            delta = delta.filter(self._needed(at))
        self._changes, self.memory.touched = [], False
        return self.memory.journal.change(delta, self._known, self.memory.rest())

    def load(self, pieces: Sequence[tuple[int, str]]) -> None:
        self._state = self.memory.restored(pieces, self._empty.schema, [*self.keys, "t"])
        self._forget()

    def counts(self) -> Mapping[str, int]:
        return {**self.memory.counted, "remembered": self._known.height}
