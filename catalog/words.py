"""Words for the search from names and texts: identifiers are split, accents and case removed.

Used on both sides of a search: for what the projection stores, and for the query.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

__all__ = ["plain", "similarity", "trigrams", "words", "words_of"]

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
    return [word for text in texts if text for word in words_of(text)]


@lru_cache(maxsize=50_000)
def words_of(text: str) -> tuple[str, ...]:
    """Return the words of one name or text, at most `MAX_WORDS`."""
    found = []
    for part in _WORD.findall(_unaccented(text)):
        parts = _CAMEL.split(part)
        if len(parts) > 1:
            found.append(part.lower()[:MAX_LENGTH])
        found += [one.lower()[:MAX_LENGTH] for one in parts]
    return tuple(found[:MAX_WORDS])


def plain(text: str) -> str:
    """Return `text` in lower case and without accents: ``Straße é`` becomes ``strasse e``."""
    return _unaccented(text).lower()


def _unaccented(text: str) -> str:
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def trigrams(word: str) -> set[str]:
    """Return each three letters in a row of a word, with its beginning and end marked by blanks."""
    padded = f"  {word} "
    return {padded[at : at + 3] for at in range(len(padded) - 2)}


def similarity(one: str, other: str) -> float:
    """Return the share of the trigrams of both words that they have in common: 1 for equal words."""
    first, second = trigrams(one), trigrams(other)
    return len(first & second) / len(first | second)
