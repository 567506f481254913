"""Cursors: the column by which a pipeline reads only new rows, and the window of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from dataflows.data.tables import Column, Table
from dataflows.data.types import parse_type
from penstock.errors import MissingColumn, Refused, SchemaMismatch, did_you_mean
from penstock.models.domain import Reload

__all__ = [
    "ORDERED", "TIMES", "CursorRule", "Window", "cursor_column", "since", "split_key", "time_text",
    "window_between",
]  # fmt: skip

ORDERED: Final = {
    "smallint", "integer", "bigint", "numeric", "text", "character varying", "uuid", "date",
    "timestamp without time zone", "timestamp with time zone",
}  # fmt: skip
"""Types whose order is the same in every system, and whose values can be kept as text."""
TIMES: Final = {"date", "timestamp without time zone", "timestamp with time zone"}


@dataclass(frozen=True, slots=True)
class Window:
    """Rows with a cursor above `lower` and not above `upper`; empty if `upper` is None."""

    lower: str | None
    upper: str | None
    reached: str | None = None
    """Position of the cursor after the run, if below `upper`: the next run reads the rows above it again."""
    notes: tuple[str, ...] = ()
    """Notes for the user on rows beyond the window."""

    @property
    def position(self) -> str | None:
        """Position of the cursor after the window was read; None if there was nothing to read."""
        return self.upper if self.reached is None else self.reached


@dataclass(frozen=True, slots=True)
class CursorRule:
    """Settings of a pipeline's cursor; `idempotent` is true if its sink can take a row twice."""

    lag: timedelta = timedelta(0)
    timezone: str | None = None
    idempotent: bool = False
    ordered: bool = False
    """True if the pipeline guarantees that each new value, made by a program, is greater than all earlier ones."""


def split_key(table: Table) -> Column | None:
    """Return the column to split by: the first one of a unique key, if its type is ordered; the primary key first."""
    for key in table.keys:
        column = table.column(key[0])
        if column is not None and parse_type(column.type).name in ORDERED:
            return column
    return None


def cursor_column(table: Table, name: str, where: str) -> Column:
    """Return the cursor's column.

    Raises:
        MissingColumn: no such column.
        SchemaMismatch: its type has no order that can be kept as text.
    """
    column = table.column(name)
    if column is None:
        known = [one.name for one in table.columns]
        raise MissingColumn("there is no such column", where=where, value=name, hint=did_you_mean(name, known))
    if column.unreadable is not None:
        raise SchemaMismatch(column.unreadable)
    if parse_type(column.type).name not in ORDERED:
        hint = "use a whole number, a date, a timestamp, a uuid or a text that only grows"
        raise SchemaMismatch(f"`{name}` of type {column.type} cannot be a cursor", where=where, hint=hint)
    return column


def window_between(reload: Reload, cursor: Column, last: str, where: str) -> Window:
    """Return the window that `reload` names, up to `last`, the cursor's position after earlier runs.

    Raises:
        Refused: none of it was read yet, it is empty, a bound is not a value of the cursor's type, or values of that
            type have no predecessor.
    """
    kind = parse_type(cursor.type).name
    if kind not in _STEPS:
        hint = "a window needs a cursor of whole numbers, dates or timestamps; `penstock run --full` reads everything"
        raise Refused(f"`{cursor.name}` of type {cursor.type} has no windows", where=where, hint=hint)
    read, step, write = _STEPS[kind]
    lower, upper = (_value(text, read, cursor, where) for text in (reload.from_ or "", reload.to or ""))
    if lower >= upper:
        raise Refused("the window is empty", where=where, value=f"{reload.from_} to {reload.to}", hint="from < to")
    end = min(upper - step, _value(last, read, cursor, where))
    if end < lower:
        hint = "`penstock run` reads what is new; only what was read before is read again"
        raise Refused(f"earlier runs have read up to {last} only", where=where, value=reload.from_, hint=hint)
    return Window(write(lower - step), write(end))


def since(text: str, cursor: Column, where: str) -> str:
    """Return the lower bound of a window that begins with this value of the cursor.

    Raises:
        Refused: the text is not a value of the cursor's type, or values of that type have no predecessor.
    """
    kind = parse_type(cursor.type).name
    if kind not in _STEPS:
        what, hint = f"`{cursor.name}` of type {cursor.type} has no windows", "leave it out: all rows are compared"
        raise Refused(what, where=where, hint=hint)
    read, step, write = _STEPS[kind]
    return write(_value(text, read, cursor, where) - step)


def time_text(at: datetime, cursor: Column, zone: str | None, where: str) -> str:
    """Return a time as a value of the cursor, whose column may have no zone of its own: then it is in `zone`, or UTC.

    Raises:
        Refused: its values are no times.
    """
    kind = parse_type(cursor.type).name
    if kind not in TIMES:
        what, hint = f"`{cursor.name}` of type {cursor.type} is no time", "write a value of it in place of a duration"
        raise Refused(what, where=where, hint=hint)
    local = at.astimezone(ZoneInfo(zone) if zone else UTC)
    if kind == "date":
        return local.date().isoformat()
    return (local if kind == "timestamp with time zone" else local.replace(tzinfo=None)).isoformat(sep=" ")


def _value(text: str, read: Callable[[str], Any], cursor: Column, where: str) -> Any:
    try:
        return read(text)
    except (ValueError, OverflowError):
        kind = parse_type(cursor.type).name
        example = "2026-01-31 12:00" if kind.startswith("timestamp") else "2026-01-31" if kind == "date" else "1200"
        hint = f"`{cursor.name}` is of type {cursor.type}: write a value such as {example}"
        raise Refused("not a value of the cursor's type", where=where, value=text, hint=hint) from None


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _local(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is not None:
        message = "expected a time without a zone"
        raise ValueError(message)
    return found


_WHOLE: Final = (int, 1, str)
_STEPS: Final[dict[str, tuple[Callable[[str], Any], Any, Callable[[Any], str]]]] = {
    "smallint": _WHOLE, "integer": _WHOLE, "bigint": _WHOLE,
    "date": (date.fromisoformat, timedelta(days=1), date.isoformat),
    "timestamp without time zone": (_local, timedelta(microseconds=1), lambda one: one.isoformat(sep=" ")),
    "timestamp with time zone": (_moment, timedelta(microseconds=1), lambda one: one.isoformat(sep=" ")),
}  # fmt: skip
"""For each type: how to parse its values, the distance between neighbours, and how to format them."""
