"""Streams from real topics to PostgreSQL: exact through kills, zombies, and whatever happens to the topic."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pyarrow as pa
import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.kafka.positions import Position
from dataflows.connectors.kafka.reader import KafkaReader
from dataflows.connectors.kafka.source import KafkaSource
from dataflows.connectors.streaming import StreamOrder
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from dataflows.pipeline import FirstError
from dataflows.process.signals import Stopped
from dataflows.runs.job import Job
from dataflows.runs.launcher import launch
from dataflows.runs.planning import plan
from dataflows.runs.progress import Progress
from dataflows.runs.streaming import Refusals
from dataflows.runs.survey import opened
from penstock.clock import now
from penstock.errors import AccessDenied, PenstockError, Refused, TooManyRefused
from penstock.models.connection import KafkaConnection
from tests.dataflows.conftest import task_of
from tests.dataflows.connectors.kafka.conftest import WAIT, Stream

pytestmark = pytest.mark.xdist_group("kafka")

POINTS = (
    "prepare.begin", "prepare.state_made", "prepare.claiming", "prepare.generation_raised", "prepare.planned",
    "read.begin", "read.block", "read.end", "commit.begin", "commit.mid_copy", "commit.copied",
    "commit.before_fence", "commit.sent", "commit.done",
)  # fmt: skip
MERGED = {"fields": [{"target": "id", "sql": "cast(_key as bigint)"}, {"target": "name", "from": "name"}]}


def test_a_stopped_stream_reads_on_where_it_was(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(100))
    first = made.taken(100)
    assert first["status"] == "failed"
    assert first["error"]["what"] == "the run was asked to stop"
    assert (first["counters"]["rows_out"], first["resumed"]) == (100, False)
    made.send(*range(100, 150))
    made.taken(150, "r2")
    assert made.launchers.run(made.task(attempt=2))["status"] == "fenced"
    assert made.ids() == list(range(150))
    [(last,)] = made.rows(f"SELECT max(split) FROM w._penstock_offsets WHERE pipeline = '{made.uid}'")
    assert last < 20
    position = made.positions()[f"{made.topic}/0"]
    assert position == {"offset": 150, "epoch": 0, "topic": made.kafka.topic_id(made.topic)}


def test_the_position_is_mirrored_for_lag_tools(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(10))
    task = made.task()
    pid = made.launchers.start(task)
    end = time.monotonic() + WAIT
    for sent in (10, 20):
        while made.kafka.committed("penstock-items", made.topic) != sent:
            assert time.monotonic() < end
            time.sleep(0.05)
        if sent == 10:
            made.send(*range(10, 20))
    made.stop(pid, task)


def test_the_position_moves_where_a_filter_drops_everything(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(1, 2, 3)
    task = made.task(transforms=[{"name": "none", "filter": "id > 5"}])
    pid = made.launchers.start(task)
    made.send(4, 9)
    made.until(1)
    made.stop(pid, task)
    assert made.ids() == [9]
    assert made.positions()[f"{made.topic}/0"]["offset"] == 5


def test_a_killed_stream_loses_and_doubles_nothing(stream: Callable[..., Stream]) -> None:
    made, sent = stream(), 0
    for attempt, point in enumerate(POINTS, start=1):
        made.send(*range(sent, sent := sent + 20))
        assert made.launchers.run(made.task(attempt=attempt), f"{point}=kill") == {"killed": 9}, point
        assert (found := made.ids()) == list(range(len(found))), point
    made.send(*range(sent, sent := sent + 20))
    made.taken(sent, attempt=len(POINTS) + 1)
    assert made.ids() == list(range(sent))


@pytest.mark.parametrize("point", ["read.block", "commit.mid_copy", "commit.before_fence", "commit.sent"])
def test_a_zombie_writes_nothing_after_its_successor(stream: Callable[..., Stream], point: str) -> None:
    made = stream(2)
    made.send(*range(10))
    task = made.task()
    zombie = made.launchers.start(task, f"{point}:2=stop")
    made.until(10)
    made.send(*range(10, 40))
    made.send(*range(100, 140), partition=1)
    assert made.launchers.wait(zombie) == {"stopped": True}
    successor = made.task("r2")
    pid = made.launchers.start(successor)
    made.until(80)
    late = made.launchers.woken(zombie, task)
    assert late["status"] == "fenced", late
    assert late["counters"]["rows_out"] == 10 or point == "commit.sent"
    made.send(*range(40, 50))
    made.until(90)
    made.stop(pid, successor)
    ids = made.ids()
    assert [one for one in ids if one < 100] == list(range(50))
    assert [one for one in ids if one >= 100] == list(range(100, 140))


def test_a_drained_stream_ends_after_what_was_there(stream: Callable[..., Stream]) -> None:
    made = stream(partitions=2)
    producer = Producer({"bootstrap.servers": made.kafka.bootstrap, "transactional.id": made.topic})
    producer.init_transactions(30)
    made.send(*range(20))
    producer.begin_transaction()
    producer.produce(made.topic, json.dumps({"id": 100, "name": "x"}).encode(), partition=1)
    producer.flush()
    producer.abort_transaction()
    task = made.task() | {"drain": str(made.folder / "drain")}
    pid = made.launchers.start(task)
    made.until(20)
    made.send(*range(20, 40))
    Path(task["drain"]).touch()
    drained = made.launchers.ended(pid, task)
    assert (drained["status"], drained["counters"]["rows_out"]) == ("completed", 40)
    assert made.ids() == list(range(40))
    assert made.kafka.committed(f"penstock-{task['pipeline']['metadata']['name']}", made.topic) == 40
    made.send(40)
    assert made.launchers.run(made.task("r2") | {"drain": task["drain"]})["counters"]["rows_out"] == 1


def begun(made: Stream, run: str, begin: Any, rows: int, *, attempt: int = 1) -> list[int]:
    """Begin anew, with a reset, until the target has so many rows; return the ids."""
    task = made.task(run, attempt) | {"begin": {"from": begin, "reset": True}}
    pid = made.launchers.start(task)
    made.until(rows)
    assert made.stop(pid, task)["status"] == "failed"
    return made.ids()


def test_a_stream_begins_anew_once_and_where_it_is_told_to(stream: Callable[..., Stream]) -> None:
    made = stream(partitions=2)
    made.send(*range(5))
    made.send(*range(10, 13), partition=1)
    made.taken(8)
    assert sorted(begun(made, "r2", "earliest", 16)) == sorted([*range(5), *range(10, 13)] * 2)
    made.rows(f"TRUNCATE {made.target}")
    made.send(5)
    assert begun(made, "r2", "earliest", 1, attempt=2) == [5], "the run has begun anew already"
    made.rows(f"TRUNCATE {made.target}")
    assert sorted(begun(made, "r3", {"1": "2"}, 1)) == [12]
    made.send(6)
    made.rows(f"TRUNCATE {made.target}")
    task = made.task("r4") | {"begin": {"from": "latest", "reset": True}}
    pid = made.launchers.start(task)
    until = time.monotonic() + WAIT
    while made.positions()[f"{made.topic}/0"]["offset"] != 7:
        assert time.monotonic() < until
        time.sleep(0.02)
    made.send(7)
    made.until(1)
    made.stop(pid, task)
    assert made.ids() == [7]


def test_a_stream_that_was_read_begins_anew_only_with_a_reset(stream: Callable[..., Stream]) -> None:
    made = stream(partitions=2)
    made.send(*range(5))
    made.taken(5)
    for begin, what in (
        ("earliest", f"{made.topic}/0 repeats 5 messages: from offset 0 on, in place of 5"),
        ({"0": "3"}, f"{made.topic}/0 repeats 2 messages"),
        ({"0": "9"}, "partition 0 has offsets 0 to 5, got '9'"),
        ({"7": "0"}, "there is no such partition, got '7'"),
    ):
        refused = made.launchers.run(made.task("r2") | {"begin": {"from": begin}})["error"]
        assert what in refused["what"]
    assert made.positions()[f"{made.topic}/0"]["offset"] == 5


def test_a_stream_that_was_asked_to_stop_takes_over_from_nobody(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(1)
    task = made.task("r2")
    running = made.launchers.start(task)
    made.until(1)
    first = FirstError()
    first.put(Stopped("the run was asked to stop"))
    assert launch(made.task(), first, Progress())["error"]["what"] == "the run was asked to stop"
    made.send(2)
    made.until(2)
    made.stop(running, task)


def test_a_stream_does_not_append_to_what_a_replace_has_loaded(stream: Callable[..., Stream]) -> None:
    made = stream()
    name = f"public.orders{made.number}"  # a table and a topic
    made.rows(f"CREATE TABLE {name} AS SELECT 1::bigint AS id, 'x' AS name")
    made.kafka.create(name)
    made.kafka.send(name, b'{"id": 2, "name": "y"}')
    sink = {"connection": "lake", "object": made.target, "write": "replace"}
    batch = made.task(mode="batch", source={"connection": "lake", "object": name}, sink=sink)
    assert made.launchers.run(batch)["status"] == "completed"
    refused = made.launchers.run(made.task("r2", source={"connection": "bus", "object": name}))["error"]
    assert (refused["code"], made.ids()) == ("refused", [1])
    assert "was loaded by `replace`" in refused["what"]


def test_a_batch_of_a_topic_and_a_stream_of_a_file_are_refused_by_name(
    stream: Callable[..., Stream], tmp_path: Path
) -> None:
    made = stream()
    made.send(1)
    of_a_file, of_a_topic = made.task(), made.task(mode="batch")
    of_a_file["connections"]["bus"] = {"type": "sqlite", "path": str(tmp_path / "file")}
    job = Job.from_task(of_a_file)
    with opened(job) as ends, pytest.raises(Refused, match="type sqlite cannot be read as a stream"):
        plan(job, ends)
    said = [launch(task, FirstError(), Progress())["error"] for task in (of_a_file, of_a_topic)]
    assert [(one["code"], one["what"]) for one in said] == [
        ("refused", "a connection of type sqlite cannot be read as a stream"),
        ("refused", "a connection of type kafka can only be read as a stream"),
    ]
    assert made.rows(f"SELECT to_regclass('{made.target}')") == [(None,)]


def test_a_topic_that_was_made_again_is_refused(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(5))
    made.taken(5)
    made.kafka.delete(made.topic)
    made.kafka.create(made.topic)
    made.send(*range(10))
    refused = made.launchers.run(made.task("r2"))
    assert refused["error"]["code"] == "refused"
    assert "was deleted and made again" in refused["error"]["what"]
    assert not refused["error"]["transient"]
    assert made.ids() == list(range(5))


def test_a_topic_that_is_made_again_while_it_is_read_is_refused(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(5))
    task = made.task()
    pid = made.launchers.start(task)
    made.until(5)
    made.kafka.delete(made.topic)
    made.kafka.create(made.topic)
    made.send(*range(100, 110))
    refused = made.launchers.ended(pid, task)
    assert refused["status"] == "failed"
    assert made.ids() == list(range(5))
    assert "was deleted and made again" in made.launchers.run(made.task("r2"))["error"]["what"]


def test_messages_that_retention_has_deleted_are_counted_and_refused(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(5))
    made.taken(5)
    made.send(*range(5, 30))
    made.kafka.trim(made.topic, 20)
    refused = made.launchers.run(made.task("r2"))
    assert "15 messages of" in refused["error"]["what"]
    assert "--reset`" in refused["error"]["hint"]
    assert made.ids() == list(range(5))


def test_a_missing_topic_is_named(stream: Callable[..., Stream]) -> None:
    made = stream()
    task = made.task()
    task["pipeline"]["spec"]["source"]["object"] = made.topic + "s"
    missing = made.launchers.run(task)["error"]
    assert (missing["code"], missing["hint"]) == ("schema.missing_table", f"did you mean `{made.topic}`?")


def test_a_topic_that_the_brokers_do_not_show_yet_is_waited_for(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.kafka.delete(made.topic)
    form = {"type": "jsonl", "columns": {"id": "bigint", "name": "text"}}
    task = made.task(source={"connection": "bus", "object": made.topic, "format": form})
    pid = made.launchers.start(task)
    time.sleep(1)
    made.kafka.create(made.topic)
    made.send(1)
    made.until(1)
    made.stop(pid, task)


def test_errors_in_place_of_messages_stop_a_stream_unless_they_pass_by_themselves() -> None:
    nothing: Any = None
    reader = KafkaReader(nothing, nothing, "tests", nothing, nothing, nothing, nothing)
    reader._raise(KafkaError(KafkaError._TRANSPORT, retriable=True), "t/0")
    for error, kind in (
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), AccessDenied),
        (KafkaError(KafkaError._FATAL, fatal=True, retriable=True), PenstockError),
    ):
        with pytest.raises(kind):
            reader._raise(error, "t/0")


def test_a_split_that_is_read_again_ends_where_it_ended() -> None:
    """What has come after it meanwhile is read by the next split."""
    there = [
        SimpleNamespace(topic=lambda: "t", partition=lambda: 0, offset=lambda n=n: n, error=lambda: None)
        for n in range(9)
    ]
    assigned: list[int] = []
    consumer = SimpleNamespace(
        assign=lambda places: assigned.extend(one.offset for one in places),
        consume=lambda *_: there[assigned[-1] :],
        close=lambda: None,
    )
    order: Any = SimpleNamespace(moved=lambda: None)
    nothing: Any = None
    reader = KafkaReader(order, nothing, "tests", lambda: cast("Any", consumer), nothing, nothing, nothing)
    move = Move("t/0", str(Position(2, -1, "id")), str(Position(4, -1, "id")))
    assert [one.offset() for one in reader._again(Split(1, moves=(move,)))] == [2, 3]


def test_aborted_transactions_and_their_holes_are_no_loss(stream: Callable[..., Stream]) -> None:
    made = stream()
    producer = Producer({"bootstrap.servers": made.kafka.bootstrap, "transactional.id": made.topic})
    producer.init_transactions(30)
    for number, end in ((1, producer.abort_transaction), (2, producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(made.topic, json.dumps({"id": number, "name": "x"}).encode())
        producer.flush()
        end()
    made.send(3)
    made.taken(2)
    assert made.ids() == [2, 3]


def test_new_partitions_are_read_from_their_beginning(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(1)
    task = made.task(source={"connection": "bus", "object": made.topic, "from": "latest"})
    pid = made.launchers.start(task)
    end, there = time.monotonic() + WAIT, "SELECT 1 WHERE to_regclass('w._penstock_runs') IS NOT NULL"
    running = f"SELECT 1 FROM w._penstock_runs WHERE pipeline = '{made.uid}' AND state = 'running'"
    while not (made.rows(there) and made.rows(running)):
        assert "running" in made.launchers.wait(pid, 0.02), Path(task["result"]).read_text()
        assert time.monotonic() < end, "the run has not begun"
    made.send(2)
    made.until(1)
    add_partition(made)
    made.send(3, partition=1)
    made.until(2)
    made.stop(pid, task)
    assert made.ids() == [2, 3]
    assert set(made.positions()) == {f"{made.topic}/0", f"{made.topic}/1"}


def add_partition(made: Stream) -> None:
    """Give the topic a second partition."""
    admin = AdminClient({"bootstrap.servers": made.kafka.bootstrap})
    admin.create_partitions([NewPartitions(made.topic, 2)])[made.topic].result(30)
    made.partitions = 2


def test_partitions_that_were_added_while_it_was_stopped_are_read_from_their_beginning(
    stream: Callable[..., Stream],
) -> None:
    made = stream()
    made.send(1)
    source = {"connection": "bus", "object": made.topic, "from": now().isoformat()}
    task = made.task(source=source)
    pid = made.launchers.start(task)
    made.send(2)
    made.until(1)
    made.stop(pid, task)
    add_partition(made)
    made.send(3, partition=1)
    made.taken(2, "r2", source=source | {"from": "latest"})
    assert made.ids() == [2, 3]


def test_a_drained_stream_reads_partitions_that_were_just_added(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(1)
    task = made.task() | {"drain": str(made.folder / "drain")}
    pid = made.launchers.start(task)
    made.until(1)
    add_partition(made)
    made.send(2, 3, partition=1)
    Path(task["drain"]).touch()
    ended = made.launchers.ended(pid, task)
    assert (ended["status"], ended["error"]) == ("completed", None)
    assert made.ids() == [1, 2, 3]


def test_a_stream_begins_at_a_time(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(1)
    at = now()
    made.send(2, 3)
    made.taken(2, source={"connection": "bus", "object": made.topic, "from": at.isoformat()})
    assert made.ids() == [2, 3]


def letters_of(made: Stream) -> list[tuple[Any, ...]]:
    """Return code and raw text of the pipeline's dead letters."""
    query = "SELECT code, values::jsonb ->> '_raw' FROM ops.dead_letters WHERE pipeline = %s ORDER BY split, row"
    assert made.letters
    with psycopg.connect(made.letters) as session:
        return session.execute(query, (made.uid,)).fetchall()


