"""The orchestrator: queues of tasks, who does which next, and what happens to the tasks of those who fail.

Only it assigns; workers never claim. A task keeps its place in its queue (its `order`) however often it comes back, so
an interrupted one is the first to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from agents import queues
from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from agents.retries import delay, is_worth_retrying
from agents.ticks import next_tick, ticks
from penstock.errors import NotFound, Refused, did_you_mean
from penstock.ids import named_id
from penstock.models.domain import AgentDecision, Alternative
from penstock.models.pipeline import Pipeline, PipelineSpec, Schedule
from penstock.records import Record, body
from penstock.records.commands import RunStart

__all__ = ["Orchestrator"]

TICK_OF: Final = "pipeline "
"""How the subject of a tick's timer begins; what follows is the pipeline's name, which holds no blank."""
ON_TIME: Final = timedelta(minutes=1)
"""A tick that is told later than this was missed."""
MOST_AT_ONCE: Final = 100
"""Runs that one decision makes; what is left of missed ticks comes with the next one, at once."""

Outcome = tuple[tuple[Draft, ...], str, str]
"""Effects, the action's name, the reason."""


class Orchestrator:
    """Assigns tasks to workers within the policy's limits, and retries what failed.

    State: ``pipelines`` name -> {uid, version, status, pipeline, drop_table}; ``connections`` name -> connection;
    ``workers`` name -> {kinds, slots}; ``tasks`` id -> open task, with the version that it was queued for;
    ``runs`` id -> open run; ``order`` the next place. Of a pipeline with a schedule, ``tick`` is the timer of its next
    tick, and ``due`` its time.
    """

    name = "orchestrator"
    rules = 2

    def initial(self) -> State:
        """No worker, no work."""
        return {"pipelines": {}, "connections": {}, "workers": {}, "tasks": {}, "runs": {}, "order": 0}

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """React to what happened; then give every task that may run to a worker that has room."""
        if cause.type not in REACTIONS:
            return None
        effects, action, reason = REACTIONS[cause.type](state, cause, policies)
        after = self._after(state, cause, effects)
        in_force = policies.with_record(cause.payload) if cause.type == "policy.accepted" else policies
        limits = in_force.for_labels({}).spec.orchestrator
        assigned = queues.assignments(after, limits)
        asked = cause.record.id if cause.record.kind == "command" else None
        if not effects and not assigned and asked is None:
            return None
        why = self._why(action if effects else "assign", cause, reason, after, assigned)
        applied = (_applied(cause, effects),) if asked else ()
        return Decision(why, (*effects, *assigned, *applied), asked=asked, labels=_labels(state, cause))

    def _after(self, state: State, cause: Cause, effects: tuple[Draft, ...]) -> State:
        after = self.evolve(state, cause.record)
        for draft in effects:
            after = _change(after, draft.type, draft.payload)
        return after

    def _why(self, action: str, cause: Cause, reason: str, after: State, assigned: tuple[Draft, ...]) -> AgentDecision:
        free = queues.free_slots(after)
        return AgentDecision(
            agent=self.name,
            rules=self.rules,
            action=action,
            subject=cause.record.key or cause.type,
            reason=reason,
            inputs={
                "waiting": sum(task["status"] == "queued" for task in after["tasks"].values()),
                "running": sum(task["status"] == "assigned" for task in after["tasks"].values()),
                "assigned": {draft.key: draft.payload["worker"] for draft in assigned},
            },
            alternatives=tuple(Alternative(option=name, score=float(slots)) for name, slots in sorted(free.items())),
        )

    def evolve(self, state: State, record: Record) -> State:
        """The state after `record`."""
        return _change(state, record.type, record.payload)


# --- reactions: what a record leads to, before assignment -------------------------------------------------------------


