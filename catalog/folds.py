"""The catalog's folds: a table from record types to functions that return changes of rows.

Pure: the row before, the record and its offset determine the row after. Times are the records' times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Table

from catalog import comparison_folds, tables
from catalog.alert_folds import ALERTS
from catalog.dataset_folds import Fold, Seen, configured, dataset_id, gone, named_dataset, observed_schema, profiled
from catalog.failure_folds import FAILURES, raised_error
from catalog.proposals import answered, proposed
from catalog.rows import Change, Entry, Row, Rows
from catalog.set_folds import objects_accepted, set_listed, set_started
from penstock.ids import named_id
from penstock.models.domain import Error
from penstock.models.sets import set_of
from penstock.records.coordination import (
    AgentDecided,
    AgentFaulted,
    CommandApplied,
    CommandRefused,
    ConnectionChanged,
    ConnectionDeleted,
    DiscoveryFinished,
    DiscoveryStarted,
    PipelineChanged,
    PipelineDeleted,
    PipelineStatusChanged,
    PolicyAccepted,
    TaskAssigned,
    TaskEnded,
    TaskQueued,
    TasksAged,
    TimerFired,
    TimerRequested,
    WorkerJoined,
    WorkerLost,
)
from penstock.records.execution import (
    RecordUnreadable,
    RunChanged,
    TaskCompleted,
    TaskFailed,
    TaskHalted,
    TaskReturned,
    TaskStarted,
)

__all__ = ["FOLDS", "UNREADABLE", "asked", "unreadable"]

UNREADABLE: Final = "record.unreadable"
"""Code of the error about a record that was skipped."""

REMEMBERED: Final = timedelta(hours=24)
"""Time for which a command's id is remembered; later, the same id is a new command."""


def asked(seen: Seen) -> Iterable[Change | Entry]:
    """Fold a command: it is pending, unless it repeats a remembered one. The agents validate its payload."""
    record = seen.record

    def fold(row: Row, _: Rows) -> None:
        if row.get("at") is not None and record.at - row["at"] <= REMEMBERED:
            return
        row |= {"type": record.type, "key": record.key, "actor": record.actor, "at": record.at, "offset": seen.offset}
        row |= {"status": "pending", "result": None, "refusal": None, "answered_at": None, "answer": None}

    return [Change(tables.commands, record.id, fold)]


def unreadable(seen: Seen, error: BaseException) -> Iterable[Change | Entry]:
    """Fold a record that passed the door and that the catalog cannot store: it only becomes an error."""
    reason = f"the catalog cannot store it: {type(error).__name__}"
    return _unreadable(seen, seen.offset, seen.record.type, reason)


def _reported(seen: Seen, body: RecordUnreadable) -> Iterable[Change | Entry]:
    return _unreadable(seen, body.offset, body.type, body.reason)


def _unreadable(seen: Seen, offset: int, type_: str | None, reason: str) -> Iterable[Change]:
    """Return an error for the record at `offset`; there is only one for each offset."""
    what = f"{type_ or 'the message'} at offset {offset} was skipped: {reason}"
    problem = Error(code=UNREADABLE, what=what, hint="penstock audit")
    return raised_error(seen, named_id("unreadable", offset), source="log", error=problem)


def _set(table: Table, key: str, **columns: object) -> Change:
    return Change(table, key, lambda row, _: row.update(columns))


def _answered(seen: Seen, command: str, answer: Row) -> Change:
    """Answer a command that waits; of a repeat the first answer stands."""

    def fold(row: Row, _: Rows) -> None:
        if row.get("status") not in {"applied", "refused"}:
            row |= answer | {"answered_at": seen.record.at, "answer": seen.offset}

    return Change(tables.commands, command, fold)


def _applied(seen: Seen, body: CommandApplied) -> Iterable[Change | Entry]:
    answer = {"status": "applied", "result": body.result, "refusal": None}
    return [_answered(seen, body.command, answer)]


def _refused(seen: Seen, body: CommandRefused) -> Iterable[Change | Entry]:
    refusal = body.model_dump(mode="json", exclude={"command"}, exclude_none=True)
    answer = {"status": "refused", "result": None, "refusal": refusal}
    return [_answered(seen, body.command, answer)]


