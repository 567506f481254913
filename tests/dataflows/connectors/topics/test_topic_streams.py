"""Streams from topics of the embedded log: exact through kills and zombies, and whatever happens to the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dataflows import scheduler
from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.streaming import Share, StreamOrder
from dataflows.connectors.topics.source import TopicsSource
from penstock.clock import now
from penstock.models.connection import TopicsConnection
from penstock.models.profiles import Partitions
from penstock.topics.log import Message
from penstock.topics.opening import topics_of
from penstock.topics.table import CONTROL, METRICS
from tests.dataflows.connectors.topics.conftest import Stream
from tests.dataflows.listings import discovered

POINTS = ("prepare.planned", "read.block", "commit.mid_copy", "commit.before_fence", "commit.sent")
DECLARED = {"type": "jsonl", "columns": {"id": "bigint", "name": "text"}}


def test_a_stopped_stream_of_a_topic_reads_on_where_it_was(stream: Callable[..., Stream]) -> None:
    made = stream(2)
    made.send(*range(50))
    made.send(*range(100, 150), partition=1)
    task = made.task()
    pid = made.launchers.start(task)
    made.until(100)
    assert made.stop(pid, task)["error"]["what"] == "the run was asked to stop"
    made.send(*range(50, 60))
    assert made.drained("r2")["counters"]["rows_out"] == 10
    ids = made.ids()
    assert ([one for one in ids if one < 100], [one for one in ids if one >= 100]) == (
        list(range(60)),
        list(range(100, 150)),
    )
    name, (_, id_) = made.topic.name, made.log.topics()[made.topic.name]
    assert made.positions() == {f"{name}/0": {"offset": 60, "topic": id_}, f"{name}/1": {"offset": 50, "topic": id_}}


def test_a_split_of_a_topic_that_is_read_again_keeps_its_order_over_partitions(stream: Callable[..., Stream]) -> None:
    made = stream(2)
    made.send(10, partition=1)
    source = TopicsSource(Place("p", "bus", TopicsConnection(type="topics", dsn=made.dsn), made.topic.name))
    read = ReadOrder(source.describe(), ["id"], None, pa.schema([("id", pa.int64())]), 2, lambda: None)
    later = [lambda: made.send(1)]
    order = StreamOrder(
        read, "00", 1, source.beginnings({}, "earliest"), 9.0, lambda _: None, lambda: later.pop()() if later else None
    )
    with closing(source.stream(order)) as reader:
        first, again = next(reader.chunks()).data, next(reader.read("00", reader.splits[1])).data
    assert isinstance(first, pa.RecordBatch)
    assert first.column("id").to_pylist() == [10, 1]
    assert first.equals(again)


def test_a_reader_of_a_topic_keeps_to_its_share(stream: Callable[..., Stream]) -> None:
    made = stream(5)
    for part in range(5):
        made.send(part, part + 10, partition=part)
    source = TopicsSource(Place("p", "bus", TopicsConnection(type="topics", dsn=made.dsn), made.topic.name))
    assert source.partitions() == 5
    read = ReadOrder(source.describe(), ["id"], None, pa.schema([("id", pa.int64())]), 2, lambda: None)
    begins = source.beginnings({}, "earliest")
    order = StreamOrder(read, "01", 8, begins, 0.0, lambda _: None, lambda: None, share=Share(1, 2))
    with closing(source.stream(order)) as reader:
        chunks = reader.chunks()
        taken = [next(chunks) for _ in range(4)]
    data = [one.data.column("id").to_pylist() for one in taken if isinstance(one.data, pa.RecordBatch)]
    assert (sorted(data), [one.split for one in taken if one.last]) == ([[1, 11], [3, 13]], [8, 10])


def test_messages_that_arrive_are_read_in_any_partition(stream: Callable[..., Stream]) -> None:
    made = stream(3)
    task = made.task(source={"connection": "bus", "object": made.topic.name, "format": DECLARED})
    pid = made.launchers.start(task)
    for number in range(6):
        made.send(number, partition=number % 3)
        made.until(number + 1)
    made.stop(pid, task)
    assert made.ids() == list(range(6))


@pytest.mark.parametrize(
    "point", ["prepare.planned", "read.block", "commit.mid_copy", "commit.before_fence", "commit.sent"]
)
def test_a_killed_stream_of_a_topic_loses_and_doubles_nothing(stream: Callable[..., Stream], point: str) -> None:
    made = stream()
    made.send(*range(40))
    assert made.launchers.run(made.task(), f"{point}=kill") == {"killed": 9}
    made.send(*range(40, 60))
    assert made.drained(attempt=2)["status"] == "completed"
    assert made.ids() == list(range(60))


def test_a_zombie_of_a_topic_writes_nothing_after_its_successor(stream: Callable[..., Stream]) -> None:
    made = stream(2)
    made.send(*range(10))
    task = made.task()
    zombie = made.launchers.start(task, "commit.before_fence:2=stop")
    made.until(10)
    made.send(*range(10, 40))
    assert made.launchers.wait(zombie) == {"stopped": True}
    made.send(*range(100, 140), partition=1)
    made.drained("r2")
    assert made.launchers.woken(zombie, task)["status"] == "fenced"
    ids = made.ids()
    assert [one for one in ids if one < 100] == list(range(40))
    assert [one for one in ids if one >= 100] == list(range(100, 140))


def test_a_stream_whose_session_with_the_log_is_lost_is_tried_again(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(5))
    task = made.task()
    pid = made.launchers.start(task)
    made.until(5)
    session = "application_name = 'penstock:items:topic'"
    assert made.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {session}")
    lost = made.launchers.ended(pid, task)["error"]
    assert lost["transient"], lost
    made.send(5)
    made.drained(attempt=2)
    assert made.ids() == list(range(6))


def test_a_topic_of_the_log_that_was_made_again_is_refused(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(5))
    made.drained()
    task = made.task("r2")
    pid = made.launchers.start(task)
    made.send(5)
    made.until(6)
    made.rows(f'DROP TABLE topics."{made.topic.name}"')
    for table in ("_users", "_counters"):
        made.rows(f"DELETE FROM topics.{table} WHERE topic = '{made.topic.name}'")
    made.log.create(made.topic)
    made.send(*range(100, 110))
    while_read, later = made.launchers.ended(pid, task)["error"], made.drained("r3")["error"]
    assert "the topic was made again" in while_read["what"]
    assert (later["code"], later["transient"]) == ("refused", False)
    assert "the topic was deleted and made again" in later["what"]
    assert "--reset`" in later["hint"]
    assert made.ids() == list(range(6))


def test_messages_that_were_trimmed_away_are_counted_and_refused(stream: Callable[..., Stream]) -> None:
    made = stream(keep=timedelta(hours=1))
    made.send(*range(5))
    made.drained()
    made.send(*range(5, 30))
    at = now()
    made.log.trim(made.topic, at + timedelta(minutes=10))
    late = at + timedelta(hours=1)
    made.log.append(made.topic, [Message(None, b'{"id": 50, "name": "x"}', late)] * 10)
    made.log.trim(made.topic, late + timedelta(minutes=1))
    refused = made.drained("r2")["error"]
    assert "25 messages of" in refused["what"], refused
    assert "--reset`" in refused["hint"]
    assert made.ids() == list(range(5))
    task = made.task("r3") | {"begin": {"from": "earliest", "reset": True}}
    Path(task["drain"]).touch()
    assert made.launchers.run(task)["counters"]["rows_out"] == 10


def test_messages_that_are_trimmed_away_before_a_running_stream_reads_them_are_counted(
    stream: Callable[..., Stream],
) -> None:
    made = stream()
    made.send(*range(5))
    task = made.task()
    pid = made.launchers.start(task)
    made.until(5)
    made.rows(f"UPDATE topics._counters SET start = 20, next = 30 WHERE topic = '{made.topic.name}'")
    assert "15 messages of" in made.launchers.ended(pid, task)["error"]["what"]


@pytest.mark.parametrize(("begin", "found"), [("earliest", [1, 2, 3]), ("latest", []), ("time", [2, 3])])
def test_a_stream_of_a_topic_begins_where_it_is_told_to(
    stream: Callable[..., Stream], begin: str, found: list[int]
) -> None:
    made = stream()
    made.send(1)
    time = now().isoformat().replace("+00:00", "Z")
    made.send(2, 3)
    source = {"connection": "bus", "object": made.topic.name, "from": time if begin == "time" else begin}
    made.drained(source=source)
    assert made.ids() == found
    made.send(4)
    made.drained("r2", source=source)
    assert made.ids() == [*found, 4]


def begun(made: Stream, run: str, begin: Any, *, reset: bool = False) -> dict[str, Any]:
    """Begin elsewhere, and drain."""
    task = made.task(run) | {"begin": {"from": begin, "reset": reset}}
    Path(task["drain"]).touch()
    return made.launchers.run(task)


def test_a_stream_of_a_topic_begins_anew_only_with_a_reset(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(5))
    made.drained()
    made.send(5)
    for begin, what in (
        ("latest", f"{made.topic.name}/0 skips 1 messages: from offset 6 on, in place of 5"),
        ("earliest", f"{made.topic.name}/0 repeats 5 messages: from offset 0 on, in place of 5"),
        ({"0": "9"}, "partition 0 has offsets 0 to 6, got '9'"),
        ({"7": "0"}, "there is no such partition, got '7'"),
    ):
        assert what in begun(made, "r2", begin)["error"]["what"]
    assert begun(made, "r3", {"0": "3"}, reset=True)["counters"]["rows_out"] == 3
    assert made.ids() == [0, 1, 2, 3, 4, 3, 4, 5]


def test_what_is_known_of_an_event_can_be_a_column_and_what_is_no_json_is_a_dead_letter(
    stream: Callable[..., Stream],
) -> None:
    made = stream()
    at = now()
    made.append(b'{"id": 1}', b"not json", b'{"id": "x"}', b'{"id": 4}')
    names = ("_key", "_topic", "_partition", "_offset", "_timestamp")
    fields = [{"target": "id", "from": "id"}, *({"target": f"e{one}", "from": one} for one in names)]
    form = {"type": "jsonl", "columns": {"id": "bigint"}}
    source = {"connection": "bus", "object": made.topic.name, "format": form}
    done = made.drained(mapping={"fields": fields}, source=source)
    assert (done["counters"]["rows_out"], done["counters"]["dead"]) == (2, 2), done
    first, second = made.rows(f"SELECT * FROM {made.target} ORDER BY e_offset")
    assert (first[:5], second[:5]) == ((1, "k", made.topic.name, 0, 0), (4, "k", made.topic.name, 0, 3))
    assert at - timedelta(milliseconds=1) <= first[5] <= now()


def test_a_topic_that_is_not_there_is_named(stream: Callable[..., Stream]) -> None:
    made = stream()
    for wanted, hint in (
        (made.topic.name + "s", f"did you mean `{made.topic.name}`?"),
        ("q", "penstock topics create q"),
    ):
        missing = made.drained(source={"connection": "bus", "object": wanted})["error"]
        assert (missing["code"], missing["hint"]) == ("schema.missing_table", hint)
    sink = {"connection": "bus", "object": "x", "write": "append"}
    assert "topics cannot be a sink yet" in made.drained(sink=sink)["error"]["what"]
    assert "can only be read as a stream" in made.drained(mode="batch")["error"]["what"]


def test_how_far_a_stream_is_behind_is_counted_in_messages(stream: Callable[..., Stream]) -> None:
    made = stream(2)
    source = TopicsSource(Place("p", "bus", TopicsConnection(type="topics", dsn=made.dsn), made.topic.name))
    begins = source.beginnings({}, "earliest")
    made.send(1, 2, partition=1)
    assert dict(source.behind(begins)) == {f"{made.topic.name}/0": 0, f"{made.topic.name}/1": 2}
    assert json.loads(begins[f"{made.topic.name}/0"]) == {"offset": 0, "topic": made.log.topics()[made.topic.name][1]}
    source.close()


def test_topics_of_penstock_itself_can_be_read(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.log.create(CONTROL)
    record = {"type": "run.ended", "key": "r", "payload": {"rows": 3}}
    made.log.append(CONTROL, [Message(b"r", json.dumps(record).encode(), now())])
    made.drained(source={"connection": "bus", "object": "control"})
    assert made.rows(f"SELECT type, payload ->> 'rows' FROM {made.target}") == [("run.ended", "3")]


def test_topics_are_listed_as_they_were_made(stream: Callable[..., Stream]) -> None:
    made = stream(3, timedelta(days=7))
    listed, id_ = made.log.topics()[made.topic.name]
    assert (listed.partitions, listed.retention_time) == (3, timedelta(days=7))
    assert id_ != made.log.identity()
    assert listed in topics_of(made.log)
    made.log.create(CONTROL)
    assert made.log.topics()["control"] == (CONTROL, made.log.identity())


def test_the_scheduler_deletes_what_a_topic_no_longer_keeps(
    stream: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, kept = stream(keep=timedelta(hours=1)), stream()
    made.log.create(METRICS)
    for one in (made, kept):
        one.log.append(one.topic, [Message(b"k", b"{}", now() - timedelta(days=1))] * 3)
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.0)
    logic = scheduler._Logic(made.log)
    logic.begin(made.letters)
    logic.on_batch([])
    assert (made.log.begin(made.topic, 0), kept.log.begin(kept.topic, 0)) == (3, 0)


def test_what_a_topic_of_the_log_has_is_discovered(stream: Callable[..., Stream]) -> None:
    one, empty = stream(2), stream()
    one.send(1, 2, 3, partition=1)
    there = discovered(one.connection, one.object, empty.object, rows=10)
    assert there.columns(one.object) == {"id": "bigint", "name": "text"}
    found = there.objects[one.object]
    assert (found.kind, found.looked_at, found.profile.rows, found.profile.format) == ("topic", 3, 3, "json")
    assert found.profile.partitions == Partitions(by="partition", count=2)
    assert there.samples[one.object]["id"].bounds == ("1", "2", "3")
    assert there.objects[empty.object].empty
