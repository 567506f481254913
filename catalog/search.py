"""Search over the catalog: by name first, then by names, columns, and descriptions and tags.

Conditions are lexemes of one index (`lexemes.py`). How many entries match is estimated from a sample of one in
`SAMPLED`, which has a small index of its own. Up to `RANKED` matches are ranked and counted one by one. Of more, those
with that very name come first, then those with all words in the name, then the rest; each of the three by rank if it is
small, else by id, which is a hash: then the next page is found by reading entries in that order, whatever is looked
for, and both total and facets are estimates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from catalog.cursors import Cursor, Key, decoded, encoded
from catalog.lexemes import COLUMN_WORD, NAME_WORD, SAMPLED, TEXT_WORD, quoted
from catalog.queries import Filters, Query, is_prefix
from catalog.spelling import alike

__all__ = ["RANKED", "Hits", "matches"]

RANKED: Final = 5000
"""Matches that are ranked and counted one by one."""
SCORED: Final = 8
"""Words of a query that count for the rank."""
MOST_SAMPLED: Final = 3000
"""Members of the sample that are counted."""
FREQUENT: Final = 20_000
"""Entries from which on the list of a word's beginning takes longer to read than to look at fewer entries."""
REST: Final = 2
"""The part of a result that has neither that very name nor all words in the name."""
FACETS: Final = ("connection", "kind", "tag")


@dataclass(frozen=True, slots=True)
class Hits:
    """A page of results: ids with their scores, best first; `total` and `facets` are of the first page only.

    `exact` is true if they were counted, and false if they are estimates. `alike` has the words that match besides
    those of the query, with their similarity.
    """

    ids: Mapping[str, int]
    after: str | None
    total: int | None = None
    exact: bool = True
    facets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    alike: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def matches(
    session: psycopg.Connection[Any],
    query: Query,
    filters: Filters,
    *,
    fuzzy: bool,
    limit: int,
    after: str | None,
    ranked: int = RANKED,
) -> Hits:
    """Return a page of the entries that match; without words, all within the filters, by name if that can be.

    With `fuzzy`, words that are spelt alike match too. Raises UsageError for an `after` that is not of a search.
    """
    search = _Search(session, query, filters, alike(session, query.words) if fuzzy else {}, ranked)
    return search.first(limit) if after is None else search.further(decoded(after), limit)


@dataclass(frozen=True, slots=True)
class _Place:
    """A hit, and where it stands."""

    id: str
    score: int
    object: str
    connection: str

    def key(self, order: str) -> Key:
        if order == "r":
            return (-self.score, len(self.object), self.object, self.connection)
        return (self.id,) if order == "i" else (self.connection, self.object)


