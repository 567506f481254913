"""What an action of an agent touches."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from penstock.models.base import Model

__all__ = ["Scope"]


class Scope(Model):
    """What an action touches that an agent takes on its own: what its limits count."""

    subject: Annotated[str, Field(min_length=1, max_length=640)]
    """The pipeline, or the connection of a discovery."""
    table: Annotated[str, Field(max_length=700)] | None = None
    """The pipeline's target."""
    rows: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Rows that it leaves out."""
    labels: dict[str, str] | None = None
