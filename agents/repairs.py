"""Repair of a pipeline whose run failed: pause it, follow a changed schema, propose a plan, or adjust its settings."""

from __future__ import annotations

from typing import Any

from agents.policies import Policies
from agents.proposals import approved_by, following, proposals, voided
from agents.protocol import Cause, Draft, State
from penstock.models.moves import moved
from penstock.models.pipeline import Pipeline
from penstock.models.sets import set_of

__all__ = ["Repair", "ordered", "repaired"]

BROKEN = "schema.broken"
RENAMED = "schema.renamed"
MOVED = "schema.moved"
"""Codes of `SchemaBroken`, `SchemaRenamed` and `SchemaMoved`; a run ends with them as its pipeline's rules say."""

Repair = tuple[tuple[Draft, ...], str, str]
"""The effects, the action's name and the reason."""


def ordered(state: State, cause: Cause) -> Repair | None:
    """Return what the agent for errors has chosen: to pause a pipeline, or to give it other values and run it again."""
    chosen = cause.payload
    name = chosen["pipeline"]
    pipeline = state["pipelines"].get(name)
    if pipeline is None or pipeline["status"] not in {"active", "draining"}:
        return None
    if chosen["action"] == "pause":
        return (_paused(pipeline, name),), "pause", chosen["reason"]
    document = pipeline["versions"][-1]
    for path, value in (chosen.get("set") or {}).items():
        document = {**document, "spec": _with(document["spec"], path.split("."), value)}
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
    return (Draft("pipeline.updated", name, payload),), chosen["action"], chosen["reason"]


def _with(part: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return a part of a document with one value set, `path` below it."""
    name, *more = path
    return {**part, name: _with(part.get(name) or {}, more, value) if more else value}


def repaired(state: State, cause: Cause, policies: Policies) -> Repair | None:
    """Return what follows a run that has ended; None if it calls for nothing."""
    run = cause.payload["run"]
    pipeline = state["pipelines"].get(run["pipeline"])
    if pipeline is None:
        return None
    if run["status"] == "completed":
        effects = voided(state, run["pipeline"], "agent:lifecycle")
        return (effects, "void", "its run has completed without what was proposed") if effects else None
    is_open = run["status"] == "failed" and pipeline["status"] in {"active", "draining"}
    return _of_failure(state, cause, pipeline, policies) if is_open else None


def _of_failure(state: State, cause: Cause, pipeline: dict[str, Any], policies: Policies) -> Repair | None:
    run, error = cause.payload["run"], cause.payload.get("error") or {}
    if error.get("code") in {RENAMED, MOVED}:
        return None if policies.is_halted("evolution") else _followed(pipeline, run, error)
    found = proposals(state, cause)
    if taken := approved_by(state, cause, found, policies):
        return (*found, *taken), "approve", error["what"]
    if error.get("code") == BROKEN:
        return (*found, _paused(pipeline, run["pipeline"])), "pause", error["what"]
    return (found, "propose", error["what"]) if found else None


def _followed(pipeline: dict[str, Any], run: dict[str, Any], error: dict[str, Any]) -> Repair | None:
    """Return a version that follows a rename or a move; pause the pipeline if that is not possible."""
    name, version, document = run["pipeline"], len(pipeline["versions"]), pipeline["versions"][-1]
    if run["version"] != version:
        return None
    if error["code"] == MOVED and error.get("moved"):
        changed, action = moved(document, error["moved"]), "follow_move"
    elif error["code"] == RENAMED and error.get("renamed"):
        changed, action = following(document, error["renamed"]), "follow_rename"
    else:
        return None
    if changed == document:
        reason = f"{error['what']}; expressions of its mapping have to be changed by hand"
        return (_paused(pipeline, name),), "pause", reason
    payload = {
        "name": name,
        "uid": pipeline["uid"],
        "version": version + 1,
        "pipeline": changed,
        "by": "agent:lifecycle",
        "again": True,
    }
    return (Draft("pipeline.updated", name, payload),), action, error["what"]


def _paused(pipeline: dict[str, Any], name: str) -> Draft:
    paused = {"name": name, "uid": pipeline["uid"], "before": pipeline["status"], "status": "paused"}
    return Draft("pipeline.status_changed", name, paused)
