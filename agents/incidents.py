"""Incidents: failures that a person has to look at. Repeats belong to the open one; it closes when its cause is gone.

What a whole connection suffers from is one incident for all its pipelines; what is about rows, columns or a defect is
one for each pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, Protocol

from agents.protocol import Cause, Draft, State
from agents.strategies import Strategy, proposal_of
from penstock.ids import named_id

__all__ = [
    "abandoned",
    "about",
    "after_restart",
    "closed",
    "closing",
    "is_open",
    "of_agent",
    "of_component",
    "of_connection",
    "open_one",
    "opened",
    "outcome",
]

OF_CONNECTIONS: Final = frozenset({"transient", "permission"})
"""Kinds of errors that all pipelines of a connection share."""
OF_AGENTS: Final = "agent:"


class _Failed(Protocol):
    """What an incident is opened for."""

    cause: Cause
    task: dict[str, Any]
    found: dict[str, Any]
    error: dict[str, Any]
    failures: int


def _shared(found: Mapping[str, Any]) -> bool:
    return found["kind"] in OF_CONNECTIONS and bool(found.get("connection"))


def open_one(state: State, pipeline: str, found: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the open incident that a failure belongs to, by its id; None if there is none."""
    owner = None if _shared(found) else pipeline
    for id_, one in state["incidents"].items():
        is_same = (one["fingerprint"], one["pipeline"]) == (found["fingerprint"], owner)
        if is_same and not one.get("component"):
            return id_, one
    return None


def opened(failed: _Failed, proposals: list[Strategy]) -> tuple[Draft, ...]:
    """Open an incident with everything that a person needs to know of it."""
    found, payload, name = failed.found, failed.cause.payload, failed.task["pipeline"]
    shared = _shared(found)
    id_ = named_id("incident", found["fingerprint"], failed.cause.record.id)
    facts = {
        "run": payload.get("run"),
        "attempts": failed.failures,
        "pipeline": name,
        "counters": payload.get("counters"),
    }
    incident: dict[str, Any] = {
        "id": id_,
        "fingerprint": found["fingerprint"],
        "kind": found["kind"],
        "what": failed.error["what"],
        "raised": payload["raised"],
        "proposals": [proposal_of(one) for one in proposals],
        "facts": {key: value for key, value in facts.items() if value is not None},
    }
    incident |= {} if shared else {"pipeline": name}
    incident |= {"connection": found["connection"]} if found.get("connection") else {}
    incident |= {"hint": failed.error["hint"]} if failed.error.get("hint") else {}
    return (Draft("incident.opened", id_, incident),)


def about(state: State, pipeline: str) -> bool:
    """True if an open incident is about the pipeline, or a connection that it uses."""
    used = state["pipelines"].get(pipeline, {}).get("connections", ())
    return any(_concerns(one, pipeline, used) for one in state["incidents"].values())


def closed(state: State, pipeline: str, used: Collection[str]) -> Iterator[Draft]:
    """Close the incidents that a run which completed shows to be over."""
    return closing(state, lambda one: _concerns(one, pipeline, used), f"pipeline {pipeline} works")


def _concerns(one: Mapping[str, Any], pipeline: str, used: Collection[str]) -> bool:
    """True if an incident is about runs of the pipeline, or a connection that it uses."""
    if one.get("component"):  # a check of it, or a discovery, which a run says nothing of
        return False
    return bool(one["pipeline"] == pipeline if one["pipeline"] else one["connection"] in used)


def abandoned(state: State, pipeline: str) -> Iterator[Draft]:
    """Close the incidents of a pipeline that is deleted."""
    return closing(state, lambda one: one["pipeline"] == pipeline, "its pipeline was deleted")


def of_connection(state: State, connection: str) -> Iterator[Draft]:
    """Close the incidents that all pipelines of a connection shared, which is deleted."""
    shared = {"connection": connection, "pipeline": None}
    return closing(state, lambda one: shared.items() <= one.items(), "its connection was deleted")


def of_agent(state: State, cause: Cause) -> Iterator[Draft]:
    """Open an incident for an agent's defect, one for each agent and kind of fault."""
    agent, fault = cause.payload["agent"], cause.payload["fault"]
    mark = f"{OF_AGENTS}{named_id(agent, fault)}"[:64]
    if any(one["fingerprint"] == mark for one in state["incidents"].values()):
        return
    id_ = named_id("incident", mark, cause.record.id)
    what, hint = f"agent {agent} has a defect: {fault}", "its state stayed as it was; report it"
    incident = {"id": id_, "fingerprint": mark, "kind": "bug", "what": what, "hint": hint}
    yield Draft("incident.opened", id_, incident)


def after_restart(state: State, cause: Cause) -> Iterator[Draft]:
    """Close the incidents of agents: another process decides now."""
    reason = "the control process was started again"
    return closing(state, lambda one: one["fingerprint"].startswith(OF_AGENTS), reason)


def of_component(key: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return what is true of an incident of a component, or of the check, listing or discovery that `key` names."""
    return lambda one: one.get("component") == key


def is_open(state: State, is_one: Callable[[Mapping[str, Any]], bool]) -> bool:
    """True if such an incident is open."""
    return any(map(is_one, state["incidents"].values()))


def closing(state: State, is_over: Callable[[Mapping[str, Any]], bool], reason: str) -> Iterator[Draft]:
    """Close the open incidents that are over."""
    for id_, one in state["incidents"].items():
        if is_over(one):
            yield Draft("incident.closed", id_, {"id": id_, "reason": reason})


def outcome(pipeline: str, tried: Mapping[str, Any], found: str) -> Draft:
    """Record whether a strategy has helped."""
    payload = {"pipeline": pipeline, "fingerprint": tried["fingerprint"], "action": tried["action"], "outcome": found}
    return Draft("strategy.ended", tried["fingerprint"], payload)
