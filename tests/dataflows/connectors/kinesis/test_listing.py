"""Streams of Kinesis as objects of a set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataflows.listings import found
from tests.kinesis import KinesisServer

pytestmark = pytest.mark.xdist_group("kinesis")


def test_data_streams_are_objects(kinesis: KinesisServer, tmp_path: Path) -> None:
    names = [f"list.{number:03d}" for number in range(105)]
    for name in (*names, "other.list"):
        kinesis.client.create_stream(StreamName=name, ShardCount=1)
    objects = found(kinesis.connection(tmp_path), "list.*", secrets=tmp_path)
    assert list(objects) == names, "the names come in pages of 100"
    assert (objects["list.001"].schema, objects["list.001"].table) == ("", "list.001")
