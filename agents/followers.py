"""Pipelines that run after others, in the orchestrator's state: what each of them waits for, as each record changes it.

``followers`` has the pipelines that wait for each pipeline or set, or for updates of each dataset. ``fired`` has, by
pipeline, the trigger that a run of it still has to follow. A pipeline has ``ended``, those of its dependencies
that have ended as it asks since its own last run was created; ``succeeded``, the time of its last success; ``held``,
the tick that waits until its dependencies are fresh. A set with followers has ``rounds``: for the runs of each
of its starts, a group, how many of those that ended did not succeed, and when the last one ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.protocol import State
from agents.ready import put_pipeline
from penstock.models.sets import set_of

__all__ = ["begun", "ended", "fired", "linked", "rounds_ended", "start_failed", "unfired", "waited_for"]


def waited_for(pipeline: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `after` of a pipeline's document, in full; empty if it has none."""
    found: Mapping[str, Any] = pipeline["spec"].get("after") or {}
    return found


def _leaders(pipeline: Mapping[str, Any]) -> set[str]:
    """Return the pipelines that this one runs after, and the datasets whose updates trigger it."""
    datasets = (pipeline["spec"].get("triggers") or {}).get("datasets", ())
    return {*waited_for(pipeline).get("pipelines", ()), *datasets}


def linked(state: State, name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> State:
    """Return the state with the followers of what a pipeline, as plain data, was after and is after now."""
    old, new = (_leaders(one) if one else set[str]() for one in (before, after))
    if old == new:
        return state
    followers = dict(state["followers"])
    for one in old - new:
        followers[one] = [follower for follower in followers[one] if follower != name]
        if not followers[one]:
            del followers[one]
    for one in sorted(new - old):
        followers[one] = sorted({*followers.get(one, ()), name})
    state = {**state, "followers": followers}
    left = [one for one in state["pipelines"].get(name, {}).get("ended") or () if one in new]
    return put_pipeline(state, name, ended=left) if after else state


def fired(state: State, p: Mapping[str, Any]) -> State:
    """Return the state after a trigger has fired; the first one stays until a run follows."""
    pipeline = state["pipelines"].get(p["name"])
    if pipeline is None or pipeline["uid"] != p["uid"] or p["name"] in state["fired"]:
        return state
    return {**state, "fired": {**state["fired"], p["name"]: p["fired"]}}


def unfired(state: State, name: str) -> State:
    """Return the state without a trigger that a run of the pipeline has to follow."""
    if name not in state["fired"]:
        return state
    return {**state, "fired": {key: one for key, one in state["fired"].items() if key != name}}


def begun(state: State, name: str) -> State:
    """Return the state after a run of a pipeline, or a start of a set, was created."""
    state = unfired(state, name)
    pipeline = state["pipelines"].get(name, {})
    return put_pipeline(state, name, ended=[], held=None) if pipeline.get("ended") or pipeline.get("held") else state


def ended(state: State, run: Mapping[str, Any]) -> State:
    """Return the state after a run has ended: what waits for its pipeline has one dependency less to wait for."""
    name, success = run["pipeline"], run["status"] == "completed"
    if name not in state["pipelines"]:
        return state
    state = _noted(state, name, run["finished_at"], success=success)
    whole = set_of(name)
    if whole is None or not run.get("group") or whole not in state["followers"] or whole not in state["pipelines"]:
        return state
    rounds = state["pipelines"][whole].get("rounds") or {}
    failed = rounds.get(run["group"], {}).get("failed", 0) + (not success)
    rounds = {**rounds, run["group"]: {"failed": failed, "at": run["finished_at"]}}
    return rounds_ended(put_pipeline(state, whole, rounds=rounds), whole)


def rounds_ended(state: State, whole: str) -> State:
    """Return the state with the ends of a set's rounds noted: of those whose runs are all queued, and none is open."""
    pipeline = state["pipelines"].get(whole, {})
    rounds = pipeline.get("rounds")
    if not rounds or whole not in state["followers"]:
        return state
    left = {group for group in rounds if any(run.get("group") == group for run in state["runs"].values())}
    left.add((pipeline.get("start") or {}).get("group"))
    state = put_pipeline(state, whole, rounds={group: one for group, one in rounds.items() if group in left})
    for group, one in rounds.items():
        if group not in left:
            state = _noted(state, whole, one["at"], success=not one["failed"])
    return state


def start_failed(state: State, whole: str) -> State:
    """Return the state after the start of a set has failed: its objects could not be listed."""
    return _noted(state, whole, "", success=False) if whole in state["followers"] else state


def _noted(state: State, name: str, at: str, *, success: bool) -> State:
    state = put_pipeline(state, name, succeeded=at) if success else state
    for follower in state["followers"].get(name, ()):
        one = state["pipelines"].get(follower)
        if one is not None and (success or waited_for(one["pipeline"]).get("on") == "end"):
            state = put_pipeline(state, follower, ended=sorted({*(one.get("ended") or ()), name}))
    return state
