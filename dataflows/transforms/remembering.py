"""Protocol, event time and state of the steps that remember earlier rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import polars as pl
import pyarrow as pa

from dataflows.data.state import StateChange
from dataflows.data.types import SqlType
from dataflows.transforms.journal import Journal, read_piece
from dataflows.transforms.watermarks import Watermark
from penstock.clock import now
from penstock.errors import Refused

__all__ = [
    "PARTITION",
    "TOPIC",
    "Aside",
    "Memory",
    "Passed",
    "Rows",
    "StatefulStep",
    "keyed",
    "latest",
    "newest",
    "partitions_of",
    "shown",
]

TOPIC: Final = "_penstock_topic"
PARTITION: Final = "_penstock_partition"
"""Columns with the partition of each row, between the steps of a pipeline that remembers rows."""
FIRST_TIME: Final = -62_135_596_800_000_000
"""The year 1 in microseconds of Unix time; what lies before is none that a row can have."""
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Aside:
    """Rows of a chunk, by number, that a step sets aside as dead letters."""

    rows: Sequence[int]
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Passed:
    """Output of a step for one chunk. `rows` are the numbers of the rows that pass; None if it made new ones.

    `unfit` are the numbers of new rows with a value that their column cannot hold.
    """

    batch: pa.RecordBatch
    rows: pa.Array | None = None
    aside: Sequence[Aside] = ()
    unfit: Sequence[int] = ()


class StatefulStep(Protocol):
    """A step whose result depends on earlier rows; its state changes in the order of the chunks."""

    @property
    def name(self) -> str: ...

    @property
    def memory(self) -> Memory: ...

    def __call__(self, batch: pa.RecordBatch) -> Passed:
        """Take the rows of a chunk."""

    def flush(self) -> Passed | None:
        """Return what it would still make of the rows it has, as if the stream had ended; None if nothing ever."""

    def change(self) -> StateChange | None:
        """Return what has changed since the last call, for the commit of a split; None if nothing has."""

    def load(self, pieces: Sequence[tuple[int, str]]) -> None:
        """Restore the state from the pieces at the sink, each with the number of its split.

        Raises:
            Refused: they are of a step with another definition.
        """

    def counts(self) -> Mapping[str, int]:
        """Return what it shows of itself: what it has counted since the stream began, and what it remembers."""


@dataclass(slots=True)
class Memory:
    """Watermark, counters and journal of a step. `form` names its definition, without which its state means nothing."""

    step: str
    form: str
    where: str
    watermark: Watermark
    counted: dict[str, int]
    journal: Journal
    by_partition: bool = False
    """True if the partition of each row is known."""
    touched: bool = False

    def rest(self) -> dict[str, Any]:
        """Return what goes with the frames of the state."""
        return {
            "form": self.form,
            "watermark": self.watermark.at,
            "newest": self.watermark.newest,
            "counted": self.counted,
        }

    def restored(
        self, pieces: Sequence[tuple[int, str]], schema: Mapping[str, Any], identity: Sequence[str]
    ) -> pl.DataFrame:
        """Restore all but the frame, and return that.

        Raises:
            Refused: the state is of a step with another definition.
        """
        empty = pl.DataFrame(schema=dict(schema))
        if not pieces:
            return empty
        found = []
        for split, text in pieces:
            rest = _rest_of(text)
            if rest["form"] != self.form:
                hint = "restore its definition, or drop its state by `penstock run NAME --from … --reset`"
                what = f"step `{self.step}` has been changed, and still remembers rows by its earlier definition"
                raise Refused(what, where=self.where, hint=hint)
            found.append((split, read_piece(text, schema)[0]))
        self.watermark.at = rest["watermark"]
        self.watermark.newest.update(rest["newest"])
        self.counted.update(rest["counted"])
        self.journal.loaded([text for _, text in pieces])
        return latest(found, identity, empty)


def _rest_of(text: str) -> dict[str, Any]:
    return read_piece(text, {})[1]


def latest(frames: Sequence[tuple[int, pl.DataFrame]], identity: Sequence[str], empty: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of all frames; of each identity those of the frame with the greatest number only."""
    if len({number for number, _ in frames}) <= 1:
        return pl.concat([empty, *(frame for _, frame in frames)])
    whole = pl.concat(frame.with_columns(pl.lit(number, dtype=pl.Int64).alias("_")) for number, frame in frames)
    return whole.filter(pl.col("_") == pl.col("_").max().over(list(identity))).drop("_")


