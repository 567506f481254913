"""The topic log on Apache Kafka: a topic is a topic, a partition a partition, a message a record.

An append is one batch of records for each partition, by an idempotent producer that sends only when it is flushed: a
broker stores a batch whole or not at all, and once. No transactions, so that offsets have no gaps. Kafka has no locks:
they are sessions of the catalog's database, and a stamp says that the session held the lock just before the append.
What fences a control process that works on without it is its generation; see docs/decisions/0035.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from penstock.errors import AccessDenied, LogError, PenstockError, Unavailable
from penstock.kafka_url import KafkaUrl
from penstock.topics import kafka_topics
from penstock.topics.kafka_client import APPEND_BYTES, DELIVERY_SECONDS, RECORD_OVERHEAD, SECONDS, Clients, translated
from penstock.topics.kafka_messages import arguments_of, milliseconds, size_of, stored_of
from penstock.topics.kafka_reader import PartitionReader
from penstock.topics.kafka_trim import Trimmer
from penstock.topics.locks import SessionLocks
from penstock.topics.log import Message, Stored, check_restored
from penstock.topics.partitioner import checked, grouped, numbered, places_of
from penstock.topics.table import Topic

__all__ = ["KafkaLog"]

READ_BYTES: Final = 32 * 1024 * 1024
"""The approximate limit of one read."""
READERS: Final = 16
"""Partitions whose consumers are kept."""
POLL_SECONDS: Final = 0.05
"""Seconds between two polls of a reader that waits beyond the end."""


class KafkaLog:
    """A TopicLog on the brokers of `url`, with its locks in the database `locks`.

    An append whose outcome is unknown, and a lost session of the locks, leave the object unusable, as a lost session
    does of `PostgresLog`: open a new one. Otherwise it survives brokers that restart.
    """

    def __init__(self, url: str, locks: str, *, name: str = "log", secrets: Path | None = None) -> None:
        self._url = KafkaUrl.parse(url)
        self._where = self._url.where
        self._clients = Clients(self._url.client(secrets), self._where, name)
        self._locks = SessionLocks(locks, name=name)
        self._partitions: dict[str, int] = {}
        self._readers: OrderedDict[tuple[str, int], PartitionReader] = OrderedDict()
        self._trimmers: dict[str, Trimmer] = {}
        self._turn = itertools.count()
        self._lost: str | None = None
        self.stamp: int | None = None

    def create(self, topic: Topic) -> None:
        """See TopicLog. Raises LogError if the topic exists with other partitions, or Kafka would drop its records."""
        self._usable()
        kafka_topics.create(self._clients, self._url, topic)
        self._partitions.clear()

    def has(self, topics: Sequence[Topic]) -> bool:
        """See TopicLog."""
        found = kafka_topics.partitions(self._clients)
        wanted = {self._url.prefix + one.name: one.partitions for one in topics}
        return wanted.items() <= found.items() and self._url.prefix + kafka_topics.IDENTITY.name in found

    def identity(self) -> str:
        """See TopicLog."""
        self._usable()
        return kafka_topics.identity(self._clients, self._url)

    def append(
        self, topic: Topic, messages: Sequence[Message], *, partition: int | None = None
    ) -> list[tuple[int, int]]:
        """See TopicLog. One batch for each partition; `APPEND_BYTES` at most."""
        self._usable()
        places = places_of(topic, messages, partition, self._turn)
        parts = grouped(places, messages)
        for part, batch in parts.items():
            _check(topic, part, batch)
        name = self._name(topic)
        self.stamp = self._stamp()
        stamped = {part: [(one, self.stamp) for one in batch] for part, batch in parts.items()}
        return numbered(places, self._send(topic, name, stamped) if parts else {})

    def restore(self, stored: Sequence[Stored]) -> None:
        """See TopicLog."""
        self._usable()
        for batch in _batches(stored):
            topic, part = batch[0].topic, batch[0].partition
            _check(topic, part, [one.message for one in batch])
            first = self._send(topic, self._name(topic), {part: [(one.message, one.lock) for one in batch]})
            check_restored(batch[0], first[part])

    def adopt(self, identity: str) -> None:
        """See TopicLog."""
        self._usable()
        if kafka_topics.identity(self._clients, self._url) != identity:
            kafka_topics.write_identity(self._clients, self._url, identity, kafka_topics.ADOPTED)

    def _stamp(self) -> int | None:
        try:
            return self._locks.stamp()
        except Unavailable:
            self._lost = "the session of its locks was lost"
            raise

    def _send(self, topic: Topic, name: str, parts: dict[int, list[tuple[Message, int | None]]]) -> dict[int, int]:
        """Append stamped messages; return the first offset of each partition."""
        reports: dict[int, list[int]] = {part: [] for part in parts}
        errors: list[KafkaError] = []

        def report(error: KafkaError | None, record: Any) -> None:
            if error is None:
                reports[record.partition()].append(record.offset())
            else:
                errors.append(error)

        end = time.monotonic() + DELIVERY_SECONDS + SECONDS
        try:
            for part, batch in parts.items():
                for message, lock in batch:
                    arguments = arguments_of(message, lock)
                    self._clients.producer.produce(name, partition=part, on_delivery=report, **arguments)
        except (KafkaException, BufferError) as error:
            self._clients.drop_producer()  # nothing was sent yet
            raise self._refused(topic, error) from error
        if not self._clients.delivered(end) or errors:
            raise self._undelivered(topic, errors)
        return {part: _first(topic, part, len(parts[part]), offsets) for part, offsets in reports.items()}

    def _refused(self, topic: Topic, error: Exception) -> PenstockError:
        found = error.args[0] if error.args else None
        where = f"{self._where}: {topic.name}"
        return translated(found, where) if isinstance(found, KafkaError) else LogError(str(error), where=where)

    def _undelivered(self, topic: Topic, errors: list[KafkaError]) -> PenstockError:
        """Drop what was not sent, and return the error; the log stays usable only if surely nothing was appended."""
        self._clients.drop_producer()
        where = f"{self._where}: {topic.name}"
        found = translated(errors[0], where) if errors else Unavailable("the append was not confirmed", where=where)
        if isinstance(found, Unavailable) and not isinstance(found, AccessDenied):
            self._lost = "the outcome of an append is unknown"
            found.__cause__ = KafkaException(errors[0]) if errors else None
        self._partitions.clear()
        return found

    def read(self, topic: Topic, partition: int, offset: int, limit: int) -> list[Stored]:
        """See TopicLog. Returns about 32 MB at most, but always at least one message."""
        self._usable()
        reader = self._reader(topic, partition)
        if reader.is_at(offset) and reader.has_kept:
            records = reader.take(limit, READ_BYTES, 0)
            return [stored_of(topic, record) for record in records]
        begin, end = self._watermarks(topic, partition)
        if offset < begin:
            raise _trimmed(topic, partition, offset, begin)
        if offset >= end or limit < 1:
            return []
        reader.move(offset)
        records = reader.take(min(limit, end - offset), READ_BYTES, SECONDS)
        if not records:
            begin, _ = self._watermarks(topic, partition)
            if offset < begin:
                raise _trimmed(topic, partition, offset, begin)
            hint = "check that the brokers run and can be reached"
            raise Unavailable("no record arrives", where=f"{self._where}: {topic.name}/{partition}", hint=hint)
        return [stored_of(topic, record) for record in records]

    def begin(self, topic: Topic, partition: int) -> int:
        """See TopicLog."""
        return self._watermarks(topic, partition)[0]

    def end(self, topic: Topic, partition: int) -> int:
        """See TopicLog."""
        return self._watermarks(topic, partition)[1]

    def seek_time(self, topic: Topic, partition: int, at: datetime) -> int:
        """See TopicLog. Kafka's times have milliseconds: records between its two answers are compared exactly."""
        name, millis = self._name(topic), milliseconds(at)
        first, sure = (self._at_time(topic, name, checked(topic, partition), one) for one in (millis, millis + 1))
        while first < sure:
            found = self.read(topic, partition, first, sure - first)
            late = next((one.offset for one in found if one.message.at >= at), None)
            if late is not None:
                return late
            first = found[-1].offset + 1
        return sure

    def _at_time(self, topic: Topic, name: str, partition: int, millis: int) -> int:
        """Return the first offset with that time of Kafka or a later one; the end if there is none."""
        place = TopicPartition(name, partition, millis)
        (found,) = self._clients.query(
            lambda consumer, timeout: consumer.offsets_for_times([place], timeout=timeout),
            where=f"{self._where}: {topic.name}",
        )
        if found.error is not None:
            raise translated(found.error, f"{self._where}: {topic.name}")
        return int(found.offset) if found.offset >= 0 else self.end(topic, partition)

    def trim(self, topic: Topic, now: datetime) -> None:
        """See TopicLog. Drops single messages; what Kafka then has on its disks, it deletes by whole segments."""
        self._usable()
        if topic.trimmed:
            name = self._name(topic)
            if name not in self._trimmers:
                self._trimmers[name] = Trimmer(topic)
            before = self._trimmers[name].due(self, now)
            kafka_topics.delete_before(self._clients, name, before)

    def wait(self, topic: Topic, partition: int, offset: int, timeout: float) -> bool:
        """See TopicLog. A reader at the end is woken by its fetch, which the broker answers when there is a record."""
        self._usable()
        end = time.monotonic() + timeout
        reader = self._reader(topic, partition)
        while not (reader.is_at(offset) and reader.fetch(max(0.0, end - time.monotonic()))):
            if reader.is_at(offset):
                return False
            begin, last = self._watermarks(topic, partition)
            if last > offset:
                return True
            if last == offset and begin <= offset:
                reader.move(offset)
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(POLL_SECONDS)
        return True

    def lock(self, name: str, *, wait: bool) -> bool:
        """See TopicLog. The lock is a session's of the catalog's database."""
        self._usable()
        return self._locks.lock(name, wait=wait)

    def unlock(self, name: str) -> None:
        """See TopicLog."""
        self._locks.unlock(name)

    def holder(self, name: str) -> bool:
        """See TopicLog."""
        self._usable()
        return self._locks.holder(name)

    def close(self) -> None:
        """See TopicLog."""
        self._lost = "it is closed"
        while self._readers:
            self._readers.popitem()[1].close()
        self._clients.close()
        self._locks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    # -- inside --

    def _usable(self) -> None:
        if self._lost is None:
            try:
                self._locks.check()
                return
            except Unavailable:
                self._lost = "the session of its locks was lost"
                raise
        raise Unavailable(self._lost, where=self._where, hint="connect again")

    def _name(self, topic: Topic) -> str:
        """Return Kafka's name of the topic; raises LogError if it is not there, or in another form."""
        name = self._url.prefix + topic.name
        if name not in self._partitions:
            self._partitions = kafka_topics.awaited(self._clients, name)
        if name not in self._partitions:
            raise LogError(f"no such topic: {topic.name}", where=self._where, hint="create it first")
        return name

    def _watermarks(self, topic: Topic, partition: int) -> tuple[int, int]:
        self._usable()
        name = self._name(topic)
        return self._clients.watermarks(name, checked(topic, partition), f"{self._where}: {topic.name}")

    def _reader(self, topic: Topic, partition: int) -> PartitionReader:
        place = (self._name(topic), checked(topic, partition))
        if place not in self._readers:
            while len(self._readers) >= READERS:
                self._readers.popitem(last=False)[1].close()
            where = f"{self._where}: {topic.name}/{partition}"
            self._readers[place] = PartitionReader(self._clients.consumer, *place, where)
        self._readers.move_to_end(place)
        return self._readers[place]


