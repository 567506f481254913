"""Timestamps of Parquet's old type INT96, as Spark, Hive and Impala write them: days and nanoseconds, of any year.

Arrow reads them as nanoseconds, of which 64 bits hold the years 1677 to 2262 while others wrap around, or as
microseconds, without what is smaller. Read in both ways, the difference shows what each has lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["exact_times", "int96_columns"]


def int96_columns(metadata: Any, names: Sequence[str]) -> list[str]:
    """Return those of a file's columns that are, or contain, timestamps of this type."""
    columns = (metadata.schema.column(at) for at in range(metadata.num_columns))
    old = [f"{one.path}." for one in columns if one.physical_type == "INT96"]
    return [name for name in names if any(path.startswith(f"{name}.") for path in old)]


def exact_times(nanoseconds: pa.Array, microseconds: pa.Array) -> pa.Array | None:
    """Return the one of the same values, perhaps nested, that has lost nothing; None if both have."""
    pairs = list(zip(_leaves(nanoseconds), _leaves(microseconds), strict=True))
    if all(_equal(nano, pc.multiply(micro, 1000)) for nano, micro in pairs):
        return microseconds
    if all(_equal(_floored(nano), pc.multiply(micro, 1000)) and _is_near(micro) for nano, micro in pairs):
        return nanoseconds
    return None


def _equal(one: pa.Array, other: pa.Array) -> bool:
    return pc.all(pc.equal(one, other)).as_py() is not False


def _floored(nano: pa.Array) -> pa.Array:
    """Return whole microseconds as nanoseconds."""
    times = nano.cast(pa.timestamp("ns"))
    return pc.floor_temporal(times, unit="microsecond").cast(pa.int64())


def _is_near(micro: pa.Array) -> bool:
    """True if 64 bits hold all these times as nanoseconds: a product that wraps around differs when it is divided."""
    return _equal(pc.divide(pc.multiply(micro, 1000), 1000), micro)


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    """Yield the timestamps in an array as numbers; nested ones as they lie in it, without their rows."""
    kind = array.type
    if pa.types.is_timestamp(kind):
        yield array.cast(pa.int64())
    elif pa.types.is_map(kind):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif pa.types.is_struct(kind):
        for at in range(kind.num_fields):
            yield from _leaves(array.field(at))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(array.values)
