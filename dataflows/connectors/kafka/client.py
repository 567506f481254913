"""Clients of Apache Kafka: settings of a connection as librdkafka takes them, and its errors as Penstock's.

librdkafka retries for ever by itself; every call here has a time-out, so that a broker that is away is an error by
name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from dataflows.connectors.contract import Place
from dataflows.connectors.partitions import part_number, topic_of
from penstock.errors import AccessDenied, MissingTable, PenstockError, Unavailable, Unreachable, did_you_mean
from penstock.models.connection import KafkaConnection
from penstock.models.secrets import resolve

__all__ = [
    "QUEUED_KILOBYTES",
    "SECONDS",
    "Admin",
    "Topic",
    "admin",
    "consumer",
    "described",
    "described_all",
    "error_of",
    "found_topic",
    "missing_rights",
    "place_at",
    "producer",
    "settings_of",
    "translated",
    "watermarks",
]

SECONDS: Final = 15.0
"""Longest wait for an answer."""
SHOWN_SECONDS: Final = 5.0
"""Longest wait for a topic that the brokers do not show: one that has just started does not know all of them yet."""
PAUSE_SECONDS: Final = 0.1
_SILENT: Final = logging.getLogger("penstock.kafka.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
QUEUED_KILOBYTES: Final = 32 * 1024
"""Most that a consumer fetches ahead, and that a producer has to send."""
_DENIED: Final = {
    KafkaError._AUTHENTICATION,  # noqa: SLF001 - the client's own codes begin with an underscore
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_AWAY: Final = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE}  # noqa: SLF001 - as above


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the brokers describe it; `id` changes if it is deleted and made again."""

    name: str
    id: str
    partitions: tuple[int, ...]


def _settings(place: Place) -> dict[str, Any]:
    connection: KafkaConnection = place.settings
    security = connection.security
    given = {
        "bootstrap.servers": connection.bootstrap,
        "client.id": f"penstock:{place.pipeline}",
        "security.protocol": security.protocol,
        "sasl.mechanism": security.mechanism,
        "sasl.username": security.username,
        "ssl.ca.location": security.ca,
    }
    if security.password is not None:
        given["sasl.password"] = resolve(security.password, where=place.where, secrets=place.secrets)
    return {name: value for name, value in given.items() if value is not None}


class Admin(AdminClient):
    """A client for metadata that gives up once the brokers refuse the user; the library itself asks on."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._refused: KafkaError | None = None
        super().__init__(settings | {"error_cb": self._failed}, logger=_SILENT)

    def _failed(self, error: KafkaError) -> None:
        if error.code() in _DENIED | {KafkaError._SSL}:  # noqa: SLF001 - as above
            self._refused = error

    def answer(self, future: Future[Any]) -> Any:
        """Return the result of a request.

        Raises:
            KafkaException: what the brokers say to it, or to the user.
            TimeoutError: they say nothing.
        """
        end = time.monotonic() + SECONDS
        while True:
            self.poll(0)  # calls `_failed`
            if self._refused is not None:
                raise KafkaException(self._refused)
            try:
                return future.result(PAUSE_SECONDS)
            except TimeoutError:
                if time.monotonic() > end:
                    raise


def admin(place: Place) -> Admin:
    """Return a client for metadata."""
    with translated(place.where):
        return Admin(_settings(place) | {"socket.timeout.ms": int(SECONDS * 1000)})


def consumer(place: Place, group: str, **settings: Any) -> Consumer:
    """Return a consumer that never commits by itself and never resets a position."""
    fixed = {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "check.crcs": True,
        "fetch.wait.max.ms": 1000,  # a message ends it
        "queued.max.messages.kbytes": QUEUED_KILOBYTES,
        "topic.metadata.refresh.interval.ms": 5000,
    }
    with translated(place.where):
        return Consumer(_settings(place) | fixed | settings, logger=_SILENT)


def producer(place: Place, **settings: Any) -> Producer:
    """Return a producer that stores each message once, and distributes keys as Kafka's own clients do."""
    fixed = {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        "compression.type": "lz4",
        "delivery.report.only.error": True,
        "queue.buffering.max.kbytes": QUEUED_KILOBYTES,
        "topic.metadata.refresh.interval.ms": 5000,
    }
    with translated(place.where):
        return Producer(_settings(place) | fixed | settings, logger=_SILENT)


