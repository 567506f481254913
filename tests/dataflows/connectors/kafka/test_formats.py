"""Streams of messages that are not JSON: rows, dead letters with their place, and nothing lost."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import fastavro
import psycopg
import pytest

from tests.dataflows.connectors.kafka.conftest import WAIT, Stream
from tests.dataflows.connectors.registry import registry

pytestmark = pytest.mark.xdist_group("kafka")

LENIENT = {"dead_letter": {"fail_above": 1}}


def letters_of(made: Stream) -> list[tuple[Any, ...]]:
    """Return topic, partition, offset and raw text of the pipeline's dead letters."""
    query = (
        "SELECT values::jsonb ->> '_topic', values::jsonb ->> '_partition', values::jsonb ->> '_offset', "
        "values::jsonb ->> '_raw' FROM ops.dead_letters WHERE pipeline = %s ORDER BY split, row"
    )
    assert made.letters
    with psycopg.connect(made.letters) as session:
        return session.execute(query, (made.uid,)).fetchall()


def test_a_stream_of_csv_sets_aside_what_is_none(stream: Callable[..., Stream]) -> None:
    made = stream()
    form = {"type": "csv", "columns": {"id": "bigint", "name": "text"}}
    made.kafka.send(made.topic, b"1,one", b"nonsense", b'2,"a ""b"""', b"\xff\x00", b"3,")
    source = {"connection": "bus", "object": made.topic, "format": form}
    counted = made.taken(3, source=source, errors=LENIENT)["counters"]
    assert (counted["rows_in"], counted["rows_out"], counted["dead"]) == (5, 3, 2)
    assert made.rows(f"SELECT id, name FROM {made.target} ORDER BY id") == [(1, "one"), (2, 'a "b"'), (3, None)]
    assert letters_of(made) == [(made.topic, "0", "1", "nonsense"), (made.topic, "0", "3", "\\xff00")]


def test_a_stream_of_raw_bytes_keeps_each(stream: Callable[..., Stream]) -> None:
    made = stream()
    form = {"type": "raw", "as": "bytes", "column": "body"}
    fields = [{"target": "id", "from": "_offset"}, {"target": "body", "from": "body"}]
    made.kafka.send(made.topic, b"\xff\x00", b"", None, b"{}")
    source = {"connection": "bus", "object": made.topic, "format": form}
    task = made.task(source=source, mapping={"fields": [*fields, {"target": "gone", "from": "_deleted"}]})
    pid = made.launchers.start(task)
    made.until(4)
    made.stop(pid, task)
    rows = made.rows(f"SELECT id, body, gone FROM {made.target} ORDER BY id")
    assert rows == [(0, b"\xff\x00", False), (1, b"", False), (2, None, True), (3, b"{}", False)]


def framed(schema: dict[str, Any], number: int, **values: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(dict(schema)), values)
    return b"\0" + number.to_bytes(4, "big") + stream.getvalue()


def test_a_stream_of_avro_waits_for_its_registry_and_loses_nothing(stream: Callable[..., Stream]) -> None:
    made = stream()
    old = {"type": "record", "name": "e", "fields": [{"name": "id", "type": "long"}]}
    name = {"name": "name", "type": ["null", "string"], "default": None}
    new = old | {"fields": [*old["fields"], name]}
    with registry() as schemas:
        first = schemas.add(f"{made.topic}-value", old)
        bus = {"type": "kafka", "bootstrap": made.kafka.bootstrap, "registry": {"url": schemas.url}}
        source = {"connection": "bus", "object": made.topic, "format": {"type": "avro"}}
        task = made.task(source=source, errors=LENIENT)
        task["connections"]["bus"] = bus
        made.kafka.send(made.topic, framed(old, first, id=1), b"\0\0\0\0\x63\2", framed(old, first, id=2))
        pid = made.launchers.start(task)
        made.until(2)
        schemas.status = 503
        made.kafka.send(made.topic, framed(new, first + 1, id=3, name="c"), framed(old, first, id=4))
        failed = made.launchers.ended(pid, task)
        assert "the schema registry answers 503" in failed["error"]["what"]
        assert failed["error"]["transient"]
        schemas.status = None
        assert schemas.add("another-value", new) == first + 1
        again = task | {"attempt": 2}
        pid = made.launchers.start(again)
        made.until(4)
        made.stop(pid, again)
    assert made.ids() == [1, 2, 3, 4]
    assert letters_of(made) == [(made.topic, "0", "1", "\\x000000006302")]


def test_a_topic_gets_records_of_avro_whose_schema_is_registered(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    sink = {"connection": "lake", "object": made.target, "write": "append", "key": ["id"], "format": {"type": "avro"}}
    with registry() as schemas:
        made.send(1, 2)
        task = made.task(sink=sink, mapping={"fields": [{"target": "id", "from": "id"}]})
        task["connections"]["lake"] = made.lake.connection | {"registry": {"url": schemas.url}}
        pid = made.launchers.start(task)
        end = time.monotonic() + WAIT
        while len(sent := made.kafka.read(made.target)) < 2:
            assert time.monotonic() < end
        made.stop(pid, task)
        [number] = schemas.subjects[f"{made.target}-value"]
        schema = fastavro.parse_schema(json.loads(schemas.schemas[number]["schema"]))
    assert [one.key() for one in sent] == [b"1", b"2"]
    assert [(one.value() or b"")[:5] for one in sent] == [b"\0" + number.to_bytes(4, "big")] * 2
    found = [fastavro.schemaless_reader(io.BytesIO((one.value() or b"")[5:]), schema, None) for one in sent]
    assert found == [{"id": 1}, {"id": 2}]