@dataclass(frozen=True, slots=True)
class Rows:
    """Reads the rows of a chunk: event time, partition, and the columns that the step uses, by their ids.

    `limit` is how much later than now an event may be. The frame has `row`, `t`, `part`, and a column for each id; a
    numeric is the integer of its digits.
    """

    time: str
    columns: Mapping[str, tuple[str, SqlType]]
    limit: timedelta
    now: Callable[[], datetime] = field(default=now)

    def __call__(self, batch: pa.RecordBatch) -> tuple[pl.DataFrame, list[Aside]]:
        """Return the rows with a time, and those that are set aside for theirs."""
        names = {name: name for name, _ in self.columns.values()}
        read: Any = pl.from_arrow(batch.select([self.time, *(one for one in names if one != self.time)]))
        wanted = [_physical(name, kind).alias(id_) for id_, (name, kind) in self.columns.items()]
        frame = read.select(
            pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"),
            pl.col(self.time).to_physical().cast(pl.Int64).alias("t"),
            *wanted,
        ).with_columns(_partitions(batch))
        aside = []
        limit = (self.now() + self.limit - EPOCH) // MICROSECOND
        for code, bad, reason in (
            ("no_time", pl.col("t").is_null() | (pl.col("t") < FIRST_TIME), "it has no time of an event"),
            ("ahead", pl.col("t") > limit, "its time lies too far in the future"),
        ):
            wrong = frame.select(bad.alias("_"))["_"]
            if wrong.any():
                aside.append(Aside(frame["row"].filter(wrong).to_list(), code, f"`{self.time}`: {reason}"))
                frame = frame.filter(~wrong)
        return frame, aside


def keyed(kind: SqlType) -> bool:
    """Return True if values of this type can be a key: equal ones are alike."""
    return kind.name in _KEYS and not (kind.name == "numeric" and kind.precision is None)


_KEYS: Final = {
    "smallint", "integer", "bigint", "numeric", "text", "character varying", "character", "boolean", "date", "uuid",
    "label", "timestamp without time zone", "timestamp with time zone",
}  # fmt: skip


def _physical(name: str, kind: SqlType) -> pl.Expr:
    return pl.col(name).to_physical() if kind.name == "numeric" else pl.col(name)


def _partitions(batch: pa.RecordBatch) -> pl.Series:
    if PARTITION not in batch.schema.names:
        return pl.repeat("", batch.num_rows, dtype=pl.String, eager=True).alias("part")
    return partitions_of(batch, (TOPIC, PARTITION))


def partitions_of(batch: pa.RecordBatch, columns: Sequence[str]) -> pl.Series:
    """Return the name of each row's partition, which `columns` are the parts of."""
    frame: Any = pl.from_arrow(batch.select(list(columns)))
    series: pl.Series = frame.select(pl.concat_str(list(columns), separator="/").alias("part"))["part"]
    return series


def newest(rows: pl.DataFrame) -> dict[str, int]:
    """Return the newest event time of each partition."""
    found = rows.group_by("part").agg(pl.col("t").max())
    return dict(zip(found["part"].to_list(), found["t"].to_list(), strict=True))


def shown(at: int | None) -> str | None:
    """Return a time for people; None if no date has it."""
    try:
        return None if at is None else (EPOCH + at * MICROSECOND).isoformat()
    except OverflowError:
        return None
