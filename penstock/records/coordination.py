"""Coordination: what agents decide, and what workers, brains and timers report."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from penstock.models.base import Fraction, Model, Name, PipelineName
from penstock.models.domain import (
    AgentDecision,
    Beginning,
    Compatibility,
    DatasetRef,
    Discovery,
    Error,
    Id,
    PipelineStatus,
    Reload,
    Task,
)
from penstock.models.failures import Failure
from penstock.models.letters import LettersOrder, LettersSettled
from penstock.models.notices import Notice
from penstock.models.plans import Plan
from penstock.models.proposals import Proposal
from penstock.records.commands import CheckRecord
from penstock.records.execution import KeysCompared
from penstock.records.shapes import Count, FolderName, Moment, PipelineDocument, PolicyDocument, Positive

__all__ = [
    "AgentDecided",
    "AgentFaulted",
    "AgentSwitched",
    "BrainStarted",
    "ChangeAnswered",
    "ChangeProposed",
    "CheckRecorded",
    "ClockSetBack",
    "CommandApplied",
    "CommandRefused",
    "ConnectionChanged",
    "ConnectionDeleted",
    "DatasetConfigured",
    "DeletesRecorded",
    "DiscoveryFinished",
    "DiscoveryStarted",
    "LogSealed",
    "PipelineChanged",
    "PipelineDeleted",
    "PipelineDrained",
    "PipelineStatusChanged",
    "PolicyAccepted",
    "TaskAssigned",
    "TaskEnded",
    "TaskQueued",
    "TasksAged",
    "TimerFired",
    "TimerRequested",
    "WorkerJoined",
    "WorkerLost",
]


Offset = Annotated[int, Field(ge=0, lt=2**63)]


class CommandApplied(Model):
    """``command.applied``: the last record of the decision that followed a command; keyed by the command's id."""

    command: Id
    result: dict[str, Any] = {}


class CommandRefused(Model):
    """``command.refused``: nothing changed, and why; `exit_code` as in the tree of errors."""

    command: Id
    code: str
    what: str
    hint: str | None = None
    issues: tuple[dict[str, str], ...] = ()
    exit_code: Count = 1


class ConnectionChanged(Model):
    """``connection.changed``: the connection as it is from here on."""

    name: Name
    version: Positive
    connection: dict[str, Any]


class ConnectionDeleted(Model):
    """``connection.deleted``."""

    name: Name


class DatasetConfigured(Model):
    """``dataset.configured``: the rule that the next schema of a dataset has to meet, from here on; keyed by it."""

    dataset: DatasetRef
    compatibility: Compatibility


class PipelineChanged(Model):
    """``pipeline.created`` and ``pipeline.updated``: a version of the pipeline; versions are never changed later.

    `uid` identifies this pipeline for ever: one created later under the same name has a different one. `by` is who
    asked for it.
    """

    name: PipelineName
    uid: Id
    version: Positive
    pipeline: PipelineDocument
    rollback_of: Count | None = None
    by: str | None = None
    again: bool = False
    """True if it repairs the pipeline after a failed run, which starts again."""
    follows: bool = False
    """True if it is the version before it, but for the name of the source's object, which is another one now."""


class PipelineStatusChanged(Model):
    """``pipeline.status_changed``; `because` is why a set changed the status of its member."""

    name: PipelineName
    uid: Id
    before: PipelineStatus
    status: PipelineStatus
    drop_table: bool = False
    because: Literal["excluded", "vanished"] | None = None


class ChangeProposed(Model):
    """``change.proposed``: a run of the pipeline has met this change of a schema, and waits for an answer.

    Keyed by the pipeline's name. `run` is the task of its set's listing if that has met it.
    """

    id: Id
    name: PipelineName
    uid: Id
    run: Id
    proposal: Proposal
    plan: Plan | None = None
    """What an approval is bound to; None if an older release proposed it."""


class ChangeAnswered(Model):
    """``change.answered``: a change is approved or denied, is void, or has expired. Keyed as it was proposed.

    `by` is who, or the policy; `plan` the hash of the plan that is approved.
    """

    id: Id
    name: PipelineName
    uid: Id
    answer: Literal["approved", "denied", "void", "expired"]
    by: str
    plan: str | None = None
    reason: str | None = None


class PipelineDrained(Model):
    """``pipeline.drained``: a pipeline that drains has no open run left."""

    name: PipelineName
    uid: Id


class PipelineDeleted(Model):
    """``pipeline.deleted``: its state is deleted; its history stays."""

    name: PipelineName
    uid: Id


class CheckRecorded(CheckRecord):
    """``check.recorded``: both sides of a pipeline were compared; `by` is who did.

    `task` is the one of a scheduled check, and `error` says why it could not compare.
    """

    by: str
    task: Id | None = None
    error: Error | None = None


class DeletesRecorded(Model):
    """``deletes.recorded``: rows whose key is gone from the source were deleted or marked; keyed by the pipeline.

    `error` says why nothing was changed, if `found` is missing.
    """

    name: PipelineName
    uid: Id
    task: Id
    by: str
    found: KeysCompared | None = None
    error: Error | None = None


