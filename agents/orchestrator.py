"""The orchestrator: it queues tasks, assigns them to workers, and decides what follows a lost worker.

Only it assigns; workers never claim. A task keeps its place in the queue (its `order`) when it is queued again, so an
interrupted one is the first to continue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from shlex import quote
from typing import Any, Final

from agents import (
    ageing,
    comparisons,
    conflicts,
    dependencies,
    failing,
    first_loads,
    letters,
    notices,
    queues,
    triggers,
)
from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from agents.ready import open_tasks, rivals
from agents.runs import (
    NOTHING,
    Outcome,
    discovery_queued,
    drained,
    open_attempt,
    run_created,
    run_finished,
    task_closed,
    task_ended,
    task_queued,
)
from agents.schedules import clock_set_back, schedule_of, scheduled, tick, tick_requested
from agents.sets import is_set
from agents.starts import ended, listed, relisted, set_started
from agents.streams import reset_stream, restarted, resumed, started
from agents.ticks import next_tick
from agents.workload import CHANGES, EMPTY, changed, named, running_pipelines, with_drafts
from penstock.errors import Conflict, Refused
from penstock.ids import named_id
from penstock.models.domain import AgentDecision, Alternative
from penstock.models.pipeline import Pipeline
from penstock.records import Record
from penstock.records.commands import RunStart
from penstock.records.families import body

__all__ = ["Orchestrator"]


class Orchestrator:
    """Assigns tasks to workers within the policy's limits, and retries what failed.

    State: ``pipelines`` name -> {uid, version, status, pipeline, drop_table}; ``connections`` name -> connection;
    ``workers`` name -> {kinds, slots}; ``tasks`` id -> open task, with the version that it was queued for;
    ``runs`` id -> open run; ``order`` the next place in the queue; the rest is the index of `agents.ready`. For a
    pipeline with a schedule, ``tick`` is the timer of its next tick, and ``due`` its time. A set has ``start`` while
    the runs of its members are being queued. An assigned task that waits for another one has ``after``, its id, and a
    task that none may wait for is ``slow``. A pipeline's ``comparing`` has timer and due time of each comparison
    of both sides that its file asks for. What `agents.parents` keeps there orders the first loads of a set, and
    `agents.followers` says what is kept of pipelines that run after others. ``ageing`` is the timer at which the tasks
    that were queued before the place `upto` gain priority.
    ``held``: connections that the agent for errors holds back.
    """

    name = "orchestrator"
    rules = 22

    @property
    def concerns(self) -> frozenset[str]:
        """Types of the records that it looks at."""
        return CONCERNS

    def initial(self) -> State:
        """Return the state without workers and work."""
        return EMPTY

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """React to the record; then assign every task that may run to a worker with a free slot."""
        if cause.type not in REACTIONS:
            return None
        effects, action, reason = REACTIONS[cause.type](state, cause, policies)
        follows = (state["followers"] or state["fired"]) and cause.type in dependencies.CHANGES
        if not effects and not follows and _frees_nothing(state, cause):
            return None
        after = with_drafts(self.evolve(state, cause.record), effects)
        if more := first_loads.settled(after, effects, policies, cause):
            effects, action, reason = (*effects, *more), action or "first_loads", reason or "in order of foreign keys"
            after = with_drafts(after, more)
        if more := triggers.updated(state, after, effects, cause):
            effects, action, reason = (*effects, *more), action or "trigger", reason or "datasets were updated"
            after = with_drafts(after, more)
        follow, because = dependencies.following(after, cause, effects, policies)
        if follow:
            effects, after = (*effects, *follow), with_drafts(after, follow)
            action, reason = action or "start_run", "; ".join(filter(None, (reason, because)))
        if not effects and _frees_nothing(state, cause):
            return None
        in_force = policies.after(cause.record)
        limits = in_force.for_labels({}).spec.orchestrator
        assigned, free = queues.assignments(after, limits)
        assigned = () if in_force.is_halted(self.name) else assigned
        asked = cause.record.id if cause.record.kind == "command" else None
        if ageing.may_age(after, limits):
            effects = (*effects, *ageing.requested(with_drafts(after, assigned), limits, cause))
        if not effects and not assigned and asked is None:
            return None
        met = conflicts.met(after, effects)
        reason = "; ".join(filter(None, (reason, conflicts.words(met))))
        why = self._why((action if effects else "") or "assign", cause, reason, (after, assigned, free, met))
        applied = (_applied(cause, effects),) if asked else ()
        return Decision(why, (*effects, *assigned, *applied), asked=asked, labels=_labels(state, cause))

    def _why(
        self,
        action: str,
        cause: Cause,
        reason: str,
        found: tuple[State, tuple[Draft, ...], dict[str, int], list[dict[str, str]]],
    ) -> AgentDecision:
        after, assigned, free, met = found
        return AgentDecision(
            agent=self.name,
            rules=self.rules,
            action=action,
            subject=cause.record.key or cause.type,
            reason=reason,
            inputs={
                "waiting": after["queued"],
                "running": len(after["assigned"]),
                "assigned": {draft.key: draft.payload["worker"] for draft in assigned},
                **({"conflicts": met} if met else {}),
            },
            alternatives=tuple(Alternative(option=name, score=float(slots)) for name, slots in sorted(free.items())),
        )

    def evolve(self, state: State, record: Record) -> State:
        """Return the state after `record`."""
        payload = record.payload
        if record.type == "task.queued":
            task = {**payload["task"], "thread": [record.correlation, record.traceparent]}
            payload = {**payload, "task": task}
        return changed(state, record.type, payload)


def _frees_nothing(state: State, cause: Cause) -> bool:
    """True if no task can run now that could not before: a set has thousands of such records, so nothing is sorted."""
    if cause.type == "set.listed":
        return not state["needed"] and not cause.payload.get("after")
    if cause.type == "pipeline.status_changed":
        if cause.payload["status"] == "active":
            return False
        return not any(rivals(state, task) for task in open_tasks(state, cause.payload["name"]))
    if cause.type == "task.failed":  # that of a pipeline that is gone may have held a slot until now
        return cause.payload["task"] in state["tasks"]
    return cause.type in {
        "pipeline.created",
        "pipeline.updated",
        "connection.changed",
        "agent.decided",
        "agent.faulted",
    }


# --- reactions to a record, before assignment ------------------------------------------------------------------------


def _start(state: State, cause: Cause, policies: Policies) -> Outcome:
    command = body(cause.record)
    assert isinstance(command, RunStart)  # noqa: S101 - the table of types says so
    pipeline = named(state, command.pipeline)
    if pipeline["status"] != "active":
        hint = f"`penstock resume {quote(command.pipeline)}` makes it active"
        raise Refused(f"is {pipeline['status']}", where=f"pipeline {command.pipeline}", hint=hint)
    if is_set(pipeline["pipeline"]):
        return _start_set(state, cause, policies, command)
    if command.begin is not None:
        begins = reset_stream(state, cause, policies, command.begin)
        return begins, "begin_anew", f"from {cause.payload['begin']['from']}"
    if running := [run["id"] for run in state["runs"].values() if run["pipeline"] == command.pipeline]:
        hint = f"`penstock status {quote(command.pipeline)}` shows it"
        what = f"has a run already, {running[0]}"
        raise Conflict("one_run_at_a_time", running[0], what, where=f"pipeline {command.pipeline}", hint=hint)
    first_loads.check(state, command.pipeline)
    reload = _reload(command, pipeline["pipeline"])
    run = named_id("run", cause.record.id)
    effects = run_created(state, command.pipeline, policies, cause, run, {"reload": reload} if reload else {})
    return effects, "start_run", "it is active and has no run"


def _start_set(state: State, cause: Cause, policies: Policies, command: RunStart) -> Outcome:
    if command.begin is not None:
        what, hint = "is a set: its members begin elsewhere one by one", f"`penstock status {quote(command.pipeline)}`"
        raise Refused(what, where=f"pipeline {command.pipeline}", hint=hint)
    start: dict[str, Any] = {"group": named_id("run", cause.record.id)}
    start |= {"reload": command.reload.to_dict()} if command.reload else {}
    return set_started(state, command.pipeline, policies, cause, start), "start_set", "its objects are listed first"


def _reload(command: RunStart, pipeline: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the run reads again, if its pipeline supports that; a `replace` reads everything anyway."""
    reload = command.reload
    if reload is None:
        return None
    spec = Pipeline.parse(pipeline).spec
    if spec.sink.write == "replace" and not reload.is_window:
        return None
    where = f"pipeline {command.pipeline}"
    if spec.sink.write == "scd2":
        hint = f"`penstock delete {quote(command.pipeline)} --drop-table` and apply it again, to start a new history"
        raise Refused("an `scd2` table keeps history that its source no longer has", where=where, hint=hint)
    if reload.is_window and spec.source.cursor is None:
        hint = f"`penstock run {quote(command.pipeline)}` reads everything"
        raise Refused("has no cursor, so there are no windows", where=where, hint=hint)
    return reload.to_dict()


