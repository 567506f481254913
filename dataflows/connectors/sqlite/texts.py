"""Texts of SQLite, which stores any bytes as TEXT.

Python reads bytes that are not UTF-8 as lone surrogates, in strings that cannot be encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

from dataflows.connectors.sql.bounds import bound_bytes, bound_text
from dataflows.connectors.sql.names import quoted
from dataflows.connectors.windows import DAY, SECOND

__all__ = ["ESCAPED", "bound_of", "shown", "text_of", "time_forms", "times_of"]

ESCAPED: Final = partial(str, encoding="utf-8", errors="surrogateescape")
"""Text factory of a session that reads any bytes."""


def shown(value: Any) -> Any:
    """Return a value as a dead letter contains it: bytes, and texts that are not UTF-8, as hexadecimal digits."""
    if isinstance(value, str) and any("\udc80" <= one <= "\udcff" for one in value):
        value = _bytes(value)
    return "\\x" + value.hex() if isinstance(value, bytes) else value


def bound_of(value: Any, *, whole: bool) -> str | None:
    """Return a key's value as the text of a bound; None if it is not of the key's class.

    `whole`: the key has whole numbers; all others have texts.
    """
    if whole:
        return str(value) if isinstance(value, int) else None
    return bound_text(_bytes(value)) if isinstance(value, str) else None


def text_of(bound: str) -> str | bytes:
    """Return the value of a bound: its text, or bytes to cast to text."""
    raw = bound_bytes(bound)
    return bound if raw is None else raw


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


_UTC: Final = {"", "Z", "+00", "+00:00"}
_DATE: Final = len("2024-01-01")
_MINUTES: Final = len("2024-01-01 12:00")
_FRACTION: Final = 99
"""Length of any time with a fraction of a second."""


def time_forms(column: str, table: str) -> str:
    """Return the query of the forms of a column's times: separator, zone, length before a Z, greatest length."""
    name, digit = quoted(column), "[0-9]"
    zone = f"ltrim(substr({name}, {_DATE + 2}), '0123456789:.')"
    length = f"length({name}) - length({zone})"
    return (
        f"SELECT substr({name}, {_DATE + 1}, 1), {zone}, CASE WHEN {zone} = 'Z' THEN {length} END, "
        f"max(CASE WHEN instr({name}, '.') THEN {_FRACTION} ELSE {length} END) FROM {table} "
        f"WHERE {name} GLOB '{digit * 4}-{digit * 2}-{digit * 2}*' GROUP BY 1, 2, 3"
    )


def times_of(forms: Sequence[tuple[str, str, int | None, int]]) -> tuple[timedelta | None, bool]:
    """Return the resolution of times as texts, None if they have fractions, and True if they sort as the times do.

    A date alone sorts before any time of its day. A Z sorts after digits and points: with it, all have to be as long.
    """
    longest = max((one[3] for one in forms), default=_FRACTION)
    clocks = {one[:3] for one in forms if one[0]}
    ordered = len(clocks) <= 1 and all(zone in _UTC for _, zone, _ in clocks)
    if longest <= _DATE:
        return DAY, ordered
    return (60 * SECOND if longest <= _MINUTES else SECOND if longest < _FRACTION else None), ordered
