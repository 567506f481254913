"""Components of Penstock that fail: an incident for each until it works again.

What may pass has half a minute for that, by a timer; everything else is an incident at once. State: ``components`` has
those that fail and have no incident yet, by name: the incident that is to be opened, and the timer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from agents.incidents import closing, is_open, of_component
from agents.protocol import Cause, Draft, State
from agents.rooms import put, without
from penstock.ids import named_id
from penstock.records import Record

__all__ = ["PASSES", "component_of", "evolved", "failed", "lasts", "recovered"]

PASSES: Final = timedelta(seconds=30)
"""Time within which a temporary failure may pass before a person is told."""
FAILS: Final = "component "
"""Prefix of the subject of the timer after which that time is over; the component follows."""


def component_of(payload: Mapping[str, Any]) -> str:
    """Return what an incident of a component is about: the component, and what of it, if other parts of it work."""
    return " ".join(filter(None, (payload.get("component"), payload.get("subject"))))


def failed(state: State, cause: Cause) -> Iterator[Draft]:
    """Open an incident for a component that fails, if it has none, or ask for the time at which one is to be opened."""
    key = component_of(cause.payload)
    if is_open(state, of_component(key)):
        return
    if cause.payload["classified"]["kind"] != "transient":
        yield _opened(_incident(cause.record), cause)
    elif key not in state["components"]:
        timer = f"component:{key}:{cause.offset}"
        yield Draft(
            "timer.requested",
            timer,
            {"timer": timer, "due": (cause.at + PASSES).isoformat(), "subject": f"{FAILS}{key}"},
        )


def lasts(state: State, cause: Cause) -> Iterator[Draft]:
    """Open the incident of a component whose failure has not passed when its timer fires."""
    for one in state["components"].values():
        if one["timer"] == cause.payload["timer"]:
            yield _opened(one["incident"], cause)


def recovered(state: State, cause: Cause) -> Iterator[Draft]:
    """Close the incident of a component that works again."""
    key = component_of(cause.payload)
    return closing(state, of_component(key), f"{key} works again")


def _opened(incident: Mapping[str, Any], cause: Cause) -> Draft:
    id_ = named_id("incident", component_of(incident["facts"]), cause.record.id)
    return Draft("incident.opened", id_, {"id": id_, **incident})


def _incident(record: Record) -> dict[str, Any]:
    """Return the incident of a component's failure, without its id."""
    payload = record.payload
    found, error = payload["classified"], payload["error"]
    facts = {name: payload[name] for name in ("component", "subject") if payload.get(name)}
    facts |= {"signs": found["signs"]} if found.get("signs") else {}
    incident: dict[str, Any] = {
        "component": payload["component"],
        "fingerprint": found["fingerprint"],
        "kind": found["kind"],
        "what": error["what"] if not error.get("where") else f"{error['where']}: {error['what']}",
        "raised": record.id,
        "facts": facts,
    }
    return incident | ({"hint": error["hint"]} if error.get("hint") else {})


def evolved(state: State, record: Record) -> State:
    """Return the state after a record, by what it says of components."""
    payload, pending = record.payload, state["components"]
    match record.type:
        case "component.failed":
            key = component_of(payload)
            if key in pending or is_open(state, of_component(key)):
                return state
            return put(state, "components", key, {"incident": _incident(record), "timer": None})
        case "timer.requested" if (key := payload["subject"].removeprefix(FAILS)) in pending:
            return put(state, "components", key, {**pending[key], "timer": payload["timer"]})
        case "incident.opened" if payload.get("component"):
            return without(state, "components", component_of(payload["facts"]))
        case "component.recovered":
            return without(state, "components", component_of(payload))
    return state
