"""Records of pages as Arrow batches, each value of its column's type; other records by page, row and column."""

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

SAMPLE: Final = 1000
"""Records of the first page that columns are told from."""
HINT: Final = "name the columns and their types in the connection's `endpoints`, or mend the API"


def columns_of(declared: Mapping[str, str], first: Callable[[], Page | None], where: str) -> tuple[Column, ...]:
    """The columns: those that the connection names, else what the first page tells.

    Raises:
        SchemaMismatch: nothing tells them.
        BadData: a record that is no object.
    """
    if declared:
        return declared_columns(declared, where)
    page = first()
    if page is None:
        hint = "name the columns and their types in the connection's `endpoints`"
        raise SchemaMismatch("there is no record that tells the columns", where=where, hint=hint)
    check_objects(page, where)
    rows = [parse_object(line) for line in islice(page.lines.split(b"\n"), SAMPLE)]
    if None in rows:
        raise BadData("is no JSON object", where=_place(where, page, rows.index(None)), hint="look at the API")
    columns = infer_columns(row for row in rows if row is not None)
    if not columns:
        raise SchemaMismatch("the records have no columns", where=where, hint="name them in `endpoints`")
    return tuple(Column(one.name, final_type(one.type)) for one in columns)


def check_objects(page: Page, where: str) -> None:
    """Refuse what is no object, null among them.

    Raises:
        BadData: by page and row.
    """
    if page.lines.count(b"\n{") + page.lines.startswith(b"{") < page.count:
        at = next(at for at, line in enumerate(page.lines.split(b"\n")) if not line.startswith(b"{"))
        raise BadData("is no object", where=_place(where, page, at), hint="look at `records`")


def _place(where: str, page: Page, row: int) -> str:
    return f"{where}: page {page.number}, row {row + 1}"


@dataclass(frozen=True)
class Records:
    """Reads `wanted` of the records; where `known` columns were told by a sample, others are an error.

    `whole`: all columns are wanted; where they are not, names that are not known are passed over.
    """

    wanted: Sequence[Column]
    known: Sequence[Column]
    sampled: bool
    where: str
    whole: bool = True

    def table(self, page: Page) -> pa.Table:
        """The columns of a page, all of whose records have to be right.

        Raises:
            BadData: by page, row and column.
        """
        check_objects(page, self.where)
        found, wrong = self._lines.read(page.lines)
        if wrong:
            raise self._error(page, wrong[0])
        return found

    def read(self, page: Page) -> tuple[pa.Table, list[tuple[Page, RefusedRow]]]:
        """The columns of the records that can be read, and the others, each as a page that holds it alone.

        Raises:
            BadData: a column that was in no record of the sample.
        """
        found, wrong = self._lines.read(page.lines)
        if not wrong:
            return found, []
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
        return found, refused

    @cached_property
    def _lines(self) -> Lines:
        known = self.known if self.sampled and self.whole else None
        return Lines({one.name: one for one in self.wanted}, known, inferred=self.sampled)

    def _error(self, page: Page, wrong: BadLine) -> BadData:
        return BadData(wrong.what, where=_place(self.where, page, wrong.line), hint=HINT)
