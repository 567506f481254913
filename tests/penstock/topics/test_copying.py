"""A log copied from PostgreSQL to Kafka and back: the same messages at the same offsets, with the same stamps."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from penstock.errors import LogError, Refused
from penstock.topics import CONTROL, METRICS, Message, Stored, Topic, TopicLog
from penstock.topics.copying import copy_log
from penstock.topics.log import lock_number
from penstock.topics.opening import open_log
from tests.kafka import KafkaServer

pytestmark = pytest.mark.xdist_group("kafka-log")

TOPICS = (CONTROL, METRICS)
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
Make = Callable[[str], TopicLog]
_prefixes = itertools.count(1)


@pytest.fixture
def make(kafka: KafkaServer, new_database: Callable[[], str]) -> Iterator[Make]:
    """Make a new log without topics on `postgres` or `kafka`, closed after the test."""
    with ExitStack() as opened:

        def one(kind: str) -> TopicLog:
            database = new_database()
            url = f"kafka://{kafka.bootstrap}?prefix=copy{next(_prefixes)}.&replication=1"
            return opened.enter_context(open_log(url if kind == "kafka" else database, database))

        yield one


def message(number: int, value: bytes | None = None) -> Message:
    at = START + timedelta(seconds=number, microseconds=number)
    headers = (("trace", b"%d" % number), ("trace", b"")) if number % 3 else ()
    return Message(b"key-%d" % (number % 5) if number % 4 else None, value or b"%d" % number, at, headers)


def filled(log: TopicLog, count: int = 120) -> TopicLog:
    """Append to a log in calls of several sizes, some of them with a lock."""
    for topic in TOPICS:
        log.create(topic)
    numbers = iter(range(count))
    for size in itertools.cycle((1, 7, 30)):
        batch = [message(number) for number in itertools.islice(numbers, size)]
        if not batch:
            return log
        if size == 7:
            assert log.lock("control", wait=False)
        log.append(CONTROL, batch)
        log.append(METRICS, batch)
        log.unlock("control")
    return log


def everything(log: TopicLog, topic: Topic, part: int = 0) -> list[Stored]:
    found: list[Stored] = []
    while batch := log.read(topic, part, log.begin(topic, part) + len(found), 1000):
        found += batch
    return found


def silent(topic: Topic, count: int) -> None:
    """Report nothing."""


@pytest.mark.parametrize(("here", "there"), [("postgres", "kafka"), ("kafka", "postgres"), ("kafka", "kafka")])
def test_a_copy_has_the_same_messages_offsets_stamps_and_identity(make: Make, here: str, there: str) -> None:
    source, target = filled(make(here)), make(there)
    copied = copy_log(source, target, TOPICS, silent)
    assert everything(target, CONTROL) == everything(source, CONTROL)
    assert {one.lock for one in everything(target, CONTROL)} == {None, lock_number("control")}
    for part in range(METRICS.partitions):
        assert everything(target, METRICS, part) == everything(source, METRICS, part)
    assert target.identity() == source.identity()
    assert sum(one.copied for one in copied) == 240
    source.append(CONTROL, [message(500)])
    assert target.append(CONTROL, [message(500)]) == [(0, 120)]


def test_a_copy_goes_on_where_it_was_cut_off_and_back_again(make: Make) -> None:
    source, target = filled(make("postgres")), make("kafka")
    copy_log(source, target, TOPICS, silent)
    source.append(CONTROL, [message(number) for number in range(200, 210)])
    source.append(METRICS, [message(number) for number in range(200, 210)])
    again = copy_log(source, target, TOPICS, silent)
    assert sum(one.copied for one in again) == 20
    target.append(CONTROL, [message(300)])
    back = copy_log(target, source, TOPICS, silent)
    assert sum(one.copied for one in back) == 1
    assert everything(target, CONTROL) == everything(source, CONTROL)
    for part in range(METRICS.partitions):
        assert everything(target, METRICS, part) == everything(source, METRICS, part)


@pytest.mark.parametrize("there", ["postgres", "kafka"])
@pytest.mark.parametrize("other", [[9], [*range(120), 5], [0, 1, 2, 99]])
def test_a_target_with_other_messages_is_refused_and_keeps_its_identity(
    make: Make, there: str, other: list[int]
) -> None:
    source, target = filled(make("postgres")), make(there)
    target.create(CONTROL)
    target.append(CONTROL, [message(number) for number in other])
    before = target.identity()
    with pytest.raises(Refused, match="the target is not empty"):
        copy_log(source, target, TOPICS, silent)
    assert (target.identity(), target.end(CONTROL, 0)) == (before, len(other))


@pytest.mark.parametrize("there", ["postgres", "kafka"])
def test_a_part_of_a_copy_is_not_the_log(make: Make, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = filled(make("postgres")), make(there)
    restored: list[list[Stored]] = []
    restore = target.restore

    def cut(stored: list[Stored]) -> None:
        if restored:
            raise LogError("cut")
        restored.append(stored)
        restore(stored)

    monkeypatch.setattr(target, "restore", cut)
    with pytest.raises(LogError, match="cut"):
        copy_log(source, target, TOPICS, silent)
    assert target.end(CONTROL, 0) > 0
    assert target.identity() != source.identity()
    monkeypatch.undo()
    copy_log(source, target, TOPICS, silent)
    assert everything(target, CONTROL) == everything(source, CONTROL)
    assert target.identity() == source.identity()


@pytest.mark.parametrize("there", ["postgres", "kafka"])
def test_a_restore_that_would_move_an_offset_is_refused(make: Make, there: str) -> None:
    source, target = filled(make("postgres")), make(there)
    target.create(CONTROL)
    with pytest.raises(LogError, match="another offset"):
        target.restore(source.read(CONTROL, 0, 3, 5))


def test_calls_larger_than_a_batch_of_kafka_are_copied(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.topics.kafka.APPEND_BYTES", 1_000_000)
    monkeypatch.setattr("penstock.topics.kafka.READ_BYTES", 500_000)
    source, target = make("postgres"), make("kafka")
    for topic in TOPICS:
        source.create(topic)
    source.append(CONTROL, [message(number, os.urandom(140_000)) for number in range(9)])
    copy_log(source, target, TOPICS, silent)
    assert everything(target, CONTROL) == everything(source, CONTROL)
