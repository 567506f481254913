"""Alerts that people have quietened: one that is snoozed, a pipeline or a metric of it that is silenced. Pure.

Both end at a time, by a timer on the log; what is still wrong then is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from penstock.errors import NotFound, UsageError, did_you_mean
from penstock.models.sets import set_of
from penstock.records.alerts import AlertSilence, AlertSnooze
from penstock.records.families import body

__all__ = ["ALL", "QUIET", "SUBJECT", "is_quiet", "owners", "routes_of", "silenced", "snoozed"]

ALL: Final = "*"
"""In place of a metric: all of the pipeline."""
QUIET: Final = ("snooze:", "silence:")
"""Prefixes of the timers."""
SUBJECT: Final = "alerts "
"""Prefix of the subject of the timers; what was quietened follows."""


def is_quiet(state: State, alert: Mapping[str, Any], at: datetime) -> bool:
    """True if nothing is told of an alert at a time."""
    held = alert.get("snoozed")
    if held is not None and at < datetime.fromisoformat(held["until"]):
        return True
    for owner in owners(alert.get("pipeline")):
        for metric, one in state["silences"].get(owner, {}).items():
            if metric in {ALL, alert.get("metric"), alert["kind"]} and at < datetime.fromisoformat(one["until"]):
                return True
    return False


def owners(name: str | None) -> tuple[str, ...]:
    """Return what may be silenced for a pipeline: itself, and its set."""
    return tuple(one for one in (name, set_of(name or "")) if one)


def routes_of(state: State, alert: Mapping[str, Any], policies: Policies | None, at: datetime) -> list[str]:
    """Return where an alert is told now: nowhere while it is quiet; without policies, where it was told before."""
    if is_quiet(state, alert, at):
        return []
    if policies is None:
        return list(alert["told"])
    found = [policies.for_labels(labels).spec.monitor.routes for labels in _labels(state, alert)]
    return list(dict.fromkeys(route for routes in found for route in routes))


def _labels(state: State, alert: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the labels of each pipeline that an alert is about: all that use its connection; [{}] for none."""
    name, connection = alert.get("pipeline"), alert.get("connection")
    if name is not None:
        return [state["pipelines"].get(name, {}).get("labels", {})]
    concerned = (one for one in state["pipelines"].values() if connection is None or connection in one["connections"])
    return [one["labels"] for one in concerned] or [{}]


def snoozed(state: State, cause: Cause) -> tuple[str, tuple[Draft, ...], dict[str, Any]]:
    """Snooze an open alert; return its id, the records, and the answer.

    Raises:
        NotFound: there is no such open alert.
        UsageError: the time is over.
    """
    command = body(cause.record)
    assert isinstance(command, AlertSnooze)  # noqa: S101 - the table of types says so
    if all(one["alert"] != command.alert for one in state["alerts"].values()):
        raise NotFound(f"there is no open alert {command.alert!r}", hint="`penstock alerts` lists them")
    _check(cause, command.until)
    timer = f"snooze:{command.alert}:{cause.offset}"
    payload = {**command.to_dict(), "by": cause.record.actor, "timer": timer}
    due = {"timer": timer, "due": payload["until"], "subject": SUBJECT + command.alert}
    effects = (Draft("alert.snoozed", command.alert, payload), Draft("timer.requested", timer, due))
    return command.alert, effects, {"alert": command.alert, "until": payload["until"]}


def silenced(state: State, cause: Cause) -> tuple[str, tuple[Draft, ...], dict[str, Any]]:
    """Silence a pipeline, a set or a metric of it; return its name, the records, and the answer.

    A time that is not later than now ends a silence.

    Raises:
        NotFound: there is no such pipeline.
    """
    command = body(cause.record)
    assert isinstance(command, AlertSilence)  # noqa: S101 - the table of types says so
    name = command.pipeline
    if name not in state["pipelines"]:
        hint = did_you_mean(name, state["pipelines"]) or "`penstock list` shows the pipelines"
        raise NotFound(f"there is no pipeline {name!r}", hint=hint)
    payload = {**command.to_dict(), "by": cause.record.actor}
    result = {"pipeline": name, "until": payload["until"]}
    timer = f"silence:{name}:{cause.offset}"
    due = {"timer": timer, "due": payload["until"], "subject": SUBJECT + name}
    effects = (Draft("alert.silenced", name, {**payload, "timer": timer}), Draft("timer.requested", timer, due))
    return name, effects, result


def _check(cause: Cause, until: datetime) -> None:
    if until <= cause.at:
        raise UsageError("is over already", where="until", value=until.isoformat(), hint="give a time to come")
