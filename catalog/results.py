"""Results of a search: entries with the reasons why each is one, how many there are, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select

from catalog import tables
from catalog.database import driver_of
from catalog.datasets import COLUMNS, entry
from catalog.entries import Dataset
from catalog.pages import checked
from catalog.queries import Filters, Query, parsed
from catalog.reasons import Reason, reasons
from catalog.search import RANKED, Hits, matches
from penstock.models.domain import Schema

__all__ = ["Hit", "Results", "results"]

_ALIKE: Final = "~"
"""Begins the cursor of a result in which words that are spelt alike match, too."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A dataset found by a search, with its rank: higher is better, comparable only within one search.

    `approximate` is true if it has only words that are spelt alike.
    """

    dataset: Dataset
    rank: int
    reasons: tuple[Reason, ...] = ()
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class Results:
    """A page of results. `total` and `facets` are those of all matches; they are missing on further pages.

    `exact` is false if both are estimates, which they are above some thousand matches; such a result is not ranked as
    a whole, either. `approximate` is true if nothing has the words as they are written, so that others were taken.
    """

    hits: tuple[Hit, ...]
    total: int | None
    exact: bool
    approximate: bool
    facets: Mapping[str, Mapping[str, int]]
    after: str | None


def results(
    connection: Connection,
    text: str,
    filters: Filters,
    *,
    fuzzy: bool,
    limit: int,
    after: str | None,
    ranked: int = RANKED,
) -> Results:
    """Return the page after the cursor `after` of the entries that match, best first; without words, all by name.

    With `fuzzy`, or if nothing matches, words that are spelt alike match too. Raises UsageError: `limit` or `after`.
    """
    query, session = parsed(text), driver_of(connection)
    fuzzy = fuzzy or (after is not None and after.startswith(_ALIKE))
    place = None if after is None else after.removeprefix(_ALIKE)
    choice: dict[str, Any] = {"limit": checked(limit), "after": place, "ranked": ranked}
    found = matches(session, query, filters, fuzzy=fuzzy, **choice)
    guessed = not (found.ids or fuzzy or after is not None) and bool(query.words)
    if guessed:
        found = matches(session, query, filters, fuzzy=True, **choice)
    following = _ALIKE + found.after if found.after is not None and (fuzzy or guessed) else found.after
    hits = _hits(connection, query, found)
    return Results(hits, found.total, found.exact, guessed and bool(hits), found.facets, following)


def _hits(connection: Connection, query: Query, found: Hits) -> tuple[Hit, ...]:
    table = tables.datasets
    rows = connection.execute(select(*COLUMNS, table.c.schema).where(table.c.id.in_(list(found.ids)))).mappings()
    hits = []
    for row in rows:
        dataset, schema = entry(row), None if row["schema"] is None else Schema.parse(row["schema"])
        why = reasons(query, dataset, schema, found.alike)
        hits.append(Hit(dataset, found.ids[dataset.id], why, approximate=any(not one.exact for one in why)))
    order = {id_: at for at, id_ in enumerate(found.ids)}
    return tuple(sorted(hits, key=lambda hit: order[hit.dataset.id]))
