"""Many processes on one log, and processes that are killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from penstock.errors import Unavailable
from penstock.topics import CONTROL, Message, Stored, TopicLog
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.postgres import PostgresLog
from tests.reaper import short_folder

START = datetime(2026, 1, 1, tzinfo=UTC)
LONG = (pytest.mark.chaos, pytest.mark.timeout(900))
Run = Callable[..., "subprocess.Popen[str]"]


def everything(log: TopicLog) -> list[Stored]:
    found: list[Stored] = []
    while batch := log.read(CONTROL, 0, len(found), 1000):
        found += batch
    assert [stored.offset for stored in found] == list(range(len(found))), "gapless"
    assert log.end(CONTROL, 0) == len(found)
    return found


@pytest.fixture
def control(database: str) -> Iterator[PostgresLog]:
    with PostgresLog(database) as log:
        log.create(CONTROL)
        yield log


def test_writers_and_readers_in_processes_agree_on_one_order(control: PostgresLog, database: str, run: Run) -> None:
    readers = [run("follow", database, 1200) for _ in range(2)]
    writers = [run("append", database, f"writer-{n}", 400, size) for n, size in enumerate((1, 5, 40))]
    seen = [reader.communicate(timeout=60)[0] for reader in readers]
    for writer in writers:
        writer.communicate(timeout=60)
    values = [stored.message.value.decode() for stored in everything(control)]
    assert seen[0] == seen[1] == "".join(f"{offset} {value}\n" for offset, value in enumerate(values))
    for n in range(3):
        assert [v for v in values if v.startswith(f"writer-{n} ")] == [f"writer-{n} {i}" for i in range(400)]


@pytest.mark.parametrize("rounds", [8, pytest.param(200, marks=LONG)])
def test_writers_killed_at_any_moment_lose_nothing_acknowledged(
    control: PostgresLog, database: str, run: Run, rounds: int
) -> None:
    pauses = random.Random(7)
    acknowledged: dict[str, int] = {}
    for n in range(rounds):
        writer = run("append", database, f"writer-{n}", 100_000, 3)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(pauses.uniform(0, 0.05))
        writer.kill()
        lines = writer.stdout.read().splitlines()
        acknowledged.update((f"writer-{n} {line.split()[0]}", int(line.split()[1])) for line in lines)
        writer.wait()
    _until_alone(control)
    found = everything(control)
    at = {stored.message.value.decode(): stored.offset for stored in found}
    assert max(Counter(stored.message.value for stored in found).values()) == 1
    assert acknowledged, "no writer lived long enough to append"
    assert acknowledged.items() <= at.items()
    assert len(found) - len(acknowledged) <= 3 * rounds, "at most the call under way, whole"
    assert len(found) % 3 == 0, "a call is there whole or not at all"


def _until_alone(log: PostgresLog) -> None:
    """Wait until the killed writers' sessions, and their pending appends, have ended."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 30
    while log._session.execute(others).fetchone() != (0,):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def own() -> Iterator[EmbeddedServer]:
    """Start a server that a test may kill, as durable as in production."""
    home = short_folder()
    server = EmbeddedServer(home)
    server.acquire()
    server.create_database("log")
    yield server
    server.remove()


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=LONG)])
def test_a_server_killed_at_any_moment_loses_nothing_acknowledged(own: EmbeddedServer, rounds: int) -> None:
    with PostgresLog(own.dsn("log")) as log:
        log.create(CONTROL)
    acknowledged: dict[bytes, int] = {}
    unknown: set[bytes] = set()
    pauses = random.Random(11)

    def write(name: str) -> None:
        with PostgresLog(own.dsn("log")) as log:
            for n in range(100_000):
                message = Message(key=None, value=f"{name} {n}".encode(), at=START)
                try:
                    [(_, offset)] = log.append(CONTROL, [message])
                except Unavailable:
                    unknown.add(message.value)
                    return
                acknowledged[message.value] = offset

    for n in range(rounds):
        threads = [threading.Thread(target=write, args=[f"{n}-{m}"]) for m in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(pauses.uniform(0.1, 0.3))
        pid = own.pid
        assert pid is not None

        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        own.ensure()
    with PostgresLog(own.dsn("log")) as log:
        found = everything(log)
    at = {stored.message.value: stored.offset for stored in found}
    assert len(at) == len(found), "nothing twice"
    assert len(acknowledged) > 50
    assert acknowledged.items() <= at.items()
    assert at.keys() - acknowledged.keys() <= unknown


def test_a_lost_session_is_never_replaced_silently(own: EmbeddedServer) -> None:
    with PostgresLog(own.dsn("log")) as log:
        log.create(CONTROL)
        assert log.lock("control", wait=False)
        own.stop()
        own.ensure()
        for use in (
            lambda: log.append(CONTROL, [Message(key=None, value=b"", at=START)]),
            lambda: log.read(CONTROL, 0, 0, 1),
            lambda: log.wait(CONTROL, 0, 0, 1),
            lambda: log.lock("control", wait=False),
        ):
            with pytest.raises(Unavailable):
                use()
    with PostgresLog(own.dsn("log")) as log:
        assert not log.holder("control")
        assert everything(log) == []


def test_a_lock_has_one_holder_and_ends_with_its_session(database: str) -> None:
    with PostgresLog(database) as second:
        with PostgresLog(database) as first:
            assert not second.holder("control")
            assert first.lock("control", wait=False)
            assert second.holder("control")
            assert first.holder("control")
            assert not second.lock("control", wait=False)
            assert second.lock("another", wait=False)
            waiting = threading.Thread(target=lambda: second.lock("control", wait=True))
            waiting.start()
            waiting.join(0.2)
            assert waiting.is_alive()
        waiting.join(30)
        assert not waiting.is_alive()
        second.unlock("control")
        assert not second.holder("control")


def test_a_lock_is_lost_with_a_killed_process(database: str, run: Run) -> None:
    holder = run("hold", database, "worker-1")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with PostgresLog(database) as log:
        assert log.holder("worker-1")
        holder.kill()
        holder.wait()
        deadline = time.monotonic() + 30
        while log.holder("worker-1"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