def _completed(state: State, cause: Cause, policies: Policies) -> Outcome:
    task = open_attempt(state, cause)
    if task is None:
        return NOTHING
    found = (*comparisons.result_of(state, task, cause), *letters.result_of(state, task, cause))
    found += notices.receipt_of(task, None)
    effects = (*found, task_closed(task, "completed"), *run_finished(state, task, "completed", cause))
    return drained(state, task["pipeline"], effects), "close", "its worker says that it is done"


def _timer(state: State, cause: Cause, policies: Policies) -> Outcome:
    timer = cause.payload["timer"]
    if state["ageing"] and state["ageing"]["timer"] == timer:
        return ageing.age(state, cause, policies)
    name = next((name for name, one in state["pipelines"].items() if one.get("tick") == timer), None)
    if name is not None:
        return tick(state, name, policies, cause)
    if (found := comparisons.timer_of(state, timer)) is not None:
        return comparisons.started(state, *found, policies, cause)
    due = any(task.get("timer") == cause.payload["timer"] for task in state["tasks"].values())
    return ((), "retry", "its wait is over") if due else NOTHING


def _joined(state: State, cause: Cause, policies: Policies) -> Outcome:
    return comparisons.expired(state, cause), "assign", f"worker {cause.payload['worker']} has room"


