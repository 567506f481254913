"""The backends that the conformance suite runs over, and programs that other processes run."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from penstock.topics import CONTROL, METRICS, Topic, TopicLog
from penstock.topics.kafka import KafkaLog
from penstock.topics.postgres import PostgresLog

Open = Callable[[], TopicLog]
Run = Callable[..., "subprocess.Popen[str]"]

PROGRAMS = Path(__file__).parent / "programs"
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


@pytest.fixture
def run() -> Iterator[Run]:
    """Run a program of `programs/` in a separate process, which is killed after the test if it still runs."""
    started: list[subprocess.Popen[str]] = []
    root = Path(__file__).parents[3]

    def start(program: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, PROGRAMS / f"{program}.py", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root), **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