def _connection(seen: Seen, body: ConnectionChanged) -> Iterable[Change | Entry]:
    kind = body.connection.get("type")
    columns = {"type": kind if isinstance(kind, str) else None, "version": body.version, "connection": body.connection}
    return [_set(tables.connections, body.name, **columns, at=seen.record.at)]


def _connection_deleted(_: Seen, body: ConnectionDeleted) -> Iterable[Change | Entry]:
    return [Change(tables.connections, body.name, lambda _row, rows: rows.drop(tables.connections, body.name))]


def _pipeline(seen: Seen, body: PipelineChanged) -> Iterable[Change | Entry]:
    record, document = seen.record, body.pipeline
    metadata, spec = _part(document, "metadata"), _part(document, "spec")
    is_set = bool(_part(spec, "source").get("objects"))
    source, sink = (None, None) if is_set else (_end(spec, "source"), _end(spec, "sink"))
    owner, labels = metadata.get("owner"), _part(metadata, "labels")
    version = {
        "uid": body.uid,
        "version": body.version,
        "name": body.name,
        "pipeline": document,
        "at": record.at,
        "actor": body.by or record.actor,
        "rollback_of": body.rollback_of,
        "changed": seen.offset,
    }

    def fold(row: Row, _: Rows) -> None:
        row |= {"name": body.name, "version": body.version, "pipeline": document, "updated_at": record.at}
        row |= {"owner": owner if isinstance(owner, str) else None, "labels": labels}
        row |= {"source": source and dataset_id(*source), "sink": sink and dataset_id(*sink)}
        row |= {"member_of": set_of(body.name)}
        row["status"] = row.get("status") or "active"
        row["created_at"] = row.get("created_at") or record.at

    ends = [named_dataset(seen, *end) for end in (source, sink) if end]
    return [Change(tables.pipelines, body.uid, fold), Entry(tables.pipeline_versions, version), *ends]


def _pipeline_status(seen: Seen, body: PipelineStatusChanged) -> Iterable[Change | Entry]:
    return [_set(tables.pipelines, body.uid, name=body.name, status=body.status, updated_at=seen.record.at)]


def _pipeline_deleted(seen: Seen, body: PipelineDeleted) -> Iterable[Change | Entry]:
    at = seen.record.at
    return [_set(tables.pipelines, body.uid, name=body.name, status="deleted", updated_at=at, deleted_at=at)]


def _part(document: dict[str, Any], name: str) -> dict[str, Any]:
    part = document.get(name)
    return part if isinstance(part, dict) else {}


def _end(spec: dict[str, Any], name: str) -> tuple[str, str] | None:
    end = _part(spec, name)
    connection, object_ = end.get("connection"), end.get("object")
    return (connection, object_) if isinstance(connection, str) and isinstance(object_, str) else None


def _policy(seen: Seen, body: PolicyAccepted) -> Iterable[Change | Entry]:
    columns = {"hash": body.hash, "origin": body.origin, "policy": body.policy, "at": seen.record.at}
    version = {"offset": seen.offset, "name": body.name, **columns, "changed": seen.offset}
    return [_set(tables.policies, body.name, **columns), Entry(tables.policy_versions, version)]


def _run(seen: Seen, body: RunChanged) -> Iterable[Change | Entry]:
    run = body.run
    columns: Row = {
        "pipeline": run.pipeline,
        "version": run.version,
        "status": run.status,
        "requested_at": run.requested_at,
        "finished_at": run.finished_at,
        "counters": run.counters.to_dict(),
        "error": body.error and body.error.to_dict(),
        "resumed": run.resumed,
        "scheduled_for": run.scheduled_for,
        "reload": run.reload and run.reload.to_dict(),
        "group": run.group,
        "after": run.after and list(run.after),
    }

    def fold(row: Row, _: Rows) -> None:
        row |= columns
        if row.get("offset") is None:
            row["offset"] = seen.offset

    return [Change(tables.runs, run.id, fold)]


