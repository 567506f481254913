"""Notices about alerts: one task for each route of an alert whose state has changed.

Those of one alert to one route are sent in order: the next begins once the one before was sent or given up. Of each
route one is under way at a time, so that a receiver that hangs holds up its own notices only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import NOTIFY
from agents.runs import NOTHING, Outcome
from penstock.errors import NotFound, Refused, did_you_mean
from penstock.ids import named_id
from penstock.models.notices import TRIAL
from penstock.models.pipeline import Retry
from penstock.models.receivers import RECEIVERS
from penstock.models.routes import LOG

__all__ = ["RETRIES", "asked", "receipt_of", "told", "tried_now"]

RETRIES: Final = Retry(base=timedelta(seconds=5), factor=2, max=timedelta(minutes=30), attempts=30)
"""Retries of a notice: for about eleven hours."""


def told(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Queue what each route is told of an alert that was opened, has become more severe, or was closed."""
    routes = dict.fromkeys(route for route in cause.payload.get("routes", ()) if route != LOG)
    alert = {key: value for key, value in cause.payload.items() if key != "routes"}
    drafts = tuple(_queued(cause, route, cause.type, alert) for route in routes)
    return (drafts, "notify", f"routes of the alert: {', '.join(routes)}") if drafts else NOTHING


def asked(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Queue a notice that shows whether a route works.

    Raises:
        NotFound, Refused: there is no such connection, or it takes no alerts.
    """
    name = cause.payload["route"]
    where, connection = f"connection {name}", state["connections"].get(name)
    fitting = [name for name, one in state["connections"].items() if one.get("type") in RECEIVERS]
    if connection is None:
        hint = did_you_mean(name, fitting) or "routes are connections of type webhook, slack or smtp"
        raise NotFound(f"there is no connection {name!r}", hint=hint)
    if connection.get("type") not in RECEIVERS:
        hint = f"routes: {', '.join(fitting)}" if fitting else "write one of type webhook, slack or smtp"
        raise Refused(f"is of type {connection.get('type')}, which takes no alerts", where=where, hint=hint)
    waits = {"asked": True, "asked_at": cause.at.isoformat()}
    return (_queued(cause, name, TRIAL, {}, waits),), "try_route", "it was asked for"


def tried_now(state: State, cause: Cause) -> tuple[Draft, ...]:
    """Try what waits for its next attempt at once, if its route has changed."""
    route = cause.payload["name"]
    if state["connections"].get(route) == cause.payload["connection"]:
        return ()
    waiting = [
        task
        for task in state["tasks"].values()
        if task["kind"] == NOTIFY and task["status"] == "waiting" and task["notice"]["route"] == route
    ]
    return tuple(_due(task, cause) for task in waiting)


def _due(task: Mapping[str, Any], cause: Cause) -> Draft:
    timer = f"retry:{task['id']}:{task['attempt']}:{cause.offset}"
    payload = {"timer": timer, "due": cause.at.isoformat(), "subject": task["id"], "failures": task["failures"]}
    return Draft("timer.requested", timer, payload)


def _queued(
    cause: Cause, route: str, event: str, alert: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> Draft:
    id_ = named_id("task", NOTIFY, cause.record.id, route)
    notice = {"id": id_, "route": route, "event": event, "at": cause.at.isoformat(), "alert": dict(alert)}
    return Draft("task.queued", id_, {"task": {"id": id_, "kind": NOTIFY, "notice": notice, **(more or {})}})


def receipt_of(task: Mapping[str, Any], error: Mapping[str, Any] | None) -> tuple[Draft, ...]:
    """Record that a notice was sent, or why it is given up; before its task is closed."""
    if task["kind"] != NOTIFY or task["notice"]["event"] == TRIAL:
        return ()
    notice = task["notice"]
    payload = {"alert": notice["alert"]["alert"], "event": notice["event"], "route": notice["route"]}
    payload |= {"notice": notice["id"], "status": "failed" if error else "sent", "attempts": task["attempt"]}
    payload |= {"error": dict(error)} if error else {}
    return (Draft("alert.delivered", payload["alert"], payload),)
