"""Words for the search from names and texts: identifiers are split, accents and case removed.

Used on both sides of a search: for what the projection stores, and for the query.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

__all__ = ["words"]

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD: Final = re.compile(r"[^\W_]+")
MAX_LENGTH: Final = 60
"""Characters kept of a word; PostgreSQL takes no lexeme above 2047 bytes."""
MAX_WORDS: Final = 5000
"""Words kept of one text, far below what a tsvector can hold (1 MB)."""


def words(*texts: str | None) -> list[str]:
    """Return the words of `texts` in order: ``sales.orderItems_v2`` is sales, orderitems, order, items, v2.

    A camel-case identifier is kept whole too, so that both forms find it.
    """
    found = [word for text in texts if text for word in _split(text)]
    return found[:MAX_WORDS]


def _split(text: str) -> Iterable[str]:
    for part in _WORD.findall(_plain(text)):
        parts = _CAMEL.split(part)
        if len(parts) > 1:
            yield part.lower()[:MAX_LENGTH]
        for one in parts:
            yield one.lower()[:MAX_LENGTH]


def _plain(text: str) -> str:
    """Return `text` without accents: ``Straße é`` becomes ``Strasse e``."""
    decomposed = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
