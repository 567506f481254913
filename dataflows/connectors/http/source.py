"""A path of an HTTP API as a source.

A run reads all pages of its window in one split, as only the API knows where the next page is, and pages may have
shifted when one is requested again. In memory are one page, and the cursors of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pyarrow as pa
import pyarrow.compute as pc

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.formats.types import cast_exactly
from dataflows.connectors.http.client import Client
from dataflows.connectors.http.pages import Page, pages
from dataflows.connectors.http.records import Records, columns_of
from dataflows.connectors.reading import chunks
from dataflows.connectors.resolution import ended
from dataflows.connectors.windows import (
    SECOND,
    Clock,
    Edge,
    Evidence,
    check_cursor,
    format_time,
    future_row_notes,
    risks,
    time_window,
)
from dataflows.data.chunks import Chunk
from dataflows.data.cursors import TIMES, CursorRule, Window
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, carried, parse_type
from penstock.clock import now
from penstock.errors import BadData, SchemaMismatch
from penstock.models.http import HttpEndpoint, OnePage, Since

__all__ = ["HttpReader", "HttpSource"]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class HttpSource:
    """One path of an API."""

    place: Place
    url: httpx.URL
    endpoint: HttpEndpoint
    form: None = field(default=None, init=False)
    _client: Client | None = field(default=None, init=False)
    _table: Table | None = field(default=None, init=False)
    _seen_in: int | None = field(default=None, init=False)

    @property
    def where(self) -> str:
        """Location that errors of this object name."""
        return f"{self.place.where}: {self.place.object}"

    def describe(self) -> Table:
        if self._table is None:
            columns = columns_of(self.endpoint.columns, self._first_page, self.where)
            self._table = Table(self.place.object, "http", columns)
        return self._table

    def _first_page(self) -> Page | None:
        page = next(self._pages(self.url), None)
        self._seen_in = page.count if page is not None else None
        return page

    def looked_at(self) -> int | None:
        """Return the number of records in which the columns were seen; None if they are declared."""
        return self._seen_in

    def split_key(self, table: Table) -> Column | None:
        return None

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        """Return the window up to the greatest value of all pages since `last`, or of the newest page.

        A time cursor ends in the past, by this machine's clock: a record with a future time would hide all records made
        until then, and new records can still get the current time.

        Raises:
            Refused: the cursor would lose records.
            SchemaMismatch: a lag on a cursor that is not a time, or a cursor that does not sort like its text.
            BadData: the cursor of a record is NULL, so that no window would contain it.
        """
        evidence = self._checked(cursor, rule)
        values = self._newest(cursor, last)
        if values is None or not len(values):
            return Window(last, None)
        if not evidence.is_time:
            top = pc.max(values)
            lower = None if last is None else pa.scalar(last).cast(values.type)
            is_new = lower is None or pc.greater(top, lower).as_py()
            return Window(last, _as_text(top.as_py()) if is_new else None)
        clock = Clock.of_this_machine(now(), rule)
        evidence = replace(evidence, coarse=SECOND if _is_whole(values) else None)

        def greatest(edge: Edge) -> str | None:
            return _greatest_within(values, last, format_time(edge.upper, cursor))

        def latest(edge: Edge, rows: int, *, distinct: bool) -> list[str | None]:
            return _latest(values, format_time(edge.upper, cursor), rows, distinct=distinct)

        end = ended(evidence, rule, clock, greatest, latest)
        beyond = pa.scalar(format_time(end.edge.now, cursor)).cast(values.type)
        later = int(pc.sum(pc.greater(values, beyond)).as_py() or 0)
        notes = (*future_row_notes(cursor, later), *end.notes)
        return replace(time_window(end.edge, cursor, last, end.greatest), notes=notes)

    def risks(self, table: Table, cursor: Column, rule: CursorRule) -> tuple[str, ...]:
        return risks(self._checked(cursor, rule), rule)

    def _checked(self, cursor: Column, rule: CursorRule) -> Evidence:
        """Return the facts about a cursor, without a request, and check them."""
        kind = parse_type(cursor.type)
        if carried(kind):
            hint = "declare its type in the connection's `endpoints`, such as timestamptz or numeric(20,0)"
            raise SchemaMismatch(
                f"`{cursor.name}` of type {cursor.type} cannot be a cursor", where=self.where, hint=hint
            )
        zone = (rule.timezone or "UTC") if kind.name in {"date", "timestamp without time zone"} else None
        evidence = Evidence(cursor, zone=zone, no_catalog=True)
        check_cursor(evidence, rule, self.where)
        return evidence

    def _newest(self, cursor: Column, last: str | None) -> pa.ChunkedArray | None:
        """Return the cursors of new records, or of the newest page; None if there is no page."""
        records = Records((cursor,), (cursor,), sampled=False, where=self.where)
        url = self.since(cursor, last)
        newest = self.endpoint.newest
        all_pages = self._pages(url.copy_merge_params(newest) if newest else url, only_first=bool(newest))
        values = (_cursors(records.table(page), cursor, f"{self.where}: page {page.number}") for page in all_pages)
        if newest:
            return next(values, None)
        chunks = [chunk for one in values for chunk in one.chunks]
        return pa.chunked_array(chunks, arrow_type(parse_type(cursor.type)))

    def since(self, cursor: Column | None, last: str | None) -> httpx.URL:
        """Return the URL of the records newer than `last`; of all records if the API cannot filter."""
        since = self.endpoint.since
        if cursor is None or last is None or since is None:
            return self.url
        return self.url.copy_set_param(since.parameter, _since_value(last, cursor, since, self.where))

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        return (Split(first, window.lower, window.upper),)

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return None

    def reader(self, order: ReadOrder) -> HttpReader:
        return HttpReader(self, order, self.connected(order))

    def connected(self, order: ReadOrder | None = None) -> Client:
        """Return a new client."""
        check = order.check if order is not None else lambda: None
        return Client.of(self.place.settings, self.where, self.place.secrets, check)

    def _pages(self, url: httpx.URL, *, only_first: bool = False) -> Iterator[Page]:
        self._client = self._client or self.connected()
        return self.pages(self._client, url, only_first=only_first)

    def pages(self, client: Client, url: httpx.URL, *, only_first: bool = False) -> Iterator[Page]:
        """Yield the pages from `url` on; `only_first`: no other is asked for, whatever the first says."""
        by = self.endpoint.pagination or (OnePage(type="none") if only_first else None)
        errors, whole = self.endpoint.errors != "ignore", url == self.url
        return pages(client, url, by, self.endpoint.records, self.where, whole=whole, errors=errors)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


@dataclass(slots=True)
class HttpReader:
    """Reads the pages of a window."""

    source: HttpSource
    order: ReadOrder
    client: Client

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the chunks of a split and its closing marker; records with values of a wrong type are refused.

        Raises:
            BadData: a column is in no sampled record.
        """
        return chunks(slot, split, self._batches(split))

    def close(self) -> None:
        """End the session."""
        self.client.close()

    def _batches(self, split: Split) -> Iterator[Rows]:
        order, source = self.order, self.source
        assert order.schema is not None  # noqa: S101 - records are never read undecoded
        names = {*order.columns} | ({order.key.name} if order.key is not None else set())
        wanted = [one for one in order.table.columns if one.name in names]
        whole = len(wanted) == len(order.table.columns)
        records = Records(wanted, order.table.columns, not source.endpoint.columns, source.where, whole)
        for page in source.pages(self.client, source.since(order.key, split.lower)):
            where = f"{source.where}: page {page.number}"
            valid, wrong = records.read(page)
            refused = tuple(one for alone, one in wrong if self._is_in_window(alone, split))
            table = _in_window(valid, order.key, split, where).combine_chunks()
            batches = table.to_batches(max_chunksize=order.batch_rows)
            if refused and not batches:
                batches = [pa.RecordBatch.from_pylist([], table.schema)]
            for at, batch in enumerate(batches):
                arrays = [cast_exactly(batch.column(one.name), one, where) for one in order.schema]
                yield Rows(pa.RecordBatch.from_arrays(arrays, names=order.schema.names), () if at else refused)

    def _is_in_window(self, page: Page, split: Split) -> bool:
        """True if an invalid record belongs to the window; others were refused by the run that read theirs.

        Raises:
            BadData: its cursor is invalid.
        """
        key, where = self.order.key, f"{self.source.where}: page {page.number}"
        if key is None:
            return True
        records = Records((key,), (key,), sampled=False, where=self.source.where)
        return bool(_in_window(records.table(page), key, split, where).num_rows)


