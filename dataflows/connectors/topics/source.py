"""A topic of the log as a source: its columns, the positions of its partitions, and whether they still stand on it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from shlex import quote

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.formats.decoding import decoder_of
from dataflows.connectors.formats.message_contract import About, MessageFormat, logged
from dataflows.connectors.formats.message_formats import message_format
from dataflows.connectors.formats.messages import topic_columns
from dataflows.connectors.newest import NewestReader, OnlyStreams
from dataflows.connectors.partitions import check_position, given_offsets, part_name, part_number, shift_of
from dataflows.connectors.streaming import Beginning, Restarted, StreamOrder
from dataflows.connectors.topics.event import Event
from dataflows.connectors.topics.positions import Ends, Position
from dataflows.connectors.topics.reader import TopicReader
from dataflows.data.tables import Table
from penstock.errors import MissingTable, did_you_mean
from penstock.models.connection import postgres_dsn
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import TOPICS, Topic

__all__ = ["TopicsSource", "topic_names"]


@dataclass
class TopicsSource(OnlyStreams):
    """One topic."""

    place: Place
    form: None = field(default=None, init=False)
    _table: Table | None = field(default=None, init=False)
    _counting: PostgresLog | None = field(default=None, init=False)
    """The session of `behind`, which is called by another thread."""

    @property
    def _where(self) -> str:
        return f"{self.place.where}: topic {self.place.object}"

    def _open(self) -> PostgresLog:
        return _log_of(self.place)

    @cached_property
    def _form(self) -> MessageFormat:
        about = About(f"{self.place.pipeline}: spec.source.format", self._where, logged(self._where))
        return message_format(self.place.format, about)

    def describe(self) -> Table:
        if self._table is None:
            with closing(self._open()) as log:
                self._topic(log)
            columns, types_from = self._form.columns(self.sampled)
            self._table = Table(self.place.object, "topic", topic_columns(columns), types_from=types_from)
        return self._table

    def _topic(self, log: PostgresLog) -> tuple[Topic, str]:
        """Return the topic, and its id."""
        known = log.topics()
        if self.place.object not in known:
            hint = did_you_mean(self.place.object, known) or f"penstock topics create {quote(self.place.object)}"
            raise MissingTable(f"there is no topic {self.place.object}", where=self._where, hint=hint)
        return known[self.place.object]

    # -- as a stream --

    def beginnings(self, known: Mapping[str, str], begin: Beginning) -> Mapping[str, str]:
        with closing(self._open()) as log:
            topic, identity = self._topic(log)
            ends = _ends(log, topic)
            for name, text in known.items():
                check_position(Position.parse(text), name, identity, ends.get(part_number(name)), self._where)
            begins = _begins(log, topic, begin, ends)
        names = {part: part_name(topic.name, part) for part in begins}
        return {names[part]: str(Position(at, identity)) for part, at in begins.items() if names[part] not in known}

    def partitions(self) -> int:
        with closing(self._open()) as log:
            return self._topic(log)[0].partitions

    def restarted(self, known: Mapping[str, str], begin: Beginning | Mapping[str, str]) -> Restarted:
        with closing(self._open()) as log:
            topic, identity = self._topic(log)
            ends = _ends(log, topic)
            stands = {name: Position.parse(text) for name, text in known.items()}
            if isinstance(begin, Mapping):
                old = {part_number(name): at.offset for name, at in stands.items() if at.topic == identity}
                begins = given_offsets(begin, old, ends, self._where)
            else:
                begins = _begins(log, topic, begin, ends)
        positions = {part_name(topic.name, part): Position(at, identity) for part, at in begins.items()}
        shifts = [shift for name, at in positions.items() if (shift := shift_of(name, stands.get(name), at))]
        return Restarted({name: str(at) for name, at in positions.items()}, shifts)

    @property
    def lag_unit(self) -> str:
        return "messages"

    def behind(self, positions: Mapping[str, str]) -> Mapping[str, int]:
        log = self._counting = self._counting or self._open()
        try:
            ends = _ends(log, self._topic(log)[0])
        except BaseException:
            self._counting = None  # the next call needs a new session
            log.close()
            raise
        at = {name: Position.parse(text).offset for name, text in positions.items()}
        return {name: max(0, ends[part_number(name)][1] - offset) for name, offset in at.items()}

    def stream(self, order: StreamOrder) -> TopicReader:
        decoder = decoder_of(order.read, self._form, self._where)
        return TopicReader(order, decoder, self.place.object, self._where, self._open, self._topic)

    # -- for previews; runs are streams --

    def reader(self, order: ReadOrder) -> NewestReader:
        return NewestReader(order, decoder_of(order, self._form, self._where), self.newest)

    def extent(self) -> tuple[int, int]:
        with closing(self._open()) as log:
            ends = _ends(log, self._topic(log)[0])
        return sum(high - low for low, high in ends.values()), len(ends)

    def newest(self, count: int) -> list[Event]:
        with closing(self._open()) as log:
            return _sample(log, self._topic(log)[0], count)

    def close(self) -> None:
        if self._counting is not None:
            self._counting.close()


def topic_names(place: Place) -> list[str]:
    """Return the names of the users' topics of a log."""
    with closing(_log_of(place)) as log:
        return sorted(log.topics().keys() - TOPICS.keys())


def _log_of(place: Place) -> PostgresLog:
    dsn = postgres_dsn(place.settings, name=place.connection, secrets=place.secrets)
    return PostgresLog(dsn, name=f"{place.pipeline}:topic")


def _ends(log: PostgresLog, topic: Topic) -> dict[int, tuple[int, int]]:
    return {part: (log.begin(topic, part), log.end(topic, part)) for part in range(topic.partitions)}


def _begins(log: PostgresLog, topic: Topic, begin: Beginning, ends: Ends) -> dict[int, int]:
    if isinstance(begin, datetime):
        return {part: log.seek_time(topic, part, begin) for part in ends}
    return {part: place[0 if begin == "earliest" else 1] for part, place in ends.items()}


def _sample(log: PostgresLog, topic: Topic, count: int) -> list[Event]:
    """Return about `count` of the newest messages, in equal parts of each partition."""
    share = -(-count // topic.partitions)
    return [
        Event(one)
        for part, (low, high) in _ends(log, topic).items()
        for one in log.read(topic, part, max(low, high - share), share)
    ]
