"""Execution: what workers did and measured."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from penstock.models.base import Model, PipelineName
from penstock.models.domain import Counters, DatasetRef, Error, Id, Run, Schema, Timestamp
from penstock.models.failures import Classification
from penstock.models.letters import LettersSettled
from penstock.models.profiles import DatasetProfile
from penstock.records.commands import CheckRecord
from penstock.records.shapes import Count, Positive

__all__ = [
    "LATENCIES",
    "DatasetGone",
    "DatasetProfiled",
    "ErrorRaised",
    "KeysCompared",
    "RecordUnreadable",
    "RunChanged",
    "RunProgress",
    "SchemaObserved",
    "SlotProgress",
    "StreamProgress",
    "TaskCompleted",
    "TaskFailed",
    "TaskHalted",
    "TaskReturned",
    "TaskStarted",
]

LATENCIES: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of a histogram of latencies, in seconds; what is longer counts in one more part."""


class TaskStarted(Model):
    """``task.started``: the worker has started this attempt, as the process `pid` on its machine."""

    task: Id
    run: Id | None = None
    attempt: Positive
    worker: Id
    pid: Positive | None = None


class KeysCompared(Model):
    """Numbers of a comparison of keys: those of each side, of rows deleted or marked, and of marks taken away."""

    source_keys: Count
    target_keys: Count
    removed: Count
    returned: Count = 0


class TaskCompleted(Model):
    """``task.completed``: done, with the sink's counters; ignored once that attempt is closed."""

    task: Id
    run: Id | None = None
    attempt: Positive
    worker: Id
    counters: Counters = Counters()
    seconds: dict[str, float] = {}
    resumed: bool = False
    notes: tuple[str, ...] = ()
    """Notes for the user on rows that the run did not read, or objects that the discovery did not describe."""
    discovery: Id | None = None
    found: dict[str, Count] = {}
    """Of a discovery: the number of objects it has seen, and of those that are new or have changed."""
    checked: CheckRecord | None = None
    """What a check has found."""
    deletes: KeysCompared | None = None
    """What a comparison of keys has found and done."""
    letters: LettersSettled | None = None
    """What became of dead letters."""


class TaskHalted(Model):
    """``task.halted``: the process of a cancelled or closed attempt has ended; with what its run had committed."""

    task: Id
    run: Id | None = None
    attempt: Positive
    worker: Id
    counters: Counters = Counters()


class TaskReturned(Model):
    """``task.returned``: the worker has not begun this attempt, since the task before it takes long."""

    task: Id
    run: Id | None = None
    attempt: Positive
    worker: Id


class TaskFailed(Model):
    """``task.failed``: this attempt failed; ignored once that attempt is closed.

    If it is `classified`, the agent for errors says what follows. `raised` is the id of its `error.raised`.
    """

    task: Id
    run: Id | None = None
    attempt: Positive
    worker: Id
    error: Error
    counters: Counters = Counters()
    raised: Id | None = None
    classified: Classification | None = None
    wait: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """Seconds that the other side asked for before it is tried again."""


class RunChanged(Model):
    """``run.created`` and ``run.finished``: the run from here on. Keyed by the run's id."""

    run: Run
    error: Error | None = None


class SchemaObserved(Model):
    """``schema.observed``: what a dataset looks like now; recorded when it differs from what the catalog has.

    A run sees names, types and nullability only; `discovered` is True if the dataset was described in full.
    """

    dataset: DatasetRef
    kind: str = "table"
    schema_: Schema = Field(alias="schema")
    discovered: bool = False
    description: str | None = None
    tags: tuple[str, ...] = ()


class DatasetProfiled(Model):
    """``dataset.profiled``: what discovery tells of a dataset; recorded when it differs from what the catalog has."""

    dataset: DatasetRef
    profile: DatasetProfile


class DatasetGone(Model):
    """``dataset.gone``: a discovery of all objects of a connection has not found it; what is observed again is back."""

    dataset: DatasetRef
    discovery: Id


class SlotProgress(Model):
    """The replication slot of a stream: bytes of WAL that its source keeps for it, and whether it still can."""

    name: str
    active: bool
    status: str
    """reserved, extended, unreserved or lost, as PostgreSQL's `wal_status`."""
    retained: int
    room: int | None = None
    """Bytes that can be written before the server gives the slot up; None if it never does."""


class StepProgress(Model):
    """What a step shows that remembers rows: what it has counted so far, and the event time that it waits for."""

    counts: dict[str, int] = {}
    watermark: Timestamp | None = None


class StreamProgress(Model):
    """What a stream shows of itself: rows/s over the last seconds, and how far it is behind its source."""

    rate: float
    behind: int | None = None
    behind_unit: str = "messages"
    behind_parts: dict[str, int] = {}
    """The partitions that are furthest behind."""
    watermark: Timestamp | None = None
    """Time of the newest event that is committed."""
    latencies: tuple[int, ...] = ()
    """Number of rows of the last seconds by their time from event to commit; see `LATENCIES`."""
    latency_parts: dict[str, Count] = {}
    """The same of all rows of this attempt, as a histogram of `penstock.histogram`."""
    latency_seconds: float = 0.0
    """The sum of these times."""
    bottleneck: str | None = None
    """What it waits for most of the time: source, transform or sink; None if it keeps up."""
    slot: SlotProgress | None = None
    steps: dict[str, StepProgress] = {}
    """The steps that remember rows, by name."""


class NullProgress(Model):
    """NULLs by column among so many rows that this attempt has written, or among a sample of them."""

    rows: Annotated[int, Field(ge=0, lt=2**63)]
    columns: dict[str, Annotated[int, Field(ge=0, lt=2**63)]]


class RunProgress(Model):
    """``run.progress`` (on the metrics topic): how far the run is; keyed by the run's id."""

    run: Id
    pipeline: PipelineName
    attempt: Positive
    phase: str
    rows_in: int = 0
    rows_out: int = 0
    filtered: int = 0
    dead: int = 0
    bytes: int = 0
    splits_done: int = 0
    splits: int = 0
    estimate: int | None = None
    stages: dict[str, float] = {}
    """Seconds of each finished phase: prepare, flow, publish."""
    lag: float | None = None
    """Age in seconds of the newest row that the run reads, where the cursor is a time."""
    idle: float | None = None
    """Seconds for which nothing has moved; None while something moves."""
    stream: StreamProgress | None = None
    nulls: NullProgress | None = None
    """Of a batch at its end, of a stream every so often."""


class ErrorRaised(Model):
    """``error.raised``: something failed; `source` says which pipeline, agent or worker."""

    source: str
    pipeline: PipelineName | None = None
    run: Id | None = None
    task: Id | None = None
    attempt: Count | None = None
    error: Error
    classified: Classification | None = None


class RecordUnreadable(Model):
    """``record.unreadable``: the message at `offset` is skipped by every reader; keyed by its offset.

    `reason` contains no value of the message; `type` is its type, if it is one of this release.
    """

    offset: Annotated[int, Field(ge=0, lt=2**63)]
    type: Annotated[str, Field(max_length=64)] | None = None
    reason: Annotated[str, Field(max_length=2000)]
    size: Annotated[int, Field(ge=0, lt=2**63)]
