"""The backends that the conformance suite runs over, and programs that other processes run."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from dataflows.process.fork_server import ForkServer
from penstock.topics import CONTROL, METRICS, Topic, TopicLog
from penstock.topics.kafka import KafkaLog
from penstock.topics.postgres import PostgresLog
from tests.forked import Command

Open = Callable[[], TopicLog]
Run = Callable[..., "subprocess.Popen[str]"]

PROGRAMS, ROOT = Path(__file__).parent / "programs", Path(__file__).parents[3]
SMALL = Topic("small", key="anything", partitions=2, retention_time=timedelta(hours=8), retention_bytes=80_000)


@pytest.fixture
def small() -> Topic:
    """Topic of two partitions that keeps 8 hours and 80 kB."""
    return SMALL


BACKENDS = ["postgres", pytest.param("kafka", marks=pytest.mark.xdist_group("kafka-topics"))]
_prefixes = itertools.count(1)


@pytest.fixture(params=BACKENDS)
def open_log(request: pytest.FixtureRequest, database: str) -> Iterator[Open]:
    """Open one more log on the same fresh topics; every log is closed after the test."""
    logs: list[TopicLog] = []
    if request.param == "kafka":
        broker = request.getfixturevalue("kafka")
        url = f"kafka://{broker.bootstrap}?prefix=t{next(_prefixes)}.&replication=1"
        build: Open = partial(KafkaLog, url, database)
    else:
        build = partial(PostgresLog, database)

    def make() -> TopicLog:
        logs.append(build())
        return logs[-1]

    first = make()
    for topic in (CONTROL, METRICS, SMALL):
        first.create(topic)
    yield make
    for log in logs:
        log.close()


@pytest.fixture
def log(open_log: Open) -> TopicLog:
    return open_log()


@pytest.fixture(scope="session")
def programs(reaper: None) -> Iterator[ForkServer]:
    """The process that forks programs."""
    with closing(ForkServer([sys.executable, "-m", "tests.penstock.topics.programs.forks"], ROOT)) as server:
        yield server


@pytest.fixture
def run(programs: ForkServer) -> Iterator[Run]:
    """Run a program of `programs/` in a separate process, which is killed after the test if it still runs."""
    started: list[Command] = []

    def start(program: str, *arguments: object, **environment: str) -> Command:
        words = [str(PROGRAMS / f"{program}.py"), *map(str, arguments)]
        stdin, writing = os.pipe()
        reading, stdout = os.pipe()
        with os.fdopen(os.memfd_create("order"), "w+") as order:
            json.dump({"words": words, "environment": {**os.environ, **environment}}, order)
            order.flush()
            order.seek(0)
            made = programs.fork(stdin, stdout, 2, order.fileno())
        for theirs in (stdin, stdout):
            os.close(theirs)
        started.append(Command(made, words, reading, writing))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for ours in (process.stdin, process.stdout):
            if ours is not None:
                ours.close()
