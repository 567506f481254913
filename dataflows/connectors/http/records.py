"""Records of pages as Arrow batches, each value of its column's type or an error that names page, row and column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec
import orjson
import pyarrow as pa

from dataflows.connectors.formats.contract import declared
from dataflows.connectors.formats.jsonl import UNREADABLE, Lines, kinds_of
from dataflows.connectors.formats.types import UNKNOWN
from dataflows.connectors.http.pages import Page
from dataflows.data.tables import Column
from penstock.errors import BadData, SchemaMismatch

__all__ = ["Records", "columns_of"]

SAMPLE: Final = 1000
"""Records of the first page that columns are told from."""
HINT: Final = "name the columns and their types in the connection's `endpoints`, or mend the API"


def columns_of(told: Mapping[str, str], first: Callable[[], Page | None], where: str) -> tuple[Column, ...]:
    """The columns: those that the connection names, else what the first page tells.

    Raises:
        SchemaMismatch: nothing tells them.
        BadData: a record that is no object.
    """
    if told:
        return declared(told, where)
    page = first()
    if page is None:
        hint = "name the columns and their types in the connection's `endpoints`"
        raise SchemaMismatch("there is no record that tells the columns", where=where, hint=hint)
    check_objects(page, where)
    columns = kinds_of(map(orjson.loads, islice(page.lines.split(b"\n"), SAMPLE)))
    if not columns:
        raise SchemaMismatch("the records have no columns", where=where, hint="name them in `endpoints`")
    return tuple(Column(one.name, "text" if one.type == UNKNOWN else one.type) for one in columns)


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


@dataclass(frozen=True, slots=True)
class Records:
    """Reads `wanted` of the records; where `known` columns were told by a sample, others are an error."""

    wanted: Sequence[Column]
    known: Sequence[Column]
    sampled: bool
    where: str

    def table(self, page: Page) -> pa.Table:
        """The columns of a page.

        Raises:
            BadData: by page, row and column.
        """
        lines = Lines({one.name: one for one in self.wanted}, self.known, strict=False)
        check_objects(page, self.where)
        if self.sampled:
            self._check_names(page)
        try:
            found = lines.read(page.lines)
        except UNREADABLE:
            at, column = lines.culprit(page.lines)
            what = "is no object of the known columns" if column is None else f"`{column}` is not of its type"
            raise BadData(what, where=_place(self.where, page, at), hint=HINT) from None
        return found

    def _check_names(self, page: Page) -> None:
        """Nobody would see that a name is left out which came up later than the sample."""
        known = {one.name for one in self.known}
        rows = msgspec.json.decode(b"[" + page.lines.replace(b"\n", b",") + b"]", type=list[dict[str, msgspec.Raw]])
        if known.issuperset(set().union(*rows)):
            return
        at, name = next((at, name) for at, row in enumerate(rows) for name in row if name not in known)
        raise BadData(f"`{name}` was not among the first records", where=_place(self.where, page, at), hint=HINT)
