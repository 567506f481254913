"""Topics of Kafka as objects of a set."""

from __future__ import annotations

import pytest

from tests.dataflows.listings import found
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
