"""Decide where the cursor window of a run may end without losing rows, from what the source's catalog says.

A row is lost if it becomes visible with a cursor at or below the position. For a time cursor, the window ends before
`lag`, before the start of the oldest open transaction, and before the current unit of the value (today, for a date),
by the clock whose zone the column is in. A numeric cursor is safe if its sequence hands out numbers in order and open
transactions can be waited for. A cursor whose safety cannot be established is refused by name.

A sink that accepts a row twice (`merge`, `scd2`) also gets the rows that are not safe yet: the position stays below
them, so that the next run reads them again.
"""

from __future__ import annotations

import re
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
    "DAY",
    "EPOCH",
    "HOUR",
    "MAX_CLOCK_SETBACK",
    "MAX_VALUES",
    "SECOND",
    "XMIN",
    "Clock",
    "Edge",
    "Evidence",
    "ahead_of",
    "check_cursor",
    "check_numbering",
    "format_time",
    "future_row_notes",
    "is_made",
    "null_cursor_error",
    "open_transaction_notes",
    "read_time",
    "risks",
    "text_window",
    "time_window",
    "unit_text",
    "window_edge",
]

XMIN: Final = "xmin"
"""PostgreSQL's system column with the transaction that wrote a row."""
DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
SECOND: Final = timedelta(seconds=1)
MICROSECOND: Final = timedelta(microseconds=1)
MILLISECOND: Final = timedelta(milliseconds=1)
"""Programs often write milliseconds to microsecond columns, so a window ends before the current millisecond."""
MAX_FRACTION_DIGITS: Final = 6
MAX_CLOCK_SETBACK: Final = timedelta(hours=3)
"""Most that a clock is set back at once."""
MAX_VALUES: Final = {
    "smallint": "32767", "integer": "2147483647", "bigint": "9223372036854775807", "numeric": "NaN",
    "uuid": "ffffffff-ffff-ffff-ffff-ffffffffffff",
}  # fmt: skip
"""The value that sorts last in a type. Data uses it for "no end", so it cannot be a position."""
LONG_TRANSACTION: Final = timedelta(minutes=1)
"""Age from which an open transaction that holds back the window is worth a note."""


_MADE: Final = re.compile(r"[a-z_]\w*\s*\(|current_|localtime|auto_increment|identity", re.IGNORECASE)


def is_made(default: str | None) -> bool:
    """True if a column's DEFAULT makes values: a sequence, a clock, a function; False for a constant, and for none."""
    return default is not None and _MADE.search(re.sub(r"'(?:[^']|'')*'", "", default)) is not None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Facts about a cursor from the source's catalog; unknown ones keep their default."""

    column: Column
    default: str | None = None
    """Its DEFAULT on the server."""
    cache: int = 1
    """Sequence numbers that each session reserves at once."""
    step: int = 1
    """Increment of the sequence; negative if it counts down."""
    cycles: bool = False
    """True if the sequence begins again after its last number."""
    drawn: int | None = None
    """The last number that the sequence has handed out; None if the server does not say."""
    nodes: int = 1
    """Servers that hand out numbers in turn."""
    random: bool = False
    """True if values are random UUIDs."""
    coarse: timedelta | None = None
    """Resolution of all values, if the type has a finer one."""
    latest: timedelta | None = None
    """Resolution of the latest values, if it is coarser: a default such as ``date_trunc('day', now())`` gives them."""
    hidden_writers: str | None = None
    """Reason why this server does not show open transactions of writers; None if it does."""
    zone: str | None = None
    """Time zone assumed for times without one, and where it comes from."""
    client: bool = False
    """True if the catalog shows that values come from programs, not from the server."""
    alike: str | None = None
    """Collation that treats different texts of the column as equal; None if its collation treats none so."""
    no_catalog: bool = False
    """True if the source has no catalog, so that the origin of values is unknown."""

    @property
    def is_time(self) -> bool:
        """True if its values can be compared with a clock."""
        return parse_type(self.column.type).name in TIMES

    @property
    def unit(self) -> timedelta:
        """Resolution of a time cursor."""
        kind = parse_type(self.column.type)
        if kind.name == "date":
            return DAY
        if self.coarse is not None:
            return self.coarse
        digits = MAX_FRACTION_DIGITS if kind.precision is None else kind.precision
        return timedelta(microseconds=10 ** (MAX_FRACTION_DIGITS - digits))