def _start(state: State, cause: Cause, policies: Policies) -> Outcome:
    command = body(cause.record)
    assert isinstance(command, RunStart)  # noqa: S101 - the table of types says so
    pipeline = state["pipelines"].get(command.pipeline)
    if pipeline is None:
        hint = did_you_mean(command.pipeline, state["pipelines"]) or "`penstock list` shows what there is"
        raise NotFound(f"there is no pipeline {command.pipeline!r}", hint=hint)
    if pipeline["status"] != "active":
        hint = f"`penstock resume {command.pipeline}` makes it active"
        raise Refused(f"is {pipeline['status']}", where=f"pipeline {command.pipeline}", hint=hint)
    if running := [run["id"] for run in state["runs"].values() if run["pipeline"] == command.pipeline]:
        hint = f"`penstock status {command.pipeline}` shows it"
        raise Refused(f"has a run already, {running[0]}", where=f"pipeline {command.pipeline}", hint=hint)
    reload = _reload(command, Pipeline.parse(pipeline["pipeline"]).spec)
    run = named_id("run", cause.record.id)
    effects = _run(state, command.pipeline, policies, cause, run, {"reload": reload} if reload else {})
    return effects, "start_run", "it is active and has no run"


def _reload(command: RunStart, spec: PipelineSpec) -> dict[str, Any] | None:
    """What the run reads again, if its pipeline can do so; a `replace` reads everything anyway."""
    reload = command.reload
    if reload is None or (spec.sink.write == "replace" and not reload.is_window):
        return None
    where = f"pipeline {command.pipeline}"
    if spec.sink.write == "scd2":
        hint = f"`penstock delete {command.pipeline} --drop-table` and apply it again, to begin a new history"
        raise Refused("an `scd2` keeps history that its source no longer has", where=where, hint=hint)
    if reload.is_window and spec.source.cursor is None:
        hint = f"`penstock run {command.pipeline}` reads everything"
        raise Refused("has no cursor, so that there are no windows", where=where, hint=hint)
    return reload.to_dict()


def _run(
    state: State, name: str, policies: Policies, cause: Cause, id_: str, more: dict[str, Any]
) -> tuple[Draft, Draft]:
    """A new run, with what `more` says of it, and its task."""
    run = {
        "id": id_,
        "pipeline": name,
        "version": state["pipelines"][name]["version"],
        "status": "queued",
        "requested_at": cause.at.isoformat(),
        **more,
    }
    return Draft("run.created", id_, {"run": run}), _task(state, "pipeline", name, policies, run=id_, cause=cause)


def _completed(state: State, cause: Cause, policies: Policies) -> Outcome:
    task = _open_attempt(state, cause)
    if task is None:
        return NOTHING
    effects = (_closed(task, "completed"), *_finished(state, task, "completed", cause))
    return effects, "close", "its worker says that it is done"


def _failed(state: State, cause: Cause, policies: Policies) -> Outcome:
    task = _open_attempt(state, cause)
    if task is None:
        return NOTHING
    error, failures = cause.payload["error"], task["failures"] + 1
    retry = Pipeline.parse(task["spec"]).spec.errors.retry
    if is_worth_retrying(error) and failures < retry.attempts:
        wait = delay(retry, failures)
        payload = {
            "timer": f"retry:{task['id']}:{failures}",
            "due": (cause.at + wait).isoformat(),
            "subject": task["id"],
        }
        reason = f"failure {failures} of {retry.attempts}, {error['code']}: again in {wait.total_seconds():g} s"
        return (Draft("timer.requested", payload["timer"], payload),), "retry", reason
    reason = f"{error['code']}: " + (
        "no attempt is left" if is_worth_retrying(error) else "trying again would not help"
    )
    effects = (_closed(task, "failed", reason), *_finished(state, task, "failed", cause))
    return effects, "give_up", reason


def _timer(state: State, cause: Cause, policies: Policies) -> Outcome:
    timer = cause.payload["timer"]
    name = next((name for name, one in state["pipelines"].items() if one.get("tick") == timer), None)
    if name is not None:
        return _tick(state, name, policies, cause)
    due = any(task.get("timer") == cause.payload["timer"] for task in state["tasks"].values())
    return ((), "retry", "its wait is over") if due else NOTHING


