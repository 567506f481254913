"""Ticks of a schedule: cron expressions by the wall clock of a time zone, correct across clock changes.

A time that the clock skips is due when it would have been without the change: ``30 2 * * *`` at 03:30 of that day. A
time that occurs twice is due once, the first time, unless the hour is written with ``*``: then the schedule means
intervals, not times of the day, and is due both times. Two ticks at the same moment are one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from penstock.models.schedule import Schedule

__all__ = ["interrupted", "latest_ticks", "next_tick", "ticks"]

LARGEST_CHANGE = timedelta(hours=3)
"""The largest change of a clock, except for days that a country skipped."""
SMALL_CHANGE = timedelta(minutes=1)
"""A correction of the clock that does not repeat an interval."""
STEADY = timedelta(days=1)
"""The longest span in which a clock that shows the same offset at both ends has not changed."""
FIRST_SPAN = timedelta(hours=1)
"""The first span of time in which `latest_ticks` looks; it grows until it contains enough ticks."""


@lru_cache(maxsize=512)
def _trigger(cron: str) -> CronTrigger:
    """Return the trigger of an expression, over a wall clock that never changes."""
    return CronTrigger.from_crontab(cron, timezone="UTC")


def _walls(cron: str, begin: datetime) -> Iterator[datetime]:
    """Yield times of the wall clock from `begin` on, as if they were UTC."""
    trigger, at = _trigger(cron), begin
    while (found := trigger.get_next_fire_time(None, at)) is not None:
        yield found
        at = found + timedelta(seconds=1)


def _instants(schedule: Schedule, wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """Return the one or two moments at which the clock shows `wall`."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return [first, second] if second > first and _is_interval(schedule) else [first]


def _is_interval(schedule: Schedule) -> bool:
    """Return True if the schedule means intervals, not times of the day."""
    return schedule.cron.split()[1].startswith("*")


def _is_steady(zone: ZoneInfo, begin: datetime, end: datetime) -> bool:
    """True if the clock does not change within `LARGEST_CHANGE` of this span: then its times need no comparison."""
    first, last = begin - LARGEST_CHANGE, end + LARGEST_CHANGE
    return last - first <= STEADY and first.astimezone(zone).utcoffset() == last.astimezone(zone).utcoffset()


def ticks(schedule: Schedule, after: datetime, upto: datetime) -> list[datetime]:
    """Return when the schedule is due, later than `after`, up to and including `upto`: in order, in UTC."""
    zone = ZoneInfo(schedule.timezone)
    margin = timedelta() if _is_steady(zone, after, upto) else LARGEST_CHANGE
    begin = after.astimezone(zone).replace(tzinfo=UTC) - margin
    end = upto.astimezone(zone).replace(tzinfo=UTC) + margin
    found: set[datetime] = set()
    for wall in _walls(schedule.cron, begin):
        if wall > end:
            break
        found |= {one for one in _instants(schedule, wall, zone) if after < one <= upto}
    return sorted(found)


def latest_ticks(schedule: Schedule, after: datetime, upto: datetime, most: int) -> tuple[list[datetime], bool]:
    """Return the last of `ticks`, `most` of them at most, and True if there are more.

    A clock that is years ahead costs no more than one that is a few hours ahead.
    """
    span = FIRST_SPAN
    while True:
        begin = max(after, upto - span)
        found = ticks(schedule, begin, upto)
        if begin == after or len(found) >= most:
            return found[-most:], len(found) > most or begin > after
        span *= 4


def interrupted(schedule: Schedule, at: datetime, due: datetime) -> datetime | None:
    """Return the tick that follows `at` if a wait for the one at `due` leaves it out; None if it does not.

    That is so after the clock was set back. A time of the day that has passed counts as done if the clock was set back
    by less than `LARGEST_CHANGE`, as in cron, so that a small correction does not repeat the night's run; an interval
    if it was less than `SMALL_CHANGE`.
    """
    earlier = next_tick(schedule, at + (SMALL_CHANGE if _is_interval(schedule) else LARGEST_CHANGE))
    return next_tick(schedule, at) if earlier is not None and earlier < due else None


def next_tick(schedule: Schedule, after: datetime) -> datetime | None:
    """Return the first moment after `after` at which the schedule is due; None if there is none."""
    zone = ZoneInfo(schedule.timezone)
    now = after.astimezone(zone).replace(tzinfo=UTC)
    soon = next(_walls(schedule.cron, now + timedelta(microseconds=1)), None)
    if soon is not None and _is_steady(zone, after, after + (soon - now)):
        return after + (soon - now)
    walls = _walls(schedule.cron, now - LARGEST_CHANGE)
    best: datetime | None = None
    for wall in walls:
        if best is not None and wall > best.astimezone(zone).replace(tzinfo=UTC) + LARGEST_CHANGE:
            return best
        later = [one for one in _instants(schedule, wall, zone) if one > after]
        best = min([*later, *([best] if best else [])], default=None)
    return best
