"""What the orchestrator does about a failed attempt.

For the run of a pipeline it carries out what the agent for errors has chosen. If that agent cannot choose, since it is
at fault or halted, the run is tried again by the rules of its pipeline, as other tasks are.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from agents import comparisons, letters, notices
from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import NOTIFY
from agents.retries import delay, is_worth_retrying
from agents.runs import NOTHING, Outcome, drained, open_attempt, run_finished, task_closed, task_queued
from agents.streams import failures_since, is_stream
from agents.workload import with_drafts
from penstock.models.pipeline import Pipeline, Retry

__all__ = ["chosen", "diagnosis", "failed", "unresolved"]

OF_DISCOVERIES: Final = Retry(attempts=3)
"""Retries of a discovery."""
RESOLVER: Final = "error_resolution"
"""Name of the agent for errors."""


def failed(state: State, cause: Cause, policies: Policies) -> Outcome:
    """React to a failed attempt; of a run that is classified, the agent for errors says what follows."""
    task = open_attempt(state, cause)
    if task is None or (task["kind"] == "pipeline" and cause.payload.get("classified")):
        return NOTHING
    return _by_rules(state, task, cause, cause.payload)


def _by_rules(state: State, task: dict[str, Any], cause: Cause, reported: dict[str, Any]) -> Outcome:
    """Try a task again as its pipeline's rules say, or give it up; `reported` is the outcome of its attempt."""
    error, failures = reported["error"], task["failures"] + 1
    retry, more = _rules_of(task), {}
    if endless := task["kind"] == "pipeline" and is_stream(task["spec"]):
        failures, rows = failures_since(task, reported.get("counters", {}), cause.at, retry.max)
        more = {"failures": failures, "rows": rows}
    attempts = 1 if task.get("asked") or task["kind"] == "diagnose" else retry.attempts
    if is_worth_retrying(error) and (endless or failures < attempts):
        wait = max(delay(retry, failures), min(retry.max, timedelta(seconds=reported.get("wait", 0))))
        timer = f"retry:{task['id']}:{task['attempt'] if endless else failures}"
        payload = {"timer": timer, "due": (cause.at + wait).isoformat(), "subject": task["id"], **more}
        known = f"failure {failures}" if endless else f"failure {failures} of {attempts}"
        reason = f"{known}, {error['code']}: retry in {wait.total_seconds():g} s"
        return (Draft("timer.requested", timer, payload),), "retry", reason
    reason = f"{error['code']}: " + (
        "no attempt is left" if is_worth_retrying(error) else "trying again would not help"
    )
    return _given_up(state, task, cause, reported, reason)


def _rules_of(task: dict[str, Any]) -> Retry:
    if task["kind"] == NOTIFY:
        return notices.RETRIES
    return Pipeline.parse(task["spec"]).spec.errors.retry if task["spec"] else OF_DISCOVERIES


def _given_up(state: State, task: dict[str, Any], cause: Cause, outcome: dict[str, Any], reason: str) -> Outcome:
    found = (*comparisons.result_of(state, task, cause), *letters.result_of(state, task, cause))
    effects = (
        *found,
        *notices.receipt_of(task, outcome["error"]),
        task_closed(task, "failed", reason),
        *run_finished(state, task, "failed", cause, outcome),
    )
    return drained(state, task["pipeline"], effects), "give_up", reason


def chosen(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Carry out what was chosen for a run: wait for its next attempt, or end it."""
    payload = cause.payload
    task = _failing(state, payload["task"])
    if task is None or task["attempt"] != payload["attempt"]:
        return NOTHING
    if payload["action"] != "retry" or "timer" not in payload or "due" not in payload:
        return _given_up(state, task, cause, task["failed"], payload["reason"])
    timer = {"timer": payload["timer"], "due": payload["due"], "subject": task["id"]}
    if payload.get("rows") is not None:
        timer |= {"failures": payload.get("failures", 1), "rows": payload["rows"]}
    return (Draft("timer.requested", payload["timer"], timer),), "retry", payload["reason"]


def unresolved(state: State, cause: Cause, policies: Policies) -> Outcome:
    """React to failures for which nothing was chosen: the agent for errors is at fault, halted, or may only propose.

    What it may only propose is not done: such a run ends as failed.
    """
    payload, effects, action = cause.payload, list[Draft](), "give_up"
    if payload["agent"] != RESOLVER or payload.get("outcome") == "acted":
        return NOTHING
    ids = [payload["subject"]] if cause.type == "agent.decided" else list(state["tasks"])
    reason = "no strategy was chosen: " + str(payload.get("reason") or "the agent for errors has a defect")
    for task in filter(None, (_failing(state, id_) for id_ in ids)):
        if payload.get("outcome") == "proposed":
            drafts, action, _ = _given_up(state, task, cause, task["failed"], reason)
        else:
            drafts, action, _ = _by_rules(state, task, cause, task["failed"])
        state = with_drafts(state, drafts)
        effects += drafts
    return tuple(effects), action, reason


def _failing(state: State, id_: str) -> dict[str, Any] | None:
    """Return the task if its open attempt has failed, and nothing has followed that yet."""
    task: dict[str, Any] | None = state["tasks"].get(id_)
    if task is None or task["status"] != "assigned" or not task.get("failed"):
        return None
    return task if task["failed"]["attempt"] == task["attempt"] else None


def diagnosis(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Queue the task that looks for the cause of a failure."""
    failure = cause.payload["failure"]
    name = failure["pipeline"]
    if name not in state["pipelines"]:
        return NOTHING
    queued = task_queued(state, "diagnose", name, policies, run=None, cause=cause, more={"failure": failure})
    return (queued,), "diagnose", f"of {failure['task']}"
