"""Statistics of the values of a column: counted by its system, or from a sample in Arrow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, Final

import pyarrow as pa

from dataflows.data.display import json_of

__all__ = ["LONGEST", "SAMPLED_VALUES", "TOP", "Statistics", "measured", "of_table"]

TOP: Final = 20
"""Frequent values that are kept."""
BOUNDS: Final = 20
"""Values that are kept of those in between, in order."""
LONGEST: Final = 200
"""Characters that are kept of a value."""
SAMPLED_VALUES: Final = 200_000
"""Values of a sample, at most, of all columns together."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """A column in numbers, and a few of its values as text; what is not known is None or empty."""

    nulls: float | None = None
    """Share of NULLs."""
    distinct: float | None = None
    """Number of different values; below 0 it is their share of all rows, negated."""
    width: int | None = None
    """Average length of a value: in characters from a sample, in bytes from PostgreSQL."""
    top: tuple[tuple[str, float], ...] = ()
    """Frequent values, with their share of all rows."""
    bounds: tuple[str, ...] = ()
    """Values that divide the others into groups of about the same size, from the least to the greatest."""
    rows: int | None = None
    """Rows of the sample; None if its system counted."""

    @property
    def values(self) -> list[str]:
        """Return the values that are known."""
        return [*(value for value, _ in self.top), *self.bounds]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as builtins, values too: for the store of values only, never for a record."""
        found = {"nulls": self.nulls, "distinct": self.distinct, "width": self.width, "rows": self.rows}
        ends = {"least": self.bounds[0], "greatest": self.bounds[-1]} if self.bounds else {}
        lists = {"top": [[value[:LONGEST], share] for value, share in self.top], "bounds": [*self.bounds]}
        lists["shapes"] = [[shape, share] for shape, share in shapes(self.values)]
        return {name: value for name, value in (found | ends | lists).items() if value not in (None, [])}


def of_table(rows: pa.Table, *, whole: bool = False) -> dict[str, Statistics]:
    """Return the statistics of each column of a sample, by name; none without rows."""
    if not rows.num_rows:
        return {}
    return {name: measured(rows.column(name), whole=whole) for name in rows.column_names}


def measured(values: pa.Array | pa.ChunkedArray, *, whole: bool = False) -> Statistics:
    """Return the statistics of a column of a sample; `whole` is True if it is all that there is."""
    if not len(values):
        return Statistics()
    given = [value for value in _texts(values) if value is not None]
    counts = Counter(value[:LONGEST] for value in given)
    unique = len(counts) == len(given) and not whole
    top = [(value, count / len(values)) for value, count in counts.most_common(TOP) if count > 1]
    return Statistics(
        nulls=1 - len(given) / len(values),
        distinct=-1.0 if unique and given else float(len(counts)),
        width=round(sum(map(len, given)) / len(given)) if given else None,
        top=tuple(top),
        bounds=tuple(_bounds(list(counts))),
        rows=len(values),
    )


def _texts(values: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """Return values as text: times without a zone, in UTC, bytes in hexadecimal, nested values as JSON."""
    kind = values.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        values = values.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.int64()).cast(pa.timestamp(kind.unit))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return [None if one is None else f"\\x{one[:LONGEST].hex()}" for one in values.to_pylist()]
    if pa.types.is_nested(kind):
        return [None if one is None else json_of({"": one})[len('{"": ') : -1] for one in values.to_pylist()]
    try:
        found: list[str | None] = values.cast(pa.string()).to_pylist()
    except UnicodeDecodeError:  # the source does not check its encoding
        found = [None if one is None else one.decode(errors="replace") for one in values.cast(pa.binary()).to_pylist()]
    return found


def _bounds(values: list[str]) -> list[str]:
    """Return values at equal distances in order, by number if all are numbers."""
    try:
        ordered = sorted(values, key=_number)
    except ValueError:
        ordered = sorted(values)
    if len(ordered) <= BOUNDS:
        return ordered
    return [ordered[round(at * (len(ordered) - 1) / (BOUNDS - 1))] for at in range(BOUNDS)]


def _number(text: str) -> tuple[bool, float]:
    """Return the key by which numbers are ordered: NaN comes last."""
    number = float(text)
    return (True, 0.0) if isnan(number) else (False, number)


_PARTS: Final = (
    (re.compile(r"[A-Z]+"), "A"), (re.compile(r"[^\W\d_A-Z]+"), "a"), (re.compile(r"\d+"), "9"),
)  # fmt: skip


def shape_of(value: str) -> str:
    """Return the shape of a value: ``A9-9`` for ``AB12-345``. Letters of a script without case are ``a``."""
    for pattern, letter in _PARTS:
        value = pattern.sub(letter, value)
    return value[:LONGEST]


def shapes(values: Sequence[str]) -> list[tuple[str, float]]:
    """Return the most frequent shapes of values, with their shares."""
    counts = Counter(map(shape_of, values))
    return [(shape, round(count / len(values), 2)) for shape, count in counts.most_common(5)]
