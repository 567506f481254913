"""Failures: their diagnosis, the strategy chosen for each, incidents, and connections that are held back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from penstock.models.base import Model, Name, PipelineName
from penstock.models.domain import Confidence, Error, Id
from penstock.models.failures import Classification, Diagnosis, Failure, FailureKind, Fingerprint
from penstock.records.shapes import Count, Moment, Positive

__all__ = [
    "BreakerChanged",
    "ComponentFailed",
    "ComponentRecovered",
    "DiagnosisRequested",
    "ErrorDiagnosed",
    "IncidentClosed",
    "IncidentOpened",
    "Proposal",
    "Strategy",
    "StrategyChosen",
    "StrategyEnded",
]

Subject = Annotated[str, Field(min_length=1, max_length=512)]
Strategy = Literal["retry", "adjust_config", "skip_record", "pause", "escalate"]


class DiagnosisRequested(Model):
    """``diagnosis.requested``: a worker is to find the cause of a failure; keyed by the pipeline."""

    failure: Failure


class ErrorDiagnosed(Model):
    """``error.diagnosed``: what a worker has found about an error; keyed by the id of its ``error.raised``."""

    raised: Id
    task: Id
    pipeline: PipelineName
    run: Id | None = None
    fingerprint: Fingerprint
    diagnosis: Diagnosis


class Proposal(Model):
    """A strategy that a policy does not let the agent take by itself."""

    action: Strategy
    confidence: Confidence
    what: str
    set: dict[str, int | float | str] | None = None
    """The values that it would set, by their path below `spec`."""


class StrategyChosen(Model):
    """``strategy.chosen``: what follows a failed attempt; keyed by its task.

    A retry has its timer. `set` are the values that a new version of the pipeline gets, by their path below `spec`.
    `raised` is the id of the failure's ``error.raised``.
    """

    raised: Id
    task: Id
    pipeline: PipelineName
    run: Id | None = None
    attempt: Positive
    fingerprint: Fingerprint
    action: Strategy
    reason: str
    timer: Id | None = None
    due: Moment | None = None
    failures: Count = 0
    rows: int | None = None
    set: dict[str, int | float | str] = {}
    incident: Id | None = None
    proposals: tuple[Proposal, ...] | None = None
    """What would set values, and is left to a person."""


class StrategyEnded(Model):
    """``strategy.ended``: whether a strategy has helped against errors of a fingerprint; keyed by that."""

    fingerprint: Fingerprint
    pipeline: PipelineName
    action: Strategy
    outcome: Literal["resolved", "failed"]


class IncidentOpened(Model):
    """``incident.opened``: a failure that a person has to look at; keyed by its id.

    Further failures of the same kind belong to it while it is open.
    """

    id: Id
    pipeline: PipelineName | None = None
    connection: Name | None = None
    component: Name | None = None
    """What does not work, if it is no run: a part of Penstock, or the check, listing or discovery of its subject."""
    fingerprint: Fingerprint
    kind: FailureKind
    raised: Id | None = None
    what: str
    hint: str | None = None
    proposals: tuple[Proposal, ...] = ()
    facts: dict[str, Any] = {}
    """What a person needs to know: run, attempts, what was tried, what happened to rows."""


class IncidentClosed(Model):
    """``incident.closed``: its cause is gone; keyed by its id."""

    id: Id
    reason: str


class ComponentFailed(Model):
    """``component.failed``: a part of Penstock itself does not work, and tries again; keyed by its name.

    Recorded once for each fingerprint until ``component.recovered``. `subject` is what of it does not work, such as a
    file, where other parts of it do.
    """

    component: Name
    subject: Subject | None = None
    error: Error
    classified: Classification


class ComponentRecovered(Model):
    """``component.recovered``: it works again; keyed by its name."""

    component: Name
    subject: Subject | None = None


class BreakerChanged(Model):
    """``breaker.changed``: a connection is held back (`open`), tried by one run (`half_open`), or free (`closed`).

    Keyed by the connection; `failures` in a row have led to it, `until` is when it is tried next.
    """

    connection: Name
    status: Literal["open", "half_open", "closed"]
    failures: Annotated[int, Field(ge=0, lt=2**31)]
    reason: str
    until: Moment | None = None