@dataclass(frozen=True, slots=True)
class Clock:
    """Current time of the source in UTC, and how far the column's clock is ahead of UTC."""

    now: datetime
    oldest: datetime | None = None
    """Start of the oldest transaction that may still write; None if there is none, or a lag is used instead."""
    min_ahead: timedelta = timedelta(0)
    """Smallest offset between the window's end and a few hours from now; the clock may be set back in that time."""
    max_ahead: timedelta = timedelta(0)

    @classmethod
    def of_this_machine(cls, now: datetime, rule: CursorRule) -> Clock:
        """Return this machine's clock, for sources without one; columns without a zone are in the rule's, or UTC."""
        ahead = [ahead_of(rule.timezone or "UTC", at) for at in (now - rule.lag, now, now + MAX_CLOCK_SETBACK)]
        return cls(now, None, min(ahead), max(ahead))


def ahead_of(zone: str, at: datetime) -> timedelta:
    """Return the UTC offset of a zone at that time."""
    return at.astimezone(ZoneInfo(zone)).utcoffset() or timedelta(0)


def check_cursor(evidence: Evidence, rule: CursorRule, where: str) -> None:
    """Refuse a cursor that would lose rows.

    Raises:
        SchemaMismatch: a lag on a column that is not a time.
        Refused: the cursor is not safe; says why, and what to do.
    """
    column = evidence.column
    if rule.lag and not evidence.is_time:
        what = f"a lag needs a time; `{column.name}` is {column.type}"
        raise SchemaMismatch(what, where=where, hint="drop the lag, or choose a time as the cursor")
    if column.name == XMIN and column.hidden:
        if not rule.idempotent:
            hint = "write: merge with a key"
            raise Refused("cursor `xmin` reads a row again whenever it is updated", where=where, hint=hint)
        return
    if problem := _unsafe(evidence, rule):
        raise Refused(problem[0], where=where, hint=problem[1])


def _unsafe(evidence: Evidence, rule: CursorRule) -> tuple[str, str] | None:
    """Return why a cursor would lose rows, and a hint; None if it is safe."""
    column, name = evidence.column, f"`{evidence.column.name}`"
    other = f"choose a time with a lag as the cursor{OR_XMIN}"
    if evidence.hidden_writers and not (evidence.is_time and rule.lag):
        hint = "give the cursor a lag that is longer than the longest transaction" if evidence.is_time else other
        return f"{evidence.hidden_writers}: cursor {name} cannot wait for rows that are committed late", hint
    if what := _disorder(evidence):
        return f"{name} does not arrive in order: {what}", other
    if evidence.is_time and evidence.unit > MICROSECOND and not rule.idempotent and not rule.lag:
        unit = unit_text(evidence.unit)
        hint = "give the cursor a lag, so that an `append` ends before it; or write: merge, which reads it again"
        return f"{name} ({column.type}) has a resolution of {unit}: new rows can get a value already read", hint
    if evidence.client and not evidence.is_time and not rule.idempotent and not rule.ordered:
        default = f"has DEFAULT {evidence.default}" if evidence.default else "has no default"
        what = f"{name} ({column.type}) {default}: programs make its values, and one that follows a greater one"
        hint = "set `cursor: {ordered: true}` if each new value is greater than all before, or use a time with a lag"
        return f"{what} would never be read", hint + OR_XMIN
    if evidence.alike and not rule.idempotent:
        what = f"{name} ({column.type}) has a collation ({evidence.alike}) by which different texts are equal"
        hint = "write: merge, which reads them again; or read a view that gives it a binary collation"
        return f"{what}: a new row can get a value already read", hint + OR_XMIN
    return None


