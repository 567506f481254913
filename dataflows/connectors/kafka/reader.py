"""Reader of topics as a stream: messages in the order of each partition, in splits that end by themselves.

A split is only passed on after the id of each topic was seen once more, so that no message of a topic that was made
again in the meantime is ever taken for one of the old.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from dataflows.connectors.formats.decoding import Decoder
from dataflows.connectors.formats.messages import in_turns, place_of, times_of, turns_of
from dataflows.connectors.kafka.client import SECONDS, Topic, error_of, place_at, translated, watermarks
from dataflows.connectors.kafka.positions import Position
from dataflows.connectors.partitions import START_OVER, part_name, part_number, topic_of
from dataflows.connectors.reading import chunks
from dataflows.connectors.streaming import StreamOrder
from dataflows.data.chunks import Chunk
from dataflows.data.movement import eased
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import BadData, Refused, Unreachable

__all__ = ["KafkaReader"]

POLL_SECONDS: Final = 0.1
"""Seconds between two looks at whether the flow has ended; a message ends the wait."""
QUIET_SECONDS: Final = 1.0
"""The same if no message has come for long: a stop waits for it."""
PIECE: Final = 2000
"""Messages taken at once, so that a split is bounded in bytes too."""
SPLIT_BYTES: Final = 16 << 20
WRITTEN_SECONDS: Final = 0.01
"""Seconds between two looks at whether the last splits of a drained stream are written."""
LOOK_SECONDS: Final = 2.0
"""Seconds between two looks at the topic while nothing arrives; it is looked at with each split anyway."""
QUIET_LOOK_SECONDS: Final = 5.0
"""The same if no message has come for long."""
AGAIN_SECONDS: Final = 30.0
"""Longest wait for a message that was read before."""


@dataclass
class KafkaReader:
    """Reads one slot; `look` describes the topics, these among them, `begins` returns where other partitions begin.

    Partitions are known by their names, which have that of the topic; only those of topics that `wants` are read.
    """

    order: StreamOrder
    decoder: Decoder
    where: str
    connect: Callable[[], Consumer]
    wants: Callable[[str], bool]
    look: Callable[[Collection[str]], Mapping[str, Topic]]
    begins: Callable[[Mapping[str, str]], Mapping[str, str]]
    splits: dict[int, Split] = field(default_factory=dict, init=False)
    _at: dict[str, Position] = field(default_factory=dict, init=False)
    _consumer: Consumer | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _looked: float = field(default=0.0, init=False)
    _came: float = field(default_factory=time.monotonic, init=False)
    """When the last message has come."""
    _ended: dict[str, int] = field(default_factory=dict, init=False)
    """The end of each partition when the reader last came to it, past what was aborted or compacted away."""
    _drain: dict[str, int] | None = field(default=None, init=False)
    """The end of each partition when the reader was asked to drain."""

    def chunks(self) -> Iterator[Chunk]:
        self._at = {name: Position.parse(text) for name, text in self.order.positions.items() if self._is_own(name)}
        self._consumer = self.connect()
        self._assign(self._at)
        number = self.order.first
        while not self._is_drained():
            self.order.read.check()
            messages = self._gathered()
            moves = self._moves(messages)
            if not moves:
                self._look_around()
                continue
            split = Split(number, moves=moves, times=times_of(messages), turns=turns_of(messages))
            topics = self._check_topics()
            with self._lock:
                self.splits[number] = split
            yield from chunks(self.order.slot, split, iter((self.decoder(messages),) if messages else ()))
            for move in split.moves:
                self._at[move.partition] = Position.parse(move.end)
            number += self.order.share.of
            self._take_new(topics)
        while self.splits:  # so that the group's offsets show the end too
            self.order.read.check()
            time.sleep(WRITTEN_SECONDS)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        return chunks(slot, split, iter((self.decoder(self._again(split)),) if split.turns else ()))

    def committed(self, number: int) -> None:
        """Mirror the end of splits up to `number` to the group's offsets, for tools that show lag, and forget them."""
        with self._lock:
            done = [one for one in sorted(self.splits) if one <= number]
        moves = [move for one in done for move in self.splits[one].moves]
        ends = {move.partition: Position.parse(move.end).offset for move in moves}
        places = [place_at(name, offset) for name, offset in ends.items()]
        if places and self._consumer is not None:
            with suppress(KafkaException):  # for tools only; a user without the right to commit loses nothing
                self._consumer.commit(offsets=places, asynchronous=True)
        with self._lock:
            for one in done:
                del self.splits[one]

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    @property
    def _quiet(self) -> float:
        """Seconds since a message has come."""
        return time.monotonic() - self._came

    @property
    def _live(self) -> Consumer:
        if self._consumer is None:
            message = "the reader is not open"
            raise AssertionError(message)
        return self._consumer

    def _is_own(self, name: str) -> bool:
        return part_number(name) in self.order.share and self.wants(topic_of(name))

    def _assign(self, positions: Mapping[str, Position]) -> None:
        places = [place_at(name, at.offset) for name, at in positions.items()]
        with translated(self.where):
            self._live.incremental_assign(places)

    def _gathered(self) -> list[Message]:
        """Return the messages of a split: what arrives within the linger after the first, up to its size."""
        limit = self.order.read.batch_rows
        found = self._taken(1, eased(POLL_SECONDS, QUIET_SECONDS, self._quiet))
        if not found:
            return []
        self._came = time.monotonic()
        end, size = time.monotonic() + self.order.linger, len(found[0])
        while len(found) < limit and size < SPLIT_BYTES:
            left = end - time.monotonic()
            more = self._taken(min(PIECE, limit - len(found)), max(0.0, min(left, POLL_SECONDS)))
            found += more
            size += sum(len(one) for one in more)
            self.order.read.check()
            if left <= 0 and len(more) < PIECE:
                break
        return found

    def _is_drained(self) -> bool:
        """True if the reader was asked to drain, and has passed on what each partition had then, new ones too."""
        if not self.order.draining():
            return False
        if self._drain is None:
            self._take_new(self._check_topics())
            self._drain = {name: high for name, (_, high) in watermarks(self._live, self._at, self.where).items()}
        return all(max(self._at[name].offset, self._ended.get(name, 0)) >= end for name, end in self._drain.items())

    def _taken(self, count: int, seconds: float) -> list[Message]:
        with translated(self.where):
            taken = self._live.consume(count, seconds)
        messages = []
        for message in taken:
            if _is_end(message):
                self._ended[_name_of(message)] = message.offset() or 0
            elif (error := message.error()) is not None:
                self._raise(error, _name_of(message))
            else:
                messages.append(message)
        if messages:
            self.order.moved()
        return messages

    def _raise(self, error: KafkaError, name: str) -> None:
        """Raise the error that a partition has in place of a message; those that pass by themselves are ignored."""
        if error.code() in {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}:  # noqa: SLF001 - its name
            at = self._at[name]
            self._check_topics()
            low, high = watermarks(self._live, [name], self.where)[name]
            what = f"{name} has offsets {low} to {high}, and the next one to read is {at.offset}"
            raise Refused(f"what comes next was deleted: {what}", where=self.where, hint=START_OVER)
        if error.code() in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID}:
            self._check_topics()
        if error.fatal() or not error.retriable():
            raise error_of(error, self.where, topic_of(name) or None)

    def _moves(self, messages: list[Message]) -> tuple[Move, ...]:
        """Return the move of each partition; offsets that have no message were compacted away or aborted.

        Those at its end belong to transactions. They are passed, too: else it would look behind for ever.
        """
        ended = {name for name, end in self._ended.items() if end > self._at[name].offset}
        came: dict[str, tuple[int, int | None]] = {}
        for message in messages:
            came[_name_of(message)] = place_of(message)[1], message.leader_epoch()
        moves = []
        for name in sorted(ended | came.keys()):
            start = self._at[name]
            offset, known = came.get(name, (start.offset - 1, None))
            epoch = start.epoch if known is None or known < 0 else known
            if name in came and (offset < start.offset or epoch < start.epoch):
                what = f"offset {offset} of epoch {epoch} came after offset {start.offset} of epoch {start.epoch}"
                raise Refused(f"{name}: {what}", where=self.where, hint="look at the brokers")
            end = Position(max(offset + 1, self._ended.get(name, 0)), epoch, start.topic)
            moves.append(Move(name, str(start), str(end)))
        return tuple(moves)

    def _check_topics(self) -> Mapping[str, Topic]:
        """Return the topics as they are now.

        Raises:
            Refused: one is another one than that of the positions.
            MissingTable: there is none of its name any more.
        """
        topics = self.look({topic_of(name) for name in self._at})
        self._looked = time.monotonic()
        self.order.moved()
        for name, at in self._at.items():
            if topics[topic_of(name)].id != at.topic:
                what = "the topic was deleted and made again while it was read"
                raise Refused(what, where=self.where, value=topic_of(name), hint=START_OVER)
        return topics

    def _look_around(self) -> None:
        """Now and then, while nothing arrives, look for new partitions and topics."""
        if time.monotonic() - self._looked >= eased(LOOK_SECONDS, QUIET_LOOK_SECONDS, self._quiet):
            self._take_new(self._check_topics())

    def _take_new(self, topics: Mapping[str, Topic]) -> None:
        """Begin the partitions of the reader's share that are not read yet."""
        names = {part_name(one.name, part) for one in topics.values() for part in one.partitions}
        new = {name for name in names if self._is_own(name)} - self._at.keys()
        if not new:
            return
        known = {name: str(at) for name, at in self._at.items()}
        begins = {name: text for name, text in self.begins(known).items() if name in new}
        self.order.begin(begins)
        added = {name: Position.parse(text) for name, text in begins.items()}
        with translated(self.where):
            for topic in sorted({topic_of(name) for name in added}):
                self._live.list_topics(topic, SECONDS)  # it asks for what is new every few minutes only
        self._at |= added
        self._assign(added)

    def _again(self, split: Split) -> list[Message]:
        """Return the messages of a split that was read before, in the same order.

        Offsets up to the end of a partition that have no message were compacted away meanwhile.

        Raises:
            Unreachable: they do not come.
            BadData: they are not there any more.
        """
        found: list[Message] = []
        with closing(self.connect()) as one:
            for move in split.moves:
                start, end = Position.parse(move.start), Position.parse(move.end)
                with translated(self.where):
                    one.assign([place_at(move.partition, start.offset)])
                deadline, at = time.monotonic() + AGAIN_SECONDS, start.offset
                while at < end.offset:
                    with translated(self.where):
                        taken = one.consume(PIECE, POLL_SECONDS)
                    batch = [message for message in taken if not _is_end(message)]
                    ends = [message.offset() or 0 for message in taken if _is_end(message)]
                    if bad := next((message.error() for message in batch if message.error() is not None), None):
                        raise BadData(f"messages were deleted while they were written: {bad.str()}", where=self.where)
                    if time.monotonic() > deadline:
                        raise Unreachable("messages that were read before do not come again", where=self.where)
                    found += [message for message in batch if place_of(message)[1] < end.offset]
                    at = max(at, *ends, place_of(batch[-1])[1] + 1 if batch else at)
                    self.order.moved()
        return in_turns(found, split.turns)


def _name_of(message: Message) -> str:
    """Return the name of a message's partition."""
    return part_name(message.topic() or "", message.partition() or 0)


def _is_end(message: Message) -> bool:
    """True for what the client returns in place of a message at the end of a partition."""
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - its name
