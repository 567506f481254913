"""Reactions to schedules: which ticks become runs, and when the next one is due."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import orjson

from agents.dependencies import dependencies_of, stale
from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.runs import NOTHING, Outcome, run_created
from agents.sets import is_set
from agents.starts import set_started
from agents.ticks import interrupted, latest_ticks, next_tick
from agents.workload import TICK_OF, changed, has_schedule
from penstock.ids import named_id
from penstock.models.schedule import Schedule

__all__ = ["clock_set_back", "schedule_of", "scheduled", "tick", "tick_requested"]

ON_TIME: Final = timedelta(minutes=1)
"""A tick that fires later than this was missed."""
MAX_RUNS: Final = 100
"""The most runs that one decision creates; further missed ticks follow with the next one, at once."""
MAX_MISSED: Final = 1000
"""The most ticks that are made up for; those before them are left out, whatever the schedule's rules."""


def tick(state: State, name: str, policies: Policies, cause: Cause) -> Outcome:
    """React to a tick that is due: create the runs that the schedule's rules ask for, and request the next tick.

    With ``missed: all``, missed ticks queue up, even with ``overlap: skip``.
    """
    pipeline = state["pipelines"][name]
    schedule = schedule_of(pipeline)
    if schedule is None or pipeline["status"] != "active":
        return NOTHING
    first = datetime.fromisoformat(pipeline["due"])
    later, more = latest_ticks(schedule, first, cause.at, MAX_MISSED)
    due = later if more else [first, *later]
    wanted, reason = _wanted(schedule, due, cause.at)
    reason += f", and more than {MAX_MISSED} before them" if more else ""
    after = dependencies_of(pipeline)
    if wanted and after and after.fresh and (waits := stale(state, after.pipelines, cause.at - after.fresh)):
        following = next_tick(schedule, max(due[-1], cause.at))
        reason += f"; held until {', '.join(waits)} has succeeded"
        return tick_requested(name, pipeline, following, held=wanted[-1]), "tick", reason
    if is_set(pipeline["pipeline"]):
        following = next_tick(schedule, max(due[-1], cause.at))
        started = _set_tick(state, name, policies, cause, wanted)
        reason += "" if started or not wanted else "; skipped, since it is starting"
        return (*started, *tick_requested(name, pipeline, following)), "tick", reason
    running = [run["id"] for run in state["runs"].values() if run["pipeline"] == name]
    if running and schedule.overlap == "skip" and wanted and not (schedule.missed == "all" and len(due) > 1):
        wanted, reason = [], f"{reason}; skipped, since run {running[0]} is not done"
    effects: list[Draft] = []
    for at in wanted[:MAX_RUNS]:
        id_ = named_id("run", pipeline["uid"], at.isoformat(), cause.offset)
        effects += run_created(state, name, policies, cause, id_, {"scheduled_for": at.isoformat()})
    left = wanted[MAX_RUNS:]
    following = left[0] if left else next_tick(schedule, max(due[-1], cause.at))
    effects += tick_requested(name, pipeline, following)
    return tuple(effects), "tick", reason


def _set_tick(state: State, name: str, policies: Policies, cause: Cause, wanted: list[datetime]) -> tuple[Draft, ...]:
    """Start a set, once for all ticks that are due, unless an earlier start is still queueing runs."""
    if not wanted or state["pipelines"][name].get("start"):
        return ()
    group = named_id("run", state["pipelines"][name]["uid"], wanted[-1].isoformat(), cause.offset)
    return set_started(state, name, policies, cause, {"group": group, "scheduled_for": wanted[-1].isoformat()})


def _wanted(schedule: Schedule, due: list[datetime], at: datetime) -> tuple[list[datetime], str]:
    """Return the due ticks that get a run, and the reason. All but the last were missed; the last one too if late."""
    late = at - due[-1] > ON_TIME
    missed = len(due) - (0 if late else 1)
    reason = f"due at {due[-1].isoformat()}" + (f", {missed} missed" if missed else "")
    if schedule.missed == "all" or not missed:
        return due, reason
    if schedule.missed == "latest":
        return due[-1:], f"{reason}: the latest counts"
    return ([] if late else due[-1:]), f"{reason}: those are left out"


def scheduled(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Request the next tick of a pipeline that is new or has changed."""
    after = changed(state, cause.type, cause.payload)
    pipeline = after["pipelines"][cause.payload["name"]]
    schedule = schedule_of(pipeline)
    if schedule is None or pipeline["status"] != "active":
        return NOTHING
    effects = tick_requested(cause.payload["name"], pipeline, next_tick(schedule, cause.at))
    return effects, "schedule", f"{schedule.cron} in {schedule.timezone}"


def clock_set_back(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Request a new next tick for each schedule that would wait for a time which the clock has shown already."""
    effects: list[Draft] = []
    for name, pipeline in state["pipelines"].items():
        schedule = schedule_of(pipeline) if pipeline.get("due") and pipeline["status"] == "active" else None
        if schedule is not None:
            effects += tick_requested(
                name, pipeline, interrupted(schedule, cause.at, datetime.fromisoformat(pipeline["due"]))
            )
    return (tuple(effects), "schedule", "the clock was set back") if effects else NOTHING


def schedule_of(pipeline: dict[str, Any]) -> Schedule | None:
    """Return the schedule of a pipeline, if it has one."""
    return _parsed(orjson.dumps(pipeline["pipeline"]["spec"]["schedule"])) if has_schedule(pipeline) else None


@lru_cache(maxsize=1024)
def _parsed(document: bytes) -> Schedule:
    """Parse a schedule once: a pipeline's is needed at each of its ticks."""
    return Schedule.parse(orjson.loads(document))


def tick_requested(
    name: str, pipeline: dict[str, Any], at: datetime | None, *, held: datetime | None = None
) -> tuple[Draft, ...]:
    """Request the timer of a tick, if there is one, while an earlier tick may be `held`."""
    if at is None:
        return ()
    payload = {"timer": f"tick:{pipeline['uid']}:{pipeline['version']}:{at.isoformat()}", "due": at.isoformat()}
    payload |= {"held": held.isoformat()} if held else {}
    return (Draft("timer.requested", payload["timer"], {**payload, "subject": f"{TICK_OF}{name}"}),)
