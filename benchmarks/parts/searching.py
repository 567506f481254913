"""Milliseconds of a search over a large catalog: entries straight in the tables, then a mix of queries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from zlib import crc32

from benchmarks.parts.entries import Table, tables
from catalog.database import engine
from catalog.dataset_folds import dataset_id
from catalog.lexemes import CONNECTION, is_sampled, lexeme, quoted, searched
from catalog.queries import Filters
from catalog.store import MetadataStore
from catalog.words import trigrams, words
from penstock import postgres

__all__ = ["MIX", "fill_entries", "searched_ms"]

COPIES: Final = 10
"""Connections that have the same table, such as the databases of many customers."""
CONNECTIONS: Final = 200
QUERIES: Final = 400
OFFSET: Final = 1
NOWHERE: Final = "-"

MIX: Final = (
    "20 % one word of a name, 10 % one word of any column, 20 % two words of one entry, 15 % the first 3 to 5 letters "
    "of a word, 10 % a name in full, 10 % a word within a type, a tag or a connection, 5 % each: a phrase, a word "
    "without another, a column of a type, a misspelt word"
)


def fill_entries(dsn: str, entries: int) -> None:
    """Write entries into the empty catalog at `dsn`, and make the server's statistics of them."""
    with postgres.connect(dsn, "benchmark") as session:
        session.execute("SET maintenance_work_mem = '256MB'; " + _NO_INDEXES)
        with session.cursor() as cursor, cursor.copy(_SEARCHED) as copy:
            seen = dict[str, None]()
            for table in tables(entries // COPIES):
                for row in _rows(table, seen):
                    copy.write_row(row)
        session.execute(_INDEXES)
        session.execute(_DATASETS)
        with session.cursor() as cursor, cursor.copy("COPY catalog.words FROM STDIN") as copy:
            for word in seen:
                copy.write_row((word, sorted(trigrams(word)), OFFSET))
        for name in ("search_entries", "datasets", "words"):
            session.execute(f"VACUUM ANALYZE catalog.{name}")


def _rows(table: Table, seen: dict[str, None]) -> Iterator[tuple[Any, ...]]:
    about = (table.description, *(field.description for field in table.schema.fields))
    vector, text = searched(NOWHERE, table.object, table.kind, table.tags, about, table.schema)
    seen.update(dict.fromkeys(words(text)))
    nowhere, begin = quoted(lexeme(CONNECTION, NOWHERE)), crc32(table.object.encode()) % CONNECTIONS
    for n in range(COPIES):
        connection = f"shop{(begin + n) % CONNECTIONS}"
        id_ = dataset_id(connection, table.object)
        found, sampled = vector.replace(nowhere, quoted(lexeme(CONNECTION, connection))), is_sampled(id_)
        yield id_, connection, table.object, table.kind, list(table.tags), text, False, sampled, found, OFFSET


def searched_ms(dsn: str, entries: int) -> list[float]:
    """Return the milliseconds of each query of the mix, in one process, sorted."""
    rnd = random.Random(7)
    some = list(tables(min(entries // COPIES, 20_000)))
    took = list[float]()
    with MetadataStore(engine(dsn, pool_size=1)) as store:
        for n in range(-20, QUERIES):
            text, filters = _query(rnd, rnd.choice(some))
            begin = time.perf_counter()
            found = store.search(text, filters)
            if n >= 0:  # the first ones load code and cache
                took.append((time.perf_counter() - begin) * 1000)
            if not found.hits and "." in text:
                message = f"nothing was found for {text!r} {filters}"
                raise RuntimeError(message)
    return sorted(took)


def _query(rnd: random.Random, table: Table) -> tuple[str, Filters]:
    """Return a query of the mix that `table` matches."""
    named = [word for word in words(table.object) if word.isalpha() and word != "public"]
    columns = [word for field in table.schema.fields[1:] for word in words(field.name)]
    field = rnd.choice(table.schema.fields[1:])
    one, other = rnd.choice(named), rnd.choice(columns)
    kinds: Sequence[tuple[int, Callable[[], tuple[str, Filters]]]] = (
        (20, lambda: (one, Filters())),
        (10, lambda: (other, Filters())),
        (20, lambda: (f"{one} {other}", Filters())),
        (15, lambda: (one[: rnd.randint(3, 5)], Filters())),
        (10, lambda: (table.object, Filters())),
        (4, lambda: (one, Filters(kind=table.kind))),
        (3, lambda: (one, Filters(tag=table.tags[0] if table.tags else None))),
        (3, lambda: (one, Filters(connection=f"shop{crc32(table.object.encode()) % CONNECTIONS}"))),
        (5, lambda: (f'"{" ".join(words(field.name))}"', Filters())),
        (5, lambda: (f"{one} -zzz", Filters())),
        (5, lambda: ("", Filters(column=field.name, column_type=field.type))),
        (5, lambda: (one[0] + one[2:] if len(one) > 4 else one + one, Filters())),
    )
    (chosen,) = rnd.choices(kinds, [weight for weight, _ in kinds])
    return chosen[1]()


_SEARCHED: Final = """COPY catalog.search_entries (id, connection, object, kind, tags, texts, gone, sampled,
  search, changed)
FROM STDIN"""
_DATASETS: Final = """INSERT INTO catalog.datasets (id, connection, object, kind, tags, first_offset, first_at,
  last_offset, last_at, changed)
SELECT id, connection, object, kind, tags, changed, now(), changed, now(), changed FROM catalog.search_entries"""
_NO_INDEXES: Final = "DROP INDEX catalog.search_entries_search_idx, catalog.search_entries_sample_idx"
_INDEXES: Final = """CREATE INDEX search_entries_search_idx ON catalog.search_entries USING gin (search);
CREATE INDEX search_entries_sample_idx ON catalog.search_entries USING gin (search) WHERE sampled"""
