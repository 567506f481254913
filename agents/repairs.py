"""Repair of a pipeline whose run failed: pause it, follow a changed schema, propose a plan, or adjust its settings."""

from __future__ import annotations

from typing import Any, NamedTuple

from agents.limits import scope_of
from agents.policies import Policies
from agents.proposals import approved_by, following, proposals, voided, with_value
from agents.protocol import Cause, Draft, State
from penstock.models.moves import moved
from penstock.models.pipeline import Pipeline
from penstock.models.sets import set_of

__all__ = ["Repair", "ordered", "repaired"]

BROKEN = "schema.broken"
RENAMED = "schema.renamed"
MOVED = "schema.moved"
"""Codes of `SchemaBroken`, `SchemaRenamed` and `SchemaMoved`; a run ends with them as its pipeline's rules say."""

LONGEST_PATH = 512
"""Characters of a setting's path in a proposal."""


class Repair(NamedTuple):
    """The effects, the action's name, the reason, and the limit that keeps the agent from more."""

    effects: tuple[Draft, ...]
    action: str
    reason: str
    held: str | None = None


def ordered(state: State, cause: Cause, _: Policies) -> Repair | None:
    """Return what the agent for errors has chosen: to pause a pipeline, or to give it other values and run it again."""
    chosen = cause.payload
    name = chosen["pipeline"]
    pipeline = state["pipelines"].get(name)
    if pipeline is None or pipeline["status"] not in {"active", "draining"}:
        return None
    if chosen["action"] == "escalate":
        return _of_strategies(state, chosen)
    if chosen["action"] == "pause":
        return Repair((_paused(pipeline, name),), "pause", chosen["reason"])
    document = pipeline["versions"][-1]
    for path, value in (chosen.get("set") or {}).items():
        document = {**document, "spec": with_value(document["spec"], path.split("."), value)}
    if document == pipeline["versions"][-1] or set_of(name):
        return None  # the versions of a member are made by its set
    payload = {
        "name": name,
        "uid": pipeline["uid"],
        "version": len(pipeline["versions"]) + 1,
        "pipeline": Pipeline.parse(document).to_dict(),
        "by": "agent:error_resolution",
        "again": True,
    }
    return Repair((Draft("pipeline.updated", name, payload),), chosen["action"], chosen["reason"])


def _of_strategies(state: State, chosen: dict[str, Any]) -> Repair | None:
    """Return the values that would have been set if the policy let the agent do so; those of a member are its set's."""
    name, run = chosen["pipeline"], chosen.get("run") or chosen["task"]
    plans = [
        {"rule": "settings", "subject": path, "value": value, "confidence": one["confidence"]}
        for one in chosen.get("proposals") or ()
        for path, value in (one.get("set") or {}).items()
        if 0 < len(path) <= LONGEST_PATH
    ]
    found = () if set_of(name) else proposals(state, name, run, plans)
    return Repair(found, "propose", chosen["reason"]) if found else None


def repaired(state: State, cause: Cause, policies: Policies) -> Repair | None:
    """Return what follows a run that has ended; None if it calls for nothing."""
    run = cause.payload["run"]
    pipeline = state["pipelines"].get(run["pipeline"])
    if pipeline is None:
        return None
    if run["status"] == "completed":
        effects = voided(state, run["pipeline"])
        return Repair(effects, "void", "its run has completed without what was proposed") if effects else None
    is_open = run["status"] == "failed" and pipeline["status"] in {"active", "draining"}
    return _of_failure(state, cause, pipeline, policies) if is_open else None


def _of_failure(state: State, cause: Cause, pipeline: dict[str, Any], policies: Policies) -> Repair | None:
    run, error = cause.payload["run"], cause.payload.get("error") or {}
    if error.get("code") in {RENAMED, MOVED}:
        return _followed(state, cause, pipeline, policies)
    found = proposals(state, run["pipeline"], run["id"], error.get("proposed") or ())
    limit = _limit(policies, cause, pipeline, "approve")
    taken = approved_by(state, cause, found, policies)
    if taken and limit is None:
        return Repair((*found, *taken), "approve", error["what"])
    limit = limit if taken else None
    if error.get("code") == BROKEN:
        return Repair((*found, _paused(pipeline, run["pipeline"])), "pause", error["what"], limit)
    return Repair(found, "propose", error["what"], limit) if found else None


def _limit(policies: Policies, cause: Cause, pipeline: dict[str, Any], action: str) -> str | None:
    """Return what keeps the agent from following a change of a schema on its own."""
    if policies.is_halted("evolution"):
        return "agent evolution is halted"
    scope = scope_of(cause.payload["run"]["pipeline"], pipeline["versions"][-1])
    return policies.held(action, scope, cause.used, cause.at)


def _followed(state: State, cause: Cause, pipeline: dict[str, Any], policies: Policies) -> Repair | None:
    """Return a version that follows a rename or a move, or propose it if a limit holds that.

    A pipeline that has to be changed by hand is paused.
    """
    run, error = cause.payload["run"], cause.payload["error"]
    name, version, document = run["pipeline"], len(pipeline["versions"]), pipeline["versions"][-1]
    if run["version"] != version:
        return None
    if error["code"] == MOVED and error.get("moved"):
        changed, action = moved(document, error["moved"]), "follow_move"
        plans = [{"rule": "tables", "subject": document["spec"]["source"]["object"], "to": error["moved"]}]
    elif error["code"] == RENAMED and error.get("renamed"):
        changed, action = following(document, error["renamed"]), "follow_rename"
        plans = [{"rule": "renames", "subject": old, "to": new} for old, new in error["renamed"].items()]
    else:
        return None
    if changed == document:
        reason = f"{error['what']}; expressions of its mapping have to be changed by hand"
        return Repair((_paused(pipeline, name),), "pause", reason)
    if limit := _limit(policies, cause, pipeline, action):
        found = proposals(state, name, run["id"], plans)
        return Repair(found, "propose", error["what"], limit) if found else None
    payload = {
        "name": name,
        "uid": pipeline["uid"],
        "version": version + 1,
        "pipeline": changed,
        "by": "agent:lifecycle",
        "again": True,
    }
    return Repair((Draft("pipeline.updated", name, payload),), action, error["what"])


def _paused(pipeline: dict[str, Any], name: str) -> Draft:
    paused = {"name": name, "uid": pipeline["uid"], "before": pipeline["status"], "status": "paused"}
    return Draft("pipeline.status_changed", name, paused)
