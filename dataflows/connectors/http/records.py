"""Convert records of pages to Arrow, each value of its column's type; refuse others by page, row and column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final

import pyarrow as pa

from dataflows.connectors.formats.contract import RefusedRow, declared_columns
from dataflows.connectors.formats.lines import BadLine, Lines, infer_columns, parse_object
from dataflows.connectors.formats.types import final_type
from dataflows.connectors.http.pages import Page
from dataflows.data.tables import Column
from penstock.errors import BadData, SchemaMismatch

__all__ = ["Records", "columns_of"]

SAMPLE_RECORDS: Final = 1000
"""Records of the first page from which columns are inferred."""
HINT: Final = "declare the columns and their types in the connection's `endpoints`, or fix the API"


def columns_of(declared: Mapping[str, str], first: Callable[[], Page | None], where: str) -> tuple[Column, ...]:
    """Return the columns that the connection declares, else those inferred from the first page.

    Raises:
        SchemaMismatch: there is no record to infer them from.
        BadData: a record is not an object.
    """
    if declared:
        return declared_columns(declared, where)
    page = first()
    if page is None:
        hint = "declare the columns and their types in the connection's `endpoints`"
        raise SchemaMismatch("there is no record to infer the columns from", where=where, hint=hint)
    check_objects(page, where)
    rows = [parse_object(line) for line in islice(page.lines.split(b"\n"), SAMPLE_RECORDS)]
    if None in rows:
        raise BadData("is not a JSON object", where=_place(where, page, rows.index(None)), hint="check the API")
    columns = infer_columns((row for row in rows if row is not None), where)
    if not columns:
        raise SchemaMismatch("the records have no columns", where=where, hint="declare them in `endpoints`")
    return tuple(Column(one.name, final_type(one.type)) for one in columns)


def check_objects(page: Page, where: str) -> None:
    """Refuse records that are not objects, such as null.

    Raises:
        BadData: with page and row.
    """
    if page.lines.count(b"\n{") + page.lines.startswith(b"{") < page.count:
        at = next(at for at, line in enumerate(page.lines.split(b"\n")) if not line.startswith(b"{"))
        raise BadData("is not an object", where=_place(where, page, at), hint="check `records`")


def _place(where: str, page: Page, row: int) -> str:
    return f"{where}: page {page.number}, row {row + 1}"


@dataclass(frozen=True)
class Records:
    """Reads the `wanted` columns of records; if the `known` columns come from a sample, any other is an error.

    `whole`: all columns are wanted; if not, unknown ones are skipped.
    """

    wanted: Sequence[Column]
    known: Sequence[Column]
    sampled: bool
    where: str
    whole: bool = True

    def table(self, page: Page) -> pa.Table:
        """Return the columns of a page, all of whose records must be valid.

        Raises:
            BadData: a record is invalid; with page, row and column.
        """
        check_objects(page, self.where)
        table, wrong = self._lines.read(page.lines)
        if wrong:
            raise self._error(page, wrong[0])
        return table

    def read(self, page: Page) -> tuple[pa.Table, list[tuple[Page, RefusedRow]]]:
        """Return the columns of the valid records, and each invalid record with a page that contains only it.

        Raises:
            BadData: a column is in no sampled record.
        """
        table, wrong = self._lines.read(page.lines)
        if not wrong:
            return table, []
        for one in wrong:
            if one.code == "unknown_column":
                raise self._error(page, one)
        lines, refused = page.lines.split(b"\n"), []
        for one in wrong:
            values = {"_raw": lines[one.line].decode(errors="replace"), "_page": page.number, "_row": one.line + 1}
            reason = f"page {page.number}, row {one.line + 1}: {one.what}"
            alone = Page(page.number, b"\n" * one.line + lines[one.line], 1)
            refused.append(
                (alone, RefusedRow(one.code, reason, values | ({"_column": one.column} if one.column else {})))
            )
        return table, refused

    @cached_property
    def _lines(self) -> Lines:
        known = self.known if self.sampled and self.whole else None
        return Lines({one.name: one for one in self.wanted}, known, inferred=self.sampled)

    def _error(self, page: Page, wrong: BadLine) -> BadData:
        return BadData(wrong.what, where=_place(self.where, page, wrong.line), hint=HINT)
