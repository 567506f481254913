"""Words of the catalog that are spelt alike, by the trigrams that they share; no extension of PostgreSQL is needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
    wanted = sorted(trigrams(word), key=lambda one: (one.count(" "), one))
    least = math.ceil(LEAST * len(wanted))
    # Whoever shares that many has one of the others, even without the commonest: those with blanks, of few letters.
    telling = wanted[: len(wanted) - least + 1]
    rows = session.execute(_SHARING, [telling, COMPARED], prepare=False).fetchall()
    near = (other for (other,) in rows if other != word and _shared(wanted, other) >= least)
    found = [(round(similarity(word, other), 3), other) for other in near]
    best = sorted((one for one in found if one[0] >= LEAST), key=lambda one: (-one[0], one[1]))[:MOST]
    return {other: likeness for likeness, other in best}


def _shared(wanted: Sequence[str], other: str) -> int:
    """Return how many of a word's trigrams another one has, without making all of its own."""
    padded = f"  {other} "
    return sum([one in padded for one in wanted])


_SHARING: Final = "SELECT word FROM catalog.words WHERE trigrams && %s::text[] LIMIT %s"
