"""Cursors: the column by which a pipeline reads only what is new, and the window of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from dataflows.data.tables import Column, Table
from dataflows.data.types import parse_type
from penstock.errors import MissingColumn, Refused, SchemaMismatch, did_you_mean
from penstock.models.domain import Reload

__all__ = ["ORDERED", "TIMES", "CursorRule", "Window", "cursor_column", "split_key", "window_between"]

ORDERED: Final = {
    "smallint", "integer", "bigint", "numeric", "text", "character varying", "uuid", "date",
    "timestamp without time zone", "timestamp with time zone",
}  # fmt: skip
"""Types whose order is the same in every system, and whose values can be kept as text."""
TIMES: Final = {"date", "timestamp without time zone", "timestamp with time zone"}


@dataclass(frozen=True, slots=True)
class Window:
    """Rows with a cursor above `lower` and not above `upper`; empty where `upper` is None."""

    lower: str | None
    upper: str | None
    reached: str | None = None
    """Where the cursor stands afterwards, if that is below `upper`: what is above it is read again."""
    notes: tuple[str, ...] = ()
    """What a person should know of rows beyond it."""

    @property
    def position(self) -> str | None:
        """Where the cursor stands once the window was read; None where there was nothing to read."""
        return self.upper if self.reached is None else self.reached


@dataclass(frozen=True, slots=True)
class CursorRule:
    """What a pipeline says of its cursor, and whether its sink takes a row twice without doubling it."""

    lag: timedelta = timedelta(0)
    timezone: str | None = None
    again: bool = False


def split_key(table: Table) -> Column | None:
    """The column to split by: the first of a unique key of an ordered type, the primary key before others."""
    for key in table.keys:
        column = table.column(key[0])
        if column is not None and parse_type(column.type).name in ORDERED:
            return column
    return None


def cursor_column(table: Table, name: str, where: str) -> Column:
    """The cursor's column.

    Raises:
        MissingColumn: no such column.
        SchemaMismatch: its type has no order that can be kept as text.
    """
    column = table.column(name)
    if column is None:
        known = [one.name for one in table.columns]
        raise MissingColumn("there is no such column", where=where, value=name, hint=did_you_mean(name, known))
    if parse_type(column.type).name not in ORDERED:
        hint = "use a whole number, a date, a timestamp, a uuid or a text that only grows"
        raise SchemaMismatch(f"`{name}` of type {column.type} cannot be a cursor", where=where, hint=hint)
    return column


def window_between(reload: Reload, cursor: Column, last: str, where: str) -> Window:
    """The window of values that `reload` names, as far as runs have come: `last` is the position of the cursor.

    Raises:
        Refused: nothing of it was read yet, it is empty, a bound is no value of the cursor's type, or that type has no
            value just before another one.
    """
    kind = parse_type(cursor.type).name
    if kind not in _STEPS:
        hint = "a window needs a cursor of whole numbers, dates or timestamps; `penstock run --full` reads everything"
        raise Refused(f"`{cursor.name}` of type {cursor.type} has no windows", where=where, hint=hint)
    read, step, write = _STEPS[kind]
    lower, upper = (_value(text, read, cursor, where) for text in (reload.from_ or "", reload.to or ""))
    if lower >= upper:
        raise Refused("the window is empty", where=where, value=f"{reload.from_} to {reload.to}", hint="from < to")
    end = min(upper - step, read(last))
    if end < lower:
        hint = "`penstock run` reads what is new; only what was read before is read again"
        raise Refused(f"runs have come to {last} only", where=where, value=reload.from_, hint=hint)
    return Window(write(lower - step), write(end))


def _value(text: str, read: Callable[[str], Any], cursor: Column, where: str) -> Any:
    try:
        return read(text)
    except (ValueError, OverflowError):
        hint = f"`{cursor.name}` is of type {cursor.type}"
        raise Refused("is no value of the cursor", where=where, value=text, hint=hint) from None


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _local(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is not None:
        message = "a time without a zone is wanted"
        raise ValueError(message)
    return found


_WHOLE: Final = (int, 1, str)
_STEPS: Final[dict[str, tuple[Callable[[str], Any], Any, Callable[[Any], str]]]] = {
    "smallint": _WHOLE, "integer": _WHOLE, "bigint": _WHOLE,
    "date": (date.fromisoformat, timedelta(days=1), date.isoformat),
    "timestamp without time zone": (_local, timedelta(microseconds=1), lambda one: one.isoformat(sep=" ")),
    "timestamp with time zone": (_moment, timedelta(microseconds=1), lambda one: one.isoformat(sep=" ")),
}  # fmt: skip
"""How values of a type are read, the distance of two neighbours, and how they are written."""
