"""Reader of a topic of the log as a stream: messages in the order of each partition, in splits that end by themselves.

A split is only passed on after the topic's id was seen once more, so that no message of a topic that was made again in
the meantime is ever taken for one of the old.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from dataflows.connectors.formats.decoding import Decoder
from dataflows.connectors.formats.messages import in_turns, times_of, turns_of
from dataflows.connectors.partitions import START_OVER, check_position, part_name, part_number
from dataflows.connectors.reading import chunks
from dataflows.connectors.streaming import StreamOrder
from dataflows.connectors.topics.event import Event
from dataflows.connectors.topics.positions import Position
from dataflows.data.chunks import Chunk
from dataflows.data.movement import eased
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import BadData, LogError, Refused
from penstock.topics.log import Stored
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import Topic

__all__ = ["TopicReader"]

POLL_SECONDS: Final = 0.1
"""Seconds between two looks at whether the flow has ended; a message ends the wait."""
QUIET_SECONDS: Final = 1.0
"""The same if no message has come for long: a stop waits for it."""
PIECE: Final = 2000
"""Messages taken at once, so that a split is bounded in bytes too."""
SPLIT_BYTES: Final = 16 << 20
LOOK_SECONDS: Final = 2.0
"""Seconds between two looks at the topic's id and ends while nothing arrives."""
WRITTEN_SECONDS: Final = 0.01
"""Seconds between two looks at whether the last splits of a drained stream are written."""