class _Search:
    """One search in a session; more than `ranked` matches are not ranked one by one."""

    def __init__(
        self,
        session: psycopg.Connection[Any],
        query: Query,
        filters: Filters,
        similar: Mapping[str, Mapping[str, float]],
        ranked: int,
    ) -> None:
        self._session, self._query, self._filters, self._alike, self._ranked = session, query, filters, similar, ranked
        alternatives = {word: tuple(others) for word, others in similar.items()}
        self._terms = [*query.positive(alternatives), *filters.terms()]
        self._names = (query.exactly(), query.in_name(alternatives))
        self._score = _score(query, similar)

    def first(self, limit: int) -> Hits:
        """Return the first page, with total and facets."""
        _, sampled = self._counted(_all(self._where(), sql.SQL("sampled")), most=MOST_SAMPLED)
        sizes = [SAMPLED * sampled["part"].get(str(part), 0) for part in range(REST + 1)]
        if sum(sizes) > self._ranked:
            ids, after = self._walk(Cursor(self._orders(sizes), 0, None), limit)
            facets = {name: {one: SAMPLED * count for one, count in sampled[name].items()} for name in FACETS}
            return Hits(ids, after, sum(sizes), exact=False, facets=facets, alike=self._alike)
        found, counted = self._counted(self._selective(), page=limit + 1)
        after = encoded(Cursor("r", 0, found[limit - 1].key("r"))) if len(found) > limit else None
        facets = {name: counted[name] for name in FACETS}
        ids = {one.id: one.score for one in found[:limit]}
        return Hits(ids, after, sum(counted["part"].values()), facets=facets, alike=self._alike)

    def further(self, cursor: Cursor, limit: int) -> Hits:
        """Return the page after `cursor`."""
        ids, after = self._walk(cursor, limit)
        return Hits(ids, after, alike=self._alike)

    def _orders(self, sizes: Sequence[int]) -> str:
        """Return the order of each part of a result that is too large to be ranked as a whole."""
        if not self._query.is_empty:
            return "".join("r" if size <= self._ranked else "i" for size in sizes)
        return "n" if replace(self._filters, connection=None, gone=False) == Filters() else "i"

    def _walk(self, cursor: Cursor, limit: int) -> tuple[dict[str, int], str | None]:
        """Return what comes after `cursor`, from as many parts of the result as it takes."""
        found: list[tuple[int, _Place]] = []
        for part in range(cursor.part, len(cursor.orders)):
            key = cursor.key if part == cursor.part else None
            rest = limit + 1 - len(found)
            found += [(part, one) for one in self._part(cursor.orders, part, key, rest)]
            if len(found) > limit:
                break
        ids = {one.id: one.score for _, one in found[:limit]}
        if len(found) <= limit:
            return ids, None
        part, last = found[limit - 1]
        return ids, encoded(Cursor(cursor.orders, part, last.key(cursor.orders[part])))

    def _part(self, orders: str, part: int, key: Key | None, limit: int) -> list[_Place]:
        """Return the next places of one part of the result."""
        order = orders[part]
        where = self._of_part(part) if len(orders) > 1 else self._where()
        if order == "r":
            return self._counted(where, page=limit, key=key, totals=False)[0]
        columns = sql.SQL("id" if order == "i" else "connection, object")
        if key is not None:
            where = _all(where, sql.SQL("({}) > ({})").format(columns, _values(key)))
        query = sql.SQL("SELECT id, {score}, object, connection FROM catalog.search_entries WHERE {where} "
                        "ORDER BY {columns} LIMIT {limit}")  # fmt: skip
        # The order's index is read until there are enough: the matches are many, or another order would be used.
        self._session.execute("SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off")
        rows = self._rows(query.format(score=self._score, where=where, columns=columns, limit=limit))
        self._session.execute("RESET enable_bitmapscan; RESET enable_seqscan")
        return [_Place(*row) for row in rows]

    def _counted(
        self,
        where: sql.Composable,
        *,
        page: int = 0,
        key: Key | None = None,
        most: int | None = None,
        totals: bool = True,
    ) -> tuple[list[_Place], dict[str, dict[str, int]]]:
        """Return the first places by rank after `key`, and the numbers of matches by part and facet."""
        query = sql.SQL(_COUNTED + (_TOTALS if totals else "")).format(
            score=self._score,
            part=self._part_number(),
            where=where,
            most=sql.SQL("") if most is None else sql.SQL("LIMIT {}").format(most),
            after=sql.SQL("true") if key is None else sql.SQL("({}) > ({})").format(sql.SQL(_RANK), _values(key)),
            rank=sql.SQL(_RANK),
            page=page,
        )
        places = list[_Place]()
        numbers: dict[str, dict[str, int]] = {name: {} for name in ("part", *FACETS)}
        for what, name, number, object_, connection in self._rows(query):
            if what == "hit":
                places.append(_Place(name, number, object_, connection))
            else:
                numbers[what][name] = number
        return sorted(places, key=lambda one: one.key("r")), numbers

    def _of_part(self, part: int) -> sql.Composable:
        """Return the condition of one part of the result; what has all words in its name has all words."""
        exact, named = self._names
        if part == REST:
            return self._where(f"!({named})", f"!{exact}")
        return self._where(*((exact,) if part == 0 else (named, f"!{exact}")), terms=self._filters.terms())

    def _part_number(self) -> sql.Composable:
        """Return the part that an entry belongs to: 0 for that very name, 1 for all words in the name, else 2."""
        if self._query.is_empty:
            return sql.Literal(REST)
        exact, named = map(_matching, self._names)
        return sql.SQL("CASE WHEN {} THEN 0 WHEN {} THEN 1 ELSE 2 END").format(exact, named)

    def _where(self, *more: str, terms: Sequence[str] | None = None) -> sql.Composable:
        """Return the condition of a match, with `more` parts of the tsquery, or only with some of its `terms`."""
        conditions: list[sql.Composable] = []
        if terms := (*(self._terms if terms is None else terms), *more):
            conditions.append(_matching(" & ".join(terms)))
        if (negative := self._query.negative()) is not None:
            conditions.append(sql.SQL("NOT {}").format(_matching(negative)))
        without = [one for one in self._query.without if " " in one]
        for operator, phrases in ((sql.SQL("LIKE"), self._query.phrases), (sql.SQL("NOT LIKE"), without)):
            conditions += [sql.SQL("texts {} {}").format(operator, f"% {one} %") for one in phrases]
        if not self._filters.gone:
            conditions.append(sql.SQL("NOT gone"))
        if self._filters.updated_since is not None:
            conditions.append(sql.SQL(_UPDATED).format(self._filters.updated_since))
        if self._filters.owner is not None:
            conditions.append(sql.SQL(_OWNED).format(owner=self._filters.owner.replace("\0", "")))
        return _all(*conditions) if conditions else sql.SQL("true")

    def _selective(self) -> sql.Composable:
        """Return the condition of a match, such that the index is not asked for what most entries have.

        A frequent beginning of words is a long list in the index, which would be read as a whole; where another
        condition leaves only a few entries, these are looked at instead.
        """
        prefixes = [one for one in self._terms if ":*" in one]
        if not prefixes or self._terms == prefixes[:1]:
            return self._where()
        counts = sql.SQL(", ").join(sql.SQL(_OF_TERM).format(_matching(one), most=MOST_SAMPLED) for one in self._terms)
        (sizes,) = self._rows(sql.SQL("SELECT {}").format(counts))
        fewest = min(sizes) * SAMPLED
        looked_at = [
            one for one, size in zip(self._terms, sizes, strict=True)
            if one in prefixes and size > min(sizes) and size * SAMPLED > FREQUENT >= fewest
        ]  # fmt: skip
        rest = [one for one in self._terms if one not in looked_at]
        return _all(self._where(terms=rest), *(sql.SQL("({}) IS TRUE").format(_matching(one)) for one in looked_at))

    def _rows(self, query: sql.Composed) -> Iterator[tuple[Any, ...]]:
        return iter(self._session.execute(query, prepare=False).fetchall())


