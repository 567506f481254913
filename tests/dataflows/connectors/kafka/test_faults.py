"""Streams through faults at random moments; what was lost, doubled and out of order is counted for each kind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from confluent_kafka import Producer

from penstock.topics.embedded import EmbeddedServer
from tests.dataflows.conftest import Launchers
from tests.dataflows.connectors.conftest import Rows
from tests.dataflows.connectors.kafka.conftest import Lake, Stream
from tests.kafka import KafkaServer
from tests.reaper import short_folder

PARTITIONS = 4
WAIT = 120.0
FORM = {"type": "jsonl", "columns": {"id": "bigint"}}
FIELDS = [{"target": "id", "from": "id"}, {"target": "part", "from": "_partition"}]
LONG = (pytest.mark.chaos, pytest.mark.timeout(1800))


class Load(threading.Thread):
    """Sends about 500 events a second, each with the next number, to the partitions in turn."""

    def __init__(self, bootstrap: str, topic: str, ballast: int = 0, partitions: int = PARTITIONS) -> None:
        super().__init__(name="load", daemon=True)
        self.ballast, self.partitions = "x" * ballast, partitions
        self.topic, self.over, self.sent, self.failed = topic, threading.Event(), 0, 0
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})

    def run(self) -> None:
        while not self.over.wait(0.02):
            for _ in range(10):
                value = json.dumps({"id": self.sent, "ballast": self.ballast}).encode()
                part = self.sent % self.partitions
                self.producer.produce(self.topic, value, partition=part, on_delivery=self._delivered)
                self.sent += 1
            self.producer.poll(0)

    def _delivered(self, error: Any, _: Any) -> None:
        self.failed += error is not None

    def stop(self) -> None:
        """Stop, and wait until everything is acknowledged."""
        self.over.set()
        self.join()
        assert self.producer.flush(WAIT) == 0
        assert self.failed == 0


@dataclass
class Faulted:
    """A stream under load; what kills it starts it again, as a worker would."""

    made: Stream
    load: Load
    chance: random.Random
    attempts: Iterator[int] = field(default_factory=lambda: count(1))
    pid: int = 0
    task: dict[str, Any] = field(default_factory=dict)
    old: list[int] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        """Start the next attempt."""
        source = {"connection": "bus", "object": self.load.topic, "format": FORM}
        drain = {"drain": str(self.made.folder / f"drain-{self.load.topic}")}
        self.task = self.made.task("r", next(self.attempts), source=source, mapping={"fields": FIELDS}, **self.changes)
        self.task |= drain
        self.pid = self.made.launchers.start(self.task)

    def keep_running(self) -> None:
        """Start it again if it has ended."""
        if "code" in self.made.launchers.wait(self.pid, 0.02):
            self.start()

    def run_for(self, seconds: float) -> None:
        """Let it run, and start it again when it ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.keep_running()
            time.sleep(0.05)

    def drained(self) -> None:
        """Let it end after everything that was sent."""
        self.load.stop()
        for pid in self.old:
            while "code" not in self.made.launchers.wait(pid, WAIT):
                assert psutil.pid_exists(pid)
        Path(self.task["drain"]).touch()
        end = time.monotonic() + WAIT
        while (code := self.made.launchers.wait(self.pid, 1).get("code")) != 0:
            assert time.monotonic() < end, "it does not end"
            if code is not None:
                self.start()

    def counted(self) -> dict[str, int]:
        """Return how many events were lost, doubled and out of order."""
        rows = self.made.rows(f"SELECT id, part FROM {self.made.target} ORDER BY seq")
        seen = {id_ for id_, _ in rows}
        last: dict[int, int] = {}
        late = 0
        for id_, part in rows:
            late += id_ < last.get(part, -1)
            last[part] = id_
        assert all(id_ % self.load.partitions == part for id_, part in rows)
        return {"lost": self.load.sent - len(seen), "doubled": len(rows) - len(seen), "out of order": late}

    @property
    def memory(self) -> float:
        """Memory of its process, in MB."""
        return psutil.Process(self.pid).memory_full_info().uss / 1e6


# -- the faults: each is one that the stream has to survive --


def kill(one: Faulted) -> None:
    os.kill(one.pid, signal.SIGKILL)


def suspend(one: Faulted) -> None:
    """Suspend it, start its successor, and wake it after a while."""
    zombie = one.pid
    os.kill(zombie, signal.SIGSTOP)
    one.start()
    one.run_for(one.chance.uniform(0.5, 1.5))
    os.kill(zombie, signal.SIGCONT)
    one.old.append(zombie)


def cut(one: Faulted) -> None:
    """End all of its sessions at the sink."""
    one.made.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )


def faulted(made: Stream, load: Load, seed: int = 1) -> Faulted:
    """Return a stream to be started, with a target that shows in which order its rows were written."""
    made.rows(f"CREATE TABLE {made.target} (id bigint, part integer, seq bigserial)")
    return Faulted(made, load, random.Random(seed))


