"""Streams: each has one run, which starts with its pipeline, restarts with each new version, and never ends by itself.

A stream that fails for a reason that may pass is retried for as long as it is active. The waits start from the first
again once it has read more rows, or has run for a while.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from shlex import quote
from typing import Any

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import open_tasks
from agents.runs import run_created, run_finished, task_closed
from agents.sets import is_set
from agents.workload import changed, running_pipelines, with_drafts
from penstock.errors import Refused
from penstock.ids import named_id
from penstock.models.domain import Beginning

__all__ = ["failures_since", "is_stream", "reset_stream", "restarted", "resumed", "started"]


def is_stream(spec: dict[str, Any] | None) -> bool:
    """True if a pipeline file is that of a stream; a task without a pipeline has none."""
    return spec is not None and bool(spec["spec"].get("mode") == "stream")


def started(state: State, name: str, policies: Policies, cause: Cause) -> tuple[Draft, ...]:
    """Create the run of a stream that has none; `state` is that after the record. A set has no run of its own."""
    pipeline = state["pipelines"].get(name)
    if pipeline is None or not is_stream(pipeline["pipeline"]) or is_set(pipeline["pipeline"]):
        return ()
    if pipeline["status"] not in {"active", "paused"}:
        return ()
    if any(run["pipeline"] == name for run in state["runs"].values()):
        return ()
    return run_created(state, name, policies, cause, named_id("run", pipeline["uid"], cause.offset), {})


def resumed(state: State, policies: Policies, cause: Cause) -> tuple[Draft, ...]:
    """Create the run of each active stream that has none."""
    running = running_pipelines(state)
    idle = [name for name, one in state["pipelines"].items() if one["status"] == "active" and name not in running]
    return tuple(draft for name in idle for draft in started(state, name, policies, cause))


def restarted(state: State, cause: Cause, policies: Policies) -> tuple[Draft, ...]:
    """React to a pipeline that is new or has changed: end the run of the stream it was, begin that of the one it is."""
    name: str = cause.payload["name"]
    effects = _ended(state, name, f"version {cause.payload['version']} takes over", cause)
    after = with_drafts(changed(state, cause.type, cause.payload), effects)
    return (*effects, *started(after, name, policies, cause))


def reset_stream(state: State, cause: Cause, policies: Policies, begin: Beginning) -> tuple[Draft, ...]:
    """End the run of an active stream, and create one that begins elsewhere.

    Raises:
        Refused: it is no stream; or it has a run, and `begin` does not say that this is meant.
    """
    name: str = cause.payload["pipeline"]
    where = f"pipeline {name}"
    if not is_stream(state["pipelines"][name]["pipeline"]):
        hint = f"`penstock backfill {quote(name)}` reads a part again, `penstock run {quote(name)} --full` everything"
        raise Refused("is no stream: only a stream begins `from` a position", where=where, hint=hint)
    if not begin.reset and any(run["pipeline"] == name for run in state["runs"].values()):
        hint = f"`penstock run {quote(name)} --from … --reset` ends it and starts it again from there"
        raise Refused("runs already, from its own positions", where=where, hint=hint)
    ended = _ended(state, name, "it begins anew", cause)
    return (
        *ended,
        *run_created(state, name, policies, cause, named_id("run", cause.record.id), {"begin": begin.to_dict()}),
    )


def _ended(state: State, name: str, reason: str, cause: Cause) -> tuple[Draft, ...]:
    """Return the end of a stream's run."""
    tasks = [task for task in open_tasks(state, name) if task["kind"] == "pipeline"]
    effects: list[Draft] = []
    for task in tasks:
        if is_stream(task["spec"]):
            effects += [task_closed(task, "cancelled", reason), *run_finished(state, task, "stopped", cause)]
    return tuple(effects)


def failures_since(task: dict[str, Any], counters: dict[str, Any], at: datetime, longest: timedelta) -> tuple[int, int]:
    """Return how often a stream has failed in a row, this time included, and the rows that it has read.

    The count starts from 1 again if it has read more rows since its last failure, or has run for the `longest` wait.
    """
    rows, since = int(counters.get("rows_in") or 0), task.get("due")
    lasted = since is not None and at - datetime.fromisoformat(since) >= longest
    return (1 if lasted or rows > task.get("rows", 0) else task["failures"] + 1), rows
