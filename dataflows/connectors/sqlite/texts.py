"""Texts of SQLite, which stores any bytes as TEXT.

Python reads bytes that are not UTF-8 as lone surrogates, in strings that cannot be encoded.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from dataflows.connectors.sql.bounds import bound_bytes, bound_text

__all__ = ["ESCAPED", "bound_of", "shown", "text_of"]

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
