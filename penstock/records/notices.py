"""Notices: the receipt of each message about an alert."""

from __future__ import annotations

from typing import Literal

from penstock.models.base import Model, Name
from penstock.models.domain import Error, Id
from penstock.models.notices import NoticeEvent
from penstock.records.shapes import Positive

__all__ = ["AlertDelivered"]


class AlertDelivered(Model):
    """``alert.delivered``: a route has taken a notice, or it is given up because of `error`; keyed by the alert.

    `notice` is the id that the receiver got with each attempt.
    """

    alert: Id
    event: NoticeEvent
    route: Name
    notice: Id
    status: Literal["sent", "failed"]
    attempts: Positive
    error: Error | None = None
