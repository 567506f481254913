"""Catalog of any connection whose objects can be listed: each is opened as a source, described, and sampled.

It only does what a preview does: sources are read, never written to, and no position is stored.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final

import pyarrow as pa

from dataflows.connectors.cataloguing import (
    Catalog,
    Catalogued,
    Choice,
    Found,
    Guessing,
    Inferring,
    Profiling,
    Spreading,
    chosen,
)
from dataflows.connectors.contract import Connector, Place, ReadOrder, Source
from dataflows.connectors.formats.documents import with_parts
from dataflows.connectors.listing import Listed, ListedObject
from dataflows.data.chunks import Chunk
from dataflows.data.cursors import Window
from dataflows.data.splits import Split
from dataflows.data.statistics import SAMPLED_VALUES, of_table
from dataflows.data.tables import Table
from dataflows.data.types import arrow_type, column_type
from penstock.errors import MissingTable, PenstockError, Refused, SchemaMismatch, Unavailable, Unreachable
from penstock.models.domain import DatasetRef, Schema
from penstock.models.profiles import DatasetProfile, about

__all__ = ["SAMPLE_SECONDS", "SourceCatalog", "found_objects", "listing", "open_catalog", "reason_of"]

SHOWN: Final = 200
"""Characters of a name and of a reason that a note shows."""
NOTES: Final = 20
"""Objects that have a note of their own; the others are counted."""
IN_A_ROW: Final = 5
"""Objects in a row that the system has failed for, after which it is not asked for more."""
SAMPLE_SECONDS: Final = 5.0
"""Longest time for the rows of one object."""
BATCH_ROWS: Final = 10_000
EVERYTHING: Final = ("*",)
EVERYWHERE: Final = ("**",)


def open_catalog(kind: type[Connector], place: Place) -> Catalog:
    """Open the catalog of a connection.

    Raises:
        Refused: its objects cannot be listed.
    """
    listing(kind, place)
    catalogued: object = kind
    return catalogued.catalog(place) if isinstance(catalogued, Catalogued) else SourceCatalog(kind.source, place)


def listing(kind: object, place: Place) -> Listed:
    """Return the connector as one that lists its objects.

    Raises:
        Refused: it cannot.
    """
    if isinstance(kind, Listed):
        return kind
    what, hint = f"connections of type {place.settings.type} cannot list their objects", "name them in pipelines"
    raise Refused(what, where=place.where, hint=hint)


def found_objects(
    kind: object, place: Place, catalog: Catalog, choice: Choice, listed: dict[str, ListedObject] | None = None
) -> Iterator[Sequence[Found]]:
    """Yield the objects that are wanted in pages: names are listed first, then described as the catalog can.

    `listed` gets each by its name, before it is described. Whoever wants everything gets what is deep in folders, too.
    """
    hidden: list[str] = []
    choice = replace(choice, tables=EVERYWHERE) if choice.tables == EVERYTHING else choice

    def kept() -> Iterator[ListedObject]:
        for one in chosen(listing(kind, place), place, choice, hidden):
            if listed is not None:
                listed[one.name] = one
            yield one

    yield from catalog.described(kept(), choice.check)
    catalog.present += hidden


def reason_of(error: Exception) -> str:
    """Return what a note says of an error; print the traceback of a defect, and note its class only."""
    if isinstance(error, PenstockError):
        return error.what[:SHOWN]
    traceback.print_exception(error)
    return f"a defect, {type(error).__name__}"


class SourceCatalog:
    """The objects of a connection, each as its source; `describe` returns their columns without opening each.

    With `declared` the connection itself names them, so that one that does not exist is a mistake to report.
    """

    def __init__(
        self,
        source: Callable[[Place], Source],
        place: Place,
        describe: Callable[[str], Table] | None = None,
        close: Callable[[], None] = lambda: None,
        *,
        declared: bool = False,
    ) -> None:
        self.notes: list[str] = []
        self.present: list[str] = []
        self._source, self._place, self._left_out = source, place, 0
        self._describe, self._close, self._declared = describe, close, declared

    def described(self, objects: Iterable[ListedObject], check: Callable[[], None]) -> Iterator[Sequence[Found]]:
        """Yield the objects one by one; one that cannot be described is left out and reported.

        Raises:
            Unavailable: the system does not answer, or has failed for several objects in a row.
        """
        in_a_row, before = 0, self._left_out
        for one in objects:
            check()
            try:
                found = self._described(one)
            except PenstockError as error:
                if isinstance(error, MissingTable) and not self._declared:
                    continue  # it is gone since it was listed
                in_a_row = in_a_row + 1 if isinstance(error, Unavailable) else 0
                if isinstance(error, Unreachable) or in_a_row == IN_A_ROW:
                    raise
                self._leave_out(one.name, error)
            except Exception as error:  # noqa: BLE001 - a defect with one object is no reason to skip the others
                self._leave_out(one.name, error)
            else:
                in_a_row = 0
                yield [found]
        if self._left_out > max(before, NOTES):
            self.notes.append(f"{self._left_out - NOTES} more left out")

    def _leave_out(self, name: str, error: Exception) -> None:
        self.present.append(name)
        self._left_out += 1
        if self._left_out <= NOTES:
            self.notes.append(f"{name[:SHOWN]} is left out: {reason_of(error)}")

    def _described(self, one: ListedObject) -> Found:
        DatasetRef.parse({"connection": "here", "object": one.name})
        if self._describe is not None:
            table = self._describe(one.name)
            return Found(one.name, one.kind, _schema(table, one))
        with closing(self._opened(one.name)) as source:
            try:
                table = source.describe()
            except SchemaMismatch:
                if not self._is_empty(source):
                    raise
                return Found(one.name, one.kind, Schema(fields=()), profile=_profile(source), empty=True)
            looked_at = source.looked_at() if isinstance(source, Inferring) else None
            return Found(one.name, one.kind, _schema(table, one), None, _profile(source, table), looked_at=looked_at)

    def _is_empty(self, source: Source) -> bool:
        """True if a source without columns is one without rows."""
        return isinstance(source, Guessing) and isinstance(source, Profiling) and source.profile().format is None

    def _opened(self, name: str) -> Source:
        source = self._source(replace(self._place, object=name))
        if isinstance(source, Guessing):
            try:
                source.guess_format()
            except BaseException:
                source.close()
                raise
        return source

    def sample(self, found: Found, rows: int, check: Callable[[], None]) -> Found:
        """Return it with what some rows show. Raises as `Catalog.sample`."""
        end = time.monotonic() + SAMPLE_SECONDS

        def checked() -> None:
            check()
            if time.monotonic() > end:
                raise Unavailable(f"no rows came within {SAMPLE_SECONDS:g} s", where=self._place.where)

        with closing(self._opened(found.object)) as source:
            table = source.describe()
            part, whole = _read(source, table, rows, checked)
        schema, places = with_parts(found.schema, part)
        return replace(found, schema=schema, statistics=of_table(part, whole=whole), well_seen=places)

    def close(self) -> None:
        """Close what the descriptions are read from."""
        self._close()


def _schema(table: Table, one: ListedObject) -> Schema:
    columns = [column for column in table.columns if not column.hidden]
    fields = [{"name": column.name, "type": column.type, "nullable": column.nullable} for column in columns]
    key = one.key if not table.keys or one.key in table.keys else table.keys[0]
    unique = [keys for keys in table.keys if keys != key]
    return Schema.parse({"fields": fields, "key": key, "unique": unique or None})


def _profile(source: Source, table: Table | None = None) -> DatasetProfile:
    if isinstance(source, Profiling):
        return source.profile()
    return DatasetProfile(rows=about(table.estimated_rows) if table is not None and table.estimated_rows else None)


def _read(source: Source, table: Table, rows: int, check: Callable[[], None]) -> tuple[pa.Table, bool]:
    """Return some rows, and True if they are all."""
    kinds = {one.name: arrow_type(column_type(one)) for one in table.columns if not (one.hidden or one.unreadable)}
    schema = pa.schema([(name, kind) for name, kind in kinds.items() if kind is not None])
    most = max(1, min(rows, SAMPLED_VALUES // max(1, len(schema))))
    order = ReadOrder(table, tuple(schema.names), None, schema, min(most, BATCH_ROWS), check)
    splits, whole = _splits(source, table, most)
    share = -(-most // max(1, len(splits)))
    batches: list[pa.RecordBatch] = []
    with closing(source.reader(order)) as reader:
        for split in splits:
            part, ended = _first(reader.read("sample", split), share)
            batches += part
            whole = whole and ended
    return pa.Table.from_batches(batches, schema), whole


def _splits(source: Source, table: Table, rows: int) -> tuple[Sequence[Split], bool]:
    """Return splits that show what the rows are like, and True if they have all rows."""
    if isinstance(source, Spreading):
        return source.spread(rows)
    return source.plan(table, None, Window(None, None), rows, 0), True


def _first(chunks: Iterator[Chunk], rows: int) -> tuple[list[pa.RecordBatch], bool]:
    """Return the first rows of a split, and True if it has no more."""
    batches: list[pa.RecordBatch] = []
    for chunk in chunks:
        if isinstance(chunk.data, pa.RecordBatch):
            batches.append(chunk.data.slice(0, rows))
            rows -= len(batches[-1])
        if rows <= 0:
            return batches, chunk.last
    return batches, True
