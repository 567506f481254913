"""Topics of the log on Kafka: creation, comparison with what is there, identity, deletion of old records."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from penstock.errors import LogError, Unavailable
from penstock.kafka_url import KafkaUrl
from penstock.topics.kafka_client import DELIVERY_SECONDS, MESSAGE_BYTES, PAUSE_SECONDS, SECONDS, Clients, translated
from penstock.topics.kafka_reader import PartitionReader
from penstock.topics.table import Topic

__all__ = ["ADOPTED", "IDENTITY", "awaited", "create", "delete_before", "identity", "partitions", "write_identity"]

IDENTITY: Final = Topic("identity", key="none")
"""The first record on it is the log's id, unless a later one says that the log is a copy of another."""
ADOPTED: Final = b"adopted"
"""The key of the id of another log."""
SHOWN_SECONDS: Final = 5.0
"""Longest wait for a topic that the brokers do not show."""
FOR_EVER: Final = "-1"
_MOST: Final = str(2**63 - 1)
_MOST_IDENTITY_BYTES: Final = 1024 * 1024
_FEWEST_SEGMENT_BYTES: Final = 1024 * 1024
_SHARE: Final = 8
"""Kafka deletes whole segments; each is one SHARE-th of what a topic keeps."""
_SAFE_COPIES: Final = 3
"""From that many copies on, two must confirm an append."""
_KEPT: Final = {
    "cleanup.policy": "delete",
    "retention.ms": FOR_EVER,
    "retention.bytes": FOR_EVER,
    "message.timestamp.type": "CreateTime",
}
"""Kafka itself drops nothing and changes no time: what is old, `TopicLog.trim` says, by the times of the messages."""


def partitions(clients: Clients) -> dict[str, int]:
    """Return the number of partitions of every topic of the cluster that this user can see."""
    found = clients.query(lambda consumer, timeout: consumer.list_topics(timeout=timeout))
    return {name: len(one.partitions) for name, one in found.topics.items() if one.error is None}


def awaited(clients: Clients, name: str) -> dict[str, int]:
    """Return what `partitions` does, once the topic `name` is among them, or it has not appeared for a while.

    A broker that has just started answers before it knows all topics.
    """
    end = time.monotonic() + SHOWN_SECONDS
    while name not in (found := partitions(clients)) and time.monotonic() < end:
        time.sleep(PAUSE_SECONDS)
    return found


def create(clients: Clients, url: KafkaUrl, topic: Topic) -> None:
    """Create the topic, and with the first one the log's identity; raises LogError if it exists and differs."""
    present = partitions(clients)
    _create(clients, url, IDENTITY, present)
    _create(clients, url, topic, present)
    name = url.prefix + IDENTITY.name
    if clients.watermarks(name, 0, url.where)[1] == 0:
        write_identity(clients, url, str(uuid.uuid4()))


def _create(clients: Clients, url: KafkaUrl, topic: Topic, present: Mapping[str, int]) -> None:
    name = url.prefix + topic.name
    if name not in present:
        new = NewTopic(
            name,
            num_partitions=topic.partitions,
            replication_factor=-1 if url.replication is None else url.replication,
            config=_config(topic, url),
        )
        admin = clients.administrator
        future = admin.create_topics([new], request_timeout=SECONDS)[name]
        try:
            future.result(SECONDS + 1)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translated(error.args[0], f"{url.where}: {topic.name}") from error
        present = _settled(clients, name, url)
    _compare(clients.administrator, clients, url, topic, present[name])


def _settled(clients: Clients, name: str, url: KafkaUrl) -> dict[str, int]:
    """Return all topics once the new one is among them, and its partitions have leaders."""
    end = time.monotonic() + SECONDS
    while True:
        found = clients.query(lambda consumer, timeout: consumer.list_topics(timeout=timeout)).topics
        if name in found and found[name].error is None:
            leaders = [one.leader for one in found[name].partitions.values()]
            if leaders and min(leaders) >= 0:
                return {one: len(data.partitions) for one, data in found.items() if data.error is None}
        if time.monotonic() > end:
            raise Unavailable("the new topic has no leader yet", where=f"{url.where}: {name}", hint="try again")
        time.sleep(PAUSE_SECONDS)


