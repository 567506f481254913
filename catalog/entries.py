"""Results of the catalog: one frozen dataclass for each kind of row, and pages of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from penstock.models.domain import Compatibility, Schema

__all__ = [
    "ConnectionEntry",
    "Dataset",
    "Decision",
    "DiscoveryEntry",
    "ErrorEntry",
    "Known",
    "MappingVersion",
    "Page",
    "PipelineEntry",
    "PipelineVersion",
    "PolicyEntry",
    "RunEntry",
    "SchemaVersion",
    "SetEntry",
    "Snapshot",
    "TaskEntry",
    "WorkerEntry",
]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list; `after` is the cursor of the next part, None if this is the last."""

    items: tuple[Item, ...]
    after: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectionEntry:
    """A connection in its latest version; secrets are references."""

    name: str
    type: str | None
    version: int
    connection: Mapping[str, Any]
    at: datetime
    changed: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A catalog entry. `version` is that of its current schema, None before one is observed.

    `rows` and `bytes` are estimates; `profile` is a `DatasetProfile` as JSON.
    """

    id: str
    connection: str
    object: str
    kind: str
    description: str | None
    tags: tuple[str, ...]
    version: int | None
    fingerprint: str | None
    compatibility: Compatibility | None
    """The rule for its next schema; None if none was set."""
    rows: int | None
    bytes: int | None
    profile: Mapping[str, Any] | None
    profiled_at: datetime | None
    first_offset: int
    first_at: datetime
    last_offset: int
    last_at: datetime
    gone_at: datetime | None
    """When its source was seen without it; None while it is there."""
    changed: int


@dataclass(frozen=True, slots=True)
class Known:
    """Hashes that a discovery compares with: of the schema, of what a run sees of it, and of the profile."""

    fingerprint: str | None
    outline: str | None
    profiled: str | None
    kind: str | None
    description: str | None
    gone: bool = False
    described: bool | None = None
    """False if only runs have seen it, and only its columns."""


@dataclass(frozen=True, slots=True)
class DiscoveryEntry:
    """A discovery; `found` counts the objects seen, and those that are new or have changed."""

    id: str
    connection: str
    status: Literal["running", "completed", "failed"]
    discovery: Mapping[str, Any]
    found: Mapping[str, int] | None
    notes: Sequence[str] | None
    error: Mapping[str, Any] | None
    requested_at: datetime
    finished_at: datetime | None
    offset: int
    changed: int


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """One schema of a dataset, current from `at` on; `actor` has seen it, after the record at offset `cause`."""

    dataset: str
    version: int
    fingerprint: str
    schema: Schema
    at: datetime
    offset: int
    actor: str | None = None
    cause: int | None = None


@dataclass(frozen=True, slots=True)
class MappingVersion:
    """One version of a mapping."""

    name: str
    version: int
    mapping: Mapping[str, Any]
    at: datetime
    actor: str
    changed: int


@dataclass(frozen=True, slots=True)
class PipelineEntry:
    """A pipeline at its current version. `source` and `sink` are ids of datasets; `pipeline` is the document."""

    uid: str
    name: str
    version: int
    status: Literal["active", "draining", "paused", "stopped", "deleting", "deleted"]
    owner: str | None
    labels: Mapping[str, str]
    source: str | None
    sink: str | None
    pipeline: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    changed: int
    checked: Mapping[str, Any] | None = None
    """The last comparison of both sides, as `penstock.records.commands.CheckRecord` and its time."""
    member_of: str | None = None
    """The set whose member it is."""
    deletes: Mapping[str, Any] | None = None
    """The last comparison of keys, as `penstock.records.coordination.DeletesRecorded` and its time."""
    accepted: Sequence[str] | None = None
    """Objects that may become members although they are new, of a set that proposes such objects."""
    letters: Mapping[str, Any] | None = None
    """What was done last with dead letters, as `penstock.records.coordination.LettersRecorded` and its time."""


@dataclass(frozen=True, slots=True)
class SetEntry:
    """Result of the last listing of a set, and of its last start: `group` is the id that its runs share.

    `task` is the listing's, None before the first; `listed` is true once all its pages are here. `queued` is true once
    all runs of the group are in the catalog.
    """

    name: str
    task: str | None = None
    version: int | None = None
    listed: bool = False
    at: datetime | None = None
    members: int = 0
    refused: Sequence[Mapping[str, str]] = ()
    proposed: Sequence[str] = ()
    vanished: Sequence[str] = ()
    unmatched: Sequence[str] = ()
    group: str | None = None
    queued: bool = False
    skipped: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True, slots=True)
class PipelineVersion:
    """One version of a pipeline; versions never change."""

    uid: str
    version: int
    name: str
    pipeline: Mapping[str, Any]
    at: datetime
    actor: str
    rollback_of: int | None
    changed: int


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """A policy and its hash, accepted at offset `changed`."""

    name: str
    hash: str
    origin: str
    policy: Mapping[str, Any]
    at: datetime
    changed: int


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run. `offset` is where it was created; `counters` and `error` are the latest reported."""

    id: str
    pipeline: str
    uid: str | None
    version: int
    status: Literal["queued", "running", "completed", "failed", "stopped"]
    attempts: int | None
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    counters: Mapping[str, int]
    seconds: Mapping[str, float] | None
    error: Mapping[str, Any] | None
    offset: int
    changed: int
    resumed: bool | None = None
    """True if an attempt resumed from an earlier one's commits: its rows then come from more than one point in time."""
    scheduled_for: datetime | None = None
    """The tick of the schedule that started it."""
    reload: Mapping[str, Any] | None = None
    """Rows that it reads again: `rows` ("all" or "window"), and `from` and `to` of a window."""
    notes: Sequence[str] | None = None
    """Notes for the user on rows that it did not read."""
    group: str | None = None
    """Runs of a set's members that were started together share it."""
    after: Sequence[str] | None = None
    """Members whose first loads it waited for when it was created."""


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task and its current attempt."""

    id: str
    kind: str
    pipeline: str | None
    run: str | None
    priority: int | None
    attempt: int | None
    worker: str | None
    status: str
    reason: str | None
    queued_at: datetime | None
    assigned_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    counters: Mapping[str, int] | None
    seconds: Mapping[str, float] | None
    error: Mapping[str, Any] | None
    offset: int | None
    changed: int


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision by the id of its record; `decision` is the whole model, `cause` the offset of its cause."""

    id: str
    agent: str
    cause: int | None
    index: int | None
    at: datetime
    action: str
    subject: str
    outcome: Literal["acted", "proposed", "refused"]
    confidence: float
    threshold: float | None
    policy: str | None
    correlation: str | None
    decision: Mapping[str, Any]
    offset: int


