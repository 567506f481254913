"""``type: kinesis``: data streams of Amazon Kinesis, as sources of streams."""

from __future__ import annotations

from dataflows.connectors.contract import Owner, Place, Target
from dataflows.connectors.kinesis.source import KinesisSource
from penstock.errors import Refused
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
    def target(place: Place, owner: Owner) -> Target:  # noqa: ARG004 - the contract's
        what = "a stream of Kinesis cannot be written to yet"
        hint = "it has no place for positions; name a sink of another type"
        raise Refused(what, where=f"{place.pipeline}: spec.sink.connection", hint=hint)