def _disorder(evidence: Evidence) -> str | None:
    """Return why a lower value can follow a higher one, if it can."""
    if evidence.cache > 1:
        return f"its sequence has CACHE {evidence.cache}, a block for each session (ALTER SEQUENCE … CACHE 1)"
    if evidence.step < 0:
        return "its sequence counts down"
    if evidence.cycles:
        return "its sequence begins again after its last number (ALTER SEQUENCE … NO CYCLE)"
    if evidence.nodes > 1:
        return f"{evidence.nodes} servers hand out its numbers in turn"
    return "it contains random UUIDs" if evidence.random else None


OR_XMIN: Final = ", or write: merge by cursor `xmin` if the source is PostgreSQL"


def unit_text(unit: timedelta) -> str:
    """Return a length of time in words, in the largest unit of which it is a multiple."""
    for name, one in (("day", DAY), ("hour", HOUR), ("minute", MINUTE), ("second", SECOND)):
        if unit >= one and unit % one == timedelta(0):
            return f"1 {name}" if unit == one else f"{unit // one} {name}s"
    return f"{unit / MILLISECOND:g} ms"


def risks(evidence: Evidence, rule: CursorRule) -> tuple[str, ...]:
    """Return the risks of a cursor that is not refused, each with its evidence and a remedy."""
    column, name = evidence.column, f"cursor `{evidence.column.name}` ({evidence.column.type})"
    if column.name == XMIN and column.hidden:
        return (f"{name}: each run reads the whole table; deleted rows are not detected",)
    notes = []
    if evidence.zone and parse_type(column.type).name != "timestamp with time zone":
        notes.append(f"{name} has no zone: compared by {evidence.zone}; `timezone` sets another one")
    if evidence.is_time and evidence.unit > MICROSECOND:
        ends = "is read again by each run until it is over" if rule.idempotent else "is read when it is over"
        notes.append(f"{name} has a resolution of {unit_text(evidence.unit)}: the current one {ends}")
    if evidence.alike:
        notes.append(f"{name} has a collation ({evidence.alike}) by which texts are equal: the last are read again")
    if rule.lag:
        notes.append(f"{name}: a row that is committed more than {rule.lag} after its cursor's value is not read")
    elif evidence.default and (evidence.is_time or not evidence.client):
        notes.append(f"{name} has DEFAULT {evidence.default}: open transactions hold the window back")
    elif evidence.is_time:
        notes.append(f"{name} has no default: give a lag if programs set it by their clocks, or before they write")
    elif (evidence.client or evidence.no_catalog) and not rule.ordered:
        notes.append(
            f"{name} has no default: values that programs make must arrive in order, as a lower one that comes later "
            "is not read; if they do not, choose a time with a lag, or `xmin` on PostgreSQL"
        )
    return tuple(notes)


def text_window(last: str | None, greatest: str, before: str | None) -> Window:
    """Return the window up to `greatest`, to which different texts are equal; its position stays at `before`.

    `before` is the greatest text that is less; None if no text of the window is.
    """
    return Window(last, greatest, reached=before if before is not None else last or "")


def check_numbering(
    column: Column, last: str | None, drawn: int | None, greatest: Callable[[], str | None], where: str, also: str = ""
) -> None:
    """Refuse numbers that begin again: rows with numbers up to the position would never be read.

    `drawn` is the last number that the server has handed out; None if it does not say. Only if that is below the
    position, `greatest` is asked for the greatest number in the table: one above `drawn` was made by others, whose
    next one is unknown. `also` ends the hint.

    Raises:
        Refused: both are below the position, as after TRUNCATE … RESTART IDENTITY, or in a copy that was restored.
    """
    if last is None or drawn is None or drawn >= int(last):
        return
    highest = greatest()
    if highest is not None and int(highest) > drawn:
        return
    what = f"the numbers of `{column.name}` begin again: the next is {drawn + 1}, and rows were read up to {last}"
    hint = "`penstock run NAME --full` reads everything again; or let the numbering go on above the position"
    raise Refused(what, where=where, hint=f"{hint}{also}")


