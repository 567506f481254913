"""``type: kinesis``: data streams of Amazon Kinesis, as sources of streams and as sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.kinesis.client import stream_names
from dataflows.connectors.kinesis.source import KinesisSource
from dataflows.connectors.kinesis.target import KinesisTarget
from dataflows.connectors.listing import ListedObject
from penstock.models.connection import KinesisConnection

__all__ = ["KinesisConnector"]


class KinesisConnector:
    """``type: kinesis``; an object is a data stream."""

    model = KinesisConnection
    takes_format = True

    @staticmethod
    def named(place: Place) -> str:
        return place.object

    @staticmethod
    def source(place: Place) -> KinesisSource:
        return KinesisSource(place)

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:  # noqa: ARG004 - Amazon filters no names
        for name in stream_names(place, check):
            yield ListedObject(name, "", name, kind="stream")

    @staticmethod
    def target(place: Place, owner: Owner) -> KinesisTarget:
        return KinesisTarget.open(place, owner)
