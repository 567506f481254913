"""Failures as workers see them: how an error is classified, and what a diagnosis has found."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from penstock.models.base import Model, Name, PipelineName
from penstock.models.domain import Confidence, Error, Id

__all__ = [
    "MOST_CHARACTERS",
    "Check",
    "Classification",
    "Diagnosis",
    "Failure",
    "FailureKind",
    "Fingerprint",
    "Likeness",
    "Origin",
]

MOST_CHARACTERS: Final = 1000
"""Characters of a text in a diagnosis or a template; what is longer is cut off."""
FailureKind = Literal["transient", "data", "schema", "config", "permission", "resource", "bug"]
Origin = Literal["source", "transform", "sink", "platform"]
Fingerprint = Annotated[str, Field(pattern=r"^[A-Za-z0-9:._-]{1,64}$")]
_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]


class Likeness(Model):
    """The known fingerprint whose errors read most like this one, and how much, from 0 to 1."""

    fingerprint: Fingerprint
    ratio: Confidence


class Classification(Model):
    """What kind of error it is, where it comes from, and which errors are the same.

    `signs` are the codes that it was classified by, such as ``SQLSTATE 42P01``. `template` is its sentence without
    numbers, ids and values; errors of the same code, connection and template have the same `fingerprint`.
    """

    kind: FailureKind
    confidence: Confidence
    origin: Origin
    connection: Name | None = None
    fingerprint: Fingerprint
    template: _Text
    signs: tuple[Annotated[str, Field(max_length=100)], ...] = ()
    like: Likeness | None = None


class Failure(Model):
    """A failed attempt: the id of its `error.raised`, and what that says."""

    id: Id
    pipeline: PipelineName
    run: Id | None = None
    task: Id
    attempt: Annotated[int, Field(ge=0, lt=2**31)]
    error: Error
    classified: Classification


class Check(Model):
    """One thing that a diagnosis has looked at; `unknown` if it could not be seen."""

    what: Annotated[str, Field(max_length=100)]
    found: Literal["ok", "wrong", "unknown"]
    evidence: _Text


class Diagnosis(Model):
    """The cause of a failure in plain words, what to do about it, and what was checked."""

    cause: _Text
    confidence: Confidence
    hint: _Text | None = None
    checks: tuple[Check, ...] = ()
    seconds: Annotated[float, Field(ge=0)] = 0.0
