"""Topics as a source: which ones it has, where streams of them begin, and how far they are behind."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Message, TopicPartition

from dataflows.connectors.contract import Place
from dataflows.connectors.kafka import source as module
from dataflows.connectors.kafka.client import Topic
from dataflows.connectors.kafka.ledger import STATE_TOPIC
from dataflows.connectors.kafka.positions import Position
from dataflows.connectors.kafka.source import KafkaSource
from dataflows.data.tables import Column
from penstock.errors import MissingTable, Refused
from penstock.models.connection import parse_connection

SETTINGS = parse_connection("bus", {"type": "kafka", "bootstrap": "nowhere:1"})
AT = datetime(2026, 1, 1, tzinfo=UTC)


class Broker:
    """Topics `a` of two partitions and `b` of one, and a client of both."""

    topics = ("a", "b", "__consumer_offsets", STATE_TOPIC)
    ends = {"a/0": (2, 9), "a/1": (5, 5), "b/0": (0, 40)}

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        self.needed: Any = None
        self.messages: list[Message] = []
        self.seconds = 0.0
        monkeypatch.setattr(module, "admin", lambda _: self)
        monkeypatch.setattr(module, "consumer", lambda _, group, **more: self.connected(group, more))
        monkeypatch.setattr(module, "described_all", self.described)
        monkeypatch.setattr(module, "watermarks", lambda _, names, __: {name: self.ends[name] for name in names})
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.seconds))

    def connected(self, group: str, more: dict[str, Any]) -> Broker:
        self.asked.append((group, more))
        return self

    def described(self, _: object, names: list[str], needed: Any, __: str) -> dict[str, Topic]:
        self.asked.append(names)
        self.needed = needed
        parts = {"a": (0, 1), "b": (0,)}
        return {name: Topic(name, f"id-{name}", parts[name]) for name in names}

    def list_topics(self, topic: str | None = None, _: float = 0, *, timeout: float = 0) -> Any:  # noqa: ARG002 - the client's own
        self.asked.append(("list", topic))
        return SimpleNamespace(topics=dict.fromkeys(self.topics))

    def offsets_for_times(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:  # noqa: ARG002 - as above
        self.asked.append([one.offset for one in places])
        found = {"a/0": 4, "a/1": -1, "b/0": 7}
        return [TopicPartition(one.topic, one.partition, found[f"{one.topic}/{one.partition}"]) for one in places]

    def assign(self, places: list[TopicPartition]) -> None:
        self.asked.append([(one.topic, one.partition, one.offset) for one in places])

    def consume(self, count: int, _: float) -> list[Message]:
        self.asked.append(count)
        self.seconds += 1
        return [self.messages.pop(0)] if self.messages else []

    def position(self, starts: list[TopicPartition]) -> list[TopicPartition]:
        """Return the places behind all messages, if none is left."""
        ends = [self.ends[f"{one.topic}/{one.partition}"][1] for one in starts]
        left = 1 if self.messages else 0
        return [TopicPartition(o.topic, o.partition, end - left) for o, end in zip(starts, ends, strict=True)]

    def list_offsets(self, asked: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Any]:
        def future(one: TopicPartition) -> Any:
            return SimpleNamespace(
                result=lambda _: SimpleNamespace(offset=self.ends[f"{one.topic}/{one.partition}"][1])
            )

        return {one: future(one) for one in asked}

    def close(self) -> None:
        self.asked.append("close")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    return Broker(monkeypatch)


def source(object_: str = "a", **more: Any) -> KafkaSource:
    return KafkaSource(Place("orders", "bus", SETTINGS, object_, **more))


def stood(offset: int, topic: str = "id-a") -> str:
    return str(Position(offset, 3, topic))


def offsets(found: Any) -> dict[str, int]:
    assert {Position.parse(text).epoch for text in found.values()} <= {-1}
    return {name: Position.parse(text).offset for name, text in found.items()}


def test_a_source_has_the_topics_that_are_named_or_match_and_none_of_its_own_kind(broker: Broker) -> None:
    one, two = source(), source("a,b", topics=("a", "b"))
    every = source("[ab_].*", pattern="[ab_].*|" + STATE_TOPIC)
    assert [found._names() for found in (one, two, every)] == [["a"], ["a", "b"], ["a", "b"]]
    names = ("a", "b", "ab", "c", "__consumer_offsets", STATE_TOPIC)
    assert ["".join(n for n in names if found._wants(n)) for found in (one, two)] == ["a", "ab"]
    assert [n for n in names if every._wants(n)] == ["a", "b", "ab"]
    assert (one.picks("a/7"), one.picks("b/0"), one.includes(two.place), two.includes(one.place)) == (
        True, False, False, True,
    )  # fmt: skip
    assert [found._where.rpartition(": ")[2] for found in (one, two, every)] == [
        "topic a", "topics a,b", "topics [ab_].*",
    ]  # fmt: skip
    with pytest.raises(MissingTable, match="no topic matches the pattern"):
        source("c", pattern="c")._names()
    every._topics(("b",))
    assert (broker.asked[-1], broker.needed) == (["a", "b"], ("b",)), "those that match may be gone"
    two._topics()
    assert broker.needed == ["a", "b"]
    assert (one.partitions(), source("b").partitions(), two.partitions()) == (2, 1, 2)


def test_a_stream_begins_at_an_end_or_at_a_time_but_for_what_stands(broker: Broker) -> None:
    two = source("a,b", topics=("a", "b"))
    assert offsets(two.beginnings({}, "earliest")) == {"a/0": 2, "a/1": 5, "b/0": 0}
    assert offsets(two.beginnings({}, "latest")) == {"a/0": 9, "a/1": 5, "b/0": 40}
    assert offsets(two.beginnings({}, AT)) == {"a/0": 4, "a/1": 5, "b/0": 7}
    assert [int(AT.timestamp() * 1000)] * 3 in broker.asked
    assert offsets(two.beginnings({"a/0": stood(9), "c/0": "not read"}, "earliest")) == {"a/1": 5, "b/0": 0}
    found = two.beginnings({}, "earliest")
    assert Position.parse(found["b/0"]).topic == "id-b"
    for position, said in (
        (stood(1), "were deleted"),
        (stood(10), "messages were lost"),
        (stood(9, "x"), "made again"),
    ):
        with pytest.raises(Refused, match=said):
            two.beginnings({"a/0": position}, "earliest")


def test_a_new_beginning_says_what_it_repeats_and_skips(broker: Broker) -> None:
    known = {"a/0": stood(4), "a/1": stood(5)}
    found = source().restarted(known, "earliest")
    assert (offsets(found.positions), len(found.shifts)) == ({"a/0": 2, "a/1": 5}, 1)
    assert "a/0 repeats 2 messages" in found.shifts[0]
    found = source().restarted(known, {"1": "5"})
    assert (offsets(found.positions), list(found.shifts)) == ({"a/0": 4, "a/1": 5}, [])
    assert offsets(source().restarted({"a/0": stood(4, "old")}, {}).positions) == {"a/0": 2, "a/1": 5}
    for several in (source("a,b", topics=("a", "b")), source("a", pattern="a")):
        with pytest.raises(Refused, match="several topics"):
            several.restarted(known, {"1": "5"})
    assert broker.asked[-1] == "close"


def test_what_a_stream_has_still_to_read_is_counted(broker: Broker) -> None:
    one = source()
    assert one.behind({"a/0": stood(4), "a/1": stood(6), "b/0": stood(0)}) == {"a/0": 5, "a/1": 0}
    assert broker.asked.count(("list", "a")) == 1
    assert one.behind({"a/0": stood(9)}) == {"a/0": 0}
    assert broker.asked.count(("list", "a")) == 1, "it is known"
    assert one.extent() == (7, 2)
    one.close()
    assert one._admin is broker


def test_a_sample_has_the_newest_messages_of_each_partition(broker: Broker) -> None:
    broker.messages = [Message(topic="a", partition=0, offset=at) for at in (7, 8)]
    found = source("a,b", topics=("a", "b")).newest(6)
    assert [one.offset() for one in found] == [7, 8]
    assert [one for one in broker.asked if isinstance(one, list)][-1] == [("a", 0, 7), ("b", 0, 38)], "none is empty"
    assert broker.asked.count(2) == 2
    broker.messages = [Message(topic="a", partition=0, offset=at) for at in range(99)]
    assert len(source().newest(1)) == module.SAMPLE_SECONDS, "and what comes in time"
    assert [one for one in broker.asked if isinstance(one, list)][-1] == [("a", 0, 8)]
    assert [one for one in broker.asked if isinstance(one, tuple)][-1] == ("penstock-orders", {})


def test_a_stream_sees_the_ends_of_partitions_and_begins_new_ones_at_their_first(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decoder_of", lambda *_: None)
    order = cast("Any", SimpleNamespace(read=None))
    monkeypatch.setattr(KafkaSource, "_form", None)
    reader = source().stream(order)
    reader.connect()
    assert broker.asked == [("penstock-orders", {"enable.partition.eof": True})]
    assert (reader.wants("a"), reader.wants("b")) == (True, False)
    assert offsets(reader.begins({"a/0": stood(9)})) == {"a/1": 5}
    assert list(reader.look(["a"])) == ["a"]


def test_topics_are_looked_for_although_their_columns_are_declared(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KafkaSource, "_form", SimpleNamespace(columns=lambda _: ((Column("id", "bigint"),), "a file")))
    one = source()
    table = one.describe()
    assert (table.name, table.kind, table.types_from, table.columns[0].name) == ("a", "topic", "a file", "id")
    assert one.describe() is table
    assert broker.asked == [["a"]]
