"""When a pipeline runs: at the times of a schedule, or after other pipelines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field

from penstock.models.base import Duration, Model, PipelineName

__all__ = ["After", "Dependencies", "Schedule", "misplaced_after", "time_zone"]

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


class Dependencies(Model):
    """Other pipelines, or sets of them, after which a pipeline runs.

    It runs once each of `pipelines` has ended a run since its own last one began: with success, or `on: end` in any
    way. With `fresh`, its schedule decides when it runs, and a tick waits until each has succeeded within that time.
    """

    pipelines: Annotated[tuple[PipelineName, ...], Field(min_length=1, max_length=1000)]
    on: Literal["success", "end"] = "success"
    fresh: Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=3660))] | None = None


def _in_full(value: Any) -> Any:
    """Return the long form, with an array as a tuple.

    After a before-validator, pydantic validates as Python, which takes no list for a tuple.
    """
    if isinstance(value, list | tuple):
        return {"pipelines": tuple(value)}
    if isinstance(value, dict) and isinstance(value.get("pipelines"), list):
        return {**value, "pipelines": tuple(value["pipelines"])}
    return value


After = Annotated[Dependencies, BeforeValidator(_in_full, json_schema_input_type=Dependencies | list[PipelineName])]
"""`after: [orders]` is short for ``after: {pipelines: [orders]}``."""


def misplaced_after(after: Dependencies, name: str, schedule: Schedule | None) -> str | None:
    """Return what is wrong with the dependencies of the pipeline `name`; None if nothing is."""
    twice = len(set(after.pipelines)) < len(after.pipelines)
    mine = [one for one in after.pipelines if one == name or one.startswith(f"{name}/")]
    for wrong, message in (
        (twice, "`after` names a pipeline twice"),
        (bool(mine), f"`after` names {mine[0]!r}, which is the pipeline itself" if mine else ""),
        (after.fresh is not None and schedule is None, "`after.fresh` needs a `schedule`: its ticks wait"),
        (after.fresh is not None and after.on == "end", "`after.fresh` counts from a success: leave out `on: end`"),
        (after.fresh is None and schedule is not None, "a pipeline with a `schedule` takes `after` with `fresh` only"),
    ):
        if wrong:
            return message
    return None
