from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from penstock.errors import LogError, UsageError
from penstock.topics import CONTROL, METRICS, Message, Topic, TopicLog
from penstock.topics.bus import RAW, Bus, Codec
from penstock.topics.partitioner import partition_of
from penstock.topics.postgres import PostgresLog

START = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = Codec[str](
    encode=lambda word: Message(key=word.encode(), value=word.encode(), at=START),
    decode=lambda message: message.value.decode(),
    type_of=lambda word: word,
)


def test_objects_are_routed_by_their_type_and_read_back(log: TopicLog) -> None:
    bus = Bus(log, WORDS)
    placed = bus.publish("run.started", "metric.rows", "run.ended")
    assert placed[0] == (0, 0)
    assert placed[2] == (0, 1)
    assert [word for _, word in bus.subscribe(CONTROL, follow=False)] == ["run.started", "run.ended"]
    [(stored, word)] = bus.subscribe(METRICS, follow=False)
    assert (word, stored.partition, stored.offset) == ("metric.rows", *placed[1])


def test_a_topic_can_be_named(log: TopicLog) -> None:
    bus = Bus(log, RAW)
    message = Message(key=b"k", value=b"v", at=START)
    bus.publish(message, topic=CONTROL)
    assert [found for _, found in bus.subscribe(CONTROL, follow=False)] == [message]
    with pytest.raises(UsageError, match="name the topic"):
        bus.publish(message)


def test_a_subscription_starts_at_an_offset_or_a_time(log: TopicLog) -> None:
    bus = Bus(log, RAW)
    bus.publish(*(Message(key=None, value=b"%d" % n, at=START + timedelta(hours=n)) for n in range(5)), topic=CONTROL)

    def seen(start: int | datetime) -> list[bytes]:
        return [message.value for _, message in bus.subscribe(CONTROL, start, follow=False)]

    assert seen(3) == [b"3", b"4"]
    assert seen(START + timedelta(hours=3)) == [b"3", b"4"]
    assert seen(5) == []


def test_trimmed_messages_are_skipped(log: TopicLog, small: Topic) -> None:
    bus = Bus(log, RAW)
    log.append(small, [Message(key=None, value=b"old", at=START)], partition=0)
    log.trim(small, START + timedelta(hours=9))
    log.append(small, [Message(key=None, value=b"new", at=START)], partition=0)
    assert [message.value for _, message in bus.subscribe(small, 0, follow=False)] == [b"new"]


def test_a_subscriber_overtaken_by_trimming_gets_an_error(log: TopicLog, small: Topic) -> None:
    subscription = Bus(log, RAW).subscribe(small)
    for n in range(2):
        log.append(small, [Message(key=None, value=b"%d" % n, at=START)], partition=0)
    assert next(subscription)[1].value == b"0"
    assert next(subscription)[1].value == b"1"
    log.append(small, [Message(key=None, value=b"2", at=START)], partition=0)
    log.trim(small, START + timedelta(hours=9))
    with pytest.raises(LogError, match="trimmed away"):
        next(subscription)


def test_a_follower_sees_all_partitions_grow_and_can_be_stopped(open_log: Callable[[], TopicLog]) -> None:
    stop = threading.Event()
    seen: list[str] = []
    enough = threading.Event()

    def follow() -> None:
        for _, word in Bus(open_log(), WORDS).subscribe(METRICS, stop=stop):
            seen.append(word)
            if len(seen) == 30:
                enough.set()

    thread = threading.Thread(target=follow)
    thread.start()
    bus = Bus(open_log(), WORDS)
    for n in range(30):
        bus.publish(f"metric.{n}")
    assert enough.wait(30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert sorted(seen) == sorted(f"metric.{n}" for n in range(30))


def test_appenders_with_keys_in_opposite_order_do_not_deadlock(database: str, small: Topic) -> None:
    keys = [next(key for key in (b"%d" % n for n in range(99)) if partition_of(key, 2) == part) for part in (0, 1)]
    failed: list[BaseException] = []

    def append(keys: list[bytes]) -> None:
        with closing(PostgresLog(database)) as log:
            try:
                for _ in range(200):
                    log.append(small, [Message(key=key, value=b"v", at=START) for key in keys])
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)

    with closing(PostgresLog(database)) as log:
        log.create(small)
        writers = [threading.Thread(target=append, args=(order,)) for order in (keys, keys[::-1])]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert not failed
        assert [log.end(small, part) for part in (0, 1)] == [400, 400]
