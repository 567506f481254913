"""The compacted topic in which the pipelines that write to a cluster keep their state, and what it says of one.

A record replaces the one before it with the same key; one without a value deletes it. All records of a pipeline are in
one partition, which is read to the end that it has when the reading begins, transactions of other pipelines included
that are still open: what was committed after those must not be missed.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.cimpl import NewTopic

from dataflows.connectors.contract import Place
from dataflows.connectors.kafka.client import (
    SECONDS,
    admin,
    consumer,
    found_topic,
    settings_of,
    translated,
    watermarks,
)
from dataflows.connectors.partitions import part_name
from dataflows.connectors.record_state import Key
from penstock.errors import Refused, Unavailable

__all__ = ["AT_END", "STATE_TOPIC", "WAIT_SECONDS", "Ledger", "create_topic"]

STATE_TOPIC: Final = "_penstock_state"
PARTITIONS: Final = 16
"""Fixed, since the number decides in which partition a pipeline's records are."""
CONFIG: Final = {
    "cleanup.policy": "compact",
    "segment.bytes": str(4 << 20),
    "min.cleanable.dirty.ratio": "0.1",
    "max.message.bytes": str(8 << 20),
}
POLL_SECONDS: Final = 0.02
WAIT_SECONDS: Final = 30.0
"""Longest wait for transactions of other pipelines."""
PIECE: Final = 2000
AT_END: Final = {"enable.partition.eof": True, "fetch.wait.max.ms": 10}
"""Settings of a session that learns soon that it is at the end, also behind the marker of a transaction."""


@dataclass(slots=True)
class Ledger:
    """Records of one pipeline. Not thread-safe."""

    place: Place
    uid: str
    where: str
    check: Callable[[], None] = lambda: None
    needed: bool = False
    """True once a missing topic is an error, not an empty state."""
    records: dict[Key, Any] = field(default_factory=dict)
    _at: int = 0
    _admin: Any = None
    _consumer: Consumer | None = None
    _ends: Consumer | None = None

    @property
    def partition(self) -> int:
        """The partition of this pipeline's records."""
        return zlib.crc32(self.uid.encode()) % PARTITIONS

    def key(self, key: Key) -> bytes:
        """Return a key as it stands in the topic."""
        return json.dumps([self.uid, *key], separators=(",", ":")).encode()

    @property
    def client(self) -> Any:
        """A client for metadata."""
        self._admin = self._admin or admin(self.place)
        return self._admin

    def exists(self) -> bool:
        """True if the topic exists.

        Raises:
            Refused: it would lose records by itself.
        """
        with translated(self.where, STATE_TOPIC):
            found = found_topic(self.client, STATE_TOPIC)
        if found is None:
            return False
        if len(found.partitions) != PARTITIONS:
            what = f"{STATE_TOPIC} has {len(found.partitions)} partitions, not {PARTITIONS}"
            raise Refused(what, where=self.where, hint=f"delete it, and let Penstock create it, or: {creating()}")
        policy = settings_of(self.client, STATE_TOPIC).get("cleanup.policy", "compact")
        if policy != "compact":
            what = f"{STATE_TOPIC} has cleanup.policy {policy}: what pipelines keep there would be deleted"
            hint = f"kafka-configs --alter --topic {STATE_TOPIC} --add-config cleanup.policy=compact"
            raise Refused(what, where=self.where, hint=hint)
        return True

    def identity(self) -> str | None:
        """Return the topic's id as it is now; None if there is none."""
        with translated(self.where, STATE_TOPIC):
            found = found_topic(self.client, STATE_TOPIC)
        return None if found is None else str(found.topic_id)

    def make(self) -> None:
        """Create the topic if it is missing.

        Raises:
            AccessDenied: this user may not.
        """
        create_topic(self.client, NewTopic(STATE_TOPIC, PARTITIONS, -1, config=CONFIG), self.where)
        self.needed = True

    def refresh(self) -> dict[Key, Any]:
        """Read on to the end; return the records.

        Raises:
            Unavailable: another pipeline's transaction is open for too long.
        """
        if not self.needed:
            if not self.exists():
                return self.records
            self.needed = True
        end = self._end()
        if end > self._at:
            self._read(end)
        return self.records

    def _end(self) -> int:
        """Return the offset that the next record gets, beyond what is still uncommitted."""
        if self._ends is None:
            self._ends = consumer(self.place, self._group, **{"isolation.level": "read_uncommitted"})
        until = time.monotonic() + SECONDS
        while True:
            try:
                name = part_name(STATE_TOPIC, self.partition)
                return watermarks(self._ends, [name], self.where)[name][1]
            except Unavailable:  # a topic that was just created has no leader yet
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_SECONDS)

    @property
    def _group(self) -> str:
        return f"penstock-{self.place.pipeline}"

    def _read(self, end: int) -> None:
        part = [TopicPartition(STATE_TOPIC, self.partition, self._at)]
        if self._consumer is None:
            self._consumer = consumer(self.place, self._group, **AT_END)
            self._consumer.assign(part)
        else:
            self._consumer.resume(part)
        try:
            self._read_on(self._consumer, end)
        finally:
            self._consumer.pause(part)  # it would ask for more a hundred times a second

    def _read_on(self, session: Consumer, end: int) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while self._at < end:
            self.check()
            with translated(self.where, STATE_TOPIC):
                taken = session.consume(PIECE, POLL_SECONDS)
            for message in taken:
                error, offset = message.error(), message.offset() or 0
                if error is None:
                    self._fold(message.key(), message.value())
                    self._at = offset + 1
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                    self._at = max(self._at, offset)
                elif not error.retriable():
                    with translated(self.where, STATE_TOPIC):
                        raise KafkaException(error)
            if time.monotonic() > until:
                what = f"{STATE_TOPIC} cannot be read to its end: a transaction of another pipeline is open"
                raise Unavailable(what, where=self.where, hint="try again; the brokers end it after some minutes")

    def _fold(self, key: bytes | None, value: bytes | None) -> None:
        uid, *rest = json.loads(key or b"[null]")
        if uid != self.uid:
            return
        if value is None:
            self.records.pop(tuple(rest), None)
        else:
            self.records[tuple(rest)] = json.loads(value)

    def forget(self) -> None:
        """Forget the records, so that the topic is read from its beginning again."""
        self.close()
        self.records.clear()
        self._at = 0

    def close(self) -> None:
        """End the session."""
        for one in (self._consumer, self._ends):
            if one is not None:
                one.close()
        self._consumer = self._ends = self._admin = None


def creating() -> str:
    """Return the command that creates the topic."""
    config = " ".join(f"--config {name}={value}" for name, value in CONFIG.items())
    return f"kafka-topics --create --topic {STATE_TOPIC} --partitions {PARTITIONS} {config}"


def create_topic(client: Any, topic: NewTopic, where: str) -> None:
    """Create a topic, unless it is there; return when the brokers show it."""
    with translated(where, topic.topic):
        try:
            client.create_topics([topic], request_timeout=SECONDS)[topic.topic].result(SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        until = time.monotonic() + SECONDS
        while found_topic(client, topic.topic) is None and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
