"""Rows as Python values, for display: in dead letters, previews and tests of pipelines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from typing import Any, Final

import pyarrow as pa

__all__ = ["json_of", "rows_of"]


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return one dictionary for each row; a date or time that Python cannot represent is returned as text."""
    columns = [_values(column) for column in batch.columns]
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    try:
        found: list[Any] = column.to_pylist()
    except OverflowError:  # Arrow's days and microseconds go beyond the years 1 to 9999
        found = column.cast(pa.string()).to_pylist()
    except UnicodeDecodeError:  # the source does not check its encoding
        shown = (
            None if one is None else one.decode(errors="backslashreplace")
            for one in column.cast(pa.binary()).to_pylist()
        )
        found = list(shown)
    return found


def json_of(row: Mapping[str, object]) -> str:
    """Return a row as JSON that `jsonb` accepts: NaN and infinities as texts, NUL in a text as its symbol, ␀."""
    try:
        text = json.dumps(row, default=_plain, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(row), default=_plain)
    return _NUL.sub(r"\1\\u2400", text)


_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else _INFINITE.get(value, "NaN")
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value


_INFINITE: Final = {math.inf: "Infinity", -math.inf: "-Infinity"}


def _plain(value: object) -> object:
    """Return a value as JSON represents it."""
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return _TEXTS.get(type(value), str)(value)


_TEXTS: Final[dict[type, Callable[[Any], str]]] = {
    datetime: datetime.isoformat, date: date.isoformat, time: time.isoformat, timedelta: str,
}  # fmt: skip
