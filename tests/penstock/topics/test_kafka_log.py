"""What is Kafka's own in the log on Kafka; its promises are in `test_conformance.py`."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from penstock import postgres
from penstock.clock import now
from penstock.errors import LogError, PenstockError, Unavailable, Unreachable
from penstock.kafka_url import KafkaUrl
from penstock.topics import CONTROL, METRICS, Message, Stored, TopicLog
from penstock.topics.kafka import KafkaLog
from penstock.topics.kafka_client import APPEND_BYTES, Clients, translated
from penstock.topics.log import lock_number
from tests.kafka import KafkaServer
from tests.reaper import short_folder

pytestmark = pytest.mark.xdist_group("kafka-log")

START = datetime(2026, 1, 1, tzinfo=UTC)
LONG = (pytest.mark.chaos, pytest.mark.timeout(1800))
Run = Callable[..., "subprocess.Popen[str]"]
_prefixes = itertools.count(1)


def said(value: bytes = b"") -> Message:
    return Message(key=None, value=value, at=START)


def everything(log: TopicLog) -> list[Stored]:
    found: list[Stored] = []
    while batch := log.read(CONTROL, 0, len(found), 1000):
        found += batch
    assert [stored.offset for stored in found] == list(range(len(found))), "gapless"
    assert log.end(CONTROL, 0) == len(found)
    return found


@pytest.fixture
def url(kafka: KafkaServer) -> str:
    """The URL of a log without topics."""
    return f"kafka://{kafka.bootstrap}?prefix=own{next(_prefixes)}.&replication=1"


@pytest.fixture
def log(url: str, database: str) -> Iterator[KafkaLog]:
    with KafkaLog(url, database) as log:
        log.create(CONTROL)
        yield log


@pytest.fixture(scope="module")
def mortal() -> Iterator[KafkaServer]:
    server = KafkaServer(short_folder())
    server.make()
    yield server
    server.kill()
    shutil.rmtree(server.home)


@pytest.fixture
def own(mortal: KafkaServer) -> KafkaServer:
    """A broker that runs, and that a test may kill."""
    if mortal.process is None:
        mortal.start()
    return mortal


# -- appends --


def test_appends_of_many_writers_are_whole_and_in_one_piece(log: KafkaLog, url: str, database: str, run: Run) -> None:
    environment = {"LOCKS": database}
    writers = [run("append", url, f"writer-{n}", 1200, 60, **environment) for n in range(4)]
    reader = run("follow", url, 4800, **environment)
    for writer in writers:
        writer.communicate(timeout=120)
    seen = reader.communicate(timeout=60)[0]
    values = [stored.message.value.decode() for stored in everything(log)]
    assert seen == "".join(f"{offset} {value}\n" for offset, value in enumerate(values))
    for first in range(0, 4800, 60):
        call = values[first : first + 60]
        name, number = call[0].split()
        assert call == [f"{name} {int(number) + n}" for n in range(60)]


def test_two_partitions_of_one_append_are_each_in_one_piece(log: KafkaLog, url: str, database: str) -> None:
    log.create(METRICS)

    def write(name: str) -> None:
        with KafkaLog(url, database) as own:
            for call in range(30):
                own.append(METRICS, [Message(b"%d" % (n % 7), f"{name} {call} {n}".encode(), START) for n in range(70)])

    threads = [threading.Thread(target=write, args=[str(n)]) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part in range(METRICS.partitions):
        calls = [one.message.value.rpartition(b" ")[0] for one in log.read(METRICS, part, 0, 10_000)]
        pieces = [call for call, _ in itertools.groupby(calls)]
        assert len(pieces) == len(set(pieces)), "nothing stands between the messages of a call"


@pytest.mark.parametrize("rounds", [6, pytest.param(100, marks=LONG)])
def test_writers_killed_at_any_moment_lose_nothing_acknowledged(
    log: KafkaLog, url: str, database: str, run: Run, rounds: int
) -> None:
    pauses = random.Random(7)
    acknowledged: dict[str, int] = {}
    for n in range(rounds):
        writer = run("append", url, f"writer-{n}", 100_000, 3, LOCKS=database)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        first = writer.stdout.readline()
        time.sleep(pauses.uniform(0, 0.05))
        writer.kill()
        lines = [first, *writer.stdout.read().splitlines()]
        acknowledged.update((f"writer-{n} {line.split()[0]}", int(line.split()[1])) for line in lines if line.split())
        writer.wait()
    time.sleep(0.5)
    found = everything(log)
    at = {stored.message.value.decode(): stored.offset for stored in found}
    assert len(at) == len(found), "nothing twice"
    assert len(acknowledged) >= 3 * rounds
    assert acknowledged.items() <= at.items()
    assert len(found) % 3 == 0, "a call is there whole or not at all"


@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=LONG)])
def test_a_broker_killed_at_any_moment_loses_nothing_and_doubles_nothing(
    own: KafkaServer, database: str, rounds: int
) -> None:
    """With times of now: Kafka forgets, when it starts, the producers of records that are a day old by their time."""
    url = f"kafka://{own.bootstrap}?prefix=killed{next(_prefixes)}.&replication=1"
    with KafkaLog(url, database) as log:
        log.create(CONTROL)
    acknowledged: dict[bytes, int] = {}
    unknown: set[bytes] = set()
    over, pauses = threading.Event(), random.Random(11)

    def write(name: str) -> None:
        numbers = itertools.count()
        while not over.is_set():
            with KafkaLog(url, database) as log:
                while not over.is_set():
                    batch = [Message(None, f"{name} {next(numbers)}".encode(), now()) for _ in range(4)]
                    try:
                        placed = log.append(CONTROL, batch)
                    except Unavailable:
                        unknown.update(message.value for message in batch)
                        break
                    acknowledged.update((one.value, place[1]) for one, place in zip(batch, placed, strict=True))

    threads = [threading.Thread(target=write, args=[str(n)]) for n in range(2)]
    for thread in threads:
        thread.start()
    for number in range(rounds):
        before = len(acknowledged)
        deadline = time.monotonic() + 60
        while len(acknowledged) < before + 40:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(pauses.uniform(0, 0.1))
        own.kill(signal.SIGTERM if number % 2 else signal.SIGKILL)
        own.start()
    over.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    with KafkaLog(url, database) as log:
        found = everything(log)
    at = {stored.message.value: stored.offset for stored in found}
    assert len(at) == len(found), "nothing twice"
    assert acknowledged.items() <= at.items()
    assert at.keys() - acknowledged.keys() <= unknown
    pieces = [(one.message.value.split()[0], int(one.message.value.split()[1]) // 4) for one in found]
    assert all(a == b for n, (a, b) in enumerate(pairwise(pieces)) if n % 4 != 3), "calls are whole"


def test_an_append_too_large_for_one_batch_is_refused_before_it_is_sent(log: KafkaLog) -> None:
    half = APPEND_BYTES // 2
    with pytest.raises(LogError, match="control/0: too much for one append"):
        log.append(CONTROL, [said(bytes(half)), said(bytes(half))])
    assert log.end(CONTROL, 0) == 0
    log.append(CONTROL, [said(bytes(half)), said(bytes(half - 1024))])
    assert log.end(CONTROL, 0) == 2


def test_an_append_whose_outcome_is_unknown_leaves_the_log_unusable_and_a_reader_that_waits_survives(
    own: KafkaServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.topics.kafka_client.DELIVERY_SECONDS", 2)
    monkeypatch.setattr("penstock.topics.kafka_client.LINGER_SECONDS", 1)
    url = f"kafka://{own.bootstrap}?prefix=killed{next(_prefixes)}.&replication=1"
    with KafkaLog(url, database) as log, KafkaLog(url, database) as reader, KafkaLog(url, database) as writer:
        log.create(CONTROL)
        log.append(CONTROL, [said(b"one")])
        assert not reader.wait(CONTROL, 0, 1, 0.1)
        own.kill()
        assert not reader.wait(CONTROL, 0, 1, 0.1)
        with pytest.raises(Unavailable):
            log.append(CONTROL, [said(b"two")])
        own.start()
        for use in (
            lambda: log.append(CONTROL, [said(b"three")]),
            lambda: log.read(CONTROL, 0, 0, 1),
            lambda: log.wait(CONTROL, 0, 0, 1),
        ):
            with pytest.raises(Unavailable, match="outcome of an append is unknown; connect again"):
                use()
        assert [one.message.value for one in everything(writer)] == [b"one"]
        writer.append(CONTROL, [said(b"after")])
        assert reader.wait(CONTROL, 0, 1, 30)
        assert [one.message.value for one in reader.read(CONTROL, 0, 1, 10)] == [b"after"]


def test_a_topic_that_a_broker_does_not_show_yet_is_waited_for(url: str, database: str) -> None:
    with KafkaLog(url, database) as log, KafkaLog(url, database) as other:
        late = threading.Timer(1, lambda: other.create(CONTROL))
        late.start()
        assert log.append(CONTROL, [said(b"early")]) == [(0, 0)]
        late.join()


def test_a_topic_that_the_brokers_do_not_make_is_named_with_their_reason(kafka: KafkaServer, database: str) -> None:
    url = f"kafka://{kafka.bootstrap}?prefix=own{next(_prefixes)}.&replication=3"
    with KafkaLog(url, database) as log, pytest.raises(PenstockError, match=r"identity.*(?i:replication factor)"):
        log.create(CONTROL)


def test_a_failure_of_the_broker_itself_leaves_the_outcome_unknown() -> None:
    found = translated(KafkaError(KafkaError.UNKNOWN), "here")
    assert type(found) is Unavailable
    assert found.what == "the broker failed by an error of its own"


def test_a_query_is_asked_again_when_the_library_drops_its_broker() -> None:
    clients = Clients({"bootstrap.servers": "127.0.0.1:1"}, "here", "test")
    answers = iter([KafkaError._DESTROY_BROKER, KafkaError._FAIL])

    def ask(_: Consumer, __: float) -> str:
        for code in answers:
            raise KafkaException(KafkaError(code))
        return "answer"

    try:
        assert clients.query(ask) == "answer"
        with pytest.raises(LogError, match="Invalid argument"):
            clients.query(lambda *_: (_ for _ in ()).throw(KafkaException(KafkaError(KafkaError._INVALID_ARG))))
    finally:
        clients.close()


# -- what others do to the topics --


def test_a_record_of_another_program_has_kafkas_time_and_no_stamp(log: KafkaLog, url: str, kafka: KafkaServer) -> None:
    kafka.send(KafkaUrl.parse(url).prefix + CONTROL.name, b"foreign", None)
    foreign, tombstone = log.read(CONTROL, 0, 0, 10)
    assert (foreign.message.value, foreign.lock, tombstone.message.value) == (b"foreign", None, b"")
    assert foreign.message.at > START


@pytest.mark.parametrize("name", ["retention.ms", "retention.bytes", "cleanup.policy", "message.timestamp.type"])
def test_a_topic_that_kafka_itself_would_trim_or_change_is_refused(
    url: str, database: str, kafka: KafkaServer, name: str
) -> None:
    values = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
    kept = {"retention.ms": "-1", "retention.bytes": "-1"}
    kafka.create(KafkaUrl.parse(url).prefix + CONTROL.name, config={**kept, name: values.get(name, "1000000000")})
    with KafkaLog(url, database) as log, pytest.raises(LogError, match=f"another `{name}`"):
        log.create(CONTROL)


def test_the_identity_is_made_once_and_the_first_counts(
    url: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.topics.kafka_topics.SHOWN_SECONDS", 0.1)
    with KafkaLog(url, database) as one, KafkaLog(url, database) as other:
        with pytest.raises(LogError, match="no identity"):
            one.identity()
        assert not one.has([CONTROL])
        threads = [threading.Thread(target=lambda log=log: log.create(CONTROL)) for log in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.identity() == other.identity()
        assert one.has([CONTROL])
        assert not one.has([CONTROL, METRICS])


# -- locks --


def test_a_lock_has_one_holder_and_its_appends_are_stamped(log: KafkaLog, url: str, database: str) -> None:
    with KafkaLog(url, database) as second:
        with KafkaLog(url, database) as first:
            assert first.lock("control", wait=False)
            assert second.holder("control")
            assert not second.lock("control", wait=False)
            first.append(CONTROL, [said()])
            assert first.stamp == lock_number("control")
            second.append(CONTROL, [said()])
            first.unlock("control")
            first.append(CONTROL, [said()])
        assert not second.holder("control")
        assert second.lock("control", wait=True)
    assert [one.lock for one in everything(log)] == [lock_number("control"), None, None]


def test_a_lost_session_of_the_locks_is_never_replaced_silently(log: KafkaLog, database: str) -> None:
    log.append(CONTROL, [said(b"before")])
    assert log.lock("control", wait=False)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock:log'"
    with postgres.connect(database, "test") as session:
        assert session.execute(end).fetchall() == [(True,)]
    for use in (
        lambda: log.append(CONTROL, [said()]),
        lambda: log.read(CONTROL, 0, 0, 1),
        lambda: log.wait(CONTROL, 0, 0, 1),
        lambda: log.lock("control", wait=False),
        lambda: log.holder("control"),
    ):
        with pytest.raises(Unavailable, match=r"session|administrator"):
            use()
    assert log._clients.watermarks(log._name(CONTROL), 0, "") == (0, 1)


# -- no broker, no access --


def test_without_a_broker_every_use_ends_with_an_error(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.topics.kafka_client.SECONDS", 1.0)
    with KafkaLog("kafka://127.0.0.1:1", database) as log:
        for use in (
            lambda: log.append(CONTROL, [said()]),
            lambda: log.read(CONTROL, 0, 0, 1),
            lambda: log.create(CONTROL),
        ):
            began = time.monotonic()
            with pytest.raises(Unreachable, match=r"topic log kafka://127\.0\.0\.1:1"):
                use()
            assert time.monotonic() - began < 6
