"""Topics as sinks: rows and positions in one transaction, keys, limits of messages, and what is refused by name.

Kills at each cut of a commit, and zombies, are in `test_sinks`, with those of the other sinks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from dataflows.connectors.conformance.case import Case, Pipeline
from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.kafka.ledger import STATE_TOPIC
from dataflows.connectors.kafka.state import KafkaState
from dataflows.connectors.kafka.target import KafkaTarget
from dataflows.connectors.kafka.transactions import Transactions
from dataflows.connectors.registry import connector
from dataflows.connectors.state import Claim
from dataflows.data.splits import Split
from dataflows.data.tables import Column
from penstock.errors import Refused, SchemaMismatch, Unavailable
from penstock.models.connection import KafkaConnection
from penstock.models.formats import AvroFormat, CsvFormat
from penstock.models.pipeline import Sink
from tests.dataflows.conftest import Launchers
from tests.dataflows.connectors.kafka.conftest import Lake, Stream
from tests.dataflows.connectors.kafka.test_streams import letters_of
from tests.kafka import KafkaServer

ROOT = Path(__file__).parents[4]
pytestmark = pytest.mark.xdist_group("kafka")


def keyed(made: Stream, *key: str) -> dict[str, Any]:
    """Return a sink whose messages have these columns as their key."""
    return {"connection": "lake", "object": made.target, "write": "append", "key": list(key)}


def test_a_batch_appends_what_is_new_with_keys_as_other_clients_have_them(
    stream: Callable[..., Stream], lake: Lake
) -> None:
    """Into a topic that is there, with its partitions."""
    made = stream(into="kafka")
    made.kafka.create(made.target, 3)
    table = f"w.rows{made.number}"
    lake.query(
        f"CREATE TABLE {table} AS SELECT g::bigint AS id, 'größe ' || g % 5 AS name, "
        f"CASE WHEN g % 2 = 0 THEN g * 1.5::numeric(9, 2) END AS price, date '2024-01-31' AS day "
        f"FROM generate_series(1, 40) g"
    )

    def task(run: str, **changed: Any) -> dict[str, Any]:
        source = {"connection": "db", "object": table, "cursor": {"field": "id", "ordered": True}}
        sink = keyed(made, "name") | changed
        task = made.task(run, mode="batch", source=source, sink=sink, limits={"batch_rows": 7})
        return task | {"connections": task["connections"] | {"db": lake.connection}}

    done = made.launchers.run(task("r1"))
    assert (done["status"], done["counters"]["rows_out"]) == ("completed", 40), done
    lake.query(f"INSERT INTO {table} VALUES (41, NULL, NULL, NULL)")
    assert made.launchers.run(task("r2"))["counters"]["rows_out"] == 1
    assert made.launchers.run(task("r2"))["counters"]["rows_out"] == 1, "the run had ended"
    moved = made.launchers.run(task("r3", object=f"moved{made.number}"))
    assert moved["counters"]["rows_out"] == 41, "another topic begins anew"
    found = made.kafka.read(made.target)
    rows = made.messages()
    assert sorted(one["id"] for one in rows) == list(range(1, 42))
    assert next(one for one in rows if one["id"] == 4) == {
        "id": 4,
        "name": "größe 4",
        "price": "6.00",
        "day": "2024-01-31",
    }
    of_key: dict[bytes | None, list[tuple[int | None, int]]] = {}
    for message, row in zip(found, rows, strict=True):
        of_key.setdefault(message.key(), []).append((message.partition(), row["id"]))
        assert message.key() == (None if row["name"] is None else row["name"].encode())
    for key, places in of_key.items():
        assert len({part for part, _ in places}) == 1, key
        assert [one for _, one in places] == sorted(one for _, one in places), "in the order of the rows"
    other = Producer({"bootstrap.servers": made.kafka.bootstrap, "partitioner": "murmur2_random"})
    made.kafka.create(f"other{made.number}", 3)
    for key in of_key:
        if key is not None:
            other.produce(f"other{made.number}", b"", key)
    other.flush()
    for message in made.kafka.read(f"other{made.number}"):
        assert of_key[message.key()][0][0] == message.partition()


def test_a_zombie_with_an_open_transaction_commits_nothing(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    made.send(*range(40))
    task = made.task()
    zombie = made.launchers.stopped(task, "commit.before_fence")
    assert len(made.kafka.read(made.target, "read_uncommitted")) == 40
    assert made.ids() == []
    successor = made.task("r2")
    pid = made.launchers.start(successor)
    made.until(40)
    late = made.launchers.woken(zombie, task)
    assert late["status"] == "fenced", late
    made.send(*range(40, 50))
    made.until(50)
    made.stop(pid, successor)
    assert made.ids() == list(range(50))
    assert made.positions()[f"{made.topic}/0"]["offset"] == 50


def test_a_broker_that_is_killed_below_a_commit_is_waited_for(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    made.send(*range(40))
    task = made.task()
    pid = made.launchers.stopped(task, "commit.before_fence")
    made.kafka.kill()
    os.kill(pid, signal.SIGCONT)
    made.kafka.start()
    made.until(40)
    made.send(*range(40, 50))
    made.until(50)
    made.stop(pid, task)
    assert made.ids() == list(range(50))


def test_the_state_is_read_beyond_what_other_pipelines_have_open(stream: Callable[..., Stream]) -> None:
    """A reader that stops at the last stable offset would miss the position that was committed after it."""
    made = stream(into="kafka")
    state, later = (KafkaState(made.place, made.uid, "rows", "tests") for _ in range(2))
    state.make()
    claim = state.claim(("00",), "r1")
    assert isinstance(claim, Claim)
    other = Transactions.begun(made.place, f"other-{made.number}", "tests", lambda: None)
    with closing(state), closing(later), closing(other):
        with state.owned(claim.generation):
            state.begin({"part": "1"})
            other.send(STATE_TOPIC, b"1", b'["other"]', state._ledger.partition)
            other.flush()
        late = threading.Timer(0.5, other.abort)
        late.start()
        assert later.positions() == {"part": "1"}
        late.join()
        clients = _clients()
        later.close()
        assert _clients() < clients, "a session that is closed has no threads"


def _clients() -> int:
    """Return the number of Kafka's clients that are open in this process."""
    tasks = Path("/proc/self/task").glob("*/comm")
    return sum(one.read_text().startswith("rdk:main") for one in tasks)