def settings_of(client: Admin, topic: str) -> dict[str, str]:
    """Return the settings of a topic; none if this user may not read them."""
    asked = ConfigResource(ResourceType.TOPIC, topic)
    try:
        found = client.answer(client.describe_configs([asked], request_timeout=SECONDS)[asked])
    except (KafkaException, TimeoutError):
        return {}
    return {name: entry.value for name, entry in found.items()}


def described(client: Admin, topic: str, where: str) -> Topic:
    """Return the topic as it is now.

    Raises:
        MissingTable: there is none of that name.
        Unreachable, AccessDenied: the brokers.
    """
    end = time.monotonic() + SHOWN_SECONDS
    with translated(where, topic):
        while (found := found_topic(client, topic)) is None:
            if time.monotonic() > end:
                names = [name for name in client.list_topics(timeout=SECONDS).topics if not name.startswith("__")]
                hint = did_you_mean(topic, names) or "create it, or name another one"
                raise MissingTable("there is no such topic", where=where, value=topic, hint=hint)
            time.sleep(PAUSE_SECONDS)
    return Topic(topic, str(found.topic_id), tuple(sorted(one.id for one in found.partitions)))


def described_all(client: Admin, topics: Sequence[str], needed: Collection[str], where: str) -> dict[str, Topic]:
    """Return several topics as they are now, by name; those that are not `needed` may be missing."""
    if len(topics) == 1:
        return {topics[0]: described(client, topics[0], where)}
    found: dict[str, Topic] = {}
    with translated(where):
        for name, future in client.describe_topics(TopicCollection(list(topics)), request_timeout=SECONDS).items():
            try:
                one = future.result(SECONDS)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
                if name in needed:
                    found[name] = described(client, name, where)
            else:
                found[name] = Topic(name, str(one.topic_id), tuple(sorted(part.id for part in one.partitions)))
    return found


def found_topic(client: Admin, topic: str) -> Any | None:
    """Return what the brokers say of a topic; None if they do not know it."""
    try:
        return client.answer(client.describe_topics(TopicCollection([topic]), request_timeout=SECONDS)[topic])
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        return None


def missing_rights(client: Admin, topic: str, needed: Sequence[AclOperation], where: str) -> list[AclOperation]:
    """Return which of these operations on a topic this user may not do; none if there is no such topic.

    Raises:
        AccessDenied: the user may not even know of it.
    """
    asked = TopicCollection([topic])
    with translated(where, topic):
        try:
            found = client.describe_topics(asked, include_authorized_operations=True, request_timeout=SECONDS)
            allowed = client.answer(found[topic]).authorized_operations
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            return []
    return [] if allowed is None else [one for one in needed if one not in allowed]


def watermarks(client: Consumer, names: Iterable[str], where: str) -> dict[str, tuple[int, int]]:
    """Return the first kept offset of each partition, by name, and the one that its next message gets."""
    with translated(where):
        return {name: client.get_watermark_offsets(place_at(name), timeout=SECONDS, cached=False) for name in names}


def place_at(name: str, offset: int = OFFSET_INVALID) -> TopicPartition:
    """Return the place of an offset in the partition of that name."""
    return TopicPartition(topic_of(name), part_number(name), offset)


@contextmanager
def translated(where: str, topic: str | None = None) -> Iterator[None]:
    """Raise the client's errors as Penstock's."""
    try:
        yield
    except KafkaException as error:
        raise error_of(error.args[0], where, topic) from None
    except TimeoutError:
        hint = "is a broker listening at `bootstrap`?"
        raise Unreachable("no broker answers", where=where, hint=hint) from None


def error_of(error: KafkaError, where: str, topic: str | None = None) -> PenstockError:
    """Return the error for one of the client's."""
    code, text = error.code(), error.str().split("\n")[0]
    if code in _DENIED:
        hint = "check username, password and mechanism in `security`, and the ACLs of this user"
        return AccessDenied(f"the brokers refuse this user: {text}", where=where, value=topic, hint=hint)
    if code in _AWAY or error.code() == KafkaError._TIMED_OUT:  # noqa: SLF001 - as above
        return Unreachable(f"no broker answers: {text}", where=where, hint="is a broker listening at `bootstrap`?")
    return Unavailable(f"the brokers answered: {text} ({error.name()})", where=where, value=topic, hint="try again")
