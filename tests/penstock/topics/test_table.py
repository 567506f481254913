from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import postgres
from penstock.errors import NotFound, UsageError
from penstock.topics import CONTROL, METRICS, TOPICS, Message, Topic, route, topic_named
from penstock.topics.partitioner import murmur2, partition_of
from penstock.topics.postgres import PostgresLog

KAFKAS_OWN = {  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("data", "signed"), KAFKAS_OWN.items())
def test_keys_hash_as_in_kafka(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed & 0xFFFFFFFF


@given(st.binary(max_size=64), st.integers(1, 1024))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


@pytest.mark.parametrize("record_type", ["metric.rows", "run.progress"])
def test_measurements_go_to_metrics(record_type: str) -> None:
    assert route(record_type) is METRICS


@pytest.mark.parametrize("record_type", ["run.started", "pipeline.create", "brain.started", "metrics", "unheard.of"])
def test_everything_else_goes_to_control(record_type: str) -> None:
    assert route(record_type) is CONTROL


def test_control_has_one_partition_and_is_kept_for_ever() -> None:
    assert CONTROL.partitions == 1
    assert not CONTROL.trimmed


def test_a_topic_is_found_by_its_name() -> None:
    assert all(topic_named(name) is topic for name, topic in TOPICS.items())
    with pytest.raises(NotFound, match="did you mean `control`"):
        topic_named("contrl")


@pytest.mark.parametrize("name", ["", "Upper", "_counters", "a/b", 'a"b', "x" * 49])
def test_an_invalid_topic_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid topic name"):
        Topic(name, key="anything")


def test_only_measurements_are_acknowledged_before_they_are_on_disk(database: str) -> None:
    lags = "SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()"
    message = Message(key=b"run", value=b"{}", at=datetime(2026, 1, 1, tzinfo=UTC))
    with PostgresLog(database) as log, postgres.connect(database, "tests") as session:
        for topic in (CONTROL, METRICS):
            log.create(topic)

        def unwritten(topic: Topic) -> bool:
            log.append(topic, [message])
            row = session.execute(lags).fetchone()
            return row is not None and bool(row[0])

        assert any(unwritten(METRICS) for _ in range(50))
        assert not all(unwritten(CONTROL) for _ in range(5))
