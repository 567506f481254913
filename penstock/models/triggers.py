"""What else starts a run: files that arrive, datasets that another pipeline has updated, a request to a webhook."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, model_validator

from penstock.models.base import Duration, Model, Name, PipelineName
from penstock.models.secrets import Secret
from penstock.models.transforms import ObjectName

__all__ = ["MAX_NAMES", "FileTrigger", "Fired", "Triggers", "Webhook", "dataset_of", "misplaced_triggers"]

MAX_NAMES: Final = 10
"""File names that a record has at most."""

Dataset = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}:[^\x00-\x1f]{1,512}$")]
"""A table, folder or topic as ``CONNECTION:OBJECT``."""


class FileTrigger(Model):
    """Look for new files every so often; by default those that the pipeline reads.

    A file counts once it has stayed as it is for `settled`, and again when its content has changed.
    """

    connection: Name | None = None
    object: ObjectName | None = None
    every: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(days=1))] = timedelta(seconds=30)
    settled: Annotated[Duration, Field(ge=timedelta(0), le=timedelta(minutes=5))] = timedelta(seconds=2)

    @model_validator(mode="after")
    def _names_both(self) -> FileTrigger:
        if (self.connection is None) != (self.object is None):
            message = "names `connection` and `object`, or neither: then it is the pipeline's own source"
            raise ValueError(message)
        return self


class Webhook(Model):
    """Take requests at ``/hooks/NAME``, signed with the secret (`hmac`), or with it as a bearer token."""

    secret: Secret
    check: Literal["hmac", "bearer"] = "hmac"


class Triggers(Model):
    """Events that start a run; during a run or a pause, all of them together start one more."""

    files: FileTrigger | None = None
    datasets: Annotated[tuple[Dataset, ...], Field(max_length=1000)] = ()
    webhook: Webhook | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Triggers:
        if not (self.files or self.datasets or self.webhook):
            message = "needs at least one of `files`, `datasets` and `webhook`"
            raise ValueError(message)
        return self

    @property
    def connections(self) -> list[tuple[str, str]]:
        """The connections that they name, each with its path in the specification."""
        files = self.files.connection if self.files else None
        named = [("triggers.files.connection", files)] if files is not None else []
        return [*named, *(("triggers.datasets", one.partition(":")[0]) for one in self.datasets)]


class Fired(Model):
    """A trigger of a pipeline that has fired.

    `record` is the id of the record that it followed from. Of files there are the number and the first names; of a
    dataset, who has updated it.
    """

    by: Literal["files", "dataset", "webhook"]
    at: AwareDatetime
    record: Annotated[str, Field(min_length=1, max_length=640)]
    count: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    files: Annotated[tuple[Annotated[str, Field(max_length=300)], ...], Field(max_length=MAX_NAMES)] = ()
    dataset: Dataset | None = None
    pipeline: PipelineName | None = None


def dataset_of(connection: str, object_: str) -> str:
    """Return the name of a dataset in `Triggers.datasets`."""
    return f"{connection}:{object_}"


def misplaced_triggers(triggers: Triggers | None, mode: str, *, is_set: bool) -> str | None:
    """Return why a pipeline cannot have these triggers; None if it can, or has none."""
    if triggers is None:
        return None
    if mode == "stream":
        return "a stream runs continuously: it takes no `triggers`"
    if is_set and triggers.files is not None and triggers.files.object is None:
        return "`triggers.files` of a set names `connection` and `object`"
    return None
