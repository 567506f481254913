"""PostgreSQL's own catalog: all tables and views of a database, in few queries over many tables each.

It reads `pg_catalog` only, in read-only transactions, and takes no lock on a table. A user that may only SELECT sees
all that it may read. Rows and sizes are what the server itself last counted or estimated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa

from dataflows.connectors.cataloguing import Found, clipped, has_documents, paged
from dataflows.connectors.formats.documents import with_parts
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.postgres.listing import KINDS
from dataflows.connectors.postgres.samples import documents, sampled
from dataflows.connectors.postgres.session import LOCK_NOT_AVAILABLE, Session, connect, release, translated
from dataflows.connectors.postgres.tables import TableName
from dataflows.data.statistics import LONGEST, TOP, Statistics
from penstock.models.domain import Field, ForeignKey, Schema
from penstock.models.profiles import DatasetProfile, Index, Partitions, about

__all__ = ["PostgresCatalog"]

PAGE_TABLES: Final = 200
"""Tables that are described at once."""
STATEMENT_SECONDS: Final = 60.0
LOCK_SECONDS: Final = 2.0
SAMPLE_MILLISECONDS: Final = 5000
NAMED: Final = 5
"""Names in a note."""


class PostgresCatalog:
    """The tables and views of a database that its user may read, without Penstock's own; a partition is no table."""

    def __init__(self, dsn: str, where: str) -> None:
        self.notes: list[str] = []
        self.present: list[str] = []
        self.locked: list[str] = []
        self._where = where
        self._session = connect(
            dsn, where=where, name="penstock:discovery", statement=STATEMENT_SECONDS, lock=LOCK_SECONDS
        )
        with translated(where):
            self._session.execute("SET default_transaction_read_only = on")

    def described(self, objects: Iterable[ListedObject], check: Callable[[], None]) -> Iterator[Sequence[Found]]:
        """Yield tables and views in pages."""
        self.locked = []
        for page in paged(self._readable(objects), PAGE_TABLES):
            check()
            yield self._described(page)
        if self.locked:
            more = len(self.locked) - NAMED
            names = ", ".join(self.locked[:NAMED]) + (f" and {more} more" if more > 0 else "")
            self.notes.append(f"locked by another session, and shown as before: {names}")

    def _readable(self, objects: Iterable[ListedObject]) -> Iterator[ListedObject]:
        closed, dotted = 0, 0
        for one in objects:
            if not one.readable:
                closed += 1
                self.present.append(one.name)
            elif not one.nameable:
                dotted += 1
            else:
                yield one
        if closed:
            self.notes.append(f"tables and views left out, as this user may not SELECT them: {closed}")
        if dotted:
            self.notes.append(f"tables and views left out, as their schema has a dot in its name: {dotted}")

    def _described(self, page: Sequence[ListedObject]) -> list[Found]:
        """Describe some tables, all as of one moment; one that is being altered is left out.

        The server itself locks a table for a moment when it writes an expression of its indexes as text.
        """
        names = [[one.schema for one in page], [one.table for one in page]]
        for last in (False, False, True):
            with translated(self._where):
                numbered = self._session.execute(_NUMBERS, names).fetchall()
            free = self._unlocked(numbered)
            with translated(self._where):
                try:
                    with _snapshot(self._session) as session:
                        return _read(session, free)
                except LOCK_NOT_AVAILABLE:
                    if last:
                        raise
        return []

    def _unlocked(self, page: Sequence[_Named]) -> list[_Named]:
        with translated(self._where):
            locked = {row[0] for row in self._session.execute(_LOCKED, ([id_ for id_, _, _ in page],))}
        self.locked += (names := [f"{schema}.{name}" for id_, schema, name in page if id_ in locked])
        self.present += names
        return [one for one in page if one[0] not in locked]

    def sample(self, found: Found, rows: int, check: Callable[[], None]) -> Found:
        """Return it with the fields of documents, and statistics of rows if it has none. Raises as `Catalog.sample`."""
        with translated(self._where):
            self._session.execute(f"SET statement_timeout = {SAMPLE_MILLISECONDS}")
            with _snapshot(self._session) as session:
                name = TableName.parse(found.object)
                known = found.statistics or sampled(session, name, found, rows)
                part = documents(session, name, found, rows) if has_documents(found) else pa.table({})
        schema, places = with_parts(found.schema, part)
        return replace(found, schema=schema, statistics=known, well_seen=places)

    def close(self) -> None:
        """End the session."""
        release(self._session)


