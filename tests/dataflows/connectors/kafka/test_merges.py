"""`write: merge` into topics: the last message of a key is its row, and a message without a value deletes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.dataflows.connectors.kafka.conftest import Lake, Stream
from tests.dataflows.connectors.kafka.test_streams import letters_of

pytestmark = pytest.mark.xdist_group("kafka")

CUTS = ("commit.mid_copy", "commit.before_fence", "commit.sent")
LENIENT = {"dead_letter": {"fail_above": 1}}


def merged(made: Stream, key: str = "id", **more: Any) -> dict[str, Any]:
    return {"connection": "lake", "object": made.target, "write": "merge", "key": [key], **more}


def policy(made: Stream) -> str:
    """Return the cleanup.policy of the target."""
    from confluent_kafka.admin._config import ConfigResource
    from confluent_kafka.admin._resource import ResourceType

    asked = ConfigResource(ResourceType.TOPIC, made.target)
    admin = made.kafka.admin()
    found: dict[str, Any] = admin.describe_configs([asked])[asked].result(30)
    return str(found["cleanup.policy"].value)


def kept(made: Stream) -> dict[str, Any]:
    """Return what a compacted topic keeps: the last value of each key; none of those that were deleted."""
    last = {(one.key() or b"").decode(): one.value() for one in made.kafka.read(made.target)}
    return {key: json.loads(value) for key, value in last.items() if value is not None}


def batch(made: Stream, lake: Lake, table: str, run: str = "r1", **changes: Any) -> dict[str, Any]:
    """Return the task of a batch of what is new in a table."""
    source = {"connection": "db", "object": table, "cursor": {"field": "seq", "ordered": True}}
    task = made.task(run, **({"mode": "batch", "source": source} | changes))
    return task | {"connections": task["connections"] | {"db": lake.connection}}


def test_a_batch_merges_and_deletes_by_key(stream: Callable[..., Stream], lake: Lake) -> None:
    made = stream(into="kafka")
    table = f"w.rows{made.number}"
    lake.query(f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text, gone boolean, seq bigserial)")
    lake.query(f"INSERT INTO {table} SELECT g, 'name ' || g, false FROM generate_series(1, 20) g")
    sink = merged(made, delete="gone")
    first = made.launchers.run(batch(made, lake, table, sink=sink, limits={"batch_rows": 6}))
    assert (first["status"], first["counters"]["rows_out"]) == ("completed", 20), first
    assert policy(made) == "compact"
    assert kept(made)["7"] == {"id": 7, "name": "name 7", "seq": 7}, "without the column that says what is deleted"
    lake.query(f"UPDATE {table} SET name = 'new', seq = DEFAULT WHERE id IN (3, 4)")
    lake.query(f"UPDATE {table} SET gone = true, seq = DEFAULT WHERE id IN (5, 6)")
    second = made.launchers.run(batch(made, lake, table, "r2", sink=sink))
    assert (second["status"], second["counters"]["rows_out"]) == ("completed", 4), second
    rows = lake.query(f"SELECT id::text, name FROM {table} WHERE NOT gone")
    assert {key: one["name"] for key, one in kept(made).items()} == dict(rows)
    assert {one.key() for one in made.kafka.read(made.target) if one.value() is None} == {b"5", b"6"}


def test_a_stream_of_keys_that_is_killed_leaves_the_last_of_each(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    fields = [{"target": "id", "from": "_key"}, {"target": "n", "from": "n"}, {"target": "gone", "from": "_deleted"}]
    changes: dict[str, Any] = {"sink": merged(made, delete="gone"), "mapping": {"fields": fields}}
    expected: dict[str, int] = {}

    def send(number: int) -> None:
        key = str(number % 5)
        if number % 7 == 0:
            made.kafka.send(made.topic, None, key=key.encode())
            expected.pop(key, None)
        else:
            made.kafka.send(made.topic, json.dumps({"n": number}).encode(), key=key.encode())
            expected[key] = number

    for attempt, cut in enumerate(CUTS):
        for number in range(attempt * 10, attempt * 10 + 10):
            send(number)
        assert made.launchers.run(made.task(attempt=attempt + 1, **changes), f"{cut}=kill") == {"killed": 9}
    for number in range(30, 40):
        send(number)
    made.kafka.send(made.topic, b'{"n": -1}')  # no key: nothing could replace or delete it
    send(40)
    made.taken(41, "r2", **changes, errors=LENIENT)
    assert {key: one["n"] for key, one in kept(made).items()} == expected
    assert len(made.kafka.read(made.target)) == 41, "nothing lost or doubled"
    assert [code for code, _ in letters_of(made)] == ["no_key"]


def test_a_message_without_a_key_is_a_dead_letter_where_the_topic_takes_none(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    made.kafka.create(made.target, 1, {"cleanup.policy": "compact,delete"})
    made.kafka.send(made.topic, b'{"id": 1, "name": "a"}', b'{"id": 2, "name": null}', b'{"id": 3, "name": "c"}')
    sink = {"connection": "lake", "object": made.target, "write": "append", "key": ["name"]}
    made.taken(2, sink=sink, errors=LENIENT)
    assert made.ids() == [1, 3]
    assert [code for code, _ in letters_of(made)] == ["no_key"]


def test_a_merge_that_would_not_leave_the_newest_row_of_a_key_is_refused(
    stream: Callable[..., Stream], lake: Lake
) -> None:
    made = stream(into="kafka")
    made.kafka.create(made.target, 1, {"cleanup.policy": "delete"})
    table = f"w.rows{made.number}"
    lake.query(f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text, seq bigserial)")

    def refused(sink: dict[str, Any], **changes: Any) -> str:
        done = made.launchers.run(batch(made, lake, table, sink=sink, **changes))
        return str(done["error"]["what"]) + " | " + str(done["error"]["hint"])

    assert "cleanup.policy is not compact" in (found := refused(merged(made)))
    assert f"--topic {made.target} --add-config cleanup.policy=compact" in found
    made = stream(into="kafka")
    made.kafka.create(made.target, 1, {"cleanup.policy": "compact,delete"})
    assert "cleanup.policy is not compact" in refused(merged(made)), "rows that do not change would be deleted"
    made = stream(into="kafka")  # whose topic is not there yet
    assert "cannot compare versions" in refused(merged(made, version="seq"))
    assert "the last one written stays" in refused(merged(made), limits={"workers": 2})
    assert "unique at the source: [id]" in refused(merged(made, "name"))