def _in_window(table: pa.Table, key: Column | None, split: Split, where: str) -> pa.Table:
    """Return the rows of a window: above its lower bound, up to and including its upper one."""
    if key is None:
        return table
    values = _cursors(table, key, where)
    for text, compare in ((split.lower, pc.greater), (split.upper, pc.less_equal)):
        if text is not None:
            kept = compare(values, pa.scalar(text).cast(values.type))
            table, values = table.filter(kept), values.filter(kept)
    return table


def _is_whole(values: pa.ChunkedArray) -> bool:
    """True if no time has fractions of a second."""
    if not pa.types.is_timestamp(values.type):
        return False
    return bool(pc.all(pc.equal(values, pc.floor_temporal(values, unit="second"))).as_py())


def _latest(values: pa.ChunkedArray, upper: str, rows: int, *, distinct: bool) -> list[str | None]:
    """Return as many of the values up to `upper`, the greatest first; without repeats if `distinct`."""
    within = values.filter(pc.less_equal(values, pa.scalar(upper).cast(values.type)))
    found = within.unique() if distinct else within
    chosen = found.take(pc.top_k_unstable(found, k=rows))
    return [_as_text(one) for one in chosen.to_pylist()]


def _greatest_within(values: pa.ChunkedArray, last: str | None, upper: str) -> str | None:
    """Return the greatest time above `last` and not above `upper`, if there is one."""
    within = pc.less_equal(values, pa.scalar(upper).cast(values.type))
    if last is not None:
        within = pc.and_(within, pc.greater(values, pa.scalar(last).cast(values.type)))
    greatest = pc.max(values.filter(within)).as_py()
    return None if greatest is None else _as_text(greatest)


def _cursors(table: pa.Table, key: Column, where: str) -> pa.ChunkedArray:
    values = table.column(key.name)
    if values.null_count:
        what = f"records without a cursor (`{key.name}` is null or missing) would never be read"
        raise BadData(what, where=where, hint="choose another cursor, or leave such records out by a query")
    return values


def _as_text(value: Any) -> str:
    """Return a cursor's value as a position stores it."""
    return str(value.isoformat(sep=" ") if isinstance(value, datetime) else value)


def _since_value(last: str, cursor: Column, since: Since, where: str) -> str:
    """Return a position in the form that the API expects; seconds or milliseconds are rounded down."""
    kind = parse_type(cursor.type).name
    if kind not in TIMES:
        if since.form == "iso":
            return last
        hint = "declare its type in the connection's `endpoints`, such as timestamptz"
        raise SchemaMismatch(f"`{cursor.name}` is not a time, so it has no {since.form}", where=where, hint=hint)
    at = datetime.fromisoformat(last)
    if since.form == "iso":
        return last if kind == "date" else at.isoformat().replace("+00:00", "Z")
    passed = (at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH
    return str(passed // timedelta(seconds=1) if since.form == "seconds" else passed // timedelta(milliseconds=1))
