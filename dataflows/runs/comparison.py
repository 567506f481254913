"""Comparison of both sides of a pipeline: do the source's rows, mapped as the pipeline maps them, equal the target's?

Both sides are read once, and each row falls into one of 65,536 buckets by a hash of its key; of each bucket only the
number of rows and a sum of their hashes is kept. The rows of buckets that differ are then looked at by key, twice: what
does not differ in the same way both times is still on its way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dataflows.connectors.state import RunRow
from dataflows.runs.job import Job
from dataflows.runs.sides import Sides
from dataflows.runs.survey import Ends
from penstock.errors import BadData

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Comparison", "Difference", "compare", "last_run"]

BUCKETS: Final = 1 << 16
MAX_ROWS: Final = 200_000
"""Rows of differing buckets that are kept in memory, of each side; of more, only a part is looked at."""
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
    since: str | None = None
    """Value of the cursor from which on rows were compared; None = all."""
    key: tuple[str, ...] = ()
    """Columns by which rows were matched; empty = by all of them."""
    differences: tuple[Difference, ...] = ()
    """The first of them."""
    run: str | None = None
    """The last run that has ended."""
    not_compared: tuple[str, ...] = ()
    """Columns that the pipeline writes and the target does not have."""
    partly: bool = False
    """True if so much differs that only a part of it was looked at: the numbers are those of this part."""

    @property
    def agree(self) -> bool:
        """True if nothing differs but what is on its way."""
        return not (self.missing or self.extra or self.changed or self.partly)


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
    job: Job,
    ends: Ends,
    told: Callable[[int], None] = lambda _: None,
    *,
    since: str | None = None,
    wait: float = WAIT_SECONDS,
) -> Comparison:
    """Compare both sides; `told` learns how many rows were read so far.

    With `since`, a value of the cursor or how long ago that was (``7d``), only rows from there on are compared,
    whichever side has them there.

    Raises:
        Refused: nothing was loaded yet, one of the sides cannot be read back, or there is no cursor.
        PenstockError: what would refuse a run, or end it.
    """
    sides, last = Sides.of(job, ends, told, since), ends.target.state.finished()
    look = _Look(sides)
    first, second = look.sums(sides.source()), look.sums(sides.target())
    found = Comparison(
        job.pipeline,
        int(first.rows.sum()),
        int(second.rows.sum()),
        refused=sides.refused,
        position=sides.position,
        since=sides.since,
        key=sides.key,
        not_compared=sides.lacking,
        run=last_run(last),
    )
    differing = first.differing(second)
    if not differing.any():
        return found
    if sides.by_cursor and _rows(first, second, differing) > MAX_ROWS:
        # Most of it may be rows that are new since the last run: those up to its position are compared alone.
        within = look.sums(sides.committed())
        found = replace(found, in_flight=int(first.rows.sum() - within.rows.sum()))
        first, differing = within, within.differing(second)
        if not differing.any():
            return found
    chosen = _chosen(first, second, differing)
    found = replace(found, partly=bool(chosen.sum() < differing.sum()))
    before = look.detail(chosen)
    time.sleep(wait)
    after = look.detail(chosen)
    return _result(replace(found, in_flight=max(found.in_flight, look.on_its_way)), before, after)


def last_run(last: RunRow | None) -> str | None:
    """Return the last run of what the sink recorded last: that may be a comparison of keys, which names the run."""
    return None if last is None else RunRow.noted(last, "run") or last.run


def _rows(first: _Sums, second: _Sums, buckets: Any) -> int:
    """Return the number of rows in these buckets, of the side that has more."""
    return int(max(first.rows[buckets].sum(), second.rows[buckets].sum()))


def _chosen(first: _Sums, second: _Sums, differing: Any) -> Any:
    """Return as many of the buckets that differ as may be looked at; one at least."""
    rows = np.where(differing, np.maximum(first.rows, second.rows), 0)
    return differing & ((np.cumsum(rows) <= MAX_ROWS) | (np.cumsum(differing) == 1))


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
class _Look:
    """One comparison under way."""

    sides: Sides
    on_its_way: int = 0
    """Keys above the cursor's position, when `detail` last looked."""

    def hashed(self, frame: pl.DataFrame) -> tuple[Any, Any]:
        """Return the bucket of each row, and the hash of the row."""
        hashes = frame.hash_rows(1).to_numpy()
        keys = frame.select(self.sides.key).hash_rows(2).to_numpy() if self.sides.key else hashes
        return (keys % np.uint64(BUCKETS)).astype(np.int64), hashes

    def sums(self, frames: Iterator[pl.DataFrame]) -> _Sums:
        """Return number and hashes of rows by bucket."""
        found = _Sums()
        for frame in frames:
            found.add(*self.hashed(frame))
        return found

    def detail(self, differing: Any) -> _Detail:
        """Return what differs among the rows of these buckets, by key, with a fingerprint of both sides."""
        import polars as pl

        sides, wanted = self.sides, None
        by = list(sides.key or sides.names)
        if sides.since is not None:
            parts = [self._kept(frames, differing).select(by) for frames in (sides.source(), sides.target())]
            parts = [_like(one, other) for one, other in zip(parts, reversed(parts), strict=True)]
            wanted = pl.concat(parts, how="vertical_relaxed").unique()
        first = self._kept(sides.source(every=True), differing, wanted)
        second = _like(self._kept(sides.target(every=True), differing, wanted), first)
        first = _like(first, second)
        both = first.join(second, on=by, how="full", nulls_equal=True, coalesce=True, suffix=_OTHER)
        both = both.filter(pl.col(_HASH).ne_missing(pl.col(_HASH + _OTHER)))
        if self.sides.by_cursor:
            height = both.height
            both = both.join(self._on_its_way(first, differing, by), on=by, how="anti", nulls_equal=True)
            self.on_its_way = height - both.height
        return {str([row[name] for name in by]): self._difference(row, by) for row in both.iter_rows(named=True)}

    def _on_its_way(self, every: pl.DataFrame, differing: Any, by: list[str]) -> pl.DataFrame:
        """Return the keys of rows above the cursor's position."""
        import polars as pl

        if self.sides.position is None:
            return every.select(by)
        within = _like(self._kept(self.sides.committed(every=True), differing), every)
        both = every.join(within, on=by, how="left", nulls_equal=True, suffix=_OTHER)
        return both.filter(pl.col(_HASH).ne_missing(pl.col(_HASH + _OTHER))).select(by)

    def _kept(self, frames: Iterator[pl.DataFrame], differing: Any, wanted: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return the rows of these buckets, of the `wanted` keys, one for each key, with a hash over all its rows.

        Raises:
            BadData: there are too many of them by now.
        """
        import polars as pl

        kept, count = [], 0
        for frame in frames:
            buckets, hashes = self.hashed(frame)
            chosen = frame.with_columns(pl.Series(_HASH, hashes)).filter(differing[buckets])
            if wanted is not None:
                chosen = chosen.join(wanted, on=wanted.columns, how="semi", nulls_equal=True)
            kept.append(chosen)
            if (count := count + chosen.height) > 2 * MAX_ROWS:
                where = self.sides.job.pipeline
                raise BadData("more changes now than can be compared", where=where, hint="check it later")
        by = list(self.sides.key or self.sides.names)
        rest = [name for name in self.sides.names if name not in by]
        if not kept:
            return pl.DataFrame(schema=dict.fromkeys((*by, *rest), pl.Null) | {_HASH: pl.UInt64})
        whole = pl.concat(kept, how="vertical_relaxed")
        return whole.group_by(by).agg(*(pl.col(name).last() for name in rest), pl.col(_HASH).sum() + pl.len())

    def _difference(self, row: dict[str, Any], by: list[str]) -> tuple[Any, Difference]:
        key = {name: row[name] for name in by}
        prints = (row[_HASH], row[_HASH + _OTHER])
        if row[_HASH] is None or row[_HASH + _OTHER] is None:
            return prints, Difference("extra" if row[_HASH] is None else "missing", key)
        columns = tuple(name for name in self.sides.names if name not in by and row[name] != row[name + _OTHER])
        return prints, Difference("changed", key, columns)


def _like(rows: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Return the rows; if there are none, of which the types may be unknown, none with the types of the other ones."""
    return other.clear() if rows.is_empty() else rows
