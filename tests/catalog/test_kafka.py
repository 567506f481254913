"""The catalog from a log on Kafka is the one from PostgreSQL, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings

from catalog.compare import digest
from penstock.records import Record
from penstock.records.envelope import decode, encode
from penstock.topics import CONTROL, METRICS, TopicLog
from penstock.topics.copying import copy_log
from penstock.topics.opening import open_log
from tests.catalog.conftest import folded
from tests.catalog.test_replay import rows
from tests.kafka import KafkaServer
from tests.strategies import logs

pytestmark = pytest.mark.xdist_group("kafka-log")
_prefixes = count(1)


def control(log: TopicLog) -> list[Record]:
    found: list[Record] = []
    while batch := log.read(CONTROL, 0, len(found), 1000):
        found += [decode(one.message) for one in batch]
    return found


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(records=logs())
def test_the_catalog_from_kafka_equals_the_one_from_postgresql(
    kafka: KafkaServer, new_database: Callable[[], str], new_catalog: Callable[[], str], records: list[Record]
) -> None:
    locks = new_database()
    url = f"kafka://{kafka.bootstrap}?prefix=catalog{next(_prefixes)}.&replication=1"
    with ExitStack() as opened:
        ours, theirs = (opened.enter_context(open_log(one, locks)) for one in (locks, url))
        for topic in (CONTROL, METRICS):
            ours.create(topic)
        if records:
            ours.append(CONTROL, [encode(record) for record in records], partition=0)
        copy_log(ours, theirs, (CONTROL, METRICS), lambda *_: None)
        both = [new_catalog(), new_catalog()]
        for catalog, log in zip(both, (ours, theirs), strict=True):
            folded(catalog, control(log), [])
    assert rows(both[0]) == rows(both[1])
    assert digest(both[0]) == digest(both[1])