POISON = [b"nonsense", b'{"id": "x"}', b"", b'{"id": 3, "id": 4}', b'{"id": 1e400}', b"\xff\xfe", None]


def test_poison_becomes_dead_letters_and_costs_no_other_message(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(20))
    task = made.task(errors={"dead_letter": {"fail_above": 1}})
    pid = made.launchers.start(task)
    made.until(20)
    made.kafka.send(made.topic, *POISON)
    made.send(*range(20, 40))
    made.until(40)
    made.stop(pid, task)
    assert made.ids() == list(range(40))
    found = letters_of(made)
    assert len(found) == len(POISON)
    assert found[0] == ("malformed", "nonsense")
    assert found[-1] == ("tombstone", None)


def test_a_killed_stream_keeps_each_dead_letter_once(stream: Callable[..., Stream]) -> None:
    made, points = stream(), ("commit.begin", "commit.before_fence", "commit.done")
    rules = {"dead_letter": {"fail_above": 1}}
    for attempt, point in enumerate(points):
        made.send(*range(attempt * 20, attempt * 20 + 20))
        made.kafka.send(made.topic, f"nonsense {point}".encode())
        killed = made.launchers.run(made.task(attempt=attempt + 1, errors=rules), f"{point}=kill")
        assert killed == {"killed": 9}, point
    made.kafka.send(made.topic, b"more")
    made.send(60)
    made.taken(61, attempt=4, errors=rules)
    assert made.ids() == list(range(61))
    assert letters_of(made) == [("malformed", text) for text in (*(f"nonsense {point}" for point in points), "more")]