@dataclass
class TopicReader:
    """Reads one slot; `connect` opens the log, `find` returns the topic there, and its id."""

    order: StreamOrder
    decoder: Decoder
    name: str
    where: str
    connect: Callable[[], PostgresLog]
    find: Callable[[PostgresLog], tuple[Topic, str]]
    splits: dict[int, Split] = field(default_factory=dict, init=False)
    _at: dict[int, Position] = field(default_factory=dict, init=False)
    _turns: deque[int] = field(default_factory=deque, init=False)
    """The partitions, the next one to be asked first."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _opened: tuple[PostgresLog, Topic] | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False)
    _came: float = field(default_factory=time.monotonic, init=False)
    """When the last message has come."""
    _drain: dict[int, int] | None = field(default=None, init=False)
    """The end of each partition when the reader was asked to drain."""

    def chunks(self) -> Iterator[Chunk]:
        positions = {part_number(name): text for name, text in self.order.positions.items()}
        self._at = {part: Position.parse(text) for part, text in positions.items() if part in self.order.share}
        self._turns.extend(sorted(self._at))
        log = self.connect()
        self._opened = log, self.find(log)[0]
        number = self.order.first
        while not self._is_drained():
            self.order.read.check()
            messages = self._gathered()
            if not messages:
                self._look_around()
                continue
            split = Split(number, moves=self._moves(messages), times=times_of(messages), turns=turns_of(messages))
            self._check_topic()
            with self._lock:
                self.splits[number] = split
            yield from chunks(self.order.slot, split, iter((self.decoder(messages),)))
            number += self.order.share.of
        while self.splits:
            self.order.read.check()
            time.sleep(WRITTEN_SECONDS)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        return chunks(slot, split, iter((self.decoder(self._again(split)),)))

    def committed(self, number: int) -> None:
        with self._lock:
            for one in [one for one in self.splits if one <= number]:
                del self.splits[one]

    def close(self) -> None:
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    @property
    def _live(self) -> tuple[PostgresLog, Topic]:
        if self._opened is None:
            message = "the reader is not open"
            raise AssertionError(message)
        return self._opened

    def _gathered(self) -> list[Event]:
        """Return the messages of a split: what arrives within the linger after the first, up to its size."""
        limit = self.order.read.batch_rows
        found = self._taken(limit, eased(POLL_SECONDS, QUIET_SECONDS, time.monotonic() - self._came))
        if not found:
            return []
        self._came = time.monotonic()
        end, size = time.monotonic() + self.order.linger, _size(found)
        while len(found) < limit and size < SPLIT_BYTES:
            left = end - time.monotonic()
            more = self._taken(limit - len(found), max(0.0, min(left, POLL_SECONDS)))
            found += more
            size += _size(more)
            self.order.read.check()
            if left <= 0 and len(more) < PIECE:
                break
        return found

    def _taken(self, limit: int, seconds: float) -> list[Event]:
        """Wait for messages, and return what one partition has; the partitions take turns. It is behind them then."""
        log, topic = self._live
        if not log.await_any(topic, {part: at.offset for part, at in self._at.items()}, seconds):
            return []
        for _ in range(len(self._turns)):
            part = self._turns[0]
            self._turns.rotate(-1)
            if log.wait(topic, part, self._at[part].offset, 0):
                found = self._read(part, min(PIECE, limit))
                self.order.moved()
                if found:
                    return [Event(one) for one in found]
        return []

    def _read(self, part: int, limit: int) -> list[Stored]:
        """Return the next messages of a partition, and move its position behind them."""
        log, topic = self._live
        at = self._at[part]
        try:
            found = log.read(topic, part, at.offset, limit)
        except LogError:
            self._check(part)
            raise
        if found:
            self._at[part] = Position(found[-1].offset + 1, at.topic)
        return found

    def _moves(self, messages: Sequence[Event]) -> tuple[Move, ...]:
        """Return the move of each partition."""
        starts: dict[int, int] = {}
        for one in messages:
            starts.setdefault(one.partition(), one.offset())
        return tuple(
            Move(part_name(self.name, part), str(Position(start, self._at[part].topic)), str(self._at[part]))
            for part, start in sorted(starts.items())
        )

    def _look_around(self) -> None:
        """Now and then, while nothing arrives, look whether the positions still stand on what is there."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._check_topic()
        for part in self._at:
            self._check(part)
        self.order.moved()

    def _check(self, part: int) -> None:
        log, topic = self._live
        ends = log.begin(topic, part), log.end(topic, part)
        check_position(self._at[part], part_name(self.name, part), self.find(log)[1], ends, self.where)

    def _check_topic(self) -> None:
        """Refuse to go on with another topic than that of the positions."""
        _, identity = self.find(self._live[0])
        self._looked = time.monotonic()
        if any(at.topic != identity for at in self._at.values()):
            raise _made_again(self.where)

    def _is_drained(self) -> bool:
        """True if the reader was asked to drain, and has passed on what each partition had at that moment."""
        if not self.order.draining():
            return False
        if self._drain is None:
            log, topic = self._live
            self._drain = {part: log.end(topic, part) for part in self._at}
        return all(self._at[part].offset >= end for part, end in self._drain.items())

    def _again(self, split: Split) -> list[Event]:
        """Return the messages of a split that was read before, in the same order.

        Raises:
            BadData: they are not there any more.
        """
        found: list[Event] = []
        with closing(self.connect()) as log:
            topic, _ = self.find(log)
            for move in split.moves:
                part, at, end = part_number(move.partition), Position.parse(move.start), Position.parse(move.end)
                offset = at.offset
                while offset < end.offset:
                    try:
                        batch = log.read(topic, part, offset, min(PIECE, end.offset - offset))
                    except LogError as error:
                        raise BadData("messages were deleted while they were written", where=self.where) from error
                    if not batch:
                        raise BadData("messages that were read before are gone", where=self.where)
                    found += [Event(one) for one in batch]
                    offset = batch[-1].offset + 1
                    self.order.moved()
            if self.find(log)[1] != Position.parse(split.moves[0].end).topic:
                raise _made_again(self.where)
        return in_turns(found, split.turns)


def _size(messages: Sequence[Event]) -> int:
    return sum(len(one.stored.message.value) for one in messages)


def _made_again(where: str) -> Refused:
    return Refused("the topic was made again while it was read", where=where, hint=START_OVER)