_Named = tuple[int, str, str]
"""A table's number in the server's catalog, schema and name."""


class _snapshot:  # noqa: N801 - reads as a function
    """A read-only transaction in which all queries see the same state."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> Session:
        self._session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return self._session

    def __exit__(self, kind: object, *_: object) -> None:
        self._session.execute("COMMIT" if kind is None else "ROLLBACK")


def _read(session: Session, page: Sequence[_Named]) -> list[Found]:
    ids = [id_ for id_, _, _ in page]
    fields: dict[int, list[Field]] = defaultdict(list)
    for id_, name, kind, nullable, default, comment in session.execute(_COLUMNS, (ids,)):
        field = Field(name=name, type=kind, nullable=nullable, default=clipped(default), description=clipped(comment))
        fields[id_].append(field)
    keys: dict[int, tuple[str, ...]] = {}
    indexes: dict[int, list[Index]] = defaultdict(list)
    for id_, name, columns, unique, primary in session.execute(_INDEXES, (ids,)):
        indexes[id_].append(Index(name=name, columns=[column[:512] for column in columns], unique=unique))
        if primary:
            keys[id_] = tuple(columns)
    foreign: dict[int, list[ForeignKey]] = defaultdict(list)
    for id_, columns, references, to in session.execute(_FOREIGN, (ids,)):
        foreign[id_].append(ForeignKey(columns=columns, object=references, references=to))
    asked = {"ids": ids, "schemas": [one[1] for one in page], "names": [one[2] for one in page]}
    statistics: dict[int, dict[str, Statistics]] = defaultdict(dict)
    for id_, column, *measured in session.execute(_STATISTICS, asked):
        statistics[id_][column] = _statistics(*measured)
    tables = {row[0]: row[1:] for row in session.execute(_TABLES, (ids,))}
    found = []
    for id_, schema, name in page:
        if id_ not in tables:
            continue  # it was dropped since its name was read
        kind, comment, divided, parts, rows, size = tables[id_]
        profile = DatasetProfile(
            rows=about(rows),
            bytes=about(size),
            indexes=tuple(indexes[id_]),
            partitions=Partitions(by=divided[:512], count=parts) if divided is not None else None,
        )
        unique = [one.columns for one in indexes[id_] if one.unique and one.columns != keys.get(id_)]
        names = {field.name for field in fields[id_]}
        described = Schema(
            fields=tuple(fields[id_]),
            key=keys.get(id_, ()),
            unique=tuple(one for one in unique if names.issuperset(one)),
            foreign=tuple(foreign[id_]),
        )
        found.append(Found(f"{schema}.{name}", KINDS[kind], described, clipped(comment), profile, statistics[id_]))
    return found


def _statistics(
    nulls: float,
    distinct: float,
    width: int,
    top: list[str] | None,
    shares: list[float] | None,
    bounds: list[str] | None,
) -> Statistics:
    pairs = zip(top or (), shares or (), strict=False)
    clipped_top = tuple((value[:LONGEST], round(share, 4)) for value, share in pairs)
    return Statistics(nulls, distinct, width, clipped_top, tuple(value[:LONGEST] for value in bounds or ()))


_NUMBERS: Final = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text FROM unnest(%s::name[], %s::name[]) AS wanted(schema, name)
JOIN pg_namespace n ON n.nspname = wanted.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
ORDER BY n.nspname, c.relname"""

