"""Lists in pages: a limit, and a cursor that continues after the last item, even if items were added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Connection, RowMapping, Select

from catalog.entries import Page
from penstock.errors import UsageError

__all__ = ["LIMIT", "by_name", "checked", "latest"]

LIMIT: Final = 100
MAX_LIMIT: Final = 1000
Item = TypeVar("Item")
Make = Callable[[RowMapping], Item]


def latest(
    connection: Connection,
    query: Select[Any],
    offset: ColumnElement[Any],
    make: Make[Item],
    *,
    limit: int,
    after: str | None,
) -> Page[Item]:
    """Return a page by descending offset, which is unique; `after` is the last page's cursor."""
    if after is not None:
        query = query.where(offset < _number(after))
    return _page(connection, query.order_by(offset.desc()), make, limit, lambda row: str(row["offset"]))


def by_name(
    connection: Connection,
    query: Select[Any],
    name: ColumnElement[Any],
    make: Make[Item],
    *,
    limit: int,
    after: str | None,
) -> Page[Item]:
    """Return a page by ascending name, which is unique."""
    ordered = name.collate("C")
    if after is not None:
        query = query.where(ordered > after)
    return _page(connection, query.order_by(ordered), make, limit, lambda row: str(row["name"]))


def _page(
    connection: Connection, query: Select[Any], make: Make[Item], limit: int, cursor: Callable[[RowMapping], str]
) -> Page[Item]:
    rows = connection.execute(query.limit(checked(limit) + 1)).mappings().all()
    after = cursor(rows[limit - 1]) if len(rows) > limit else None
    return Page(tuple(make(row) for row in rows[:limit]), after)


def checked(limit: int) -> int:
    """Return `limit` if it is allowed. Raises UsageError."""
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"must be 1 to {MAX_LIMIT}", where="limit", value=limit)
    return limit


def _number(after: str) -> int:
    try:
        return int(after)
    except ValueError as error:
        raise UsageError(
            "is not a cursor of this list", where="after", value=after, hint="take it from a page"
        ) from error
