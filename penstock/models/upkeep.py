"""Comparisons of both sides that a pipeline's file asks for: a check by schedule."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from penstock.models.base import Duration, Model

__all__ = ["Check"]

Every = Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(days=3660))]


class Check(Model):
    """Compare both sides every so often; the first time, once that long has passed."""

    every: Every