_LOCKED: Final = """
SELECT relation::bigint FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = ANY (%s::oid[])
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

_COLUMNS: Final = """
SELECT a.attrelid::bigint, a.attname::text, format_type(a.atttypid, a.atttypmod), NOT (a.attnotnull OR t.typnotnull),
  CASE WHEN a.attidentity <> '' THEN 'GENERATED ' || CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END
    || ' AS IDENTITY' WHEN a.attgenerated <> '' THEN 'GENERATED ALWAYS AS (' || pg_get_expr(e.adbin, e.adrelid) || ')'
    ELSE coalesce(pg_get_expr(e.adbin, e.adrelid), t.typdefault) END, d.description
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
LEFT JOIN pg_description d ON d.objoid = a.attrelid AND d.classoid = 'pg_class'::regclass AND d.objsubid = a.attnum
WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"""

_INDEXES: Final = """
SELECT x.indrelid::bigint, i.relname::text, ARRAY(
    SELECT coalesce(a.attname::text, pg_get_indexdef(x.indexrelid, k.place::int, true))
    FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(number, place)
    LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number AND k.number <> 0
    WHERE k.place <= x.indnkeyatts ORDER BY k.place),
  x.indisunique AND x.indpred IS NULL, x.indisprimary
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
WHERE x.indrelid = ANY (%s::oid[]) AND x.indislive ORDER BY x.indrelid, NOT x.indisprimary, i.relname"""

_FOREIGN: Final = """
SELECT c.conrelid::bigint,
  ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(number, place)
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number ORDER BY k.place),
  n.nspname || '.' || r.relname,
  ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k(number, place)
    JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number ORDER BY k.place)
FROM pg_constraint c JOIN pg_class r ON r.oid = c.confrelid JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE c.contype = 'f' AND c.conparentid = 0 AND c.conrelid = ANY (%s::oid[]) ORDER BY c.conrelid, c.conname"""

_TABLES: Final = """
WITH RECURSIVE part(root, id) AS (
  SELECT id, id FROM unnest(%s::oid[]) id
  UNION ALL
  SELECT p.root, i.inhrelid FROM part p JOIN pg_class c ON c.oid = p.id AND c.relkind = 'p'
  JOIN pg_inherits i ON i.inhparent = p.id),
counted AS (
  SELECT p.root, count(*) FILTER (WHERE p.id <> p.root AND c.relkind <> 'p') AS parts,
    sum(c.reltuples) FILTER (WHERE c.relkind IN ('r', 'm', 'f') AND (c.reltuples > 0 OR c.relpages > 0)) AS rows,
    sum(c.relpages + coalesce(t.relpages, 0) + coalesce((SELECT sum(i.relpages) FROM pg_index x
      JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid IN (c.oid, c.reltoastrelid)), 0)) AS pages
  FROM part p JOIN pg_class c ON c.oid = p.id LEFT JOIN pg_class t ON t.oid = c.reltoastrelid GROUP BY p.root)
SELECT c.oid::bigint, c.relkind::text, d.description, pg_get_partkeydef(c.oid), counted.parts, counted.rows,
  CASE WHEN counted.rows IS NOT NULL THEN counted.pages END * current_setting('block_size')::bigint
FROM counted JOIN pg_class c ON c.oid = counted.root
LEFT JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0"""

_STATISTICS: Final = f"""
SELECT c.oid::bigint, s.attname::text, s.null_frac, s.n_distinct, s.avg_width,
  (s.most_common_vals::text::text[])[1:{TOP}], s.most_common_freqs[1:{TOP}],
  ARRAY(SELECT b.bound FROM unnest(s.histogram_bounds::text::text[]) WITH ORDINALITY b(bound, place)
    WHERE (b.place - 1) %% 5 = 0 ORDER BY b.place)
FROM pg_stats s JOIN pg_class c ON c.relname = s.tablename
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname
WHERE c.oid = ANY (%(ids)s::oid[]) AND s.schemaname = ANY (%(schemas)s::name[])
  AND s.tablename = ANY (%(names)s::name[])
ORDER BY s.inherited"""
