"""``type: kafka``: topics of Apache Kafka, as sources of streams and as sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.kafka.source import KafkaSource, topic_names
from dataflows.connectors.kafka.target import KafkaTarget
from dataflows.connectors.listing import ListedObject
from penstock.models.connection import KafkaConnection

__all__ = ["KafkaConnector"]

SEVERAL: Final = "(topics)"
"""Name of several topics at the sink, whichever they are, so that the positions of some stay where others are added."""


class KafkaConnector:
    """``type: kafka``; an object is a topic."""

    model = KafkaConnection
    takes_format = True

    @staticmethod
    def named(place: Place) -> str:
        return SEVERAL if place.topics or place.pattern else place.object

    @staticmethod
    def source(place: Place) -> KafkaSource:
        return KafkaSource(place)

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:  # noqa: ARG004 - brokers send all names
        """Yield the topics; those that begin with `_`, which belong to tools, are hidden."""
        for name in topic_names(place):
            check()
            yield ListedObject(name, "", name, hidden=name.startswith("_"), kind="topic")

    @staticmethod
    def target(place: Place, owner: Owner) -> KafkaTarget:
        return KafkaTarget.open(place, owner)
