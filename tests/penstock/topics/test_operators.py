from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.testing import TestingSink, TestingSource
from bytewax.testing import run_main as bytewax_run_main

from penstock import postgres
from penstock.errors import LogError, PenstockError, Unavailable
from penstock.topics import CONTROL, METRICS, Message, Stored, Topic, TopicLog
from penstock.topics.layout import SCHEMA
from penstock.topics.operators import TopicSink, TopicSource, Wakeup, _Buffer
from penstock.topics.partitioner import partition_of

START = datetime(2026, 1, 1, tzinfo=UTC)
Open = Callable[[], TopicLog]

run_main: Callable[[Dataflow], None] = bytewax_run_main


def numbered(numbers: Iterable[int], key: bytes | None = None) -> list[Message]:
    return [Message(key=key, value=b"%d" % n, at=START) for n in numbers]


def followed(source: TopicSource) -> list[Stored]:
    found: list[Stored] = []
    flow = Dataflow("follow")
    op.output("out", op.input("in", flow, source), TestingSink(found))
    run_main(flow)
    return found


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("start", [0, 1, 2500, 4999, 5000])
def test_a_bounded_source_gives_every_message_from_its_start_in_order(open_log: Open, start: int) -> None:
    open_log().append(CONTROL, numbered(range(2000)))
    open_log().append(CONTROL, numbered(range(2000, 5000)))
    found = followed(TopicSource(open_log, CONTROL, start, stop_at_end=True))
    assert [(s.offset, s.message.value) for s in found] == [(n, b"%d" % n) for n in range(start, 5000)]


def test_a_bounded_source_takes_nothing_from_beyond_its_end() -> None:
    buffer = _Buffer(0, 0.0, to_end=True)
    buffer.upto = 3
    buffer.put([Stored(CONTROL, 0, offset, message) for offset, message in enumerate(numbered(range(5)))])
    assert ([one.offset for one in buffer.batch], buffer.over) == ([0, 1, 2], True)


def test_each_partition_has_its_own_start(open_log: Open) -> None:
    log = open_log()
    for part in range(METRICS.partitions):
        log.append(METRICS, numbered(range(10)), partition=part)
    starts = {0: 3, 5: 9, 7: 10}
    found = followed(TopicSource(open_log, METRICS, starts, stop_at_end=True))
    expected = [(part, n) for part in range(METRICS.partitions) for n in range(starts.get(part, 0), 10)]
    assert sorted((s.partition, s.offset) for s in found) == expected


def test_an_unbounded_source_follows_until_it_is_stopped(open_log: Open) -> None:
    stop = threading.Event()
    found: list[Stored] = []
    flow = Dataflow("follow")
    op.output("out", op.input("in", flow, TopicSource(open_log, CONTROL, stop=stop)), TestingSink(found))
    thread = in_thread(lambda: run_main(flow))
    log = open_log()
    for n in range(20):
        log.append(CONTROL, numbered([n]))
        deadline = time.monotonic() + 30
        while len(found) <= n and time.monotonic() < deadline:
            time.sleep(0.001)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert [s.offset for s in found] == list(range(20))
    assert not [t for t in threading.enumerate() if t.name.startswith("tail-") and t.is_alive() and not _ends(t)]


def _ends(thread: threading.Thread) -> bool:
    thread.join(2)
    return not thread.is_alive()


def test_an_error_of_the_log_ends_the_flow(open_log: Open, small: Topic) -> None:
    log = open_log()
    log.append(small, numbered([0]), partition=0)
    log.trim(small, START.replace(year=2027))
    with pytest.raises(BytewaxRuntimeError) as failed:
        followed(TopicSource(open_log, small, 0))
    assert isinstance(failed.value.__cause__, LogError)