def _halted(_: Seen, body: TaskHalted) -> Iterable[Change | Entry]:
    """Fold what a run had committed when its process was ended; a run that ended normally keeps its own counters."""

    def fold(row: Row, rows: Rows) -> None:
        if "status" not in row:
            rows.drop(tables.runs, row["id"])
        elif row["status"] in {"queued", "running", "stopped"}:
            row["counters"] = body.counters.to_dict()

    return [Change(tables.runs, body.run, fold)] if body.run else []


def _queued(seen: Seen, body: TaskQueued) -> Iterable[Change | Entry]:
    task = body.task
    columns: Row = {"kind": task.kind, "pipeline": task.pipeline, "run": task.run, "priority": task.priority}
    columns |= {"attempt": task.attempt, "worker": task.worker, "status": task.status, "queued_at": seen.record.at}
    return [_set(tables.tasks, task.id, **columns, offset=seen.offset)]


def _aged(_: Seen, body: TasksAged) -> Iterable[Change | Entry]:
    return [_set(tables.tasks, id_, priority=priority) for id_, priority in body.tasks.items()]


def _assigned(seen: Seen, body: TaskAssigned) -> Iterable[Change | Entry]:
    columns = {"kind": body.kind, "pipeline": body.pipeline, "run": body.run, "attempt": body.attempt}
    started = {"worker": body.worker, "status": "assigned", "assigned_at": seen.record.at, "started_at": None}
    yield _set(tables.tasks, body.task, **columns, **started, ended_at=None, error=None, reason=None)
    if body.run is not None:
        yield _set(tables.runs, body.run, uid=body.uid, attempts=body.attempt)


def _open(attempt: int, **columns: object) -> Callable[[Row, Rows], None]:
    """Set `columns` if `attempt` is the open one; reports after its end are ignored."""

    def fold(row: Row, _: Rows) -> None:
        if row.get("attempt") == attempt and row.get("status") == "assigned":
            row.update(columns)

    return fold


def _task_started(seen: Seen, body: TaskStarted) -> Iterable[Change | Entry]:
    yield Change(tables.tasks, body.task, _open(body.attempt, started_at=seen.record.at))
    if body.run is not None:

        def begun(row: Row, _: Rows) -> None:
            if row.get("attempts") == body.attempt and row.get("finished_at") is None:
                row |= {"status": "running", "started_at": row.get("started_at") or seen.record.at}

        yield Change(tables.runs, body.run, begun)


def _task_returned(_: Seen, body: TaskReturned) -> Iterable[Change | Entry]:
    return [Change(tables.tasks, body.task, _open(body.attempt, status="queued", worker=None))]


def _task_completed(_: Seen, body: TaskCompleted) -> Iterable[Change | Entry]:
    columns = {"counters": body.counters.to_dict(), "seconds": body.seconds}
    yield Change(tables.tasks, body.task, _open(body.attempt, **columns))
    if body.discovery is not None:
        yield _set(tables.discoveries, body.discovery, found=dict(body.found), notes=list(body.notes))
    if body.run is not None:

        def measured(row: Row, _: Rows) -> None:
            if row.get("attempts") == body.attempt and row.get("finished_at") is None:
                row |= {"seconds": body.seconds, "notes": list(body.notes)}

        yield Change(tables.runs, body.run, measured)


def _discovery_started(seen: Seen, body: DiscoveryStarted) -> Iterable[Change | Entry]:
    found = body.discovery
    columns: Row = {"connection": found.connection, "status": "running", "discovery": found.to_dict()}
    return [_set(tables.discoveries, found.id, **columns, requested_at=seen.record.at, offset=seen.offset)]


def _discovery_finished(seen: Seen, body: DiscoveryFinished) -> Iterable[Change | Entry]:
    error = body.error and body.error.to_dict()
    columns: Row = {"connection": body.connection, "status": body.status, "error": error}
    return [_set(tables.discoveries, body.id, **columns, finished_at=seen.record.at)]