def null_cursor_error(column: Column, where: str) -> BadData:
    """Return the error for rows whose cursor is NULL, which are in no window."""
    what = f"rows without a cursor (`{column.name}` IS NULL) would never be read"
    return BadData(what, where=where, hint=f"fill `{column.name}`, or leave such rows out by a view")


@dataclass(frozen=True, slots=True)
class Edge:
    """Limits of a time window by the column's clock; without a zone if the column has none."""

    upper: datetime
    """Greatest value to read."""
    safe: datetime
    """Greatest value that no new row can get any more."""
    now: datetime


def window_edge(evidence: Evidence, rule: CursorRule, clock: Clock) -> Edge:
    """Return where the window of a time cursor ends."""
    unit = max(evidence.unit, evidence.latest or evidence.unit)
    horizon = clock.now - rule.lag
    begun = horizon if rule.lag or clock.oldest is None else min(horizon, clock.oldest)
    grain = next((one for one in (DAY, HOUR) if unit >= one), max(unit, MILLISECOND))
    safe = _floor(begun + clock.min_ahead, grain) - unit
    upper = _floor(horizon + clock.min_ahead, evidence.unit) if rule.idempotent else safe
    zoned = parse_type(evidence.column.type).name == "timestamp with time zone"
    edge = (upper, safe, clock.now + clock.max_ahead)
    return Edge(*(one if zoned else one.replace(tzinfo=None) for one in edge))


def _floor(at: datetime, unit: timedelta) -> datetime:
    return at - (at - EPOCH) % unit


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time_window(
    edge: Edge, column: Column, last: str | None, highest: str | None, spell: Callable[[datetime], str] | None = None
) -> Window:
    """Return the window up to `highest`, the greatest value within the edge; its position stays at the safe value.

    `spell` formats a time if the system stores times in a form of its own.
    """
    if highest is None:
        return Window(last, None)
    at = read_time(highest, column)
    if at is None or at <= edge.safe:  # dates beyond Python's range are old, hence safe
        return Window(last, highest)
    before = read_time(last, column) if last is not None else None
    reached = edge.safe if before is None else max(edge.safe, before)
    return Window(last, highest, reached=spell(reached) if spell else format_time(reached, column))


def read_time(text: str, column: Column) -> datetime | None:
    """Parse a position or a value; None if it is beyond Python's dates. MySQL writes UTC without an offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if parse_type(column.type).name != "timestamp with time zone":
        return moment.replace(tzinfo=None)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def format_time(at: datetime, column: Column) -> str:
    """Return a time as text that every system reads as a value of the column."""
    return date.isoformat(at) if parse_type(column.type).name == "date" else at.isoformat(sep=" ")


def future_row_notes(column: Column, rows: int, *, above: bool = False) -> tuple[str, ...]:
    """Return a note on rows beyond the window; with `above`, on rows with the greatest possible value."""
    if not rows:
        return ()
    have = "1 row has" if rows == 1 else f"{rows:,} rows have"
    if above:
        return (f"{have} the greatest value that a cursor can have (`{column.name}`), and cannot be read by it",)
    return (f"{have} a cursor in the future (`{column.name}`), to be read when that time has come",)


def open_transaction_notes(clock: Clock) -> tuple[str, ...]:
    """Return a note on a long transaction that holds the window back."""
    if clock.oldest is None or clock.now - clock.oldest < LONG_TRANSACTION:
        return ()
    return (f"rows since {clock.oldest:%Y-%m-%d %H:%M:%S} UTC wait for a transaction that has been open since then",)
