"""Range of times that every system can store; other times are refused even by systems that could store them."""

from __future__ import annotations

from datetime import date
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["outside"]

DAY: Final = 86_400_000_000
_FIRST: Final = (date(1, 1, 1) - date(1970, 1, 1)).days
_LAST: Final = (date(9999, 12, 31) - date(1970, 1, 1)).days


def outside(array: pa.Array) -> bool:
    """Return True if a date or time is infinite, before year 1, after year 9999, or 24:00."""
    kind = array.type
    if pa.types.is_date32(kind):
        return not _within(array.cast(pa.int32()), _FIRST, _LAST)
    if pa.types.is_timestamp(kind):
        return not _within(array.cast(pa.int64()), _FIRST * DAY, (_LAST + 1) * DAY - 1)
    return pa.types.is_time64(kind) and not _within(array.cast(pa.int64()), 0, DAY - 1)


def _within(array: pa.Array, first: int, last: int) -> bool:
    found = pc.min_max(array).as_py()
    return found["min"] is None or (found["min"] >= first and found["max"] <= last)
