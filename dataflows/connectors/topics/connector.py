"""``type: topics``: topics of a log on PostgreSQL as sources of streams."""

from __future__ import annotations

from typing import Any

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.topics.source import TopicsSource
from penstock.errors import Refused
from penstock.models.connection import TopicsConnection

__all__ = ["TopicsConnector"]


class TopicsConnector:
    """``type: topics``; an object is a topic."""

    model = TopicsConnection
    takes_format = True

    @staticmethod
    def named(place: Place) -> str:
        return place.object

    @staticmethod
    def source(place: Place) -> TopicsSource:
        return TopicsSource(place)

    @staticmethod
    def target(place: Place, owner: Owner) -> Any:  # noqa: ARG004 - refused for any owner
        hint = "name another connection for the sink; `penstock topics append` writes to a topic"
        raise Refused("topics cannot be a sink yet", where=place.where, hint=hint)
