"""Search over the catalog: names above columns above descriptions and tags, by PostgreSQL's full-text search.

Every word of a query must match, as a whole word or as the prefix of one. Names are split by `words`, on both
sides. The rank is PostgreSQL's `ts_rank` with the weights below; ties go by name. Fuzzy search finds misspelt names and
columns by trigrams, where the server has pg_trgm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Float, cast, func, literal, literal_column, select, text
from sqlalchemy.dialects.postgresql import ARRAY, REAL, TSQUERY

from catalog import tables
from catalog.datasets import COLUMNS, entry, filters
from catalog.entries import Dataset
from catalog.pages import checked
from catalog.words import words
from penstock.errors import Unavailable

__all__ = ["Hit", "search"]

_WEIGHTS: Final = (0.01, 0.1, 0.4, 1.0)
"""Weights of D, C (descriptions and tags), B (columns) and A (names)."""
ALIKE: Final = 0.3
"""The minimal trigram similarity of a match in fuzzy search."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A dataset found by a search, with its rank: higher is better, comparable only within one search."""

    dataset: Dataset
    rank: float


def search(
    connection: Connection,
    query: str,
    *,
    kind: str | None = None,
    tag: str | None = None,
    connection_name: str | None = None,
    fuzzy: bool = False,
    limit: int = 20,
) -> tuple[Hit, ...]:
    """Return the entries that match every word of `query`, best first; without words, all within the filters, by name.

    Raises:
        Unavailable: `fuzzy`, and the database has no pg_trgm.
    """
    typed = words(query)
    conditions = filters(connection_name=connection_name, kind=kind, tag=tag)
    found, rank = _fuzzy(connection, typed) if fuzzy and typed else _exact(typed)
    order = (tables.datasets.c.object.collate("C"), tables.datasets.c.connection.collate("C"))
    statement = select(*COLUMNS, rank.label("rank")).where(*conditions, *found)
    rows = connection.execute(statement.order_by(text("rank DESC"), *order).limit(checked(limit))).mappings()
    return tuple(Hit(entry(row), float(row["rank"])) for row in rows)


Found = tuple[Sequence[ColumnElement[bool]], ColumnElement[Any]]


def _exact(typed: Sequence[str]) -> Found:
    if not typed:
        return (), literal(0.0, Float)
    # Words are letters and digits only, so they cannot contain operators of tsquery.
    wanted = cast(" & ".join(f"{word}:*" for word in typed), TSQUERY)
    document = tables.datasets.c.search
    return (document.op("@@")(wanted),), func.ts_rank(cast(list(_WEIGHTS), ARRAY(REAL)), document, wanted)


def _fuzzy(connection: Connection, typed: Sequence[str]) -> Found:
    schema = connection.execute(text(_TRIGRAMS)).scalar_one_or_none()
    if schema is None:
        hint = "let an administrator run CREATE EXTENSION pg_trgm there, or search without --fuzzy"
        raise Unavailable("fuzzy search needs pg_trgm, which this database does not have", where="catalog", hint=hint)
    alike = [_likeness(str(schema), word) for word in typed]
    total: ColumnElement[Any] = literal(0.0, Float)
    for one in alike:
        total = total + one
    return [one >= ALIKE for one in alike], total


def _likeness(schema: str, word: str) -> ColumnElement[Any]:
    """Similarity of `word` to the entry's most similar word: names count fully, columns a little less, texts less."""
    table = tables.datasets
    similar = getattr(getattr(func, schema), "strict_word_similarity")  # noqa: B009 - the schema is looked up
    return func.greatest(
        similar(word, func.coalesce(table.c.name_words, "")),
        literal_column("0.95") * similar(word, func.coalesce(table.c.column_words, "")),
        literal_column("0.9") * similar(word, func.coalesce(table.c.text_words, "")),
    )


_TRIGRAMS: Final = (
    "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm'"
)
