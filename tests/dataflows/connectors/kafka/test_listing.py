"""Topics of Kafka as objects of a set."""

from __future__ import annotations

import json

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin._listoffsets import OffsetSpec

from penstock.errors import Unavailable
from penstock.models.profiles import Partitions
from tests.dataflows.connectors.registry import registry
from tests.dataflows.listings import discovered, found
from tests.kafka import KafkaServer

pytestmark = pytest.mark.xdist_group("kafka")


def test_topics_are_objects(kafka: KafkaServer) -> None:
    for name in ("list.Orders-1", "list.lines", "_list.tools", "other.list"):
        kafka.create(name)
    here = {"type": "kafka", "bootstrap": kafka.bootstrap}
    objects = found(here, "list.*")
    assert {name: (one.schema, one.table) for name, one in objects.items()} == {
        "list.Orders-1": ("", "list.Orders-1"),
        "list.lines": ("", "list.lines"),
    }
    every = found(here, "*")
    assert not [name for name in every if name.startswith("_")], "topics of Kafka, of Penstock and of tools"
    assert set(found(here, "_list.tools")) == {"_list.tools"}


def test_what_topics_have_is_discovered_and_the_broker_keeps_no_trace(kafka: KafkaServer) -> None:
    kafka.create("disc.json", 3)
    for part in range(2):
        values = (json.dumps({"id": number, "mail": f"p{number}@x.example"}).encode() for number in range(50))
        kafka.send("disc.json", *values, partition=part, key=b"k-1")
    for name in ("disc.avro", "disc.avro-empty", "disc.text", "disc.bytes", "disc.empty"):
        kafka.create(name)
    kafka.send("disc.text", b"one", b"two")
    kafka.send("disc.bytes", b"\x00\xff", key=b"\xff\x00")
    record = {"type": "record", "name": "Visit", "fields": [{"name": "at", "type": "long"}]}
    with registry() as schemas:
        number = schemas.add("disc.avro-value", record)
        schemas.add("disc.avro-empty-value", record)
        kafka.send("disc.avro", b"\x00" + number.to_bytes(4, "big") + b"\x02")
        kafka.read("disc.text")  # the first consumer of a cluster makes the broker create its own topic of offsets
        before, groups = trace(kafka, "disc."), groups_of(kafka)
        here = {"type": "kafka", "bootstrap": kafka.bootstrap, "registry": {"url": schemas.url}}
        there = discovered(here, "disc.*", rows=200)
        assert {one.partition(" ")[0] for one in schemas.asked} == {"GET"}
    assert groups_of(kafka) <= groups, "no group more, and so no offset"
    assert trace(kafka, "disc.") == before, "no topic and no message more"
    assert (there.notes, there.present) == ([], [])
    shown = {name.removeprefix("disc."): one for name, one in there.objects.items()}
    assert {name: (one.profile.format, one.profile.key_format, one.profile.rows) for name, one in shown.items()} == {
        "json": ("json", "text", 100), "avro": ("avro", None, 1), "avro-empty": ("avro", None, 0),
        "text": ("text", None, 2), "bytes": ("bytes", "bytes", 1), "empty": (None, None, 0),
    }  # fmt: skip
    assert shown["json"].profile.partitions == Partitions(by="partition", count=3)
    assert there.columns("disc.json") == {"id": "bigint", "mail": "text"}
    assert there.columns("disc.avro") == there.columns("disc.avro-empty") == {"at": "bigint"}
    assert (there.columns("disc.text"), there.columns("disc.bytes")) == ({"value": "text"}, {"value": "bytea"})
    assert (shown["empty"].empty, shown["empty"].schema.fields) == (True, ())
    assert (shown["json"].looked_at, shown["avro"].looked_at) == (100, None), "a registry declares, messages only show"
    mail = there.samples["disc.json"]["mail"]
    assert (mail.nulls, mail.distinct, mail.rows) == (0, 50, 100)
    assert there.samples["disc.avro"]["at"].bounds == ("1",)


def test_a_registry_that_is_away_keeps_only_what_needs_it_from_being_described(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("away.a", "away.b", "away.json"):
        kafka.create(name)
    kafka.send("away.a", b"\x00\x00\x00\x00\x01\x02")
    kafka.send("away.json", b'{"id": 1}')
    here = {"type": "kafka", "bootstrap": kafka.bootstrap, "registry": {"url": "http://127.0.0.1:1"}}
    there = discovered(here, "away.*")
    assert (set(there.objects), there.present) == ({"away.json"}, ["away.a", "away.b"])
    assert ["is left out" in note for note in there.notes] == [True, True]
    monkeypatch.setattr("dataflows.connectors.source_catalog.IN_A_ROW", 2)
    with pytest.raises(Unavailable):
        discovered(here, "away.*")


def groups_of(kafka: KafkaServer) -> set[str]:
    return {one.group_id for one in kafka.admin().list_consumer_groups().result(60).valid}


def trace(kafka: KafkaServer, prefix: str) -> dict[tuple[str, int], int]:
    """Return the topics whose names begin so, by partition, with their ends."""
    admin = kafka.admin()
    topics = {name: topic for name, topic in admin.list_topics(timeout=60).topics.items() if name.startswith(prefix)}
    newest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library has no types for it
    places = {TopicPartition(name, part): newest for name, topic in topics.items() for part in topic.partitions}
    return {
        (place.topic, place.partition): future.result(60).offset for place, future in admin.list_offsets(places).items()
    }
