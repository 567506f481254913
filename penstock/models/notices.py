"""Notices: what is sent about an alert, to one route."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, JsonValue

from penstock.models.base import Model, Name

__all__ = ["TRIAL", "Notice", "NoticeEvent"]

TRIAL: Final = "route.try"
"""The event of a notice that shows whether a route works; it is about no alert."""
NoticeEvent = Literal["alert.opened", "alert.changed", "alert.closed", "route.try"]


class Notice(Model):
    """A message about an alert whose state has changed. It keeps its `id` however often it is sent.

    `alert` is what the record of the change says, without the routes.
    """

    id: Annotated[str, Field(min_length=1, max_length=640)]
    route: Name
    event: NoticeEvent
    at: AwareDatetime
    alert: dict[str, JsonValue] = {}

    @property
    def about(self) -> str:
        """The alert's id; of a trial, its own."""
        found = self.alert.get("alert")
        return found if isinstance(found, str) else self.id
