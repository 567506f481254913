"""Pipelines that run after others: which of these are allowed, and which runs follow from the end of another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from agents.followers import waited_for
from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.runs import run_created
from agents.sets import is_set
from agents.starts import set_started
from agents.triggers import because
from penstock.errors import Issue, Refused, did_you_mean
from penstock.ids import named_id
from penstock.models.pipeline import Pipeline
from penstock.models.schedule import Dependencies
from penstock.models.sets import selects, set_of
from penstock.models.triggers import dataset_of

__all__ = ["CHANGES", "check_followers", "dependencies_of", "following", "issues_of_after", "stale"]

CHANGES: Final = frozenset({"pipeline.status_changed", "pipeline.updated"})
"""Types of records from which runs may follow by themselves; from others only by their effects."""


# --- checks of the lifecycle agent, on its own state ------------------------------------------------------------------


def issues_of_after(state: State, pipeline: Pipeline) -> Iterator[Issue]:
    """Yield what is wrong with the dependencies of a pipeline: unknown ones, streams, and circles."""
    path, known = "spec.after.pipelines", state["pipelines"]
    if pipeline.spec.mode == "stream" and (waiting := _waiting_for(state, pipeline.name)):
        yield Issue("spec.mode", f"{', '.join(waiting)} runs after it, and the run of a stream never ends")
    if pipeline.spec.after is None and pipeline.spec.triggers is None:
        return
    versions = _with(state, pipeline)
    for name in pipeline.spec.after.pipelines if pipeline.spec.after else ():
        one, whole = known.get(name), known.get(set_of(name))
        if one is None and whole is None:
            yield Issue(path, f"no pipeline {name!r}; {did_you_mean(name, known) or 'apply that one first'}")
            continue
        if one is None and not _selects(whole, name):
            yield Issue(path, f"no pipeline {name!r}; the set {set_of(name)} selects no such object")
        elif (one or whole)["versions"][-1]["spec"].get("mode") == "stream":
            yield Issue(path, f"{name!r} is a stream, whose run never ends")
        elif (one or whole)["status"] == "deleting":
            yield Issue(path, f"{name!r} is being deleted")
        elif circle := _way(versions, name, pipeline.name):
            yield Issue(path, f"is a circle: {' after '.join([pipeline.name, *circle])}")
    yield from _issues_of_datasets(versions, pipeline)


def _issues_of_datasets(versions: Mapping[str, Any], pipeline: Pipeline) -> Iterator[Issue]:
    """Yield what is wrong with the datasets whose updates trigger a pipeline: streams that write them, and circles."""
    path = "spec.triggers.datasets"
    for dataset in pipeline.spec.triggers.datasets if pipeline.spec.triggers else ():
        for name in _writers(versions, dataset):
            if name != pipeline.name and versions[name]["spec"].get("mode") == "stream":
                yield Issue(path, f"{dataset!r} is written by {name!r}, a stream, whose run never ends")
            elif circle := _way(versions, name, pipeline.name):
                yield Issue(path, f"is a circle: {' after '.join([pipeline.name, *circle])}")


def _with(state: State, pipeline: Pipeline) -> Mapping[str, Any]:
    """Return the versions of all pipelines by name, with the new one of this pipeline."""
    known = {name: one["versions"][-1] for name, one in state["pipelines"].items() if one["status"] != "deleting"}
    return {**known, pipeline.name: pipeline.to_dict()}


def _writers(known: Mapping[str, Any], dataset: str) -> list[str]:
    """Return the pipelines that write a dataset."""
    sinks = {name: one["spec"]["sink"] for name, one in known.items()}
    return [name for name, one in sinks.items() if dataset_of(one["connection"], one["object"]) == dataset]


def _selects(whole: Mapping[str, Any], member: str) -> bool:
    """True if a set may have this member, which its listing has not found yet."""
    spec = whole["versions"][-1]["spec"]
    return is_set(whole["versions"][-1]) and selects(spec, member.partition("/")[2])


def _way(known: Mapping[str, Any], begin: str, end: str) -> list[str]:
    """Return the pipelines from `begin` to `end`, each after the next one; empty if there is no such way."""
    ways, seen = [[begin]], set[str]()
    while ways:
        way = ways.pop()
        for name in {way[-1], set_of(way[-1]) or way[-1]}:
            if name == end:
                return way
            if name not in seen and name in known:
                seen.add(name)
                found = [*waited_for(known[name]).get("pipelines", ())]
                for dataset in (known[name]["spec"].get("triggers") or {}).get("datasets", ()):
                    found += _writers(known, dataset)
                ways += [[*way, one] for one in found]
    return []


def _waiting_for(state: State, name: str) -> list[str]:
    """Return what runs after a pipeline, or after a member of it."""
    found = {
        one
        for one, found in state["pipelines"].items()
        if found["status"] != "deleting" and one != name and set_of(one) != name
        for waited in waited_for(found["versions"][-1]).get("pipelines", ())
        if name in {waited, set_of(waited)}
    }
    return sorted(found)


def check_followers(state: State, name: str) -> None:
    """Refuse to delete what others run after.

    Raises:
        Refused: names them.
    """
    waiting = _waiting_for(state, name)
    if waiting:
        hint = "delete them first, or take it out of their `after`"
        raise Refused(f"{', '.join(waiting)} runs after it", where=f"pipeline {name}", hint=hint)


# --- decisions of the orchestrator ------------------------------------------------------------------------------------


def dependencies_of(pipeline: Mapping[str, Any]) -> Dependencies | None:
    """Return the dependencies of a pipeline in the orchestrator's state, if it has any."""
    written = waited_for(pipeline["pipeline"])
    return Dependencies.parse(written) if written else None


