"""The keys of a compacted topic whose last message has a value: the rows that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from dataflows.connectors.contract import Place
from dataflows.connectors.kafka.client import admin, consumer, described, translated, watermarks
from dataflows.connectors.partitions import part_name

__all__ = ["live_keys"]

PIECE: Final = 5000
STEP_SECONDS: Final = 0.2


def live_keys(place: Place, check: Callable[[], None]) -> list[bytes]:
    """Return the keys, by all that is committed now; they are kept in memory, and the whole topic is read."""
    topic = described(admin(place), place.object, place.where)
    reader = consumer(place, f"penstock-{place.pipeline}", **{"enable.partition.eof": True})
    live: dict[bytes, None] = {}
    try:
        names = [part_name(topic.name, part) for part in topic.partitions]
        ends = watermarks(reader, names, place.where)
        left = {part for part in topic.partitions if ends[part_name(topic.name, part)][1] > 0}
        reader.assign([TopicPartition(topic.name, part, ends[part_name(topic.name, part)][0]) for part in left])
        while left:
            check()
            with translated(place.where, place.object):
                taken = reader.consume(PIECE, STEP_SECONDS)
            for message in taken:
                error, key = message.error(), message.key()
                if error is None and key is not None:
                    live.pop(key, None)
                    if message.value() is not None:
                        live[key] = None
                elif error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                    left.discard(message.partition() or 0)
                elif error is not None and not error.retriable():
                    with translated(place.where, place.object):
                        raise KafkaException(error)
    finally:
        reader.close()
    return list(live)
