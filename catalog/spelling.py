"""Words of the catalog that are spelt alike, by the trigrams that they share; no extension of PostgreSQL is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import psycopg

from catalog.words import similarity, trigrams

__all__ = ["alike"]

LEAST: Final = 0.3
"""The minimal similarity of words that are alike."""
MOST: Final = 8
"""Words that are taken for one of a query."""
COMPARED: Final = 20_000
"""Words that share a trigram and are compared, at most."""


def alike(session: psycopg.Connection[Any], words: Iterable[str]) -> dict[str, Mapping[str, float]]:
    """Return words of the catalog that are like each of `words`, with their similarity, most similar first."""
    return {word: found for word in words if (found := _like(session, word))}


def _like(session: psycopg.Connection[Any], word: str) -> dict[str, float]:
    wanted = sorted(trigrams(word))
    rows = session.execute(_SHARING, [wanted, COMPARED], prepare=False).fetchall()
    found = [(round(similarity(word, other), 3), other) for (other,) in rows if other != word]
    best = sorted((one for one in found if one[0] >= LEAST), key=lambda one: (-one[0], one[1]))[:MOST]
    return {other: likeness for likeness, other in best}


_SHARING: Final = "SELECT word FROM catalog.words WHERE trigrams && %s::text[] LIMIT %s"
