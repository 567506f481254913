"""The table of topics: the only place where a topic's name is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from penstock.errors import NotFound, UsageError, did_you_mean

__all__ = ["CONTROL", "METRICS", "TOPICS", "Topic", "route", "topic_named"]

_NAME: Final = re.compile(r"[a-z][a-z0-9._-]{0,47}")
_MEGABYTE: Final = 1024 * 1024
_MOST_PARTITIONS: Final = 1024


@dataclass(frozen=True, slots=True)
class Topic:
    """A named log of `partitions` ordered partitions.

    `key` says what a message's key is. What was appended last to a topic that is not `durable` may be lost if the
    server crashes: its acknowledgement does not wait for the disk. With `retention_time` or `retention_bytes` (of all
    partitions together) the topic is *trimmed*: its oldest messages are dropped by whole segments. With neither it is
    kept for ever.
    """

    name: str
    key: str
    partitions: int = 1
    retention_time: timedelta | None = None
    retention_bytes: int | None = None
    durable: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            hint = "use a to z, 0 to 9, dot, underscore and dash, 48 at most, a letter first"
            raise UsageError("is not a valid topic name", value=self.name, hint=hint)
        if not 1 <= self.partitions <= _MOST_PARTITIONS:
            raise UsageError("a topic has 1 to 1024 partitions", where=self.name, value=self.partitions)

    @property
    def trimmed(self) -> bool:
        """True if its oldest messages may be dropped."""
        return self.retention_time is not None or self.retention_bytes is not None


CONTROL: Final = Topic("control", key="the record's subject")
"""Every command, event, timer and policy. One partition: its offset is the order of all records. Never trimmed."""

METRICS: Final = Topic(
    "metrics",
    key="the run",
    partitions=8,
    retention_time=timedelta(days=2),
    retention_bytes=256 * _MEGABYTE,
    durable=False,
)
"""Measurements of runs; a lost or repeated one changes nothing."""

TOPICS: Final = {topic.name: topic for topic in (CONTROL, METRICS)}

_MEASURED: Final = ("metric.", "run.progress")


def topic_named(name: str) -> Topic:
    """Return the topic of that name; raises NotFound."""
    try:
        return TOPICS[name]
    except KeyError:
        raise NotFound("no such topic", value=name, hint=did_you_mean(name, TOPICS)) from None


def route(record_type: str) -> Topic:
    """Return the topic for records of this type: METRICS for measurements, CONTROL for everything else."""
    return METRICS if record_type.startswith(_MEASURED) else CONTROL
