"""Parts of payloads that every reader relies on: ids, counts, times, and the shape of documents that ride in records.

A document was checked in full when it was applied, by the rules of that release. Rules change; its shape does not, so
a record is judged by the shape alone: a pipeline of an older release stays readable. Policies are judged in full: one
that cannot be parsed could not be obeyed either.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from penstock.errors import InvalidDocument
from penstock.models.base import PipelineName
from penstock.models.domain import Timestamp
from penstock.models.policy import AgentPolicy
from penstock.records.envelope import YEARS

__all__ = ["Count", "FolderName", "Moment", "PipelineDocument", "PolicyDocument", "Positive"]

FolderName = Annotated[str, Field(pattern=r"^[^./\x00][^/\x00]*$", max_length=200)]
"""An id that names a folder: it leads nowhere else."""
Count = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]


class _Loose(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", defer_build=True)


class _End(_Loose):
    connection: str
    object: str


class _Lookup(_Loose):
    connection: str


class _Step(_Loose):
    lookup: _Lookup | None = None


class _Metadata(_Loose):
    name: PipelineName
    labels: dict[str, str] = {}


class _Spec(_Loose):
    source: _End
    sink: _End
    schedule: dict[str, Any] | None = None
    transforms: list[_Step] = []


class _Document(_Loose):
    metadata: _Metadata
    spec: _Spec


_DOCUMENT: Final = TypeAdapter(_Document)


def _pipeline(document: dict[str, Any]) -> dict[str, Any]:
    try:
        _DOCUMENT.validate_python(document)
    except ValidationError as error:
        message = "is not a pipeline"
        raise ValueError(message) from error
    return document


def _policy(document: dict[str, Any]) -> dict[str, Any]:
    try:
        AgentPolicy.parse(document)
    except InvalidDocument as error:
        message = "is not a policy"
        raise ValueError(message) from error
    return document


def _moment(text: object) -> object:
    """Return the time that `datetime.fromisoformat` reads in `text`, as agents do: pydantic takes more forms."""
    if not isinstance(text, str):
        return text
    at = datetime.fromisoformat(text)
    if not YEARS.start <= at.year < YEARS.stop:
        message = "is not in the years 1970 to 2199"
        raise ValueError(message)
    return at


PipelineDocument = Annotated[dict[str, Any], AfterValidator(_pipeline)]
"""A pipeline as the lifecycle agent recorded it."""
PolicyDocument = Annotated[dict[str, Any], AfterValidator(_policy)]
"""A policy as the lifecycle agent recorded it."""
Moment = Annotated[Timestamp, BeforeValidator(_moment)]
"""A time that agents calculate with."""
