"""Dead letters that are to be redriven, discarded or erased: one task of a pipeline at a time, and its receipt."""

from __future__ import annotations

from shlex import quote
from typing import Any

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import open_tasks
from agents.runs import Outcome, task_closed, task_queued
from agents.workload import single
from penstock.errors import Conflict, Refused
from penstock.records.commands import LettersStart
from penstock.records.families import body

__all__ = ["LETTERS", "asked", "ended", "result_of"]

LETTERS = "letters"
"""Kind of these tasks."""


def asked(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Queue what is to be done with dead letters, by the pipeline's steps as they are now.

    Raises:
        NotFound, Refused: there is no such pipeline, it is a set or being deleted, or has such a task open.
    """
    command = body(cause.record)
    assert isinstance(command, LettersStart)  # noqa: S101 - the table of types says so
    name = command.name
    pipeline, where = single(state, name), f"pipeline {name}"
    if pipeline["status"] == "deleting":
        raise Refused("is deleting", where=where, hint="its dead letters are deleted, too")
    if open_ := [task["id"] for task in open_tasks(state, name) if task["kind"] == LETTERS]:
        hint = f"wait for it; `penstock status {quote(name)}` shows its result"
        what = f"is having dead letters worked on already, by task {open_[0]}"
        raise Conflict("one_redrive_at_a_time", open_[0], what, where=where, hint=hint)
    order = {key: value for key, value in command.to_dict().items() if key != "name"}
    queued = task_queued(state, LETTERS, name, policies, run=None, cause=cause, more={LETTERS: order})
    return (queued,), command.action, "it was asked for"


def result_of(state: State, task: dict[str, Any], cause: Cause) -> tuple[Draft, ...]:
    """Record the receipt of a task with dead letters that has ended, or why it failed; before the task is closed."""
    pipeline = state["pipelines"].get(task["pipeline"])
    if task["kind"] != LETTERS or pipeline is None:
        return ()
    name = task["pipeline"]
    payload = {"name": name, "uid": pipeline["uid"], "task": task["id"], "by": cause.record.actor}
    payload |= {"order": task[LETTERS], "found": cause.payload.get(LETTERS), "error": cause.payload.get("error")}
    return (Draft("letters.recorded", name, {key: value for key, value in payload.items() if value is not None}),)


def ended(state: State, name: str, status: str) -> tuple[Draft, ...]:
    """Close such a task of a pipeline that is being deleted."""
    tasks = [task for task in open_tasks(state, name) if task["kind"] == LETTERS and status == "deleting"]
    return tuple(task_closed(task, "cancelled", f"the pipeline is {status}") for task in tasks)
