"""What a pipeline's file promises of it: how fresh its target is, and how many rows a run has."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from penstock.models.base import Duration, Model

__all__ = ["Expect"]


class Expect(Model):
    """An alert opens when it is not kept.

    `fresh`: a run succeeds at least this often; a stream is behind its source by less. ``rows: learned``: each run has
    about as many rows as usual, and it is critical if not.
    """

    fresh: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(days=366))] | None = None
    rows: Literal["learned"] | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Expect:
        if self.fresh is None and self.rows is None:
            message = "needs `fresh` or `rows`"
            raise ValueError(message)
        return self
