"""Records about runs and their tasks, as drafts: created, queued, closed, finished."""

from __future__ import annotations

from typing import Any

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import is_attempt
from agents.workload import DISCOVER, running_pipelines, with_drafts
from penstock.ids import named_id

__all__ = [
    "NOTHING",
    "Outcome",
    "discovery_queued",
    "drained",
    "open_attempt",
    "run_created",
    "run_finished",
    "task_closed",
    "task_ended",
    "task_queued",
]

Outcome = tuple[tuple[Draft, ...], str, str]
"""Result of a reaction: drafts, the action's name, the reason."""
NOTHING: Outcome = ((), "", "")


def run_created(
    state: State, name: str, policies: Policies, cause: Cause, id_: str, more: dict[str, Any]
) -> tuple[Draft, Draft]:
    """Create a run, with the values of `more`, and queue its task."""
    pipeline = state["pipelines"][name]
    run = {
        "id": id_,
        "pipeline": name,
        "version": pipeline["version"],
        "status": "queued",
        "requested_at": cause.at.isoformat(),
        **more,
    }
    run |= {"after": pipeline["waits"]} if pipeline.get("waits") else {}
    return Draft("run.created", id_, {"run": run}), task_queued(state, "pipeline", name, policies, run=id_, cause=cause)


def open_attempt(state: State, cause: Cause) -> dict[str, Any] | None:
    """Return the task whose open attempt this outcome reports; None if that attempt is closed."""
    task: dict[str, Any] | None = state["tasks"].get(cause.payload["task"])
    return task if is_attempt(task, cause.payload) else None


def task_queued(
    state: State,
    kind: str,
    name: str,
    policies: Policies,
    *,
    run: str | None,
    cause: Cause,
    more: dict[str, Any] | None = None,
) -> Draft:
    """Queue a task, with the priority that the policy gives the pipeline's labels, and the values of `more`."""
    pipeline = state["pipelines"][name]
    labels = pipeline["pipeline"]["metadata"].get("labels", {})
    priorities = policies.for_labels({}).spec.orchestrator.priorities
    priority = max((priorities.get(value, 0) for value in labels.values()), default=0)
    id_ = named_id("task", kind, pipeline["uid"], run or cause.offset)
    task = {"id": id_, "kind": kind, "pipeline": name, "run": run, "priority": priority, **(more or {})}
    return Draft("task.queued", id_, {"task": {key: value for key, value in task.items() if value is not None}})


def discovery_queued(discovery: dict[str, Any]) -> Draft:
    """Queue the task of a discovery."""
    id_ = named_id("task", DISCOVER, discovery["id"])
    return Draft("task.queued", id_, {"task": {"id": id_, "kind": DISCOVER, "discovery": discovery}})


def task_closed(task: dict[str, Any], status: str, reason: str | None = None) -> Draft:
    """Close a task."""
    return task_ended("task.closed", task, status, reason)


def task_ended(type_: str, task: dict[str, Any], status: str, reason: str | None = None) -> Draft:
    """Close or cancel a task, as `type_` says."""
    payload = {
        "task": task["id"],
        "kind": task["kind"],
        "pipeline": task["pipeline"],
        "discovery": task.get("discovery", {}).get("id"),
        "run": task["run"],
        "attempt": task["attempt"],
        "worker": task["worker"],
        "status": status,
        "reason": reason,
    }
    return Draft(type_, task["id"], {key: value for key, value in payload.items() if value is not None})


def run_finished(
    state: State, task: dict[str, Any], status: str, cause: Cause, outcome: dict[str, Any] | None = None
) -> tuple[Draft, ...]:
    """Finish the run of a task, if it has one that is open, with the counters of its outcome: by default the cause."""
    outcome = cause.payload if outcome is None else outcome
    if task["run"] not in state["runs"]:
        return ()
    run = {**state["runs"][task["run"]], "status": status, "finished_at": cause.at.isoformat()}
    run["counters"] = outcome.get("counters", {})
    run |= {"resumed": True} if outcome.get("resumed") else {}
    payload = {"run": run} | ({"error": outcome["error"]} if "error" in outcome else {})
    return (Draft("run.finished", run["id"], payload),)


def drained(state: State, name: str, effects: tuple[Draft, ...]) -> tuple[Draft, ...]:
    """Return `effects`, and the end of the pipeline's drain if they leave it without an open run."""
    pipeline = state["pipelines"].get(name)
    if pipeline is None or pipeline["status"] != "draining":
        return effects
    if name in running_pipelines(with_drafts(state, effects)):
        return effects
    return (*effects, Draft("pipeline.drained", name, {"name": name, "uid": pipeline["uid"]}))
