"""When a pipeline runs: at the times of a schedule."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator

from penstock.models.base import Model

__all__ = ["Schedule", "time_zone"]

_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
"""Search a cron expression's first tick from here: 2024 is a leap year, so that 29 February is found soon."""


def time_zone(value: str) -> str:
    """Return a zone's name, or raise ValueError if there is no such zone."""
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f"unknown time zone {value!r}; write an IANA name such as Europe/Berlin"
        raise ValueError(message) from error
    return value


def _cron(value: str) -> str:
    from apscheduler.triggers.cron import CronTrigger

    try:
        trigger = CronTrigger.from_crontab(value, timezone="UTC")
    except ValueError as error:
        message = f"is not a cron expression of five fields: {error}"
        raise ValueError(message) from error
    if trigger.get_next_fire_time(None, _EPOCH) is None:
        message = f"is never due: there is no such day, got {value!r}"
        raise ValueError(message)
    return value


class Schedule(Model):
    """The times at which a batch pipeline runs automatically."""

    cron: Annotated[str, AfterValidator(_cron)]
    timezone: Annotated[str, AfterValidator(time_zone)] = "UTC"
    missed: Literal["all", "latest", "none"] = "latest"
    overlap: Literal["skip", "queue"] = "skip"