def _lost(state: State, cause: Cause, policies: Policies) -> Outcome:
    held = [id_ for id_ in state["assigned"] if state["tasks"][id_]["worker"] == cause.payload["worker"]]
    effects, reason = comparisons.abandoned(state, cause.payload["worker"]), f"{len(held)} tasks of a lost worker"
    return effects, "reassign", f"{reason}: those that somebody waits for are closed, others go back to their places"


def _returned(state: State, cause: Cause, policies: Policies) -> Outcome:
    return (), "assign", "the run before it takes long"


def _status_changed(state: State, cause: Cause, policies: Policies) -> Outcome:
    name, status = cause.payload["name"], cause.payload["status"]
    pipeline = state["pipelines"].get(name)
    whole = pipeline is not None and is_set(pipeline["pipeline"])
    open_ = open_tasks(state, name)
    tasks = [task for task in open_ if task["kind"] == "pipeline"]
    assigned = [task for task in tasks if task["status"] == "assigned" and status != "draining"]
    effects: list[Draft] = [task_ended("task.cancelled", task, status) for task in assigned]
    if status in {"stopped", "deleting"}:
        for task in tasks:
            effects += [
                task_closed(task, "cancelled", f"the pipeline is {status}"),
                *run_finished(state, task, "stopped", cause),
            ]
    effects += (*comparisons.cancelled(state, name, status), *letters.ended(state, name, status))
    effects += triggers.watched(state, cause, policies)
    if whole and status in {"paused", "stopped", "deleting"}:
        effects += ended(state, cause)
    if status == "deleting" and not whole and not any(task["kind"] == "cleanup" for task in open_):
        effects.append(task_queued(state, "cleanup", name, policies, run=None, cause=cause))
    if status == "active" and pipeline:
        if schedule := schedule_of(pipeline):
            effects += tick_requested(name, pipeline, next_tick(schedule, cause.at))
        after = changed(state, cause.type, cause.payload)
        effects += relisted(after, cause, policies) if whole else started(after, name, policies, cause)
        effects += comparisons.requested(state, cause)
    if status == "draining":
        effects += drained(changed(state, cause.type, cause.payload), name, ())
    return tuple(effects), {"active": "resume"}.get(status, status), f"the pipeline is {status}"


def _changed(state: State, cause: Cause, policies: Policies) -> Outcome:
    """React to a pipeline that is new or has changed, by its schedule or as a stream."""
    effects, action, reason = _of_change(state, cause, policies)
    more = (*comparisons.requested(state, cause), *comparisons.renewed(state, cause, policies))
    more += triggers.watched(state, cause, policies)
    return (*effects, *more), action or "schedule", reason or f"version {cause.payload['version']}"