@pytest.mark.chaos
def test_a_stream_that_is_killed_at_random_loses_and_doubles_nothing(stream: Callable[..., Stream]) -> None:
    made, chance, sent = stream(into="kafka"), random.Random(7), 0
    for attempt in range(30):
        pid = made.launchers.start(made.task(attempt=attempt + 1))
        end = time.monotonic() + chance.uniform(0.1, 1.5)
        while time.monotonic() < end:
            made.send(*range(sent, sent + 20))
            sent += 20
        os.kill(pid, signal.SIGKILL)
        made.launchers.wait(pid)
    made.taken(sent, "r2")
    assert made.ids() == list(range(sent))


@pytest.mark.parametrize("tests", ["neither or interrupted", pytest.param("test", marks=pytest.mark.chaos)])
def test_a_topic_passes_the_conformance_suite(
    kafka: KafkaServer, launchers: Launchers, tmp_path: Path, tests: str
) -> None:
    (tmp_path / "connection.yaml").write_text(f"{{type: kafka, bootstrap: '{kafka.bootstrap}'}}")
    words = ["--connector", "tests.dataflows.connectors.kafka.whole:WholeTopics", "--connection", "connection.yaml"]
    words += ["--target-object", "scratch", "-k", f"({tests}) and not replace and not merge"]
    code, output = launchers.suite(words, tmp_path)
    assert code == 0, output
    assert output.count("\nPASSED ") >= (10 if tests == "test" else 2), output