def _tick(state: State, name: str, policies: Policies, cause: Cause) -> Outcome:
    """A schedule is due, or was while nobody looked: run what its rules say, and ask for the next tick.

    Ticks that were missed, and all of which count, wait for their turn, whatever `overlap` says.
    """
    pipeline = state["pipelines"][name]
    schedule = _schedule(pipeline)
    if schedule is None or pipeline["status"] != "active":
        return NOTHING
    first = datetime.fromisoformat(pipeline["due"])
    due = [first, *ticks(schedule, first, cause.at)]
    wanted, reason = _wanted(schedule, due, cause.at)
    running = [run["id"] for run in state["runs"].values() if run["pipeline"] == name]
    if running and schedule.overlap == "skip" and wanted and not (schedule.missed == "all" and len(due) > 1):
        wanted, reason = [], f"{reason}; skipped, since run {running[0]} is not done"
    effects: list[Draft] = []
    for tick in wanted[:MOST_AT_ONCE]:
        id_ = named_id("run", pipeline["uid"], tick.isoformat())
        effects += _run(state, name, policies, cause, id_, {"scheduled_for": tick.isoformat()})
    left = wanted[MOST_AT_ONCE:]
    following = left[0] if left else next_tick(schedule, max(due[-1], cause.at))
    effects += _ask(name, pipeline, following)
    return tuple(effects), "tick", reason


def _wanted(schedule: Schedule, due: list[datetime], at: datetime) -> tuple[list[datetime], str]:
    """Which of the ticks that are due get a run; all but the last were missed, and the last one, if it is late."""
    late = at - due[-1] > ON_TIME
    missed = len(due) - (0 if late else 1)
    told = f"due at {due[-1].isoformat()}" + (f", {missed} missed" if missed else "")
    if schedule.missed == "all" or not missed:
        return due, told
    if schedule.missed == "latest":
        return due[-1:], f"{told}: the latest counts"
    return ([] if late else due[-1:]), f"{told}: those are left out"


def _scheduled(state: State, cause: Cause, policies: Policies) -> Outcome:
    """A pipeline is new, or changed: its next tick is after this moment."""
    after = _change(state, cause.type, cause.payload)
    pipeline = after["pipelines"][cause.payload["name"]]
    schedule = _schedule(pipeline)
    if schedule is None or pipeline["status"] != "active":
        return NOTHING
    effects = _ask(cause.payload["name"], pipeline, next_tick(schedule, cause.at))
    return effects, "schedule", f"{schedule.cron} in {schedule.timezone}"


def _schedule(pipeline: dict[str, Any]) -> Schedule | None:
    return Pipeline.parse(pipeline["pipeline"]).spec.schedule if _has_schedule(pipeline) else None


def _has_schedule(pipeline: dict[str, Any]) -> bool:
    return bool(pipeline["pipeline"]["spec"].get("schedule"))


def _ask(name: str, pipeline: dict[str, Any], tick: datetime | None) -> tuple[Draft, ...]:
    """Ask for the timer of a tick."""
    if tick is None:
        return ()
    payload = {"timer": f"tick:{pipeline['uid']}:{pipeline['version']}:{tick.isoformat()}", "due": tick.isoformat()}
    return (Draft("timer.requested", payload["timer"], {**payload, "subject": f"{TICK_OF}{name}"}),)


def _joined(state: State, cause: Cause, policies: Policies) -> Outcome:
    return (), "assign", f"worker {cause.payload['worker']} has room"


def _lost(state: State, cause: Cause, policies: Policies) -> Outcome:
    held = [task["id"] for task in state["tasks"].values() if task["worker"] == cause.payload["worker"]]
    return (), "reassign", f"{len(held)} tasks of a lost worker go back to their places"


