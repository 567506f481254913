"""Cursors of search results: where a page ends, as text that a client passes back."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final

import orjson

from penstock.errors import UsageError

__all__ = ["Cursor", "Key", "decoded", "encoded"]

Key = tuple[int | str, ...]
LENGTHS: Final = {"r": 4, "i": 1, "n": 2}
"""Parts of the key, by the order of a part of a result."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a result of one or three parts: the order of each (a letter), the part, and the last key in it."""

    orders: str
    part: int
    key: Key | None


def encoded(cursor: Cursor) -> str:
    """Return the cursor as text."""
    return urlsafe_b64encode(orjson.dumps([cursor.orders, cursor.part, cursor.key])).decode().rstrip("=")


def decoded(text: str) -> Cursor:
    """Return the cursor that `encoded` wrote. Raises UsageError."""
    try:
        orders, part, key = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        cursor = Cursor(orders, part, None if key is None else tuple(key))
        fits = len(orders) in {1, 3} and set(orders) <= set(LENGTHS) and part in range(len(orders))
        if fits and (key is None or len(key) == LENGTHS[orders[part]]):
            return cursor
        message = "its parts do not fit"
        raise ValueError(message)
    except (ValueError, TypeError, KeyError, binascii.Error) as error:
        hint = "take it from a page of the same search"
        raise UsageError("is not a cursor of a search", where="after", value=text, hint=hint) from error