class LettersRecorded(Model):
    """``letters.recorded``: the receipt of what was done with dead letters; keyed by the pipeline.

    `order` is what was asked for. `error` says why nothing was done, or not all of it, if `found` is missing.
    """

    name: PipelineName
    uid: Id
    task: Id
    by: str
    order: LettersOrder
    found: LettersSettled | None = None
    error: Error | None = None


class PolicyAccepted(Model):
    """``policy.accepted`` (kind policy): in force for every record at a higher offset."""

    name: Name
    hash: str
    origin: str
    policy: PolicyDocument


class DiscoveryStarted(Model):
    """``discovery.started``: a worker is to look at a connection's objects; keyed by the connection."""

    discovery: Discovery


class DiscoveryFinished(Model):
    """``discovery.finished``: the last record of a discovery; keyed by the connection."""

    id: Id
    connection: Name
    status: Literal["completed", "failed"]
    error: Error | None = None


class TaskQueued(Model):
    """``task.queued``: work that waits for a worker."""

    task: Task


class TasksAged(Model):
    """``tasks.aged``: tasks that have waited for long, with the priority that each has from here on."""

    tasks: dict[Id, Annotated[int, Field(ge=-(2**31), lt=2**31)]]


class TaskAssigned(Model):
    """``task.assigned``: this worker does it now; the record contains all it needs. Keyed by the task's id.

    With `after` it does it once that other task of its own has ended, or at once if it has none of that id.
    """

    task: FolderName
    worker: Id
    attempt: Positive
    kind: str
    after: FolderName | None = None
    pipeline: PipelineName | None = None
    uid: Id | None = None
    set_id: Id | None = None
    """Of a stream: the set that it is a member of."""
    discovery: Discovery | None = None
    run: FolderName | None = None
    version: Count = 0
    drop_table: bool = False
    drain: bool = False
    """True if a stream ends after what is there when it begins."""
    reload: Reload | None = None
    begin: Beginning | None = None
    limit: Fraction | None = None
    """Of a comparison of keys: the share of them that may be gone, if it was approved."""
    since: Annotated[str, Field(max_length=100)] | None = None
    """Of a check: the value of the cursor from which on rows are compared."""
    letters: LettersOrder | None = None
    """What to do with dead letters."""
    failure: Failure | None = None
    """Of a diagnosis: what has failed."""
    notice: Notice | None = None
    """What is sent about an alert."""
    round: Count = 0
    """Of a task that looks for files: the last time that files had arrived."""
    spec: PipelineDocument | None = None
    connections: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        alone = (self.kind == "discover", self.kind == "notify")
        parts = {self.pipeline is not None, self.uid is not None, self.spec is not None}
        if (self.discovery is not None, self.notice is not None) != alone or parts != {not any(alone)}:
            message = "needs a discovery, a notice, or a pipeline with `uid` and `spec`"
            raise ValueError(message)
        return self


class TaskEnded(Model):
    """``task.closed`` (the task has no open attempt left) and ``task.cancelled`` (its worker must stop it)."""

    task: Id
    kind: str
    pipeline: PipelineName | None = None
    discovery: Id | None = None
    run: Id | None = None
    attempt: Count
    worker: Id | None = None
    status: str
    reason: str | None = None


class TimerRequested(Model):
    """``timer.requested``: a request to fire at `due`; keyed by the timer's id.

    Of a schedule's tick: an earlier one that is `held` until the pipelines that it runs after are fresh. Of a stream
    that waits for its next attempt: its failures since it last read a row, and the rows it has read.
    """

    timer: Id
    due: Moment
    subject: str
    held: Moment | None = None
    failures: int | None = None
    rows: int | None = None


class TimerFired(Model):
    """``timer.fired`` (kind timer): `due` is reached."""

    timer: Id
    due: Moment


class ClockSetBack(Model):
    """``clock.set_back``: the wall clock was set back while the scheduler ran; `at` is the time that it shows now."""

    seconds: float


class LogSealed(Model):
    """``log.sealed``: the digest of the messages from `begin` to before `upto`, and of the seal before (`seals.py`)."""

    begin: Offset
    upto: Offset
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class WorkerJoined(Model):
    """``worker.joined``: takes tasks of `kinds`, `slots` at once; it lives as long as it holds the lock of its name."""

    worker: Id
    kinds: tuple[str, ...]
    slots: Positive


class WorkerLost(Model):
    """``worker.lost``: its lock is free, or it shut down."""

    worker: Id
    reason: str


class BrainStarted(Model):
    """``brain.started``: a control process starts; its offset is its generation. `agents`: name -> rules' version."""

    agents: dict[Name, Count]
    release: str


class AgentDecided(AgentDecision):
    """``agent.decided``: the first record of a decision; gives the reason for the others."""


class AgentSwitched(Model):
    """``agent.halted`` and ``agent.resumed``: from here on it does not act on its own, or does; None = all agents."""

    agent: Name | None = None
    by: str


class AgentFaulted(Model):
    """``agent.faulted``: the agent raised; its state stays as it was before this cause, and the fold continues."""

    agent: Name
    fault: str
    record: str
