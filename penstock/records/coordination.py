"""Coordination: what agents decide, and what workers, brains and timers report."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from penstock.models.base import Model, Name
from penstock.models.domain import AgentDecision, PipelineStatus, Reload, Task, Timestamp

__all__ = [
    "AgentDecided",
    "AgentFaulted",
    "BrainStarted",
    "ClockSetBack",
    "CommandApplied",
    "CommandRefused",
    "ConnectionChanged",
    "ConnectionDeleted",
    "PipelineChanged",
    "PipelineDeleted",
    "PipelineStatusChanged",
    "PolicyAccepted",
    "TaskAssigned",
    "TaskEnded",
    "TaskQueued",
    "TimerFired",
    "TimerRequested",
    "WorkerJoined",
    "WorkerLost",
]


class CommandApplied(Model):
    """``command.applied``: the last record of the decision that followed a command; keyed by the command's id."""

    command: str
    result: dict[str, Any] = {}


class CommandRefused(Model):
    """``command.refused``: nothing changed, and why; `exit_code` as in the tree of errors."""

    command: str
    code: str
    what: str
    hint: str | None = None
    issues: tuple[dict[str, str], ...] = ()
    exit_code: int = 1


class ConnectionChanged(Model):
    """``connection.changed``: the connection as it is from here on."""

    name: Name
    version: Annotated[int, Field(ge=1)]
    connection: dict[str, Any]


class ConnectionDeleted(Model):
    """``connection.deleted``."""

    name: Name


class PipelineChanged(Model):
    """``pipeline.created`` and ``pipeline.updated``: a version of the pipeline; versions are never changed later.

    `uid` identifies this pipeline for ever: one created later under the same name has a different one.
    """

    name: Name
    uid: str
    version: Annotated[int, Field(ge=1)]
    pipeline: dict[str, Any]
    rollback_of: int | None = None


class PipelineStatusChanged(Model):
    """``pipeline.status_changed``."""

    name: Name
    uid: str
    before: PipelineStatus
    status: PipelineStatus
    drop_table: bool = False


class PipelineDeleted(Model):
    """``pipeline.deleted``: its state is deleted; its history stays."""

    name: Name
    uid: str


class PolicyAccepted(Model):
    """``policy.accepted`` (kind policy): in force for every record at a higher offset."""

    name: Name
    hash: str
    origin: str
    policy: dict[str, Any]


class TaskQueued(Model):
    """``task.queued``: work that waits for a worker."""

    task: Task


class TaskAssigned(Model):
    """``task.assigned``: this worker does it now; the record contains all it needs. Keyed by the task's id."""

    task: str
    worker: str
    attempt: Annotated[int, Field(ge=1)]
    kind: str
    pipeline: Name
    uid: str
    run: str | None = None
    version: int
    drop_table: bool = False
    reload: Reload | None = None
    spec: dict[str, Any]
    connections: dict[str, dict[str, Any]]


class TaskEnded(Model):
    """``task.closed`` (the task has no open attempt left) and ``task.cancelled`` (its worker must stop it)."""

    task: str
    kind: str
    pipeline: Name
    run: str | None = None
    attempt: int
    worker: str | None = None
    status: str
    reason: str | None = None


class TimerRequested(Model):
    """``timer.requested``: a request to fire at `due`; keyed by the timer's id."""

    timer: str
    due: Timestamp
    subject: str


class TimerFired(Model):
    """``timer.fired`` (kind timer): `due` is reached."""

    timer: str
    due: Timestamp


class ClockSetBack(Model):
    """``clock.set_back``: the wall clock was set back while the scheduler ran; `at` is the time that it shows now."""

    seconds: float


class WorkerJoined(Model):
    """``worker.joined``: takes tasks of `kinds`, `slots` at once; it lives as long as it holds the lock of its name."""

    worker: str
    kinds: tuple[str, ...]
    slots: Annotated[int, Field(ge=1)]


class WorkerLost(Model):
    """``worker.lost``: its lock is free, or it shut down."""

    worker: str
    reason: str


class BrainStarted(Model):
    """``brain.started``: a control process starts; its offset is its generation. `agents`: name -> rules' version."""

    agents: dict[Name, int]
    release: str


class AgentDecided(AgentDecision):
    """``agent.decided``: the first record of a decision; gives the reason for the others."""


class AgentFaulted(Model):
    """``agent.faulted``: the agent raised; its state stays as it was before this cause, and the fold continues."""

    agent: Name
    fault: str
    record: str
