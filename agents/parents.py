"""Members of a set whose first loads wait for those of others, as the sink's foreign keys ask for.

In the orchestrator's state, a member that is not loaded has ``waits``: its parents that are not loaded either. A member
has ``loaded`` once a run has completed since ``since``, the version that gave it its source and target. ``needed``:
the members that wait for each parent.
"""

from __future__ import annotations

from typing import Any

from agents.protocol import State
from agents.ready import put_pipeline
from penstock.models.sets import is_member, set_of

__all__ = ["ended", "is_loaded", "listed", "released", "retargeted"]


def is_loaded(state: State, name: str) -> bool:
    """True if the first load of a member is complete."""
    return bool(state["pipelines"].get(name, {}).get("loaded"))


def listed(state: State, page: dict[str, Any]) -> State:
    """Return the state after a page of a listing; one that does not know the sink's foreign keys changes nothing."""
    after: dict[str, list[str]] = page.get("after") or {}
    for name in page.get("members", ()) if page.get("after") is not None else ():
        one = state["pipelines"].get(name)
        if one is None:
            continue
        parents = () if one.get("loaded") else after.get(name, ())
        waits = [parent for parent in parents if not is_loaded(state, parent)]
        if waits != one.get("waits", []):
            state = _waiting(put_pipeline(state, name, waits=waits), name, waits)
    if page["last"]:
        for parent in [one for one in state["needed"] if set_of(one) == page["name"]]:
            state = state if parent in state["pipelines"] else released(state, parent)
    return state


def _waiting(state: State, name: str, parents: list[str]) -> State:
    needed = dict(state["needed"])
    for parent in parents:
        needed[parent] = sorted({*needed.get(parent, ()), name})
    return {**state, "needed": needed}


def released(state: State, parent: str) -> State:
    """Return the state once no member waits for this one: it is loaded, or gone."""
    if parent not in state["needed"]:
        return state
    needed = dict(state["needed"])
    children = needed.pop(parent)
    state = {**state, "needed": needed}
    for name in children:
        one = state["pipelines"].get(name, {})
        if parent in one.get("waits", ()):
            state = put_pipeline(state, name, waits=[other for other in one["waits"] if other != parent])
    return state


def ended(state: State, run: dict[str, Any]) -> State:
    """Return the state after the end of a run, which may complete the first load of a member."""
    name = run["pipeline"]
    one = state["pipelines"].get(name)
    if one is None or one.get("loaded") or not is_member(name) or run["status"] != "completed":
        return state
    if run["version"] < one.get("since", 0):
        return state
    return released(put_pipeline(state, name, loaded=True), name)


def retargeted(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what changes with a new version of a member: another source or target begins with a first load."""
    if not before or not is_member(after["name"]) or _ends(before["pipeline"]) == _ends(after["pipeline"]):
        return {}
    return {"loaded": False, "since": after["version"]}


def _ends(pipeline: dict[str, Any]) -> list[tuple[str, str]]:
    spec = pipeline["spec"]
    return [(spec[end]["connection"], spec[end]["object"]) for end in ("source", "sink")]
