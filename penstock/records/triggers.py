"""Triggers: files that a worker has found, and a trigger that has fired."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from penstock.models.base import Model, PipelineName
from penstock.models.domain import Id
from penstock.models.triggers import MAX_NAMES, Fired
from penstock.records.shapes import Positive

__all__ = ["FilesFound", "TriggerFired"]


class FilesFound(Model):
    """``files.found``: files that have arrived since the round before, their number and the first names.

    Keyed by the pipeline. A worker that does not know whether its report is on the log repeats it with its `round`.
    """

    name: PipelineName
    uid: Id
    task: Id
    round: Positive
    count: Positive
    files: Annotated[tuple[Annotated[str, Field(max_length=300)], ...], Field(max_length=MAX_NAMES)]


class TriggerFired(Model):
    """``trigger.fired``: a run of the pipeline follows, at once or when its run or pause is over; keyed by its name."""

    name: PipelineName
    uid: Id
    fired: Fired
