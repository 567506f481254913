"""Incidents as alerts: what needs a person is told where the alerts of its pipelines are told. Pure.

An incident of a connection concerns all pipelines that use it, and one of an agent concerns all of them.
"""

from __future__ import annotations

from typing import Final

from agents import alerts
from agents.policies import Policies
from agents.protocol import Cause, Draft, State

__all__ = ["KIND", "closed", "opened"]

KIND: Final = "incident"
"""The kind of these alerts."""


def opened(state: State, cause: Cause, policies: Policies) -> Draft:
    """Return the record of the alert about an incident that was opened."""
    incident = cause.payload
    payload = {"cause": _cause(incident["id"]), "kind": KIND, "severity": "critical", "summary": incident["what"]}
    if name := incident.get("pipeline"):
        payload |= {"pipeline": name, "summary": f"{name}: {incident['what']}"}
    elif connection := incident.get("connection"):
        payload |= {"connection": connection, "summary": f"connection {connection}: {incident['what']}"}
    payload |= {"since": cause.at.isoformat(), "incident": incident["id"]}
    more = {"run": incident.get("facts", {}).get("run"), "hint": incident.get("hint")}
    payload |= {name: value for name, value in more.items() if value}
    return alerts.opened(state, cause, payload, policies)


def closed(state: State, cause: Cause) -> list[Draft]:
    """Return the record by which the alert about an incident that is over closes, if there is one."""
    key = _cause(cause.payload["id"])
    return [alerts.closed(state, cause, key, cause.payload["reason"])] if key in state["alerts"] else []


def _cause(incident: str) -> str:
    return f"{KIND} {incident}"
