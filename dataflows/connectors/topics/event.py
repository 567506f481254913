"""A message of the log as the decoder of messages takes it."""

from __future__ import annotations

from typing import Final

from penstock.topics.log import Stored

__all__ = ["Event"]

TIMED: Final = 1
"""The kind of the time of messages that have one: all."""


class Event:
    """A message of the log, read by the methods of `formats.messages.Message`."""

    __slots__ = ("stored",)

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def value(self) -> bytes:
        return self.stored.message.value

    def key(self) -> bytes | None:
        return self.stored.message.key

    def headers(self) -> list[tuple[str, bytes]]:
        return list(self.stored.message.headers)

    def timestamp(self) -> tuple[int, int]:
        return TIMED, int(self.stored.message.at.timestamp() * 1000)

    def topic(self) -> str:
        return self.stored.topic.name

    def partition(self) -> int:
        return self.stored.partition

    def offset(self) -> int:
        return self.stored.offset
