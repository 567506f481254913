"""``type: topics``: topics of a log on PostgreSQL as sources of streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.topics.source import TopicsSource, topic_names
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
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:  # noqa: ARG004 - one query has them all
        for name in topic_names(place):
            check()
            yield ListedObject(name, "", name, kind="topic")

    @staticmethod
    def target(place: Place, owner: Owner) -> Any:  # noqa: ARG004 - refused for any owner
        hint = "name another connection for the sink; `penstock topics append` writes to a topic"
        raise Refused("topics cannot be a sink yet", where=place.where, hint=hint)