@dataclass(frozen=True, slots=True)
class ProposalEntry:
    """A change that is proposed for a pipeline; `by` is who has answered, `plan` what an approval is bound to.

    `offset` is that of the proposal, `changed` that of the last record about it.
    """

    id: str
    pipeline: str
    run: str
    proposal: Mapping[str, Any]
    status: Literal["open", "approved", "denied", "void", "expired"]
    proposed_at: datetime
    answered_at: datetime | None
    by: str | None
    plan: Mapping[str, Any] | None
    reason: str | None
    offset: int
    changed: int

    @property
    def diff(self) -> list[str]:
        """What it changes in the pipeline's file, a line for each value."""
        from penstock.models.plans import Difference  # noqa: PLC0415 - slow; a command that shows a set reads none

        return [str(Difference.parse(one)) for one in (self.plan or {}).get("diff", ())]

    @property
    def text(self) -> str:
        """The change in words."""
        from penstock.models.proposals import Proposal  # noqa: PLC0415 - slow; a command that shows a set reads none

        return str(Proposal.parse(self.proposal))


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """An error; `source` is the pipeline, agent or worker that reported it."""

    id: str
    at: datetime
    source: str
    pipeline: str | None
    run: str | None
    task: str | None
    attempt: int | None
    code: str
    error: Mapping[str, Any]
    correlation: str | None
    offset: int


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """A worker; lost ones stay in the list."""

    worker: str
    kinds: tuple[str, ...] | None
    slots: int | None
    status: Literal["joined", "lost"]
    reason: str | None
    joined_at: datetime | None
    lost_at: datetime | None
    changed: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An agent's state after the record at `offset` - 1, as builtins; `rules` is the version that computed it."""

    agent: str
    offset: int
    rules: int
    state: Any
