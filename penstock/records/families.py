"""The table of record types: each with its payload's model and version, and the upcasts from older versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from pydantic import ValidationError

from penstock.errors import InvalidDocument, Issue, LogError
from penstock.models.base import Model
from penstock.records import alerts, commands, coordination, execution, failures, notices, sets, triggers
from penstock.records.envelope import Kind, Record

__all__ = ["COMMANDS", "TYPES", "RecordType", "body", "current", "is_known"]

Upcast = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RecordType:
    """One type: its kind, payload and version, and `upcasts[v]`, which turns a payload of version v into v + 1.

    `decided` is True if its records are always part of an agent's decision.
    """

    name: str
    kind: Kind
    payload: type[Model]
    version: int = 1
    upcasts: Mapping[int, Upcast] = field(default_factory=dict)
    decided: bool = False

    def upcast(self, payload: dict[str, Any], version: int) -> dict[str, Any]:
        """Return `payload`, of `version`, as one of the current version.

        Raises:
            LogError: an upcast is missing.
        """
        for step in range(version, self.version):
            if step not in self.upcasts:
                raise LogError("has no upcast to a newer version", where=self.name, value=step)
            payload = self.upcasts[step](payload)
        return payload


def _table(*types: RecordType) -> dict[str, RecordType]:
    return {one.name: one for one in types}


def _command(name: str, payload: type[Model]) -> RecordType:
    return RecordType(name, "command", payload)


def _event(name: str, payload: type[Model]) -> RecordType:
    return RecordType(name, "event", payload)


def _decided(name: str, payload: type[Model], kind: Kind = "event") -> RecordType:
    return RecordType(name, kind, payload, decided=True)


COMMANDS = _table(
    _command("connection.put", commands.ConnectionPut),
    _command("connection.delete", commands.ConnectionDelete),
    _command("dataset.configure", commands.DatasetConfigure),
    _command("pipeline.apply", commands.PipelineApply),
    _command("pipeline.pause", commands.PipelineTransition),
    _command("pipeline.drain", commands.PipelineTransition),
    _command("pipeline.resume", commands.PipelineTransition),
    _command("pipeline.stop", commands.PipelineTransition),
    _command("pipeline.delete", commands.PipelineDelete),
    _command("pipeline.rollback", commands.PipelineRollback),
    _command("run.start", commands.RunStart),
    _command("run.trigger", commands.RunTrigger),
    _command("set.accept", commands.SetAccept),
    _command("change.answer", commands.ChangeAnswer),
    _command("check.start", commands.CheckStart),
    _command("deletes.start", commands.DeletesStart),
    _command("letters.start", commands.LettersStart),
    _command("policy.publish", commands.PolicyPublish),
    _command("agent.halt", commands.AgentSwitch),
    _command("agent.resume", commands.AgentSwitch),
    _command("discovery.start", commands.DiscoveryStart),
    _command("alert.snooze", alerts.AlertSnooze),
    _command("alert.silence", alerts.AlertSilence),
    _command("route.try", commands.RouteTry),
)

COORDINATION = _table(
    _decided("command.applied", coordination.CommandApplied),
    _decided("command.refused", coordination.CommandRefused),
    _decided("connection.changed", coordination.ConnectionChanged),
    _decided("connection.deleted", coordination.ConnectionDeleted),
    _decided("dataset.configured", coordination.DatasetConfigured),
    _decided("pipeline.created", coordination.PipelineChanged),
    _decided("pipeline.updated", coordination.PipelineChanged),
    _decided("pipeline.status_changed", coordination.PipelineStatusChanged),
    _decided("change.proposed", coordination.ChangeProposed),
    _decided("change.answered", coordination.ChangeAnswered),
    _decided("pipeline.drained", coordination.PipelineDrained),
    _decided("pipeline.deleted", coordination.PipelineDeleted),
    _decided("check.recorded", coordination.CheckRecorded),
    _decided("deletes.recorded", coordination.DeletesRecorded),
    _decided("letters.recorded", coordination.LettersRecorded),
    _decided("policy.accepted", coordination.PolicyAccepted, "policy"),
    _decided("discovery.started", coordination.DiscoveryStarted),
    _decided("discovery.finished", coordination.DiscoveryFinished),
    _decided("agent.decided", coordination.AgentDecided),
    _decided("agent.faulted", coordination.AgentFaulted),
    _decided("agent.halted", coordination.AgentSwitched),
    _decided("agent.resumed", coordination.AgentSwitched),
    _event("brain.started", coordination.BrainStarted),
    _event("clock.set_back", coordination.ClockSetBack),
    _event("log.sealed", coordination.LogSealed),
    _event("worker.joined", coordination.WorkerJoined),
    _event("worker.lost", coordination.WorkerLost),
    _decided("task.queued", coordination.TaskQueued),
    _decided("tasks.aged", coordination.TasksAged),
    _decided("task.assigned", coordination.TaskAssigned),
    _decided("task.cancelled", coordination.TaskEnded),
    _decided("task.closed", coordination.TaskEnded),
    _decided("timer.requested", coordination.TimerRequested),
    RecordType("timer.fired", "timer", coordination.TimerFired),
)

EXECUTION = _table(
    _event("task.started", execution.TaskStarted),
    _event("task.completed", execution.TaskCompleted),
    _event("task.halted", execution.TaskHalted),
    _event("task.returned", execution.TaskReturned),
    _decided("run.created", execution.RunChanged),
    _decided("run.finished", execution.RunChanged),
    _event("run.progress", execution.RunProgress),
    _event("schema.observed", execution.SchemaObserved),
    _event("dataset.profiled", execution.DatasetProfiled),
    _event("dataset.gone", execution.DatasetGone),
    _event("files.found", triggers.FilesFound),
    _decided("trigger.fired", triggers.TriggerFired),
)

SETS = _table(
    _event("objects.found", sets.ObjectsFound),
    _decided("objects.accepted", sets.ObjectsAccepted),
    _decided("set.listed", sets.SetListed),
    _decided("set.started", sets.SetStarted),
)

ERRORS = _table(
    _event("task.failed", execution.TaskFailed),
    _event("error.raised", execution.ErrorRaised),
    _decided("record.unreadable", execution.RecordUnreadable),
    _decided("diagnosis.requested", failures.DiagnosisRequested),
    _event("error.diagnosed", failures.ErrorDiagnosed),
    _decided("strategy.chosen", failures.StrategyChosen),
    _decided("strategy.ended", failures.StrategyEnded),
    _event("component.failed", failures.ComponentFailed),
    _event("component.recovered", failures.ComponentRecovered),
    _decided("incident.opened", failures.IncidentOpened),
    _decided("incident.closed", failures.IncidentClosed),
    _decided("breaker.changed", failures.BreakerChanged),
)

ALERTS = _table(
    _event("series.scored", alerts.SeriesScored),
    _decided("alert.opened", alerts.AlertOpened),
    _decided("alert.changed", alerts.AlertChanged),
    _decided("alert.closed", alerts.AlertClosed),
    _decided("alert.snoozed", alerts.AlertSnoozed),
    _decided("alert.silenced", alerts.AlertSilenced),
    _decided("alert.delivered", notices.AlertDelivered),
)

TYPES: dict[str, RecordType] = COMMANDS | COORDINATION | EXECUTION | SETS | ERRORS | ALERTS
"""Every type that this release knows."""


def is_known(record: Record) -> bool:
    """True if this release can read it; other records stay on the log and are skipped."""
    known = TYPES.get(record.type)
    return known is not None and known.kind == record.kind and record.version <= known.version


def current(record: Record) -> Record:
    """Return the record with its payload at the current version; unchanged if the type is unknown."""
    known = TYPES.get(record.type)
    if known is None or record.version >= known.version:
        return record
    payload = known.upcast(record.payload, record.version)
    return record.replaced(payload=payload, version=known.version)


def body(record: Record) -> Model:
    """Return the payload of a known record as its model; it is validated once for each record object.

    Raises:
        InvalidDocument: it does not validate.
        LogError: this release does not know the type.
    """
    found: Model | None = record.__dict__.get(_BODY)
    if found is None:
        found = record.__dict__[_BODY] = _validated(record)
    return found


def _validated(record: Record) -> Model:
    if not is_known(record):
        raise LogError("is not a record type of this release", where=record.type, value=record.version)
    model, payload = TYPES[record.type].payload, current(record).payload
    try:
        return model.model_validate_json(orjson.dumps(payload), strict=True)
    except TypeError as error:  # nothing else could store it either
        issue = Issue("", "contains a number of more than 64 bits, or more than 254 levels")
        raise InvalidDocument([issue], where=record.type) from error
    except ValidationError:
        return model.parse(payload, where=record.type)  # three times slower, but reports what is wrong


_BODY: Final = "body"
