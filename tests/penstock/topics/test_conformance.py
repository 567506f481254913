"""Promises of every topic log, on every backend."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import LogError
from penstock.topics import CONTROL, METRICS, Message, Topic, TopicLog
from penstock.topics.partitioner import partition_of

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
KILOBYTE = 1000


def said(value: bytes = b"", *, key: bytes | None = None, at: datetime = START) -> Message:
    return Message(key=key, value=value, at=at)


def values(log: TopicLog, topic: Topic = CONTROL, partition: int = 0, offset: int | None = None) -> list[bytes]:
    """Read all retained messages, in as many reads as needed."""
    at = log.begin(topic, partition) if offset is None else offset
    found: list[bytes] = []
    while batch := log.read(topic, partition, at, 100):
        assert [stored.offset for stored in batch] == list(range(at, at + len(batch)))
        found += [stored.message.value for stored in batch]
        at += len(batch)
    assert at == log.end(topic, partition)
    return found


# -- appending and reading --


def test_offsets_start_at_zero_and_increase_by_one(log: TopicLog) -> None:
    assert log.begin(CONTROL, 0) == log.end(CONTROL, 0) == 0
    assert log.append(CONTROL, [said(), said()]) == [(0, 0), (0, 1)]
    assert log.append(CONTROL, [said()]) == [(0, 2)]
    assert (log.begin(CONTROL, 0), log.end(CONTROL, 0)) == (0, 3)


@given(
    st.lists(
        st.builds(
            Message,
            key=st.none() | st.binary(max_size=20),
            value=st.binary(max_size=200),
            at=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda d: d.replace(tzinfo=UTC)),
            headers=st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=10)), max_size=3).map(tuple),
        ),
        max_size=5,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_message_round_trips(log: TopicLog, messages: list[Message]) -> None:
    placed = log.append(CONTROL, messages)
    first = placed[0][1] if placed else log.end(CONTROL, 0)
    found = log.read(CONTROL, 0, first, 10)
    assert [stored.message for stored in found] == messages
    assert [(stored.partition, stored.offset) for stored in found] == placed
    assert all(stored.topic == CONTROL for stored in found)


def test_an_empty_append_does_nothing(log: TopicLog) -> None:
    assert log.append(CONTROL, []) == []
    assert log.append(METRICS, []) == []
    assert log.end(CONTROL, 0) == 0


def test_a_read_starts_at_its_offset_and_respects_its_limit(log: TopicLog) -> None:
    for size in (1, 4, 2, 3):
        log.append(CONTROL, [said() for _ in range(size)])
    for offset, limit in product((0, 1, 4, 5, 9, 10, 50), (1, 2, 3, 7, 100)):
        found = [stored.offset for stored in log.read(CONTROL, 0, offset, limit)]
        assert found == list(range(offset, min(10, offset + limit))), (offset, limit)


def test_a_message_of_8_megabytes_works(log: TopicLog) -> None:
    large = said(os.urandom(8 * 1024 * KILOBYTE), key=b"k")
    log.append(CONTROL, [large])
    assert log.read(CONTROL, 0, 0, 1)[0].message == large


def test_a_read_is_bounded_in_bytes_and_reaches_the_end(log: TopicLog) -> None:
    for n in range(8):
        log.append(CONTROL, [said(bytes([n]) * 8_000_000)])
    assert 1 <= len(log.read(CONTROL, 0, 0, 100)) < 8
    assert [value[0] for value in values(log)] == list(range(8))


def test_two_logs_see_the_same_messages(open_log: Callable[[], TopicLog]) -> None:
    open_log().append(CONTROL, [said(b"one")])
    assert values(open_log()) == [b"one"]


def test_a_time_without_a_zone_is_refused(log: TopicLog) -> None:
    with pytest.raises(LogError, match="no zone"):
        log.append(CONTROL, [said(), said(at=START.replace(tzinfo=None))])
    assert log.end(CONTROL, 0) == 0


# -- topics and partitions --


def test_creating_a_topic_again_keeps_its_messages(log: TopicLog) -> None:
    log.append(CONTROL, [said(b"kept")])
    log.create(CONTROL)
    assert values(log) == [b"kept"]


def test_a_topic_that_exists_in_another_form_is_refused(log: TopicLog) -> None:
    with pytest.raises(LogError, match="different number of partitions"):
        log.create(Topic(METRICS.name, key="run", partitions=3, retention_bytes=1))


def test_an_unknown_topic_is_named(log: TopicLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.topics.kafka_topics.SHOWN_SECONDS", 0.1)
    unknown = Topic("unheard-of", key="none")
    for use in (
        lambda: log.append(unknown, [said()]),
        lambda: log.read(unknown, 0, 0, 1),
        lambda: log.end(unknown, 0),
        lambda: log.begin(unknown, 0),
        lambda: log.seek_time(unknown, 0, START),
        lambda: log.wait(unknown, 0, 0, 0),
    ):
        with pytest.raises(LogError, match="no such topic"):
            use()
    assert log.append(CONTROL, [said()]) == [(0, 0)]


@pytest.mark.parametrize("partition", [-1, 8])
def test_an_unknown_partition_is_refused(log: TopicLog, partition: int) -> None:
    for use in (
        lambda: log.append(METRICS, [said()], partition=partition),
        lambda: log.read(METRICS, partition, 0, 1),
        lambda: log.end(METRICS, partition),
    ):
        with pytest.raises(LogError, match="no such partition"):
            use()


def test_messages_of_a_key_stay_in_one_partition_in_order(log: TopicLog) -> None:
    keys = [b"run-%d" % (n % 13) for n in range(100)]
    messages = [said(b"%d" % n, key=key) for n, key in enumerate(keys)]
    placed = log.append(METRICS, messages[:50]) + log.append(METRICS, messages[50:])
    assert [part for part, _ in placed] == [partition_of(key, METRICS.partitions) for key in keys]
    for message, (part, offset) in zip(messages, placed, strict=True):
        assert log.read(METRICS, part, offset, 1)[0].message == message
    for part in range(METRICS.partitions):
        numbers = [int(value) for value in values(log, METRICS, part)]
        assert numbers == sorted(numbers)


def test_messages_without_a_key_use_all_partitions(log: TopicLog) -> None:
    placed = [log.append(METRICS, [said(), said()]) for _ in range(METRICS.partitions)]
    assert {part for (part, _), _ in placed} == set(range(METRICS.partitions))


def test_a_partition_can_be_chosen(log: TopicLog) -> None:
    assert log.append(METRICS, [said(key=b"a"), said(key=b"b")], partition=5) == [(5, 0), (5, 1)]


# -- time --


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=4), max_size=8), st.integers(-1, 51))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_seek_time_finds_the_first_message_from_a_time_on(log: TopicLog, calls: list[list[int]], wanted: int) -> None:
    base = log.end(CONTROL, 0)
    origin = START + base * timedelta(days=1)  # later than the messages of earlier examples on this log
    for call in calls:
        log.append(CONTROL, [said(at=origin + timedelta(minutes=n)) for n in call])
    times = [n for call in calls for n in call]
    expected = next((base + i for i, n in enumerate(times) if n >= wanted), base + len(times))
    assert log.seek_time(CONTROL, 0, origin + timedelta(minutes=wanted)) == expected


def test_replay_from_a_time(log: TopicLog) -> None:
    log.append(CONTROL, [said(b"%d" % n, at=START + n * HOUR) for n in range(10)])
    assert values(log, offset=log.seek_time(CONTROL, 0, START + 7 * HOUR)) == [b"7", b"8", b"9"]


# -- retention --


def test_messages_older_than_the_retention_time_are_trimmed(log: TopicLog, small: Topic) -> None:
    for n in range(48):
        log.append(small, [said(b"%d" % n, at=START + n * HOUR)], partition=0)
        log.trim(small, START + n * HOUR)
    kept = [int(value) for value in values(log, small)]
    assert kept[-9:] == list(range(39, 48)), "younger than 8 hours"
    assert len(kept) <= 9 + 2, "an eighth and the open segment more, at most"
    assert log.begin(small, 0) == kept[0]


def test_messages_beyond_the_retained_size_are_trimmed(log: TopicLog, small: Topic) -> None:
    for n in range(300):
        log.append(small, [said(os.urandom(KILOBYTE), at=START)], partition=n % 2)
        if n % 30 == 29:
            log.trim(small, START)
    kept = sum(len(value) for part in range(2) for value in values(log, small, part))
    assert 78 * KILOBYTE <= kept <= 92 * KILOBYTE
    assert log.end(small, 0) == log.end(small, 1) == 150


def test_an_idle_topic_is_trimmed_to_nothing_and_keeps_its_offsets(log: TopicLog, small: Topic) -> None:
    log.append(small, [said(b"old")] * 3, partition=0)
    log.trim(small, START + 9 * HOUR)
    assert log.begin(small, 0) == log.end(small, 0) == 3
    assert log.read(small, 0, 3, 10) == []
    assert log.seek_time(small, 0, START) == 3
    assert log.append(small, [said(b"new")], partition=0) == [(0, 3)]
    assert values(log, small) == [b"new"]


def test_seek_time_is_not_misled_by_a_later_message_that_was_trimmed(log: TopicLog, small: Topic) -> None:
    log.append(small, [said(b"late", at=START + 10 * HOUR)], partition=0)
    log.trim(small, START + 19 * HOUR)
    for hour in (0, 1, 2):  # the clock was set back
        log.append(small, [said(b"%d" % hour, at=START + hour * HOUR)], partition=0)
    assert log.begin(small, 0) == 1
    assert log.seek_time(small, 0, START + 2 * HOUR) == 3
    assert log.seek_time(small, 0, START + 3 * HOUR) == 4


def test_reading_a_trimmed_offset_is_an_error(log: TopicLog, small: Topic) -> None:
    log.append(small, [said()] * 3, partition=0)
    log.trim(small, START + 9 * HOUR)
    with pytest.raises(LogError, match="trimmed away, got 2; read from 3 on"):
        log.read(small, 0, 2, 10)


def test_control_is_never_trimmed(log: TopicLog) -> None:
    log.append(CONTROL, [said(b"kept")])
    log.trim(CONTROL, START + 10_000 * HOUR)
    assert values(log) == [b"kept"]


def test_trimming_does_not_disturb_writers_or_readers(open_log: Callable[[], TopicLog], small: Topic) -> None:
    trimmer, writer, reader = open_log(), open_log(), open_log()
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(_write_numbers, writer, small, 400)
        reading = pool.submit(_read_through, reader, small, writing)
        while not writing.done():
            trimmer.trim(small, START)
        writing.result()
        seen = reading.result()
    assert trimmer.begin(small, 0) > 0
    assert all(a < b for a, b in pairwise(seen))
    assert seen[-1] == 399


def _write_numbers(log: TopicLog, topic: Topic, count: int) -> None:
    for n in range(count):
        log.append(topic, [said(b"%d" % n + b"." * 500)], partition=0)


def _read_through(log: TopicLog, topic: Topic, writing: Future[None]) -> list[int]:
    """Return all offsets seen, starting again at the first retained one whenever trimming was faster."""
    at, seen = 0, list[int]()
    while not (writing.done() and at == log.end(topic, 0)):
        try:
            batch = log.read(topic, 0, at, 50)
        except LogError:
            at = log.begin(topic, 0)
            continue
        seen += [stored.offset for stored in batch]
        at += len(batch)
    return seen


# -- waiting --


def test_waiting_for_an_existing_message_returns_at_once(log: TopicLog) -> None:
    log.append(CONTROL, [said()])
    began = time.monotonic()
    assert log.wait(CONTROL, 0, 0, timeout=30)
    assert time.monotonic() - began < 1


def test_what_is_read_after_waiting_begins_where_it_is_asked_to(log: TopicLog) -> None:
    for end in range(3):
        assert not log.wait(CONTROL, 0, end, timeout=0.05)
        log.append(CONTROL, [said()])
        assert log.wait(CONTROL, 0, end, timeout=30)
        for offset in (0, end):
            assert [one.offset for one in log.read(CONTROL, 0, offset, 10)] == list(range(offset, end + 1))


def test_waiting_ends_after_its_timeout(log: TopicLog) -> None:
    began = time.monotonic()
    assert not log.wait(CONTROL, 0, 0, timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 1


def test_an_append_ends_the_waiting_before_the_next_poll(open_log: Callable[[], TopicLog]) -> None:
    reader, writer = open_log(), open_log()
    delays = []
    for offset in range(20):
        appended: list[float] = []
        timer = threading.Timer(0.03, lambda a=appended: (writer.append(CONTROL, [said()]), a.append(time.monotonic())))
        timer.start()
        assert reader.wait(CONTROL, 0, offset, timeout=30)
        woken = time.monotonic()
        assert not reader.wait(CONTROL, 0, offset + 1, timeout=0), "nothing is behind it"
        timer.join()
        delays.append(woken - appended[0])
    assert sorted(delays)[10] < 0.1


def test_an_append_elsewhere_does_not_end_the_waiting(open_log: Callable[[], TopicLog]) -> None:
    reader, writer = open_log(), open_log()
    timer = threading.Timer(0.05, lambda: writer.append(METRICS, [said()], partition=1))
    timer.start()
    assert not reader.wait(METRICS, 0, 0, timeout=0.3)
    timer.join()
