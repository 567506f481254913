"""A connector for the conformance suite: topics as the sink that they are, and as a source that reads all there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dataflows.connectors import Chunk, Column, Place, ReadOrder, Split, Table, Window
from dataflows.connectors.conformance.case import COLUMNS
from dataflows.connectors.kafka.connector import KafkaConnector
from dataflows.connectors.kafka.source import KafkaSource
from dataflows.connectors.reading import chunks
from tests.kafka import KafkaServer

__all__ = ["WholeTopics"]


class WholeTopic(KafkaSource):
    """All committed messages of a topic, in one split."""

    def describe(self) -> Table:
        return Table(self.place.object, "topic", COLUMNS)

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:  # noqa: ARG002 - the contract's
        return (Split(first),)

    def reader(self, order: ReadOrder) -> WholeReader:
        return WholeReader(self.place, order)


@dataclass
class WholeReader:
    """Reads it."""

    place: Place
    order: ReadOrder

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        server = KafkaServer(Path(), port=int(self.place.settings.bootstrap.rpartition(":")[2]))
        rows = [json.loads(one.value() or b"{}") for one in server.read(self.place.object)]
        step, schema = self.order.batch_rows, self.order.schema
        batches = (pa.RecordBatch.from_pylist(rows[at : at + step], schema) for at in range(0, len(rows), step))
        return chunks(slot, split, batches)

    def close(self) -> None:
        """Do nothing: there is no session."""


class WholeTopics(KafkaConnector):
    """`type: kafka`, with a source of batches."""

    @staticmethod
    def source(place: Place) -> WholeTopic:
        return WholeTopic(place)
