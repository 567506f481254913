"""Pipelines that promise to be fresh: a timer asks for a success in time, an alert says that there was none. Pure.

There is one timer for each pipeline at a time, at the end of the time that its last success is good for; when it fires
the last success decides. A stream has no runs that end: how far it is behind its source is recorded by a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from agents import alerts
from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from penstock.models.base import duration_text

__all__ = ["SUBJECT", "due", "ended", "fired", "key_of", "lagging", "owner_of", "requested"]

SUBJECT: Final = "fresh "
"""Prefix of the subject of the timers; the pipeline's name follows."""
PREFIX: Final = "fresh:"
"""Prefix of the timers themselves."""
TWICE: Final = 2
"""After this many times what was promised, an alert is critical."""


def key_of(name: str) -> str:
    """Return the cause of the alert about a pipeline that is not fresh."""
    return f"fresh {name}"


def owner_of(state: State, timer: str) -> str | None:
    """Return the pipeline that a timer is pending for; None if it is not one of these, or an old one."""
    name = timer.removeprefix(PREFIX).rpartition(":")[0] if timer.startswith(PREFIX) else ""
    return name if state["pipelines"].get(name, {}).get("timer") == timer else None


def due(name: str, cause: Cause, at: datetime) -> Draft:
    """Request the timer of a pipeline."""
    timer = f"{PREFIX}{name}:{cause.offset}"
    return Draft("timer.requested", timer, {"timer": timer, "due": at.isoformat(), "subject": SUBJECT + name})


def requested(pipeline: Mapping[str, Any] | None, name: str, cause: Cause) -> list[Draft]:
    """Request the first timer of a pipeline that is promised to be fresh from now on."""
    if pipeline is None or not pipeline["fresh"] or pipeline["stream"] or pipeline["status"] != "active":
        return []
    return [due(name, cause, cause.at + timedelta(seconds=pipeline["fresh"]))]


def ended(state: State, cause: Cause) -> list[Draft]:
    """React to a run that has succeeded: the pipeline is fresh again."""
    run = cause.payload["run"]
    name, pipeline = run["pipeline"], state["pipelines"].get(run["pipeline"])
    if pipeline is None or run["status"] != "completed":
        return []
    key = key_of(name)
    over = [alerts.closed(state, cause, key, "a run has succeeded")] if key in state["alerts"] else []
    waits = over or not pipeline["timer"]
    return [*over, *(requested(pipeline, name, cause) if waits else ())]


def fired(state: State, cause: Cause, policies: Policies, *, halted: bool) -> list[Draft]:
    """React to the timer of a pipeline: it is fresh for some time more, or late."""
    name = owner_of(state, cause.payload["timer"])
    pipeline = state["pipelines"].get(name)
    if name is None or pipeline is None or not pipeline["fresh"] or pipeline["status"] != "active":
        return []
    promised, last = timedelta(seconds=pipeline["fresh"]), datetime.fromisoformat(pipeline["succeeded"])
    late, known = cause.at - last, state["alerts"].get(key_of(name))
    if late < promised:
        return [due(name, cause, last + promised)]
    again = [due(name, cause, last + TWICE * promised)] if late < TWICE * promised else []
    payload = _alert(name, pipeline, late, critical=late >= TWICE * promised)
    if halted:
        return again
    if known is None:
        return [alerts.opened(state, cause, payload, policies), *again]
    if known["severity"] != payload["severity"]:
        return [alerts.worse(state, cause, known | payload, policies, "it is still late")]
    return again


def _alert(name: str, pipeline: Mapping[str, Any], late: timedelta, *, critical: bool) -> dict[str, Any]:
    last = datetime.fromisoformat(pipeline["succeeded"])
    since = f"since {last:%Y-%m-%d %H:%M:%S} UTC" if pipeline["run"] else f"in {_text(late)}"
    promised = duration_text(timedelta(seconds=pipeline["fresh"]))
    summary = f"{name} has not succeeded {since}, and is to be fresh within {promised}"
    begun = last + timedelta(seconds=pipeline["fresh"])
    found: dict[str, Any] = {
        "cause": key_of(name),
        "pipeline": name,
        "kind": "fresh",
        "severity": "critical" if critical else "warning",
    }
    found |= {"summary": summary, "since": begun.isoformat(), "value": late.total_seconds()}
    found |= {"expected": pipeline["fresh"]} | ({"run": pipeline["run"]} if pipeline["run"] else {})
    return found


def _text(length: timedelta) -> str:
    return duration_text(timedelta(seconds=round(length.total_seconds())))


def _length(seconds: float) -> timedelta:
    """Return a length of time, of any number that a record can have."""
    return timedelta(seconds=min(max(seconds, 0.0), alerts.MOST))


def lagging(state: State, cause: Cause, one: Mapping[str, Any], policies: Policies, *, halted: bool) -> list[Draft]:
    """React to how far a stream is behind its source, as `one` says that was recorded."""
    name, pipeline = one["pipeline"], state["pipelines"].get(one["pipeline"])
    if pipeline is None or one["metric"] != "lag" or one.get("part") or not (pipeline["stream"] and pipeline["fresh"]):
        return []
    if pipeline["status"] != "active":
        return []
    promised, key = pipeline["fresh"], key_of(name)
    known = state["alerts"].get(key)
    if one["value"] <= promised:
        return [alerts.closed(state, cause, key, "it has caught up")] if known else []
    severity = "critical" if one["value"] > TWICE * promised else "warning"
    text, limit = _text(_length(one["value"])), duration_text(timedelta(seconds=promised))
    payload = {"cause": key, "pipeline": name, "kind": "fresh", "severity": severity, "since": one["at"]}
    payload |= {"summary": f"{name} is {text} behind its source, and is to be within {limit}"}
    payload |= {"value": one["value"], "expected": promised, "metric": "lag"}
    if known is None:
        return [] if halted else [alerts.opened(state, cause, payload, policies)]
    if known["severity"] == "warning" and severity == "critical" and not halted:
        return [alerts.worse(state, cause, {**known, **payload, "since": known["since"]}, policies, "it is worse")]
    return []
