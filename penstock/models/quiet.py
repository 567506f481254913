"""Quiet hours: times of the day, in a time zone, in which agents do not act on their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

__all__ = ["HOURS", "issue_of_hours", "quiet_at", "quiet_until"]

HOURS: Final = r"^([a-z]{3}([-,][a-z]{3})* )?\d\d:\d\d-\d\d:\d\d$"
"""The form of quiet hours: ``22:00-06:00``, or with the days on which they begin, ``sat,sun 00:00-24:00``."""
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MIDNIGHT: Final = 24 * 60
_MOST_ENDS: Final = 100
"""Ends of hours that are looked at: hours that follow each other without a gap for longer are looked at again then."""


class _Hours(NamedTuple):
    days: frozenset[int]
    begin: int
    end: int
    """Minutes of the day; if it is not after `begin`, on the next one."""

    def contain(self, day: int, minute: int) -> bool:
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


@lru_cache(maxsize=256)
def _parsed(text: str) -> _Hours:
    days, _, hours = text.rpartition(" ")
    begin, end = (int(one[:2]) * 60 + int(one[3:]) for one in hours.split("-"))
    return _Hours(frozenset(_days(days)), begin, end)


def _days(text: str) -> Iterator[int]:
    for part in text.split(",") if text else ("mon-sun",):
        first, _, last = part.partition("-")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        yield from (day % 7 for day in range(begin, end + 1 if end >= begin else end + 8))


def issue_of_hours(text: str) -> str | None:
    """Return what is wrong with quiet hours of the right form; None if nothing is."""
    try:
        hours = _parsed(text)
    except ValueError:
        return f"has a day that does not exist, got {text!r}; days are {', '.join(_DAYS)}"
    odd = any(one[3] > "5" for one in text.rpartition(" ")[2].split("-"))
    if odd or max(hours.begin, hours.end) > _MIDNIGHT:
        return f"has a time of the day that does not exist, got {text!r}; the last one is 24:00"
    if hours.begin == hours.end:
        return f"begins when it ends, got {text!r}; for a whole day write 00:00-24:00"
    return None


def quiet_at(hours: Sequence[str], zone: str, at: datetime) -> str | None:
    """Return those of the hours that `at` is in, by the clock of the zone; None if it is in none.

    What counts is the time that the clock shows: an hour that it shows twice is quiet twice, one that it skips never.
    """
    if not hours:
        return None
    local = at.astimezone(ZoneInfo(zone))
    day, minute = local.weekday(), local.hour * 60 + local.minute
    return next((one for one in hours if _parsed(one).contain(day, minute)), None)


def quiet_until(hours: Sequence[str], zone: str, at: datetime) -> datetime:
    """Return the first end of quiet hours from `at` on that is not in others."""
    for _ in range(_MOST_ENDS):
        if quiet_at(hours, zone, at) is None:
            break
        at = min(one for one in _ends(hours, ZoneInfo(zone), at) if one > at)
    return at


def _ends(hours: Sequence[str], zone: ZoneInfo, at: datetime) -> Iterator[datetime]:
    """Yield the moments of yesterday to tomorrow at which the clock shows an end of the hours."""
    today = at.astimezone(zone).date()
    for one in hours:
        for days in range(-1, 3):
            wall = datetime.combine(today, time()) + timedelta(days=days, minutes=_parsed(one).end)
            for fold in (0, 1):
                yield wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