def stale(state: State, names: Iterable[str], since: datetime) -> list[str]:
    """Return those of these pipelines that have not succeeded since then."""
    times = {name: state["pipelines"].get(name, {}).get("succeeded") for name in names}
    return [name for name, time in times.items() if time is None or datetime.fromisoformat(time) < since]


def following(
    state: State, cause: Cause, effects: Iterable[Draft], policies: Policies
) -> tuple[tuple[Draft, ...], str]:
    """Return the runs that follow from a record and its effects, and the reason; `state` is that after both."""
    drafts: list[Draft] = []
    reasons = []
    for name in _touched(state, cause, effects):
        pipeline = state["pipelines"].get(name)
        if pipeline is None or pipeline["status"] != "active" or _is_running(state, name):
            continue
        found = _reason_to_run(state, name, pipeline, cause)
        if found is None:
            continue
        more, reason = found
        id_ = named_id("run", pipeline["uid"], "after", cause.offset)
        if is_set(pipeline["pipeline"]):
            drafts += set_started(state, name, policies, cause, {"group": id_, **more})
        else:
            drafts += run_created(state, name, policies, cause, id_, more)
        reasons.append(reason)
    return tuple(drafts), "; ".join(reasons)


def _reason_to_run(
    state: State, name: str, pipeline: Mapping[str, Any], cause: Cause
) -> tuple[dict[str, Any], str] | None:
    """Return what a run that is due now has to say of itself, and why it is due; None if none is."""
    after = dependencies_of(pipeline)
    if after is not None and _is_due(state, pipeline, after, cause.at):
        tick = {"scheduled_for": pipeline["held"]} if after.fresh is not None else {}
        return tick, f"{name} runs after {', '.join(after.pipelines)}"
    if (fired := state["fired"].get(name)) is None:
        return None
    when = "" if fired["record"] == cause.record.id else f", at {fired['at']}, while it could not run"
    return {"trigger": fired}, f"{name} runs since {because(fired)}{when}"


def _touched(state: State, cause: Cause, effects: Iterable[Draft]) -> list[str]:
    """Return the pipelines with dependencies for which something may have changed, in a fixed order."""
    if not state["followers"] and not state["fired"]:
        return []
    fired = [draft.payload["name"] for draft in effects if draft.type == "trigger.fired"]
    changed = [cause.payload["name"]] if cause.type in CHANGES else []
    closed = [draft.payload for draft in effects if draft.type == "task.closed"]
    changed += [one["pipeline"] for one in closed if one["kind"] == "list" and "pipeline" in one]
    ended_ = [draft.payload["run"]["pipeline"] for draft in effects if draft.type == "run.finished"]
    sets = [draft.payload["name"] for draft in effects if draft.type == "set.started" and draft.payload["last"]]
    names = [*changed, *fired, *ended_, *(whole for one in ended_ if (whole := set_of(one))), *sets]
    return list(dict.fromkeys(one for name in names for one in (name, *state["followers"].get(name, ()))))


def _is_running(state: State, name: str) -> bool:
    if state["pipelines"][name].get("start"):
        return True
    return any(name in {run["pipeline"], set_of(run["pipeline"])} for run in state["runs"].values())


def _is_due(state: State, pipeline: Mapping[str, Any], after: Dependencies, at: datetime) -> bool:
    if after.fresh is not None:
        return bool(pipeline.get("held")) and not stale(state, after.pipelines, at - after.fresh)
    return set(after.pipelines) <= {*(pipeline.get("ended") or ())}