def _status_changed(state: State, cause: Cause, policies: Policies) -> Outcome:
    name, status = cause.payload["name"], cause.payload["status"]
    tasks = [task for task in state["tasks"].values() if task["pipeline"] == name and task["kind"] == "pipeline"]
    effects: list[Draft] = [_ended("task.cancelled", task, status) for task in tasks if task["status"] == "assigned"]
    if status in {"stopped", "deleting"}:
        for task in tasks:
            effects += [
                _closed(task, "cancelled", f"the pipeline is {status}"),
                *_finished(state, task, "stopped", cause),
            ]
    if status == "deleting" and not any(
        t["kind"] == "cleanup" and t["pipeline"] == name for t in state["tasks"].values()
    ):
        effects.append(_task(state, "cleanup", name, policies, run=None, cause=cause))
    if status == "active" and (pipeline := state["pipelines"].get(name)) and (schedule := _schedule(pipeline)):
        effects += _ask(name, pipeline, next_tick(schedule, cause.at))
    return tuple(effects), {"active": "resume"}.get(status, status), f"the pipeline is {status}"


NOTHING: Outcome = ((), "", "")

REACTIONS: dict[str, Callable[[State, Cause, Policies], Outcome]] = {
    "run.start": _start,
    "task.completed": _completed,
    "task.failed": _failed,
    "timer.fired": _timer,
    "pipeline.created": _scheduled,
    "pipeline.updated": _scheduled,
    "worker.joined": _joined,
    "worker.lost": _lost,
    "pipeline.status_changed": _status_changed,
    "policy.accepted": lambda state, cause, policies: ((), "assign", "limits may have changed"),
}


def _open_attempt(state: State, cause: Cause) -> dict[str, Any] | None:
    """The task whose open attempt this outcome is about; None where that attempt is closed."""
    task: dict[str, Any] | None = state["tasks"].get(cause.payload["task"])
    if task is None or task["status"] != "assigned":
        return None
    return task if (task["attempt"], task["worker"]) == (cause.payload["attempt"], cause.payload["worker"]) else None


def _task(state: State, kind: str, name: str, policies: Policies, *, run: str | None, cause: Cause) -> Draft:
    pipeline = state["pipelines"][name]
    labels = pipeline["pipeline"]["metadata"].get("labels", {})
    priorities = policies.for_labels({}).spec.orchestrator.priorities
    priority = max((priorities.get(value, 0) for value in labels.values()), default=0)
    id_ = named_id("task", kind, pipeline["uid"], run or cause.offset)
    task = {"id": id_, "kind": kind, "pipeline": name, "run": run, "priority": priority}
    return Draft("task.queued", id_, {"task": {key: value for key, value in task.items() if value is not None}})


def _closed(task: dict[str, Any], status: str, reason: str | None = None) -> Draft:
    return _ended("task.closed", task, status, reason)


def _ended(type_: str, task: dict[str, Any], status: str, reason: str | None = None) -> Draft:
    payload = {
        "task": task["id"],
        "kind": task["kind"],
        "pipeline": task["pipeline"],
        "run": task["run"],
        "attempt": task["attempt"],
        "worker": task["worker"],
        "status": status,
        "reason": reason,
    }
    return Draft(type_, task["id"], {key: value for key, value in payload.items() if value is not None})


def _finished(state: State, task: dict[str, Any], status: str, cause: Cause) -> tuple[Draft, ...]:
    if task["run"] is None:
        return ()
    run = {**state["runs"][task["run"]], "status": status, "finished_at": cause.at.isoformat()}
    run["counters"] = cause.payload.get("counters", {})
    run |= {"resumed": True} if cause.payload.get("resumed") else {}
    payload = {"run": run} | ({"error": cause.payload["error"]} if "error" in cause.payload else {})
    return (Draft("run.finished", run["id"], payload),)


def _applied(cause: Cause, effects: tuple[Draft, ...]) -> Draft:
    run = next(draft.payload["run"] for draft in effects if draft.type == "run.created")
    result = {"run": run["id"], "version": run["version"]}
    return Draft("command.applied", cause.record.id, {"command": cause.record.id, "result": result})


def _labels(state: State, cause: Cause) -> tuple[tuple[str, str], ...]:
    name = cause.payload.get("pipeline")
    name = name if isinstance(name, str) else cause.payload.get("name")
    if name not in state["pipelines"]:
        return ()
    return tuple(sorted(state["pipelines"][name]["pipeline"]["metadata"].get("labels", {}).items()))


