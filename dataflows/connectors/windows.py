"""Where the window of a run may end so that no row is passed by: decided here from what a source's catalog tells.

A row is lost when it becomes visible with a cursor at or below the position. Of a time the server tells how far that
cannot happen any more: not before `lag`, not while a transaction that began earlier is open, and not while the value's
own unit lasts (today, of a date), by the clock whose zone the column is in. Numbers are safe as far as their sequence
hands them out in order and whoever writes is waited for. What cannot be known is refused by name.

A sink that takes a row twice (`merge`, `scd2`) is given what is not safe yet as well: the position stays below it, so
that the next run reads it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from dataflows.data.cursors import TIMES, CursorRule, Window
from dataflows.data.tables import Column
from dataflows.data.types import parse_type
from penstock.errors import BadData, Refused, SchemaMismatch

__all__ = [
    "MAX_CLOCK_SETBACK",
    "MAX_VALUES",
    "XMIN",
    "Clock",
    "Edge",
    "Evidence",
    "ahead_of",
    "check_cursor",
    "format_time",
    "future_row_notes",
    "null_cursor_error",
    "open_transaction_notes",
    "risks",
    "time_window",
    "window_edge",
]

XMIN: Final = "xmin"
"""The system column of PostgreSQL that says which transaction wrote a row."""
DAY: Final = timedelta(days=1)
MICROSECOND: Final = timedelta(microseconds=1)
MILLISECOND: Final = timedelta(milliseconds=1)
"""Programs write milliseconds into columns that hold microseconds: a window ends before the current one."""
MAX_FRACTION_DIGITS: Final = 6
MAX_CLOCK_SETBACK: Final = timedelta(hours=3)
"""No clock is set back by more at once."""
MAX_VALUES: Final = {
    "smallint": "32767", "integer": "2147483647", "bigint": "9223372036854775807", "numeric": "NaN",
    "uuid": "ffffffff-ffff-ffff-ffff-ffffffffffff",
}  # fmt: skip
"""What sorts above everything else of a type, and stands for no end in data: it is no position."""
LONG_TRANSACTION: Final = timedelta(minutes=1)
"""A transaction that is older holds rows back for long enough to be worth a note."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Facts about a cursor that its source could gather; what it could not is left at the default."""

    column: Column
    default: str | None = None
    """What the server fills it with."""
    cache: int = 1
    """Numbers that each session draws from the sequence at once."""
    step: int = 1
    """The distance of two numbers of the sequence: negative where it counts down."""
    nodes: int = 1
    """Servers that hand out numbers in turn."""
    random: bool = False
    """Values are UUIDs in no order."""
    whole_seconds: bool = False
    """The type would hold fractions, and no value has any."""
    hidden_writers: str | None = None
    """Why those who write to it cannot be seen from here."""
    zone: str | None = None
    """Whose clock times without a zone are by, and who says so."""
    client: bool = False
    """True if the catalog shows that values come from programs, not from the server."""

    @property
    def is_time(self) -> bool:
        """True if its values can be compared with a clock."""
        return parse_type(self.column.type).name in TIMES

    @property
    def unit(self) -> timedelta:
        """The distance of two neighbouring values of a time."""
        kind = parse_type(self.column.type)
        if kind.name == "date":
            return DAY
        if self.whole_seconds:
            return timedelta(seconds=1)
        digits = MAX_FRACTION_DIGITS if kind.precision is None else kind.precision
        return timedelta(microseconds=10 ** (MAX_FRACTION_DIGITS - digits))


@dataclass(frozen=True, slots=True)
class Clock:
    """The time by the source: UTC, with how far the column's clock is ahead of it."""

    now: datetime
    oldest: datetime | None = None
    """When the oldest transaction began that may still write; None where there is none, or a lag stands for it."""
    min_ahead: timedelta = timedelta(0)
    """Ahead by at least this much, from the window's end until hours from now: a clock may be set back meanwhile."""
    max_ahead: timedelta = timedelta(0)

    @classmethod
    def of_this_machine(cls, now: datetime, rule: CursorRule) -> Clock:
        """This machine's clock, for sources that tell no time; a column without a zone is in UTC, or in the rule's."""
        ahead = [ahead_of(rule.timezone or "UTC", at) for at in (now - rule.lag, now, now + MAX_CLOCK_SETBACK)]
        return cls(now, None, min(ahead), max(ahead))


