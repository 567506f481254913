"""The keys of a compacted topic whose last message has a value: the rows that it has.

Each partition is read to the end that it has when the reading begins, transactions included that are still open: right
after a commit the brokers may not show it yet, and what others have left open hides what was committed behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from dataflows.connectors.contract import Place
from dataflows.connectors.kafka.client import admin, consumer, described, translated, watermarks
from dataflows.connectors.kafka.ledger import AT_END, WAIT_SECONDS
from dataflows.connectors.partitions import part_name
from penstock.errors import Unavailable

__all__ = ["live_keys"]

PIECE: Final = 5000
STEP_SECONDS: Final = 0.2


def live_keys(place: Place, check: Callable[[], None]) -> list[bytes]:
    """Return the keys, by all that is committed now; they are kept in memory, and the whole topic is read.

    Raises:
        Unavailable: another program's transaction is open for too long.
    """
    topic = described(admin(place), place.object, place.where)
    names = {part: part_name(topic.name, part) for part in topic.partitions}
    live: dict[bytes, None] = {}
    group = f"penstock-{place.pipeline}"
    with closing(consumer(place, group, **{"isolation.level": "read_uncommitted"})) as asking:
        ends = watermarks(asking, list(names.values()), place.where)
    with closing(consumer(place, group, **AT_END)) as reader:
        left = {part for part in topic.partitions if ends[names[part]][1] > 0}
        reader.assign([TopicPartition(topic.name, part, ends[names[part]][0]) for part in left])
        until = time.monotonic() + WAIT_SECONDS
        while left:
            check()
            with translated(place.where, place.object):
                taken = reader.consume(PIECE, STEP_SECONDS)
            for message in taken:
                error, key, at = message.error(), message.key(), message.offset() or 0
                if error is None:
                    at, until = at + 1, time.monotonic() + WAIT_SECONDS
                    if key is not None:
                        live.pop(key, None)
                        if message.value() is not None:
                            live[key] = None
                elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                    if error.retriable():
                        continue
                    with translated(place.where, place.object):
                        raise KafkaException(error)
                part = message.partition() or 0
                if at >= ends[names[part]][1]:
                    left.discard(part)
            if left and time.monotonic() > until:
                what = f"{place.object} cannot be read to its end: another program's transaction is open"
                raise Unavailable(what, where=place.where, hint="try again; the brokers end it after some minutes")
    return list(live)
