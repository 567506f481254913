"""Pipelines that run after others, in the orchestrator's state: what each of them waits for, as each record changes it.

``followers`` has the pipelines that wait for each pipeline or set. A pipeline has ``ended``, those of its dependencies
that have ended as it asks since its own last run was created; ``succeeded``, the time of its last success; ``held``,
the tick that waits until its dependencies are fresh. A set with followers has ``round``: the group of the runs that
were started last, how many of those that ended did not succeed, and when the last one ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.protocol import State
from agents.ready import put_pipeline
from penstock.models.sets import set_of

__all__ = ["begun", "ended", "linked", "round_ended", "waited_for"]


def waited_for(pipeline: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `after` of a pipeline's document, in full; empty if it has none."""
    found: Mapping[str, Any] = pipeline["spec"].get("after") or {}
    return found


def linked(state: State, name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> State:
    """Return the state with the followers of what a pipeline, as plain data, was after and is after now."""
    old, new = ({*waited_for(one).get("pipelines", ())} if one else set[str]() for one in (before, after))
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


def begun(state: State, name: str) -> State:
    """Return the state after a run of a pipeline, or a start of a set, was created."""
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
    known = state["pipelines"][whole].get("round") or {}
    failed = known["failed"] if known.get("group") == run["group"] else 0
    found = {"group": run["group"], "failed": failed + (not success), "at": run["finished_at"]}
    return round_ended(put_pipeline(state, whole, round=found), whole)


def round_ended(state: State, whole: str) -> State:
    """Return the state with the end of a set's round noted, if all its runs are queued and none is open."""
    pipeline = state["pipelines"].get(whole, {})
    found = pipeline.get("round")
    if not found or pipeline.get("start") or whole not in state["followers"]:
        return state
    if any(run.get("group") == found["group"] for run in state["runs"].values()):
        return state
    return _noted(put_pipeline(state, whole, round=None), whole, found["at"], success=not found["failed"])


def _noted(state: State, name: str, at: str, *, success: bool) -> State:
    state = put_pipeline(state, name, succeeded=at) if success else state
    for follower in state["followers"].get(name, ()):
        one = state["pipelines"].get(follower)
        if one is not None and (success or waited_for(one["pipeline"]).get("on") == "end"):
            state = put_pipeline(state, follower, ended=sorted({*(one.get("ended") or ()), name}))
    return state
