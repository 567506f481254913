"""Triggers of the orchestrator: files that have arrived, datasets that were updated, requests to webhooks.

A trigger that has fired is kept in ``fired`` until a run of its pipeline, or a start of its set, is created: however
many fire during a run or a pause, one more run follows. Files are looked for by one open task of the pipeline, of kind
`watch`; ``round`` is the last of its reports, so that a repeat of a report changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from shlex import quote
from typing import Any, Final

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import open_tasks
from agents.runs import NOTHING, Outcome, task_closed, task_queued
from agents.workload import changed, named
from penstock.errors import Refused
from penstock.models.sets import set_of
from penstock.models.triggers import dataset_of

__all__ = ["WATCH", "arrived", "asked", "because", "moved", "updated", "watched"]

WATCH: Final = "watch"
"""Kind of the tasks that look for files."""


def watched(state: State, cause: Cause, policies: Policies) -> tuple[Draft, ...]:
    """Let a worker look for the files of a pipeline that is new, has changed, or has another status now."""
    name = cause.payload["name"]
    after = changed(state, cause.type, cause.payload)
    pipeline = after["pipelines"].get(name)
    wanted = pipeline is not None and pipeline["status"] == "active" and _looks(pipeline)
    tasks = [task for task in open_tasks(after, name) if task["kind"] == WATCH]
    if wanted and any(task["spec"] == pipeline["pipeline"] for task in tasks):
        return ()
    closed = [task_closed(task, "cancelled", "the pipeline has changed") for task in tasks]
    queued = [task_queued(after, WATCH, name, policies, run=None, cause=cause)] if wanted else []
    return (*closed, *queued)


def moved(state: State, cause: Cause, policies: Policies) -> Outcome:
    """React to a connection that has changed: a look for files there starts again, where they are now."""
    name = cause.payload["name"]
    after = changed(state, cause.type, cause.payload)
    if after["connections"][name] == state["connections"].get(name):
        return NOTHING
    drafts: list[Draft] = []
    for task in [state["tasks"][id_] for id_ in state["assigned"]]:
        if task["kind"] == WATCH and name == _watched_in(task["spec"]["spec"]):
            drafts.append(task_closed(task, "cancelled", f"connection {name} has changed"))
            drafts.append(task_queued(after, WATCH, task["pipeline"], policies, run=None, cause=cause))
    return tuple(drafts), "look_again", f"connection {name} has changed"


def _watched_in(spec: Mapping[str, Any]) -> str:
    """Return the connection in which files are looked for."""
    found: str = spec["triggers"]["files"].get("connection") or spec["source"]["connection"]
    return found


def _looks(pipeline: Mapping[str, Any]) -> bool:
    return _triggers(pipeline).get("files") is not None


def _triggers(pipeline: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = pipeline["pipeline"]["spec"].get("triggers") or {}
    return found


def arrived(state: State, cause: Cause, policies: Policies) -> Outcome:
    """React to files that have arrived: their trigger fires, once for each round of a worker's reports."""
    found = cause.payload
    pipeline = state["pipelines"].get(found["name"])
    if pipeline is None or pipeline["uid"] != found["uid"] or found["round"] <= pipeline.get("round", 0):
        return NOTHING
    if not _looks(pipeline):
        return NOTHING
    more = {"count": found["count"], "files": found["files"]}
    return (_fired(found["name"], pipeline, cause, "files", **more),), "trigger", f"{found['count']} files have arrived"


def asked(state: State, cause: Cause, policies: Policies) -> Outcome:
    """React to a request to a pipeline's webhook.

    Raises:
        NotFound, Refused: there is no such pipeline, it has no webhook, or it does not run by itself any more.
    """
    name = cause.payload["pipeline"]
    pipeline = named(state, name)
    where = f"pipeline {name}"
    if not _triggers(pipeline).get("webhook"):
        hint = "write triggers: {webhook: …} in its file, then `penstock apply`"
        raise Refused("has no webhook", where=where, hint=hint)
    if pipeline["status"] not in {"active", "paused"}:
        hint = f"`penstock resume {quote(name)}` makes it active"
        raise Refused(f"is {pipeline['status']}", where=where, hint=hint)
    return (_fired(name, pipeline, cause, "webhook"),), "trigger", "its webhook was called"


def updated(before: State, state: State, effects: Iterable[Draft], cause: Cause) -> tuple[Draft, ...]:
    """Return the triggers that fire since a dataset was updated: by a run that has completed and changed its target.

    `before` is the state before the effects, which has the tasks that they close.
    """
    found = []
    for name, at_sink in _changed_targets(before, state, effects):
        for follower in state["followers"].get(at_sink, ()):
            pipeline = state["pipelines"].get(follower)
            if pipeline is None or follower in {name, set_of(name)} or follower in state["fired"]:
                continue
            if pipeline["status"] in {"active", "paused"}:
                found.append(_fired(follower, pipeline, cause, "dataset", dataset=at_sink, pipeline=name))
    return tuple(found)


def _changed_targets(before: State, state: State, effects: Iterable[Draft]) -> list[tuple[str, str]]:
    """Return the pipelines that have changed their target, and its dataset: that of the version that was run."""
    names, specs = [], dict[str, Mapping[str, Any]]()
    for draft in effects if state["followers"] else ():
        payload = draft.payload
        if draft.type == "task.closed" and (task := before["tasks"].get(payload["task"])) and task["spec"]:
            specs[task["pipeline"]] = task["spec"]["spec"]
        elif draft.type == "run.finished" and payload["run"]["status"] == "completed":
            names.append((payload["run"]["pipeline"], payload["run"].get("counters", {}).get("rows_out", 0)))
        elif draft.type == "deletes.recorded" and payload.get("found"):
            names.append((payload["name"], payload["found"]["removed"] + payload["found"].get("returned", 0)))
        elif draft.type == "letters.recorded" and payload.get("found"):
            names.append((payload["name"], payload["found"].get("written", 0)))
    found = []
    for name, rows in names:
        spec = specs.get(name) or state["pipelines"].get(name, {}).get("pipeline", {"spec": {}})["spec"]
        sink = spec.get("sink")
        if sink is not None and (rows or sink.get("write") == "replace"):
            found.append((name, dataset_of(sink["connection"], sink["object"])))
    return found


def because(fired: Mapping[str, Any]) -> str:
    """Return in words what has fired."""
    if fired["by"] == "files":
        return f"{fired['count']} files have arrived"
    return f"{fired['dataset']} was updated" if fired["by"] == "dataset" else "its webhook was called"


def _fired(name: str, pipeline: Mapping[str, Any], cause: Cause, by: str, /, **more: Any) -> Draft:
    fired = {"by": by, "at": cause.at.isoformat(), "record": cause.record.id, **more}
    return Draft("trigger.fired", name, {"name": name, "uid": pipeline["uid"], "fired": fired})
