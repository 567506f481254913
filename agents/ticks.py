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

from penstock.models.pipeline import Schedule

__all__ = ["next_tick", "ticks"]

LARGEST_CHANGE = timedelta(hours=3)
"""The largest change of a clock, except for days that a country skipped."""


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
    twice = second > first and schedule.cron.split()[1].startswith("*")
    return [first, second] if twice else [first]


def ticks(schedule: Schedule, after: datetime, upto: datetime) -> list[datetime]:
    """Return when the schedule is due, later than `after`, up to and including `upto`: in order, in UTC."""
    zone = ZoneInfo(schedule.timezone)
    begin = after.astimezone(zone).replace(tzinfo=UTC) - LARGEST_CHANGE
    end = upto.astimezone(zone).replace(tzinfo=UTC) + LARGEST_CHANGE
    found: set[datetime] = set()
    for wall in _walls(schedule.cron, begin):
        if wall > end:
            break
        found |= {one for one in _instants(schedule, wall, zone) if after < one <= upto}
    return sorted(found)


def next_tick(schedule: Schedule, after: datetime) -> datetime | None:
    """Return the first moment after `after` at which the schedule is due; None if there is none."""
    zone = ZoneInfo(schedule.timezone)
    walls = _walls(schedule.cron, after.astimezone(zone).replace(tzinfo=UTC) - LARGEST_CHANGE)
    best: datetime | None = None
    for wall in walls:
        if best is not None and wall > best.astimezone(zone).replace(tzinfo=UTC) + LARGEST_CHANGE:
            return best
        later = [one for one in _instants(schedule, wall, zone) if one > after]
        best = min([*later, *([best] if best else [])], default=None)
    return best
