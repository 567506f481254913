"""Why an entry is a result: the name, columns and texts in which the words of a query were found, and a bit of each."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from catalog.entries import Dataset
from catalog.queries import Query, is_prefix
from catalog.words import plain, words_of
from penstock.models.domain import Schema

__all__ = ["Reason", "reasons"]

AROUND: Final = 40
"""Characters that are shown before and after what was found in a text."""
MOST: Final = 6
"""Reasons that are given for one entry."""
_WORD: Final = re.compile(r"\S+")


Place = Literal["name", "column", "comment", "tag"]


@dataclass(frozen=True, slots=True)
class Reason:
    """A place in an entry where words of the query were found, and the text there, shortened.

    `exact` is false if it has words that are only spelt alike.
    """

    place: Place
    text: str
    words: tuple[str, ...]
    exact: bool = True


def reasons(
    query: Query, dataset: Dataset, schema: Schema | None, alike: Mapping[str, Mapping[str, float]]
) -> tuple[Reason, ...]:
    """Return where the words of `query` are in an entry: names first, then columns, comments and tags."""
    found: list[Reason] = []
    missing = set(query.wanted)
    for place, text in _texts(dataset, schema):
        here = words_of(text)
        exactly = [word for word in query.wanted if _is_in(word, here, whole=word not in query.words)]
        nearly = [
            word for word in query.wanted if word not in exactly and not alike.get(word, {}).keys().isdisjoint(here)
        ]
        # A comment or a tag explains a hit only if nothing before it does.
        if (named := exactly + nearly) and (place in {"name", "column"} or missing & set(named)):
            found.append(Reason(place, _shortened(text, named, alike), tuple(named), exact=not nearly))
            missing -= set(named)
    return tuple(found[:MOST])


def _texts(dataset: Dataset, schema: Schema | None) -> Iterator[tuple[Place, str]]:
    fields = () if schema is None else schema.fields
    yield "name", dataset.object
    yield from (("column", field.name) for field in fields)
    if dataset.description:
        yield "comment", dataset.description
    yield from (("comment", f"{field.name}: {field.description}") for field in fields if field.description)
    yield from (("tag", tag) for tag in dataset.tags)


def _is_in(word: str, words: Collection[str], *, whole: bool) -> bool:
    return word in words or (not whole and is_prefix(word) and any(one.startswith(word) for one in words))


def _shortened(text: str, wanted: Iterable[str], alike: Mapping[str, Mapping[str, float]]) -> str:
    """Return the part of a text around the first word that was found."""
    if len(text) <= 2 * AROUND:
        return text
    sought = tuple(one for word in wanted for one in (word, *alike.get(word, {})))
    at = next((one.start() for one in _WORD.finditer(text) if any(w in plain(one[0]) for w in sought)), 0)
    begin, end = max(0, at - AROUND), at + AROUND
    return ("… " if begin else "") + text[begin:end].strip() + (" …" if end < len(text) else "")
