"""Runs of sets: the objects of a set are listed before its members run, then the runs of all members are queued.

A set has no run of its own. Its start waits in its entry of the state until the lifecycle agent has answered each page
of the listing; the runs of a start share an id, their `group`.
"""

from __future__ import annotations

from shlex import quote
from typing import Any

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import open_tasks
from agents.runs import NOTHING, Outcome, run_created, task_closed, task_queued
from agents.sets import is_set
from agents.streams import is_stream
from agents.workload import changed, has_schedule, running_pipelines
from penstock.errors import Conflict
from penstock.ids import named_id

__all__ = ["ended", "listed", "relisted", "set_started"]


def set_started(state: State, name: str, policies: Policies, cause: Cause, start: dict[str, Any]) -> tuple[Draft, ...]:
    """Queue the listing that a start of the set begins with.

    Raises:
        Conflict: another start has not queued all its runs yet.
    """
    if pending := state["pipelines"][name].get("start"):
        hint = f"`penstock status {quote(name)}` shows its members"
        what = f"is starting already, {pending['group']}"
        raise Conflict("one_start_at_a_time", pending["group"], what, where=f"pipeline {name}", hint=hint)
    return (task_queued(state, "list", name, policies, run=None, cause=cause, more={"start": start}),)


def relisted(state: State, cause: Cause, policies: Policies) -> tuple[Draft, ...]:
    """List the objects of a set that is new, has changed, or is active again; `state` is that after the record."""
    name = cause.payload["name"]
    pipeline = state["pipelines"].get(name)
    if pipeline is None or not is_set(pipeline["pipeline"]) or pipeline["status"] != "active":
        return ()
    start = pipeline.get("start")
    older = [task for task in open_tasks(state, name) if task["kind"] == "list"]
    effects = [task_closed(task, "cancelled", "the set has changed") for task in older]
    start = start and {key: value for key, value in start.items() if key != "task"}
    return (*effects, task_queued(state, "list", name, policies, run=None, cause=cause, more={"start": start}))


def listed(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Queue the runs of a page of members, if their set is being started by the listing."""
    state, page = changed(state, cause.type, cause.payload), cause.payload
    pipeline = state["pipelines"].get(page["name"])
    start = pipeline and pipeline.get("start")
    if pipeline is None or not start or start["task"] != page["task"] or pipeline["status"] != "active":
        return NOTHING
    running = running_pipelines(state)
    more = {key: value for key, value in start.items() if key != "task"}
    effects: list[Draft] = []
    skipped = []
    for name in page.get("members", ()):
        if reason := _obstacle(state["pipelines"].get(name), running, name, start):
            skipped.append({"object": name, "reason": reason})
            continue
        run = named_id("run", start["group"], name)
        effects += run_created(state, name, policies, cause, run, _own(state["pipelines"][name], more))
    runs = len(effects) // 2
    payload = {"name": page["name"], "uid": page["uid"], "group": start["group"], "page": page["page"]}
    payload |= {"last": page["last"], "runs": runs} | ({"skipped": skipped} if skipped else {})
    effects.append(Draft("set.started", page["name"], payload))
    return tuple(effects), "start_members", f"{runs} runs queued, {len(skipped)} skipped"


def _obstacle(member: dict[str, Any] | None, running: set[str], name: str, start: dict[str, Any]) -> str | None:
    """Return why a member gets no run; None if it gets one."""
    if member is None:
        return "it is not there any more"
    spec, reload = member["pipeline"]["spec"], start.get("reload") or {}
    windowed = reload.get("rows") == "window" and not spec["source"].get("cursor")
    reasons = (
        (member["status"] != "active", f"it is {member['status']}"),
        (is_stream(member["pipeline"]), "it is a stream, which runs all the time"),
        (name in running, "it has a run already"),
        (bool(start.get("scheduled_for")) and has_schedule(member), "it has a schedule of its own"),
        (windowed, "it has no cursor, so there are no windows"),
        (bool(reload) and spec["sink"].get("write") == "scd2", "its history is not in the source any more"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def _own(member: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a member's run: a `replace` reads everything anyway."""
    replaces = member["pipeline"]["spec"]["sink"].get("write") == "replace"
    return {key: value for key, value in more.items() if not (replaces and key == "reload" and value["rows"] == "all")}


def ended(state: State, cause: Cause) -> tuple[Draft, ...]:
    """Close the listings of a set that is not active any more."""
    name, status = cause.payload["name"], cause.payload["status"]
    tasks = [task for task in open_tasks(state, name) if task["kind"] == "list"]
    return tuple(task_closed(task, "cancelled", f"the pipeline is {status}") for task in tasks)