def test_what_the_table_refuses_is_isolated_in_order(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.rows(f"CREATE TABLE {made.target} (id bigint CHECK (id % 10 <> 3), name text)")
    made.send(*range(40))
    made.taken(36, errors={"dead_letter": {"fail_above": 1}})
    assert made.ids() == [one for one in range(40) if one % 10 != 3]
    assert [code for code, _ in letters_of(made)] == ["23514"] * 4


def reader_of(made: Stream, rows: int, moved: Callable[[], None] = lambda: None) -> KafkaReader:
    """Return a reader of the stream whose splits have so many rows; `moved` is called for all that the source gives."""
    place = Place("p", "bus", KafkaConnection(type="kafka", bootstrap=made.kafka.bootstrap), made.topic)
    source = KafkaSource(place)
    schema = pa.schema([("id", pa.int64())])
    read = ReadOrder(source.describe(), ["id"], None, schema, rows, lambda: None)
    begins = source.beginnings({}, "earliest")
    return source.stream(StreamOrder(read, "00", 1, begins, 9.0, lambda _: None, moved))


def ids_of(chunk: Chunk) -> list[int]:
    assert isinstance(chunk.data, pa.RecordBatch)
    return chunk.data.column("id").to_pylist()  # type: ignore[no-any-return]


def test_a_split_that_is_read_again_keeps_its_order_over_partitions(stream: Callable[..., Stream]) -> None:
    made = stream(2)
    made.send(10, 11, partition=1)
    later = [lambda: made.send(1, 2)]
    reader = reader_of(made, 4, lambda: later.pop()() if later else None)
    with closing(reader):
        first = ids_of(next(reader.chunks()))
        assert first == [10, 11, 1, 2]
        assert ids_of(next(reader.read("00", reader.splits[1]))) == first


def test_what_is_compacted_away_while_a_split_is_written_is_a_hole(stream: Callable[..., Stream]) -> None:
    """To a reader, the offsets at the end that an aborted transaction leaves look the same."""
    made = stream()
    made.send(1)
    producer = Producer({"bootstrap.servers": made.kafka.bootstrap, "transactional.id": made.topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(made.topic, b'{"id": 2}')
    producer.flush()
    producer.abort_transaction()
    start, end = (Position(at, 0, made.kafka.topic_id(made.topic)) for at in (0, 2))
    split = Split(1, moves=(Move(f"{made.topic}/0", str(start), str(end)),), turns=((f"{made.topic}/0", 2),))
    assert ids_of(next(reader_of(made, 2).read("00", split))) == [1]


def test_tombstones_delete_in_a_merge(stream: Callable[..., Stream]) -> None:
    made = stream()
    for key, value in (("1", b'{"name": "a"}'), ("2", b'{"name": "b"}'), ("1", None), ("3", b'{"name": "c"}')):
        made.kafka.send(made.topic, value, key=key.encode())
    sink = {"connection": "lake", "object": made.target, "write": "merge", "key": ["id"], "delete": "gone"}
    mapping = {"fields": [*MERGED["fields"], {"target": "gone", "from": "_deleted"}]}
    task = made.task(sink=sink, mapping=mapping)
    pid = made.launchers.start(task)
    made.until(2)
    made.kafka.send(made.topic, b'{"name": "z"}', key=b"2")
    made.kafka.send(made.topic, b'{"name": "d"}', key=b"4")
    made.until(3)
    made.stop(pid, task)
    assert made.rows(f"SELECT id, name FROM {made.target} ORDER BY id") == [(2, "z"), (3, "c"), (4, "d")]


def test_a_column_of_later_messages_is_told_once_and_not_copied(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(1, 2)
    task = made.task()
    pid = made.launchers.start(task)
    made.until(2)
    made.kafka.send(made.topic, b'{"id": 3, "name": "x", "colour": "red"}', b'{"id": 4, "colour": "blue"}')
    made.until(4)
    made.stop(pid, task)
    assert made.ids() == [1, 2, 3, 4]


def test_a_column_that_the_target_has_is_read_also_if_no_sampled_message_has_it(
    stream: Callable[..., Stream],
) -> None:
    made = stream()
    made.rows(f"CREATE DOMAIN w.short{made.number} AS text; CREATE TYPE w.mood{made.number} AS ENUM ('calm')")
    made.rows(
        f"CREATE TABLE {made.target} (id bigint, name text, note text, size numeric(6,2), tags jsonb, "
        f"short w.short{made.number}, mood w.mood{made.number}, place point, at timestamptz DEFAULT '2026-01-01Z')"
    )
    full = {"note": "x", "size": 1.5, "tags": [1], "short": "s", "mood": "calm"}
    made.send(1)
    task = made.task(errors={"dead_letter": {"fail_above": 1}})
    pid = made.launchers.start(task)
    made.until(1)
    made.kafka.send(made.topic, json.dumps({"id": 2, "name": "b"} | full).encode(), b'{"id": 3, "size": "much"}')
    made.send(4)
    made.until(3)
    made.stop(pid, task)
    query = f"SELECT id, note, size, tags, short, mood, place FROM {made.target} WHERE id < 5 ORDER BY id"
    values = ("x", Decimal("1.50"), [1], "s", "calm", None)
    assert made.rows(query) == [(1, *[None] * 6), (2, *values), (4, *[None] * 6)]
    assert made.rows(f"SELECT count(*) FROM {made.target} WHERE at IS NULL") == [(0,)]
    assert letters_of(made) == [("not_of_type", '{"id": 3, "size": "much"}')]


def test_keys_headers_and_times_are_columns_if_asked(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.kafka.send(made.topic, b'{"id": 1}', key=b"k")
    names = ("_key", "_topic", "_partition", "_offset", "_timestamp")
    fields = [{"target": "id", "from": "id"}, *({"target": name[1:], "from": name} for name in names)]
    made.taken(1, mapping={"fields": fields})
    (row,) = made.rows(f'SELECT key, topic, partition, "offset", timestamp FROM {made.target}')
    assert row[:4] == ("k", made.topic, 0, 0)
    assert abs((now() - row[4]).total_seconds()) < 60


def test_too_many_dead_letters_stop_the_stream_by_name(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(20))
    task = made.task(errors={"dead_letter": {"fail_above": 0.1}})
    pid = made.launchers.start(task)
    made.until(20)
    made.kafka.send(made.topic, *[b"nonsense"] * 5)
    stopped = made.launchers.ended(pid, task)
    assert stopped["error"]["code"] == "data.too_many_refused"
    assert "5 of 25 rows went to the dead letters, more than 10 %" in stopped["error"]["what"]
    assert len(letters_of(made)) == 5
    made.send(20)
    made.taken(21, "r2", errors={"dead_letter": {"fail_above": 0.1}})
    assert made.ids() == list(range(21))


def test_the_share_of_dead_letters_counts_over_the_window(tmp_path: Path) -> None:
    spec = {
        "mode": "stream",
        "source": {"connection": "bus", "object": "events"},
        "sink": {"connection": "lake", "object": "events", "write": "append"},
        "errors": {"dead_letter": {"fail_above": 0.1, "window": "10s"}},
    }
    connections = {"bus": {"type": "kafka", "bootstrap": "b:9092"}, "lake": {"type": "postgres", "dsn": "dbname=d"}}
    job = Job.from_task(task_of("r", "u", connections, spec, tmp_path))
    refusals = Refusals(job, begin=100.0)
    refusals.count(Counters(rows_in=1, dead=1), 101.0)  # one of one: too few to tell
    refusals.count(Counters(rows_in=99, rows_out=99), 102.0)
    refusals.count(Counters(rows_in=9, dead=9), 103.0)  # 10 of 109
    refusals.count(Counters(rows_in=1, rows_out=1), 111.0)  # the first is as old as the window, and counts: 10 of 110
    refusals.count(Counters(rows_in=4, rows_out=4), 111.5)  # 9 of 113
    with pytest.raises(TooManyRefused, match="9 of 14 rows"):
        refusals.count(Counters(), 112.5)
    few = Refusals(job, begin=100.0)
    few.count(Counters(rows_in=10, rows_out=9, dead=1), 101.0)
    refused = Counters(rows_in=10, rows_out=8, dead=2)
    with pytest.raises(TooManyRefused, match="2 of 10 rows"):
        Refusals(job, begin=100.0).count(refused, 101.0)
    late = Refusals(job, begin=100.0)
    late.count(Counters(rows_in=1, dead=1), 109.0)
    with pytest.raises(TooManyRefused, match="1 of 1 rows"):
        late.count(Counters(), 110.0)