def through(
    made: Stream, load: Load, faults: Callable[[Faulted], object], times: int, seed: int = 1, pause: float = 1.0
) -> Faulted:
    """Run the stream under load, with a fault again and again."""
    one = faulted(made, load, seed)
    load.start()
    one.start()
    for _ in range(times):
        one.run_for(one.chance.uniform(0.1, 2 * pause))
        faults(one)
    one.run_for(pause)
    one.drained()
    return one


Told = Callable[[str, object], None]


def check(one: Faulted, name: str, times: int, record_property: Told) -> None:
    """Tell what came of it, for the table at the end; fail unless nothing did."""
    found = one.counted()
    record_property("faults", {"fault": name, "count": times, "events": one.load.sent, **found})
    assert found == {"lost": 0, "doubled": 0, "out of order": 0}


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (kill, 10),
        pytest.param(kill, 100, marks=LONG),
        pytest.param(suspend, 30, marks=LONG),
        pytest.param(cut, 30, marks=LONG),
    ],
)
def test_a_stream_survives_its_own_faults(
    stream: Callable[..., Stream], fault: Callable[[Faulted], None], times: int, record_property: Told
) -> None:
    made = stream(partitions=PARTITIONS)
    one = through(made, Load(made.kafka.bootstrap, made.topic), fault, times, pause=0.4 if times == 10 else 1.0)
    check(one, fault.__name__, times, record_property)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_stream_survives_leaders_that_are_killed(stream: Callable[..., Stream], record_property: Told) -> None:
    home = short_folder()
    first = KafkaServer(home / "1")
    cluster = [first, *(KafkaServer(home / str(node), node, first, first.cluster) for node in (2, 3))]
    for server in cluster:
        server.home.mkdir()
        server.make()
        server.start()
    made = stream(partitions=1)
    made.kafka = first
    first.create(made.topic, PARTITIONS, {"min.insync.replicas": "2"}, copies=3)

    def killed(one: Faulted) -> None:
        victim = one.chance.choice(cluster[1:])
        victim.kill()
        one.run_for(one.chance.uniform(1, 3))
        victim.start()

    try:
        one = through(made, Load(",".join(each.bootstrap for each in cluster), made.topic), killed, 15, pause=2.0)
        check(one, "leader killed", 15, record_property)
    finally:
        for server in cluster:
            server.kill()
        shutil.rmtree(home)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_stream_survives_a_server_that_is_killed(
    kafka: KafkaServer, launchers: Launchers, tmp_path: Path, record_property: Told
) -> None:
    home = short_folder()
    server = EmbeddedServer(home)
    server.acquire()

    def query(text: str) -> Rows:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as session:
            done = session.execute(text)
            return done.fetchall() if done.description else []

    def killed(one: Faulted) -> None:
        with psycopg.connect(server.dsn("postgres")) as session:
            os.kill(psutil.Process(session.info.backend_pid).ppid(), signal.SIGKILL)
        one.run_for(one.chance.uniform(0, 1))
        server.acquire()

    query("CREATE SCHEMA w")
    lake = Lake({"type": "postgres", "dsn": server.dsn("postgres")}, query, "w.")
    made = Stream(kafka, launchers, lake, None, tmp_path, PARTITIONS)
    kafka.create(made.topic, PARTITIONS)
    one = through(made, Load(kafka.bootstrap, made.topic), killed, 10, pause=2.0)
    check(one, "server killed", 10, record_property)
    server.stop()
    server.release()
    shutil.rmtree(home)


SLOW = """
CREATE TABLE slowness AS SELECT 0 AS seconds;
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN PERFORM pg_sleep(seconds) FROM slowness; RETURN NULL; END $$;
CREATE TRIGGER slow BEFORE INSERT ON {0} FOR EACH STATEMENT EXECUTE FUNCTION slow();
"""
"""A trigger that takes time. It is there from the beginning: a table that is altered begins a new attempt."""


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_sink_at_a_tenth_of_its_rate_for_ten_minutes_costs_no_memory(
    stream: Callable[..., Stream], record_property: Told
) -> None:
    """500 events of 2 kB a second, of which the sink takes 50."""
    made = stream(partitions=PARTITIONS)
    made.rows(f"CREATE TABLE {made.target} (id bigint, part integer, seq bigserial); {SLOW.format(made.target)}")
    load = Load(made.kafka.bootstrap, made.topic, 2000)
    one = Faulted(made, load, random.Random(1), changes={"limits": {"linger": "20ms", "batch_rows": 50}})
    load.start()
    one.start()
    one.run_for(5)
    made.rows("UPDATE slowness SET seconds = 1")
    one.run_for(60)  # until the client has fetched ahead what it may
    before, most = one.memory, 0.0
    for _ in range(60):
        one.run_for(10)
        most = max(most, one.memory)
    written = len(made.rows(f"SELECT id FROM {made.target}"))
    assert load.sent - written > 4 * written, "it was not slow"
    made.rows("UPDATE slowness SET seconds = 0")
    one.drained()
    assert next(one.attempts) == 2, "it was started once"
    check(one, "slow sink", 1, record_property)
    assert most < before + 30, f"from {before:.0f} to {most:.0f} MB"
