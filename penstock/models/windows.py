"""Steps that remember rows of earlier chunks, as users write them: windows by event time, and deduplication."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from penstock.models.base import Duration, Model
from penstock.models.columns import ColumnName, Columns

__all__ = ["MADE", "Deduplicate", "Window", "parse_aggregate"]

NO_TIME: Final = timedelta(0)
MADE: Final = ("window_start", "window_end")
"""Columns that each window has, besides its key and its aggregates."""
_AGGREGATE: Final = re.compile(r"\s*(count|sum|min|max|avg)\s*\(\s*(.+?)\s*\)\s*", re.IGNORECASE | re.DOTALL)


def parse_aggregate(text: str) -> tuple[str, str | None]:
    """Return the function of an aggregate, and its column; None if it counts rows."""
    if text.strip().lower() == "count":
        return "count", None
    found = _AGGREGATE.fullmatch(text)
    if found is None:
        message = f"is no aggregate: write count, count(a), sum(a), min(a), max(a) or avg(a), got {text!r}"
        raise ValueError(message)
    return found[1].lower(), found[2]


def _aggregate(text: str) -> str:
    parse_aggregate(text)
    return text


Aggregate = Annotated[str, Field(max_length=200), AfterValidator(_aggregate)]
Lasting = Annotated[Duration, Field(gt=NO_TIME)]


class Window(Model):
    """A row for each window of event time and each key `by`, once the window is over.

    `every` alone makes windows one after another; with `size`, a multiple of it, they overlap; `gap` makes a session of
    rows that follow each other in less than that. A window is over when each partition has had an event that is later
    than its end by `lateness`; partitions without new rows for `idle` are not waited for. Rows for windows that are
    over, without a time, or later than now by more than `ahead` become dead letters.
    """

    time: ColumnName
    every: Lasting | None = None
    size: Lasting | None = None
    gap: Lasting | None = None
    by: Columns = ()
    aggregates: dict[ColumnName, Aggregate] = Field(min_length=1)
    lateness: Annotated[Duration, Field(ge=NO_TIME)] = NO_TIME
    idle: Lasting = timedelta(minutes=1)
    ahead: Annotated[Duration, Field(ge=NO_TIME)] = timedelta(minutes=5)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.every is None) == (self.gap is None):
            message = "needs exactly one of `every` and `gap`"
            raise ValueError(message)
        if self.size is not None and (self.every is None or self.size % self.every):
            message = "`size` must be a multiple of `every`"
            raise ValueError(message)
        taken = [
            name
            for name in (*self.by, *self.aggregates)
            if name in MADE or (*self.by, *self.aggregates).count(name) > 1
        ]
        if taken:
            message = f"two columns would be named `{taken[0]}`"
            raise ValueError(message)
        return self


class Deduplicate(Model):
    """Keep one row of those with equal columns `by`, within a chunk; over a whole run use `write: merge`.

    With `within`, in a stream: keep a row only if no row with the same key was kept whose event `time` is nearer than
    that. Rows that come later than others by more than `lateness` (`within` if not set) become dead letters, since it
    is no longer known what came before; so do rows without a time, or later than now by more than `ahead`.
    """

    by: Columns
    keep: Literal["first", "last"] = "first"
    within: Lasting | None = None
    time: ColumnName | None = None
    lateness: Annotated[Duration, Field(ge=NO_TIME)] | None = None
    idle: Lasting = timedelta(minutes=1)
    ahead: Annotated[Duration, Field(ge=NO_TIME)] = timedelta(minutes=5)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.within is None) != (self.time is None):
            message = "`within` and `time` go together"
            raise ValueError(message)
        if self.within is not None and (self.keep == "last" or not self.by):
            message = "`within` keeps the first row of each key `by`"
            raise ValueError(message)
        if self.within is None and self.lateness is not None:
            message = "`lateness` goes with `within`"
            raise ValueError(message)
        return self