# --- changes: the state after a record --------------------------------------------------------------------------------


def _change(state: State, type_: str, payload: dict[str, Any]) -> State:
    change = CHANGES.get(type_)
    return change(state, payload) if change else state


def _put(state: State, room: str, key: str, **values: Any) -> State:
    return {**state, room: {**state[room], key: {**state[room].get(key, {}), **values}}}


def _drop(state: State, room: str, key: str) -> State:
    return {**state, room: {name: value for name, value in state[room].items() if name != key}}


def _pipeline_changed(state: State, p: dict[str, Any]) -> State:
    status = state["pipelines"].get(p["name"], {}).get("status", "active")
    values = {"uid": p["uid"], "version": p["version"], "pipeline": p["pipeline"], "status": status}
    values |= {"tick": None, "due": None} if _has_schedule(values) else {}
    return _put(state, "pipelines", p["name"], **values)


def _queued(state: State, p: dict[str, Any]) -> State:
    task = {"run": None, "priority": 0, **p["task"], "status": "queued", "order": state["order"]}
    pipeline = state["pipelines"][task["pipeline"]]
    task |= {"attempt": 0, "failures": 0, "worker": None, "version": pipeline["version"], "spec": pipeline["pipeline"]}
    return {**_put(state, "tasks", task["id"], **task), "order": state["order"] + 1}


def _waiting(state: State, p: dict[str, Any]) -> State:
    name = p["subject"].removeprefix(TICK_OF)
    if name != p["subject"]:
        return _put(state, "pipelines", name, tick=p["timer"], due=p["due"]) if name in state["pipelines"] else state
    if p["subject"] not in state["tasks"]:
        return state
    failures = state["tasks"][p["subject"]]["failures"] + 1
    return _put(state, "tasks", p["subject"], status="waiting", worker=None, timer=p["timer"], failures=failures)


def _fired(state: State, p: dict[str, Any]) -> State:
    for id_, task in state["tasks"].items():
        if task.get("timer") == p["timer"]:
            return _put(state, "tasks", id_, status="queued", timer=None)
    return state


def _requeued(state: State, p: dict[str, Any]) -> State:
    if p["task"] not in state["tasks"]:
        return state
    return _put(state, "tasks", p["task"], status="queued", worker=None)


def _worker_lost(state: State, p: dict[str, Any]) -> State:
    for task in [task for task in state["tasks"].values() if task["worker"] == p["worker"]]:
        state = _put(state, "tasks", task["id"], status="queued", worker=None)
    return _drop(state, "workers", p["worker"])


CHANGES: dict[str, Callable[[State, dict[str, Any]], State]] = {
    "connection.changed": lambda s, p: {**s, "connections": {**s["connections"], p["name"]: p["connection"]}},
    "connection.deleted": lambda s, p: _drop(s, "connections", p["name"]),
    "pipeline.created": _pipeline_changed,
    "pipeline.updated": _pipeline_changed,
    "pipeline.status_changed": lambda s, p: _put(
        s, "pipelines", p["name"], status=p["status"], drop_table=p.get("drop_table", False), tick=None, due=None
    ),
    "pipeline.deleted": lambda s, p: _drop(s, "pipelines", p["name"]),
    "worker.joined": lambda s, p: _put(s, "workers", p["worker"], kinds=p["kinds"], slots=p["slots"]),
    "worker.lost": _worker_lost,
    "run.created": lambda s, p: _put(s, "runs", p["run"]["id"], **p["run"]),
    "run.finished": lambda s, p: _drop(s, "runs", p["run"]["id"]),
    "task.queued": _queued,
    "task.assigned": lambda s, p: _put(
        s, "tasks", p["task"], status="assigned", worker=p["worker"], attempt=p["attempt"]
    ),
    "task.cancelled": _requeued,
    "task.closed": lambda s, p: _drop(s, "tasks", p["task"]),
    "timer.requested": _waiting,
    "timer.fired": _fired,
}
