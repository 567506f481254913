"""Streams of Kinesis as objects of a set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.models.profiles import Partitions
from tests.dataflows.listings import discovered, found
from tests.kinesis import KinesisServer

pytestmark = pytest.mark.xdist_group("kinesis")


def test_data_streams_are_objects(kinesis: KinesisServer, tmp_path: Path) -> None:
    names = [f"list.{number:03d}" for number in range(105)]
    for name in (*names, "other.list"):
        kinesis.client.create_stream(StreamName=name, ShardCount=1)
    objects = found(kinesis.connection(tmp_path), "list.*", secrets=tmp_path)
    assert list(objects) == names, "the names come in pages of 100"
    assert (objects["list.001"].schema, objects["list.001"].table) == ("", "list.001")


def test_what_streams_have_is_discovered(kinesis: KinesisServer, tmp_path: Path) -> None:
    kinesis.create("disc.json", 2)
    kinesis.send("disc.json", *(json.dumps({"id": number}).encode() for number in range(20)), key="customer")
    kinesis.create("disc.empty")
    there = discovered(kinesis.connection(tmp_path), "disc.*", secrets=tmp_path, rows=10)
    shown, empty = (there.objects[f"disc.{name}"] for name in ("json", "empty"))
    assert (shown.kind, shown.profile.format, shown.profile.key_format) == ("stream", "json", "text")
    assert shown.profile.partitions == Partitions(by="shard", count=2)
    assert there.columns("disc.json") == {"id": "bigint"}
    assert (empty.empty, there.notes) == (True, [])
    assert there.samples["disc.json"]["id"].nulls == 0