def ahead_of(zone: str, at: datetime) -> timedelta:
    """By how much clocks in a zone are ahead of UTC then."""
    return at.astimezone(ZoneInfo(zone)).utcoffset() or timedelta(0)


def check_cursor(evidence: Evidence, rule: CursorRule, where: str) -> None:
    """Refuse a cursor by which rows would be lost.

    Raises:
        SchemaMismatch: a lag on a column that is no time.
        Refused: what about it is not safe, and what mends it.
    """
    column = evidence.column
    if rule.lag and not evidence.is_time:
        what = f"a lag needs a time; `{column.name}` is {column.type}"
        raise SchemaMismatch(what, where=where, hint="drop the lag, or take a time as the cursor")
    if column.name == XMIN and column.hidden:
        if not rule.again:
            hint = "write: merge with a key"
            raise Refused("by `xmin` a row comes again whenever it is updated", where=where, hint=hint)
        return
    if problem := _unsafe(evidence, rule):
        raise Refused(problem[0], where=where, hint=problem[1])


def _unsafe(evidence: Evidence, rule: CursorRule) -> tuple[str, str] | None:
    """What makes a cursor lose rows, and the mend."""
    column, name = evidence.column, f"`{evidence.column.name}`"
    other = f"take a time with a lag as the cursor{OR_XMIN}"
    if evidence.hidden_writers and not (evidence.is_time and rule.lag):
        hint = "give the cursor a lag that is longer than the longest transaction" if evidence.is_time else other
        return f"{evidence.hidden_writers}: rows that are committed late cannot be waited for by {name}", hint
    if what := _disorder(evidence):
        return f"{name} does not arrive in order: {what}", other
    if evidence.is_time and evidence.unit > MICROSECOND and not rule.again and not rule.lag:
        unit = _unit(evidence.unit)
        hint = "give the cursor a lag, so that an `append` ends before it; or write: merge, which reads it again"
        return f"{name} ({column.type}) tells no more than the {unit}: more rows can get a value that was read", hint
    return None


def _disorder(evidence: Evidence) -> str | None:
    """Why a lower value can come after a higher one."""
    if evidence.cache > 1:
        return f"its sequence has CACHE {evidence.cache}, a block for each session (ALTER SEQUENCE … CACHE 1)"
    if evidence.step < 0:
        return "its sequence counts down"
    if evidence.nodes > 1:
        return f"{evidence.nodes} servers hand out its numbers in turn"
    return "it holds random UUIDs" if evidence.random else None


OR_XMIN: Final = ", or write: merge by cursor `xmin` where the source is PostgreSQL"


def _unit(unit: timedelta) -> str:
    if unit == DAY:
        return "day"
    return "second" if unit == timedelta(seconds=1) else f"{unit / MILLISECOND:g} ms"


def risks(evidence: Evidence, rule: CursorRule) -> tuple[str, ...]:
    """What a person should know of a cursor that is not refused, each with its evidence and the mend."""
    column, name = evidence.column, f"cursor `{evidence.column.name}` ({evidence.column.type})"
    if column.name == XMIN and column.hidden:
        return (f"{name}: each run reads the whole table; deleted rows are not noticed",)
    notes = []
    if evidence.zone and parse_type(column.type).name != "timestamp with time zone":
        notes.append(f"{name} has no zone: compared by {evidence.zone}; `timezone` says another one")
    if evidence.is_time and evidence.unit > MICROSECOND:
        ends = "is read again by each run until it is over" if rule.again else "is read when it is over"
        notes.append(f"{name} tells no more than the {_unit(evidence.unit)}: the current one {ends}")
    if rule.lag:
        notes.append(f"{name}: a row that is committed more than {rule.lag} after its cursor's value is not read")
    elif evidence.default:
        notes.append(f"{name} has DEFAULT {evidence.default}: transactions that are open hold the window back")
    elif evidence.is_time:
        notes.append(f"{name} has no default: give a lag where programs set it by their clocks, or before they write")
    elif evidence.client:
        notes.append(
            f"{name} has no default: values that programs make must arrive in order; a lower one that comes later is "
            "not read; else take a time with a lag, or `xmin` on PostgreSQL"
        )
    return tuple(notes)