def _config(topic: Topic, url: KafkaUrl) -> dict[str, str]:
    config = {
        **_KEPT,
        "message.timestamp.before.max.ms": _MOST,
        "message.timestamp.after.max.ms": _MOST,
        "max.message.bytes": str(MESSAGE_BYTES),
        "unclean.leader.election.enable": "false",
    }
    if topic.retention_bytes is not None:
        share = topic.retention_bytes // _SHARE // topic.partitions
        config["segment.bytes"] = str(max(_FEWEST_SEGMENT_BYTES, share))
    if topic.retention_time is not None:
        config["segment.ms"] = str(max(1, topic.retention_time // _SHARE // timedelta(milliseconds=1)))
    if url.replication is not None and url.replication >= _SAFE_COPIES:
        config["min.insync.replicas"] = "2"
    return config


def _compare(admin: AdminClient, clients: Clients, url: KafkaUrl, topic: Topic, count: int) -> None:
    """Refuse a topic in another form, or one that Kafka would drop records of."""
    if count != topic.partitions:
        hint = f"keep {count}, or copy it to a new topic"
        what = "the topic has a different number of partitions"
        raise LogError(what, where=topic.name, value=topic.partitions, hint=hint)
    resource = ConfigResource(ResourceType.TOPIC, url.prefix + topic.name)
    future = admin.describe_configs([resource], request_timeout=SECONDS)[resource]
    found = clients.done(future, f"{url.where}: {topic.name}")
    for name, wanted in _KEPT.items():
        if name in found and found[name].value != wanted:
            hint = f"set it to {wanted}: Penstock itself drops what is old"
            where = f"{url.where}: {topic.name}"
            raise LogError(f"the topic has another `{name}`", where=where, value=found[name].value, hint=hint)


def write_identity(clients: Clients, url: KafkaUrl, identity: str, key: bytes | None = None) -> None:
    """Append an id; the first one ever counts, so that two that create a log agree."""
    failed: list[KafkaError] = []
    clients.producer.produce(
        url.prefix + IDENTITY.name,
        value=identity.encode(),
        key=key,
        partition=0,
        on_delivery=lambda error, _: failed.append(error) if error is not None else None,
    )
    if not clients.delivered(time.monotonic() + DELIVERY_SECONDS + SECONDS) or failed:
        clients.drop_producer()
        if failed:
            raise translated(failed[0], url.where)
        raise Unavailable("the log's identity was not confirmed", where=url.where, hint="try again")


def identity(clients: Clients, url: KafkaUrl) -> str:
    """Return the log's id; raises LogError if it has none."""
    name = url.prefix + IDENTITY.name
    present = name in awaited(clients, name)
    begin, end = clients.watermarks(name, 0, url.where) if present else (0, 0)
    if begin == end:
        raise LogError("it has no identity", where=url.where, hint="create it first")
    reader = PartitionReader(clients.consumer, name, 0, url.where)
    try:
        reader.move(begin)
        found = reader.take(end - begin, _MOST_IDENTITY_BYTES, SECONDS)
    finally:
        reader.close()
    if len(found) < end - begin:
        raise Unavailable("its identity cannot be read", where=url.where, hint="try again")
    counts = [one for one in found if one.key() == ADOPTED][-1:] or found
    return (counts[0].value() or b"").decode(errors="replace")


def delete_before(clients: Clients, name: str, offsets: Mapping[int, int]) -> None:
    """Delete a topic's records below an offset for each partition."""
    places = [TopicPartition(name, part, offset) for part, offset in offsets.items()]
    if places:
        admin = clients.administrator
        futures = admin.delete_records(places, request_timeout=SECONDS, operation_timeout=SECONDS)
        for place, future in futures.items():
            clients.done(future, f"{clients.where}: {name}/{place.partition}")