def _check(topic: Topic, part: int, batch: list[Message]) -> None:
    """Refuse what no append can hold, before anything is sent."""
    size = sum(map(_batch_bytes, batch))
    if size > APPEND_BYTES:
        hint = f"append at most {APPEND_BYTES} bytes at once"
        raise LogError("too much for one append", where=f"{topic.name}/{part}", value=size, hint=hint)
    if any(message.at.tzinfo is None for message in batch):
        raise LogError("a message's time has no zone", where=f"{topic.name}/{part}", hint="give it in UTC")


def _batch_bytes(message: Message) -> int:
    """Return the bytes that a message takes in a batch, at most."""
    return size_of(message) + RECORD_OVERHEAD + 16 * len(message.headers)


def _batches(stored: Sequence[Stored]) -> Iterator[list[Stored]]:
    """Yield the messages in batches of about `READ_BYTES`."""
    batch: list[Stored] = []
    size = 0
    for one in stored:
        more = _batch_bytes(one.message)
        if batch and size + more > READ_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += more
    if batch:
        yield batch


def _first(topic: Topic, part: int, count: int, offsets: list[int]) -> int:
    """Return the first offset of an append; raises LogError if the broker did not store it in one piece."""
    if offsets != list(range(offsets[0], offsets[0] + count)):
        what = "the messages of an append were not stored next to each other"
        raise LogError(what, where=f"{topic.name}/{part}", value=offsets[:3], hint="report it")
    return offsets[0]


def _trimmed(topic: Topic, partition: int, offset: int, begin: int) -> LogError:
    return LogError("trimmed away", where=f"{topic.name}/{partition}", value=offset, hint=f"read from {begin} on")