def null_cursor_error(column: Column, where: str) -> BadData:
    """The error for rows whose cursor is NULL: no window would ever hold them."""
    what = f"rows without a cursor (`{column.name}` IS NULL) would never be read"
    return BadData(what, where=where, hint=f"fill `{column.name}`, or leave such rows out by a view")


@dataclass(frozen=True, slots=True)
class Edge:
    """Three points in time by a column's own clock, without a zone where the column has none."""

    upper: datetime
    """The greatest value to read."""
    safe: datetime
    """The greatest value that no more rows can get."""
    now: datetime


def window_edge(evidence: Evidence, rule: CursorRule, clock: Clock) -> Edge:
    """Where the window of a time ends."""
    unit = evidence.unit
    horizon = clock.now - rule.lag
    begun = horizon if rule.lag or clock.oldest is None else min(horizon, clock.oldest)
    safe = _floor(begun + clock.min_ahead, max(unit, MILLISECOND)) - unit
    upper = _floor(horizon + clock.min_ahead, unit) if rule.again else safe
    zoned = parse_type(evidence.column.type).name == "timestamp with time zone"
    edge = (upper, safe, clock.now + clock.max_ahead)
    return Edge(*(one if zoned else one.replace(tzinfo=None) for one in edge))


def _floor(at: datetime, unit: timedelta) -> datetime:
    return at - (at - _EPOCH) % unit


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time_window(
    edge: Edge, column: Column, last: str | None, highest: str | None, spell: Callable[[datetime], str] | None = None
) -> Window:
    """The window up to `found`, the greatest value that is not above the edge; its position stays at what is safe.

    `spell` writes a time as the column's values are written, where that is not as everywhere.
    """
    if highest is None:
        return Window(last, None)
    at = _read(highest, column)
    if at is None or at <= edge.safe:  # what Python has no date for is older than all that is not safe
        return Window(last, highest)
    before = _read(last, column) if last is not None else None
    reached = edge.safe if before is None else max(edge.safe, before)
    return Window(last, highest, reached=spell(reached) if spell else format_time(reached, column))


def _read(text: str, column: Column) -> datetime | None:
    """A position or a value; MySQL writes UTC without saying so. None of what Python has no date for."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if parse_type(column.type).name != "timestamp with time zone":
        return moment.replace(tzinfo=None)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def format_time(at: datetime, column: Column) -> str:
    """A time as text that every system reads as a value of the column."""
    return date.isoformat(at) if parse_type(column.type).name == "date" else at.isoformat(sep=" ")


def future_row_notes(column: Column, rows: int, *, above: bool = False) -> tuple[str, ...]:
    """What is said of rows beyond the window."""
    if not rows:
        return ()
    have = "1 row has" if rows == 1 else f"{rows:,} rows have"
    if above:
        return (f"{have} the greatest value that a cursor can have (`{column.name}`), and cannot be read by it",)
    return (f"{have} a cursor later than now (`{column.name}`), to be read when that has come",)


def open_transaction_notes(clock: Clock) -> tuple[str, ...]:
    """What is said of a transaction that holds the window back for long."""
    if clock.oldest is None or clock.now - clock.oldest < LONG_TRANSACTION:
        return ()
    return (f"rows since {clock.oldest:%Y-%m-%d %H:%M:%S} UTC wait for a transaction that is open since then",)
