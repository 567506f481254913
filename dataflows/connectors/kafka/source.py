"""A topic as a source: its columns, the positions of its partitions, and whether they still stand on what is there."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from confluent_kafka import Consumer, IsolationLevel, Message
from confluent_kafka.admin._listoffsets import OffsetSpec

from dataflows.connectors.contract import Place, ReadOrder, SplitReader
from dataflows.connectors.formats.decoding import decoder_of
from dataflows.connectors.formats.message_contract import About, MessageFormat, Subjects, logged
from dataflows.connectors.formats.message_formats import message_format
from dataflows.connectors.formats.messages import topic_columns
from dataflows.connectors.kafka.client import (
    SECONDS,
    Admin,
    Topic,
    admin,
    consumer,
    described_all,
    place_at,
    translated,
    watermarks,
)
from dataflows.connectors.kafka.ledger import STATE_TOPIC
from dataflows.connectors.kafka.positions import Position
from dataflows.connectors.kafka.reader import KafkaReader
from dataflows.connectors.newest import NewestReader, OnlyStreams
from dataflows.connectors.partitions import (
    check_position,
    given_offsets,
    part_name,
    part_number,
    shift_of,
    topic_of,
)
from dataflows.connectors.streaming import Beginning, Restarted, StreamOrder
from dataflows.data.tables import Table
from penstock.errors import MissingTable, Refused

__all__ = ["KafkaSource", "topic_names"]

SAMPLE_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.02
UNKNOWN_EPOCH: Final = -1


@dataclass
class KafkaSource(OnlyStreams):
    """One topic, or several."""

    place: Place
    form: None = field(default=None, init=False)
    _table: Table | None = field(default=None, init=False)
    _counted: set[str] = field(default_factory=set, init=False)
    """Partitions that the client of `behind` knows."""

    @property
    def _where(self) -> str:
        return f"{self.place.where}: {'topics' if self._several else 'topic'} {self.place.object}"

    @property
    def _several(self) -> bool:
        return bool(self.place.topics or self.place.pattern)

    @cached_property
    def _admin(self) -> Any:
        return admin(self.place)

    @cached_property
    def _form(self) -> MessageFormat:
        setting = f"{self.place.pipeline}: spec.source.format"
        about = About(setting, self._where, logged(self._where), self._names, self.registry)
        return message_format(self.place.format, about)

    def registry(self) -> Subjects | None:
        from dataflows.connectors.kafka.registry import Registry

        return Registry.of(self.place)

    def describe(self) -> Table:
        if self._table is None:
            self._topics()
            columns, types_from = self._form.columns(self.sampled)
            self._table = Table(self.place.object, "topic", topic_columns(columns), types_from=types_from)
        return self._table

    def _names(self) -> list[str]:
        """Return the names of the topics.

        Raises:
            MissingTable: no topic matches the pattern.
        """
        if self.place.pattern is None:
            return list(self.place.topics or (self.place.object,))
        names = [name for name in _users(self._admin, self._where) if self._wants(name)]
        if not names:
            what = "no topic matches the pattern"
            raise MissingTable(what, where=self._where, hint="the pattern has to match the whole name of a topic")
        return names

    def _wants(self, topic: str) -> bool:
        """True if the topic is one of the source's: no pattern matches Kafka's own topics, or Penstock's."""
        if self.place.pattern is None:
            return topic in (self.place.topics or (self.place.object,))
        return not _is_own(topic) and re.fullmatch(self.place.pattern, topic) is not None

    def _topics(self, needed: Collection[str] = ()) -> dict[str, Topic]:
        """Return the topics, by name; those that a pattern matches may just be gone, if they are not `needed`."""
        names = sorted({*self._names(), *needed})
        return described_all(self._admin, names, needed if self.place.pattern else names, self._where)

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        with closing(consumer(self.place, self._group)) as one:
            yield one

    @property
    def _group(self) -> str:
        return f"penstock-{self.place.pipeline}"

    def newest(self, count: int) -> list[Message]:
        return self._sample(self._topics(), count)

    def extent(self) -> tuple[int, int]:
        names = _partitions(self._topics())
        with self._consumer() as one:
            ends = watermarks(one, names, self._where)
        return sum(high - low for low, high in ends.values()), len(names)

    def _sample(self, topics: Mapping[str, Topic], count: int) -> list[Message]:
        """Return about `count` of the newest messages, in equal parts of each partition."""
        names = _partitions(topics)
        share = -(-count // len(names))
        found: list[Message] = []
        with self._consumer() as one:
            ends = watermarks(one, names, self._where)
            missing = {name: high for name, (low, high) in ends.items() if high > low}
            starts = [place_at(name, max(ends[name][0], ends[name][1] - share)) for name in missing]
            until = time.monotonic() + SAMPLE_SECONDS
            with translated(self._where):
                one.assign(starts)
                while missing and time.monotonic() < until:
                    found += [message for message in one.consume(share, POLL_SECONDS) if message.error() is None]
                    at = {part_name(place.topic, place.partition): place.offset for place in one.position(starts)}
                    missing = {name: high for name, high in missing.items() if at.get(name, 0) < high}
        return found

    # -- as a stream --

    def beginnings(self, known: Mapping[str, str], begin: Beginning) -> Mapping[str, str]:
        stood = {name: Position.parse(text) for name, text in known.items() if self._wants(topic_of(name))}
        topics = self._topics({topic_of(name) for name in stood})
        names = _partitions(topics)
        with self._consumer() as one:
            ends = watermarks(one, names, self._where)
            for name, at in stood.items():
                check_position(at, name, topics[topic_of(name)].id, ends.get(name), self._where)
            begins = self._begins(one, [name for name in names if name not in known], begin, ends)
        return {name: str(Position(at, UNKNOWN_EPOCH, topics[topic_of(name)].id)) for name, at in begins.items()}

    def _begins(
        self, one: Consumer, names: Sequence[str], begin: Beginning, ends: Mapping[str, tuple[int, int]]
    ) -> dict[str, int]:
        if not isinstance(begin, datetime):
            return {name: ends[name][0 if begin == "earliest" else 1] for name in names}
        at = int(begin.timestamp() * 1000)
        with translated(self._where):
            places = one.offsets_for_times([place_at(name, at) for name in names], timeout=SECONDS)
        found = {part_name(place.topic, place.partition): place.offset for place in places}
        return {name: offset if offset >= 0 else ends[name][1] for name, offset in found.items()}

    def partitions(self) -> int:
        return max(len(topic.partitions) for topic in self._topics().values())

    def picks(self, partition: str) -> bool:
        return self._wants(topic_of(partition))

    def includes(self, place: Place) -> bool:
        return self._wants(place.object)

    def restarted(self, known: Mapping[str, str], begin: Beginning | Mapping[str, str]) -> Restarted:
        topics = self._topics()
        names = _partitions(topics)
        with self._consumer() as one:
            ends = watermarks(one, names, self._where)
            stood = {name: Position.parse(text) for name, text in known.items()}
            if isinstance(begin, Mapping):
                begins = self._given(begin, stood, topics, ends)
            else:
                begins = self._begins(one, names, begin, ends)
        new = {name: Position(at, UNKNOWN_EPOCH, topics[topic_of(name)].id) for name, at in begins.items()}
        shifts = [shift for name, at in new.items() if (shift := shift_of(name, stood.get(name), at))]
        return Restarted({name: str(at) for name, at in new.items()}, shifts)

    def _given(
        self,
        begin: Mapping[str, str],
        stood: Mapping[str, Position],
        topics: Mapping[str, Topic],
        ends: Mapping[str, tuple[int, int]],
    ) -> dict[str, int]:
        """Return the offsets that a user gives for partitions of the one topic.

        Raises:
            Refused: there are several topics; or no such partition or offset.
        """
        if self._several:
            what = "several topics cannot begin at offsets of partitions"
            raise Refused(what, where=self._where, hint="write --from earliest, latest or a time")
        [topic] = topics.values()
        old = {part_number(name): at.offset for name, at in stood.items() if at.topic == topic.id}
        places = {part_number(name): place for name, place in ends.items()}
        return {part_name(topic.name, part): at for part, at in given_offsets(begin, old, places, self._where).items()}

    @property
    def lag_unit(self) -> str:
        return "messages"

    def behind(self, positions: Mapping[str, str]) -> Mapping[str, int]:
        at = {name: Position.parse(text) for name, text in positions.items() if self._wants(topic_of(name))}
        newest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library has no types for it
        asked = {place_at(name): newest for name in at}
        with translated(self._where):
            if not at.keys() <= self._counted:  # the client asks for what is new every few minutes only
                for topic in sorted({topic_of(name) for name in at}):
                    self._admin.list_topics(topic, SECONDS)
                self._counted = set(at)
            futures = self._admin.list_offsets(
                asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=SECONDS
            )
            ends = {
                part_name(place.topic, place.partition): future.result(SECONDS).offset
                for place, future in futures.items()
            }
        return {name: max(0, ends[name] - stands.offset) for name, stands in at.items()}

    def stream(self, order: StreamOrder) -> KafkaReader:
        return KafkaReader(
            order,
            decoder_of(order.read, self._form, self._where),
            self._where,
            lambda: consumer(self.place, self._group, **{"enable.partition.eof": True}),
            self._wants,
            self._topics,
            lambda names: self.beginnings(names, "earliest"),
        )

    # -- for previews; runs are streams --

    def reader(self, order: ReadOrder) -> SplitReader:
        return NewestReader(order, decoder_of(order, self._form, self._where), self.newest)

    def close(self) -> None:
        self.__dict__.pop("_admin", None)


def topic_names(place: Place) -> list[str]:
    """Return the names of the topics of a connection, without Kafka's own and Penstock's."""
    return _users(admin(place), place.where)


def _users(client: Admin, where: str) -> list[str]:
    with translated(where):
        return sorted(name for name in client.list_topics(timeout=SECONDS).topics if not _is_own(name))


def _is_own(topic: str) -> bool:
    return topic.startswith("__") or topic == STATE_TOPIC


def _partitions(topics: Mapping[str, Topic]) -> list[str]:
    """Return the names of the partitions of topics, in order."""
    return [part_name(one.name, part) for one in topics.values() for part in one.partitions]
