"""Open the topic log that a URL names: on PostgreSQL, or on Kafka, whose client is loaded only then."""

from __future__ import annotations

from pathlib import Path

from penstock.kafka_url import is_kafka
from penstock.topics.log import TopicLog
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import TOPICS, Topic

__all__ = ["open_log", "topics_of"]


def open_log(url: str, locks: str, *, name: str = "log", secrets: Path | None = None) -> TopicLog:
    """Open the log at `url`; a log on Kafka has its locks in the PostgreSQL database at `locks`.

    `secrets` is the project's folder of secret files, which a Kafka URL may refer to.
    """
    if not is_kafka(url):
        return PostgresLog(url, name=name)
    from penstock.topics.kafka import KafkaLog  # noqa: PLC0415 - its client library takes 30 ms to load

    return KafkaLog(url, locks, name=name, secrets=secrets)


def topics_of(log: TopicLog) -> list[Topic]:
    """Return Penstock's own topics, and after them those of users, which only a log on PostgreSQL has."""
    own = list(TOPICS.values())
    found = [topic for topic, _ in log.topics().values()] if isinstance(log, PostgresLog) else []
    return own + [topic for topic in found if topic not in own]
