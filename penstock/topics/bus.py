"""Publish and subscribe over any topic log: objects of one kind become messages of the right topic, and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from penstock.errors import UsageError
from penstock.topics.log import Message, Stored, TopicLog
from penstock.topics.table import Topic, route

__all__ = ["RAW", "Bus", "Codec"]

T = TypeVar("T")

_BATCH: Final = 1000
_SLICE: Final = 0.25
"""Seconds between two checks of the stop flag."""


@dataclass(frozen=True)  # without slots: Python 3.11 cannot make a generic one by its subscripted name
class Codec(Generic[T]):
    """Encoder and decoder between objects and messages, and the record type by which objects are routed."""

    encode: Callable[[T], Message]
    decode: Callable[[Message], T]
    type_of: Callable[[T], str]


def _untyped(_: Message) -> str:
    raise UsageError("a bare message has no type to be routed by", hint="name the topic")


RAW: Final = Codec[Message](encode=lambda m: m, decode=lambda m: m, type_of=_untyped)
"""Messages as they are."""


class Bus(Generic[T]):
    """A wrapper of `log` for objects that `codec` knows. Like the log, for one thread at a time."""

    def __init__(self, log: TopicLog, codec: Codec[T]) -> None:
        self._log, self._codec = log, codec

    def publish(self, *things: T, topic: Topic | None = None) -> list[tuple[int, int]]:
        """Append to `topic`, or to the topic of each object's type; return their (partition, offset) in order.

        All messages for one partition are one atomic append.
        """
        grouped: dict[Topic, list[int]] = {}
        for index, thing in enumerate(things):
            grouped.setdefault(topic or route(self._codec.type_of(thing)), []).append(index)
        placed: dict[int, tuple[int, int]] = {}
        for target, indexes in grouped.items():
            messages = [self._codec.encode(things[i]) for i in indexes]
            placed.update(zip(indexes, self._log.append(target, messages), strict=True))
        return [placed[i] for i in range(len(things))]

    def subscribe(
        self,
        topic: Topic,
        start: int | datetime = 0,
        *,
        follow: bool = True,
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[Stored, T]]:
        """Yield all partitions' messages from an offset or a time on, each with its decoded object.

        Ordered within a partition only. What was trimmed away below an offset `start` is skipped; a subscriber
        overtaken by trimming later gets a LogError. Ends once `stop` is set or, without `follow`, at the end.
        """
        at = {part: self._start(topic, part, start) for part in range(topic.partitions)}
        while stop is None or not stop.is_set():
            moved = False
            for part, offset in at.items():
                batch = self._log.read(topic, part, offset, _BATCH)
                for stored in batch:
                    yield stored, self._codec.decode(stored.message)
                if batch:
                    at[part], moved = batch[-1].offset + 1, True
            if not (moved or follow):
                return
            if not moved:
                self._wait(topic, at)

    def _start(self, topic: Topic, part: int, start: int | datetime) -> int:
        if isinstance(start, datetime):
            return self._log.seek_time(topic, part, start)
        return max(start, self._log.begin(topic, part))

    def _wait(self, topic: Topic, at: dict[int, int]) -> None:
        for part, offset in at.items():
            if self._log.wait(topic, part, offset, _SLICE / len(at)):
                return