def _of_change(state: State, cause: Cause, policies: Policies) -> Outcome:
    if is_set(cause.payload["pipeline"]):
        ticks, _, _ = scheduled(state, cause, policies)
        more = relisted(changed(state, cause.type, cause.payload), cause, policies)
        return (*ticks, *more), "list", f"version {cause.payload['version']}"
    effects = restarted(state, cause, policies)
    name, after = cause.payload["name"], changed(state, cause.type, cause.payload)
    if not effects and cause.payload.get("again") and name not in running_pipelines(state):
        run = named_id("run", cause.record.id)
        effects, (ticks, _, _) = run_created(after, name, policies, cause, run, {}), scheduled(state, cause, policies)
        return (*effects, *ticks), "start_run", f"version {cause.payload['version']}"
    return (effects, "stream", f"version {cause.payload['version']}") if effects else scheduled(state, cause, policies)


def _set_back(state: State, cause: Cause, policies: Policies) -> Outcome:
    effects, action, reason = clock_set_back(state, cause, policies)
    more = (*comparisons.due_again(state, cause), *comparisons.expired(state, cause))
    more += resumed(state, policies, cause) if cause.type == "brain.started" else ()
    return (*effects, *more), action or "schedule", reason or "the clock was set back"


def _resumed(state: State, cause: Cause, policies: Policies) -> Outcome:
    return resumed(state, policies, cause), "stream", "a person lets agents act"


def _moved(state: State, cause: Cause, policies: Policies) -> Outcome:
    effects, action, reason = triggers.moved(state, cause, policies)
    effects += notices.tried_now(state, cause)
    return effects, action or "retry", reason or f"connection {cause.payload['name']} has changed"


def _accepted(state: State, cause: Cause, policies: Policies) -> Outcome:
    return relisted(state, cause, policies), "list", f"{len(cause.payload['objects'])} objects are accepted"


def _discovery(state: State, cause: Cause, policies: Policies) -> Outcome:
    discovery = cause.payload["discovery"]
    return (discovery_queued(discovery),), "discover", f"the objects of {discovery['connection']} are to be looked at"


REACTIONS: dict[str, Callable[[State, Cause, Policies], Outcome]] = {
    "run.start": _start,
    "run.trigger": triggers.asked,
    "check.start": comparisons.asked,
    "deletes.start": comparisons.asked,
    "letters.start": letters.asked,
    "route.try": notices.asked,
    **dict.fromkeys(("alert.opened", "alert.changed", "alert.closed"), notices.told),
    "task.completed": _completed,
    "task.failed": failing.failed,
    "strategy.chosen": failing.chosen,
    "agent.faulted": failing.unresolved,
    "agent.decided": failing.unresolved,
    "diagnosis.requested": failing.diagnosis,
    "connection.changed": _moved,
    "breaker.changed": lambda state, cause, policies: ((), "assign", f"connection {cause.payload['connection']}"),
    "timer.fired": _timer,
    "clock.set_back": _set_back,
    "brain.started": _set_back,
    "pipeline.created": _changed,
    "pipeline.updated": _changed,
    "discovery.started": _discovery,
    "files.found": triggers.arrived,
    "worker.joined": _joined,
    "worker.lost": _lost,
    "task.returned": _returned,
    "pipeline.status_changed": _status_changed,
    "objects.accepted": _accepted,
    "set.listed": listed,
    "policy.accepted": lambda state, cause, policies: ((), "assign", "limits may have changed"),
    "agent.resumed": _resumed,
}
CONCERNS: Final = frozenset({*REACTIONS, *CHANGES})


def _applied(cause: Cause, effects: tuple[Draft, ...]) -> Draft:
    run = next((draft.payload["run"] for draft in effects if draft.type == "run.created"), None)
    task = next((draft.payload["task"] for draft in effects if draft.type == "task.queued"), None)
    result: dict[str, Any] = {"waits": True}  # until the pipeline can run
    if run is None and task is not None:
        result = {"task": task["id"]} | ({"group": task["start"]["group"]} if "start" in task else {})
    elif run is not None:
        result = {"run": run["id"], "version": run["version"]}
    return Draft("command.applied", cause.record.id, {"command": cause.record.id, "result": result})


def _labels(state: State, cause: Cause) -> tuple[tuple[str, str], ...]:
    name = cause.payload.get("pipeline")
    name = name if isinstance(name, str) else cause.payload.get("name")
    if name not in state["pipelines"]:
        return ()
    return tuple(sorted(state["pipelines"][name]["pipeline"]["metadata"].get("labels", {}).items()))