def _task_failed(_: Seen, body: TaskFailed) -> Iterable[Change | Entry]:
    columns = {"counters": body.counters.to_dict(), "error": body.error.to_dict(), "status": "waiting"}
    return [Change(tables.tasks, body.task, _open(body.attempt, **columns))]


def _task_ended(seen: Seen, body: TaskEnded) -> Iterable[Change | Entry]:
    return [_set(tables.tasks, body.task, status=body.status, reason=body.reason, ended_at=seen.record.at)]


def _task_cancelled(_: Seen, body: TaskEnded) -> Iterable[Change | Entry]:
    return [_set(tables.tasks, body.task, status="queued", worker=None, reason=body.reason)]


def _decided(seen: Seen, body: AgentDecided) -> Iterable[Change | Entry]:
    record = seen.record
    cause, index = record.cause or (None, None)
    row: Row = {
        "id": record.id,
        "agent": body.agent,
        "cause": cause,
        "index": index,
        "at": record.at,
        "action": body.action,
        "subject": body.subject,
        "outcome": body.outcome,
        "confidence": body.confidence,
        "threshold": body.threshold,
        "policy": body.policy,
        "correlation": record.correlation,
        "decision": body.to_dict(),
        "offset": seen.offset,
        "changed": seen.offset,
    }
    return [Entry(tables.agent_decisions, row)]


def _faulted(seen: Seen, body: AgentFaulted) -> Iterable[Change | Entry]:
    problem = Error(code="agent.faulted", what=body.fault, where=body.record)
    return raised_error(seen, seen.record.id, source=body.agent, error=problem)


def _joined(seen: Seen, body: WorkerJoined) -> Iterable[Change | Entry]:
    columns = {"kinds": list(body.kinds), "slots": body.slots, "status": "joined", "reason": None}
    return [_set(tables.workers, body.worker, **columns, joined_at=seen.record.at, lost_at=None)]


def _lost(seen: Seen, body: WorkerLost) -> Iterable[Change | Entry]:
    return [_set(tables.workers, body.worker, status="lost", reason=body.reason, lost_at=seen.record.at)]


def _timer(seen: Seen, body: TimerRequested) -> Iterable[Change | Entry]:
    columns = {"due": body.due, "subject": body.subject, "status": "pending", "requested_at": seen.record.at}
    return [_set(tables.timers, body.timer, **columns, fired_at=None)]


def _fired(seen: Seen, body: TimerFired) -> Iterable[Change | Entry]:
    return [_set(tables.timers, body.timer, due=body.due, status="fired", fired_at=seen.record.at)]


FOLDS: Final[dict[str, Fold]] = {
    "command.applied": _applied,
    "command.refused": _refused,
    "connection.changed": _connection,
    "connection.deleted": _connection_deleted,
    "pipeline.created": _pipeline,
    "pipeline.updated": _pipeline,
    "pipeline.status_changed": _pipeline_status,
    "pipeline.deleted": _pipeline_deleted,
    **comparison_folds.FOLDS,
    "policy.accepted": _policy,
    "discovery.started": _discovery_started,
    "discovery.finished": _discovery_finished,
    "agent.decided": _decided,
    "agent.faulted": _faulted,
    "worker.joined": _joined,
    "worker.lost": _lost,
    "task.queued": _queued,
    "tasks.aged": _aged,
    "task.assigned": _assigned,
    "task.started": _task_started,
    "task.completed": _task_completed,
    "task.failed": _task_failed,
    "task.closed": _task_ended,
    "task.cancelled": _task_cancelled,
    "timer.requested": _timer,
    "timer.fired": _fired,
    "run.created": _run,
    "run.finished": _run,
    "task.halted": _halted,
    "task.returned": _task_returned,
    "schema.observed": observed_schema,
    "dataset.configured": configured,
    "dataset.profiled": profiled,
    "dataset.gone": gone,
    "objects.accepted": objects_accepted,
    "change.proposed": proposed,
    "change.answered": answered,
    "set.listed": set_listed,
    "set.started": set_started,
    "record.unreadable": _reported,
    **FAILURES,
    **ALERTS,
}
"""The fold of each record type; commands are folded by `asked`. Other types change nothing (`brain.started`)."""