def test_what_no_message_can_be_goes_to_the_dead_letters(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    made.kafka.create(made.target, 1, {"max.message.bytes": "2000"})
    made.send(*range(10))
    made.kafka.send(
        made.topic, b'{"id": 10, "name": "%s"}' % (b"x" * 3000), b'{"id": 11, "name": "%s"}' % (b"x" * 1500)
    )
    made.send(12)
    made.taken(11, sink=keyed(made, "id", "name"), errors={"dead_letter": {"fail_above": 1}})
    assert made.ids() == [*range(10), 12]
    assert [code for code, _ in letters_of(made)] == ["message_too_large"] * 2


def test_a_message_as_large_as_a_topic_without_a_limit_takes_is_sent(stream: Callable[..., Stream]) -> None:
    """Larger than what a client has to send at most, if nothing else is said."""
    made = stream(into="kafka")
    made.kafka.create(made.target, 1, {"max.message.bytes": str(2**31 - 1)})
    case = Case(connector("kafka", "tests"), made.place.settings, None, None, made.target, None)
    pipeline = Pipeline(case, made.uid, Sink(connection="tested", object=made.target, write="append"))
    with pipeline.run("r1", [Split(0)]) as run:
        run.write(0, [(1, "x" * 34_000_000, None)])
    assert [len(one["name"]) for one in made.messages()] == [34_000_000]


def test_a_row_that_is_too_large_for_a_topic_with_unknown_settings_names_the_right_to_read_them(
    stream: Callable[..., Stream],
) -> None:
    made = stream(into="kafka")
    made.kafka.create(made.target, 1, {"max.message.bytes": "2000"})
    with closing(Transactions.begun(made.place, f"large-{made.number}", "tests", lambda: None)) as sending:
        sending.send(made.target, os.urandom(3000))
        with pytest.raises(Unavailable, match="allow DescribeConfigs"):
            sending.flush()


def test_a_full_queue_drains_and_a_refused_message_is_named_by_the_next_one(stream: Callable[..., Stream]) -> None:
    made, looks = stream(into="kafka"), []
    made.kafka.create(made.target, 1, {"max.message.bytes": "2000"})
    full = {"queue.buffering.max.messages": 1}

    def check() -> None:
        looks.append(time.monotonic())
        assert len(looks) <= 100, "it never drains"

    with closing(Transactions.begun(made.place, f"full-{made.number}", "tests", check, **full)) as sending:
        for _ in range(9):
            sending.send(made.target, b"small")
        assert looks, "it was full"
        sending.send(made.target, os.urandom(3000))
        with pytest.raises(Unavailable, match="allow DescribeConfigs"):
            sending.send(made.target, b"next")


def test_a_topic_that_was_deleted_is_not_made_again_without_its_messages(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    made.send(1, 2)
    made.taken(2)
    made.kafka.delete(made.target)
    made.send(3)
    assert "it was dropped" in made.launchers.run(made.task("r2"))["error"]["what"]
    task = made.task("r3") | {"begin": {"from": "earliest", "reset": True}}
    pid = made.launchers.start(task)
    made.until(3)
    made.stop(pid, task)
    assert made.ids() == [1, 2, 3]


def test_a_state_topic_that_would_lose_records_is_refused(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    admin = made.kafka.admin()
    if STATE_TOPIC in admin.list_topics(timeout=10).topics:
        made.kafka.delete(STATE_TOPIC)
    made.send(1)
    made.kafka.create(STATE_TOPIC, 1)
    try:
        assert "has 1 partitions, not 16" in made.launchers.run(made.task())["error"]["what"]
        made.kafka.delete(STATE_TOPIC)
        made.kafka.create(STATE_TOPIC, 16)
        assert "cleanup.policy delete" in made.launchers.run(made.task())["error"]["what"]
    finally:
        made.kafka.delete(STATE_TOPIC)


@pytest.mark.parametrize(
    ("sink", "what"),
    [
        ({"write": "replace"}, "no topic is written by `replace`"),
        ({"write": "scd2", "key": ["id"]}, "no topic is written by `scd2`"),
        ({"object": STATE_TOPIC}, "pipelines keep their state there"),
    ],
)
def test_what_a_topic_cannot_be_is_refused(sink: dict[str, Any], what: str) -> None:
    place = Place("p", "bus", KafkaConnection(type="kafka", bootstrap="none:1"), str(sink.get("object", "t")))
    owner = Owner("u", "source", Sink(**{"connection": "bus", "object": "t"} | sink))
    with pytest.raises(Refused, match=what):
        KafkaTarget.open(place, owner)


def test_formats_and_types_that_are_no_json_are_refused() -> None:
    place = Place("p", "bus", KafkaConnection(type="kafka", bootstrap="none:1"), "t")
    owner = Owner("u", "source", Sink(connection="bus", object="t", key=("id",)))
    with pytest.raises(Refused, match="cannot be written as csv"):
        KafkaTarget.open(replace(place, format=CsvFormat(type="csv")), owner)
    target = KafkaTarget.open(place, owner)
    with pytest.raises(SchemaMismatch, match="`data` of type bytea"):
        target.check(None, (Column("id", "bigint"), Column("data", "bytea")))
    with pytest.raises(SchemaMismatch, match="there is no column `id`"):
        target.check(None, (Column("name", "text"),))


def test_what_avro_cannot_be_is_refused_before_anything_is_written() -> None:
    place = Place("p", "bus", KafkaConnection(type="kafka", bootstrap="none:1"), "t", format=AvroFormat(type="avro"))
    owner = Owner("u", "source", Sink(connection="bus", object="t", key=("id",)))
    target = KafkaTarget.open(place, owner)
    assert target.check(None, (Column("id", "bigint"), Column("data", "bytea"))) is None
    with pytest.raises(SchemaMismatch, match="`order id` is no name of a field in Avro"):
        target.check(None, (Column("id", "bigint"), Column("order id", "bigint")))
    with pytest.raises(SchemaMismatch, match="`id` of type bytea cannot be part of the key"):
        target.check(None, (Column("id", "bytea"),))
    [schema] = target.create_statements((Column("id", "bigint"),), ())
    assert json.loads(schema)["fields"] == [{"name": "id", "type": ["null", "long"], "default": None}]
    given = AvroFormat.parse({"type": "avro", "schema": {"type": "record"}})
    with pytest.raises(Refused, match="a sink makes the schema of its columns"):
        KafkaTarget.open(replace(place, format=given), owner)
