"""How names and texts become words to search by: identifiers split, accents and case folded away.

Both sides of a search come through here: what the projection stores, and what a person types.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

__all__ = ["words"]

_HUMPS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD: Final = re.compile(r"[^\W_]+")
LONGEST: Final = 60
"""Characters kept of a word; PostgreSQL takes no lexeme above 2047 bytes, and nobody types more."""
MOST: Final = 5000
"""Words kept of one text, far below what a tsvector can hold (1 MB)."""


def words(*texts: str | None) -> list[str]:
    """The words of `texts` in order: ``sales.orderItems_v2`` is sales, orderitems, order, items, v2.

    An identifier of humps is kept whole too, so that it is found by what a person remembers of it.
    """
    found = [word for text in texts if text for word in _split(text)]
    return found[:MOST]


def _split(text: str) -> Iterable[str]:
    for part in _WORD.findall(_plain(text)):
        humps = _HUMPS.split(part)
        if len(humps) > 1:
            yield part.lower()[:LONGEST]
        for hump in humps:
            yield hump.lower()[:LONGEST]


def _plain(text: str) -> str:
    """`text` without accents: ``Straße é`` is ``Strasse e``."""
    decomposed = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