def _score(query: Query, similar: Mapping[str, Mapping[str, float]]) -> sql.Composable:
    """Return the score of an entry: for each word where it is found, more for a name than for a column or a text."""
    if query.is_empty:
        return sql.SQL("0")
    parts = [_case([(query.exactly(), 1000)], 0)]
    for word in query.wanted[:SCORED]:
        beginning = ":*" if is_prefix(word) else ""
        ladder = [
            (quoted(letter + word) + end, points)
            for letter, whole, part in ((NAME_WORD, 80, 60), (COLUMN_WORD, 40, 30))
            for end, points in (("", whole), (beginning, part))
        ]
        for other, likeness in similar.get(word, {}).items():
            weights = ((NAME_WORD, 50), (COLUMN_WORD, 25), (TEXT_WORD, 9))
            ladder += [(quoted(letter + other), round(weight * likeness)) for letter, weight in weights]
        parts.append(_case(sorted(ladder, key=lambda one: -one[1]), 10))
    return sql.SQL("({})").format(sql.SQL(" + ").join(parts))


def _case(ladder: Sequence[tuple[str, int]], otherwise: int) -> sql.Composable:
    rungs = [sql.SQL("WHEN {} THEN {}").format(_matching(query), points) for query, points in ladder]
    return sql.SQL("CASE {} ELSE {} END").format(sql.SQL(" ").join(rungs), otherwise)


def _matching(query: str) -> sql.Composable:
    return sql.SQL("search @@ {}::tsquery").format(query)


def _all(*conditions: sql.Composable) -> sql.Composable:
    return sql.SQL(" AND ").join(sql.SQL("({})").format(one) for one in conditions)


def _values(key: Key) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Literal, key))


_RANK: Final[LiteralString] = "-score, length(object), object, connection"
_OF_TERM: Final[LiteralString] = (
    "(SELECT count(*) FROM (SELECT FROM catalog.search_entries WHERE sampled AND {} LIMIT {most}) AS found)"
)
_UPDATED: Final[LiteralString] = "id IN (SELECT id FROM catalog.datasets WHERE last_at >= {})"
_OWNED: Final[LiteralString] = """id IN (SELECT unnest(ARRAY[source, sink]) FROM catalog.pipelines
  WHERE owner = {owner} AND status <> 'deleted')"""
_COUNTED: Final[LiteralString] = """
WITH found AS MATERIALIZED (SELECT id, connection, object, kind, tags, {score} AS score, {part} AS part
  FROM catalog.search_entries WHERE {where} {most})
(SELECT 'hit', id, score, object, connection FROM found WHERE {after} ORDER BY {rank} LIMIT {page})"""
_TOTALS: Final[LiteralString] = """
UNION ALL (SELECT 'part', part::text, count(*), NULL, NULL FROM found GROUP BY part)
UNION ALL (SELECT 'kind', kind, count(*), NULL, NULL FROM found GROUP BY kind ORDER BY 3 DESC, 2 LIMIT 10)
UNION ALL (SELECT 'connection', connection, count(*), NULL, NULL FROM found GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT 10)
UNION ALL (SELECT 'tag', tag, count(*), NULL, NULL FROM found, unnest(tags) tag GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT 10)
"""
