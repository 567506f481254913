"""A stream from a topic of its own to a table of its own, in one database of PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.clock import now
from penstock.topics.log import Message
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import Topic
from tests.dataflows.conftest import Launchers
from tests.dataflows.connectors.streams import StreamIn


@dataclass(kw_only=True)
class Stream(StreamIn):
    """Stream from a topic of the log in the database `dsn`."""

    log: PostgresLog
    partitions: int
    keep: timedelta | None

    @property
    def topic(self) -> Topic:
        return Topic(f"events-{self.number}", "the id", self.partitions, self.keep)

    @property
    def connection(self) -> dict[str, Any]:
        return {"type": "topics", "dsn": self.dsn}

    @property
    def object(self) -> str:
        return self.topic.name

    def send(self, *numbers: int, partition: int = 0) -> None:
        """Append an event for each number."""
        self.append(*(json.dumps({"id": one, "name": f"event {one}"}).encode() for one in numbers), partition=partition)

    def append(self, *values: bytes, partition: int = 0) -> None:
        self.log.append(self.topic, [Message(b"k", one, now()) for one in values], partition=partition)


@pytest.fixture(scope="module")
def letters(new_catalog: Callable[[], str]) -> str:
    """A catalog that keeps dead letters."""
    return new_catalog()


@pytest.fixture(scope="module")
def dsn(new_database: Callable[[], str]) -> str:
    """A database for the log and all targets."""
    return new_database()


@pytest.fixture
def stream(launchers: Launchers, dsn: str, letters: str, tmp_path: Path) -> Iterator[Callable[..., Stream]]:
    """Make a stream, with its topic."""
    with PostgresLog(dsn) as log, psycopg.connect(dsn, autocommit=True) as session:

        def make(partitions: int = 1, keep: timedelta | None = None) -> Stream:
            made = Stream(session, dsn, launchers, letters, tmp_path, log=log, partitions=partitions, keep=keep)
            log.create(made.topic)
            return made

        yield make