@pytest.mark.parametrize("open_log", ["postgres"], indirect=True)
def test_an_idle_source_whose_session_is_lost_ends_the_flow(open_log: Open, database: str) -> None:
    causes: list[BaseException | None] = []

    def work() -> None:
        try:
            followed(TopicSource(open_log, CONTROL, 0))
        except BytewaxRuntimeError as error:
            causes.append(error.__cause__)

    following = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query LIKE 'SELECT start, next%'"
    thread = in_thread(work)
    with postgres.connect(database, "test") as session:
        deadline = time.monotonic() + 30
        while not (pids := session.execute(following).fetchall()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for pid in pids:
            session.execute("SELECT pg_terminate_backend(%s)", pid)
    thread.join(30)
    assert [type(cause) for cause in causes] == [Unavailable]


def test_sources_with_one_wakeup_share_a_tail_and_get_their_flows_appends(open_log: Open) -> None:
    log, stop, wakeup = open_log(), threading.Event(), Wakeup()
    log.append(CONTROL, numbered(range(5)))
    found: list[list[Stored]] = [[], []]
    flow = Dataflow("share")
    streams = [
        op.input(f"in_{start}", flow, TopicSource(open_log, CONTROL, start, stop=stop, wakeup=wakeup))
        for start in (0, 3)
    ]
    for number, stream in enumerate(streams):
        op.output(f"out_{number}", stream, TestingSink(found[number]))
    echoes = op.filter_map("echo", streams[0], _echo)
    op.output("append", echoes, TopicSink(open_log, CONTROL, wakeup))
    thread = in_thread(lambda: run_main(flow))
    for n in range(5, 40):
        log.append(CONTROL, numbered([n]))
    deadline = time.monotonic() + 30
    while min(len(found[0]), len(found[1]) + 3) < 80 and time.monotonic() < deadline:
        time.sleep(0.001)
    tails = [thread.name for thread in threading.enumerate() if thread.name == "tail-control-0"]
    stop.set()
    thread.join(30)
    stood = log.read(CONTROL, 0, 0, 100)
    assert sorted(int(s.message.value) for s in stood) == [*range(40), *range(1000, 1040)]
    assert (found[0], found[1]) == (stood, stood[3:])
    assert tails == ["tail-control-0"]


def _echo(stored: Stored) -> tuple[str, list[Message]] | None:
    number = int(stored.message.value)
    return ("echo", numbered([number + 1000])) if number < 1000 else None


@pytest.mark.parametrize("open_log", ["postgres"], indirect=True)
@pytest.mark.parametrize("hint", ["", "9999999", "-5", "x"])
def test_a_wrong_notification_hides_no_message(open_log: Open, database: str, hint: str) -> None:
    log, reader = open_log(), open_log()
    assert not reader.wait(CONTROL, 0, 0, 0)
    with postgres.connect(database, "test") as session:
        session.execute("SELECT pg_notify(%s, %s)", [f"{SCHEMA}:{CONTROL.name}/0", hint])
    reader.wait(CONTROL, 0, 0, 0.2)
    assert reader.read(CONTROL, 0, 0, 10) == []
    assert not reader.wait(CONTROL, 0, 0, 0.2)
    log.append(CONTROL, numbered([1]))
    assert reader.wait(CONTROL, 0, 0, 30)
    assert len(reader.read(CONTROL, 0, 0, 10)) == 1


def test_items_of_one_batch_are_one_append(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    log, sizes = open_log(), []
    append = log.append

    def counted(topic: Topic, messages: list[Message], *, partition: int | None = None) -> list[tuple[int, int]]:
        sizes.append(len(messages))
        return append(topic, messages, partition=partition)

    monkeypatch.setattr(log, "append", counted)
    items = [("agent", numbered(range(3 * n, 3 * n + 3))) for n in range(10)]
    flow = Dataflow("append")
    op.output("out", op.input("in", flow, TestingSource(items, batch_size=5)), TopicSink(lambda: log, CONTROL))
    run_main(flow)
    assert sizes == [15, 15]
    assert [s.message.value for s in open_log().read(CONTROL, 0, 0, 100)] == [b"%d" % n for n in range(30)]


def test_the_sink_puts_an_item_into_its_keys_partition(open_log: Open) -> None:
    items = [(f"run-{n}", numbered([n], key=b"run-%d" % n)) for n in range(20)]
    flow = Dataflow("append")
    op.output("out", op.input("in", flow, TestingSource(items)), TopicSink(open_log, METRICS))
    run_main(flow)
    log = open_log()
    for n in range(20):
        part = partition_of(b"run-%d" % n, METRICS.partitions)
        assert b"%d" % n in [s.message.value for s in log.read(METRICS, part, 0, 100)]


def test_two_that_append_to_the_same_partitions_do_not_wait_for_each_other(open_log: Open, small: Topic) -> None:
    """Partitions are locked in one order, whatever the order of the messages."""
    one, other = (next(key for n in range(99) if partition_of(key := b"%d" % n, 2) == part) for part in (0, 1))
    failed: list[BaseException] = []

    def append(keys: tuple[bytes, bytes]) -> None:
        log = open_log()
        try:
            for _ in range(500):
                log.append(small, [Message(key=key, value=b"x", at=START) for key in keys])
        except PenstockError as error:
            failed.append(error)

    threads = [in_thread(partial(append, keys)) for keys in ((one, other), (other, one))]
    for thread in threads:
        thread.join(60)
    assert not failed
    assert not any(thread.is_alive() for thread in threads)
