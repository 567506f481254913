"""Bounds of ranges of texts, in ASCII: the database that keeps them may be of any encoding.

Any other text, and bytes of a key that are not UTF-8, become hexadecimal digits, and so does a text that could be taken
for these.
"""

from __future__ import annotations

from typing import Final

__all__ = ["bound_bytes", "bound_text"]

_HEX: Final = "\\x"


def bound_text(raw: bytes) -> str:
    """Return a key's text, in bytes, as a bound."""
    return _HEX + raw.hex() if not raw.isascii() or raw.startswith(_HEX.encode()) else raw.decode()


def bound_bytes(bound: str) -> bytes | None:
    """Return the bytes of a bound that is stored as digits; None for any other."""
    if not bound.startswith(_HEX):
        return None
    try:
        return bytes.fromhex(bound.removeprefix(_HEX))
    except ValueError:  # a position of an older release
        return None
