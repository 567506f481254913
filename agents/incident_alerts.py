"""Incidents as alerts: what needs a person is told where the alerts of its pipelines are told. Pure.

An incident of a connection concerns all pipelines that use it, and one of an agent concerns all of them.
"""

from __future__ import annotations

from typing import Final

from agents import alerts
from agents.policies import Policies
from agents.protocol import Cause, Draft, State

__all__ = ["KIND", "closed", "opened", "untold"]

KIND: Final = "incident"
"""The kind of these alerts."""


def opened(state: State, cause: Cause, id_: str, policies: Policies) -> Draft:
    """Return the record of the alert about an open incident."""
    incident = state["incidents"][id_]
    payload = {"cause": _cause(id_), "kind": KIND, "severity": "critical", "summary": incident["what"]}
    if name := incident["pipeline"]:
        payload |= {"pipeline": name, "summary": f"{name}: {incident['what']}"}
    elif connection := incident["connection"]:
        payload |= {"connection": connection, "summary": f"connection {connection}: {incident['what']}"}
    payload |= {"since": incident["since"], "incident": id_}
    payload |= {name: value for name in ("run", "hint") if (value := incident[name])}
    return alerts.opened(state, cause, payload, policies)


def untold(state: State, cause: Cause, policies: Policies, name: str | None = None) -> list[Draft]:
    """Return the records of the alerts about open incidents that have none: all, or those of a pipeline."""
    return [
        opened(state, cause, id_, policies)
        for id_, one in state["incidents"].items()
        if _cause(id_) not in state["alerts"]
        and name in {None, one["pipeline"]}
        and state["pipelines"].get(one["pipeline"], {}).get("status") not in alerts.GONE
    ]


def closed(state: State, cause: Cause) -> list[Draft]:
    """Return the record by which the alert about an incident that is over closes, if there is one."""
    key = _cause(cause.payload["id"])
    return [alerts.closed(state, cause, key, cause.payload["reason"])] if key in state["alerts"] else []


def _cause(incident: str) -> str:
    return f"{KIND} {incident}"
