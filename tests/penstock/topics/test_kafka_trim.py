"""What a log on Kafka drops beyond a topic's size: as much as it can, and never what the topic keeps."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from penstock.topics.kafka_messages import size_of
from penstock.topics.kafka_trim import Trimmer
from penstock.topics.log import Message
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import Topic

AT = datetime(2026, 1, 1, tzinfo=UTC)
KEPT = 6400
BUCKET = KEPT // 64


@pytest.mark.parametrize("seed", range(3))
def test_what_a_topic_keeps_is_never_dropped_and_little_more_is_kept(database: str, seed: int) -> None:
    chance, topic = random.Random(seed), Topic("sized", key="anything", partitions=1, retention_bytes=KEPT)
    with PostgresLog(database) as log:
        log.create(topic)
        trimmer, sizes = Trimmer(topic), list[int]()
        for _ in range(20):
            more = [Message(None, bytes(chance.randrange(1, BUCKET)), AT) for _ in range(30)]
            log.append(topic, more)
            sizes += map(size_of, more)
            begin = trimmer.due(log, AT).get(0, 0)
            if begin:
                assert sum(sizes[begin:]) >= KEPT
                assert sum(sizes[begin:]) < KEPT + 2 * BUCKET
        assert begin > 0
