"""Streams from real topics to the other sinks: as exact, and in the same order, as to PostgreSQL.

Every cut of a commit is tried on PostgreSQL, in `test_streams`; here are those at which another database differs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from tests.dataflows.connectors.kafka.conftest import DATABASES, LAKES, WAIT, Stream
from tests.dataflows.connectors.kafka.test_streams import MERGED, letters_of
from tests.pairs import soon

pytestmark = pytest.mark.xdist_group("kafka")

CUTS = ("prepare.planned", "commit.mid_copy", "commit.before_fence", "commit.sent")
POINTS = ("read.block", "commit.mid_copy")


@pytest.mark.parametrize("into", soon(LAKES, "mysql", "sqlite", "s3", "kafka"))
def test_a_stream_that_is_killed_again_and_again_loses_and_doubles_nothing(
    stream: Callable[..., Stream], into: str
) -> None:
    made = stream(2, into=into)
    made.send(*range(100, 110), partition=1)
    for attempt, cut in enumerate(CUTS):
        made.send(*range(attempt * 10, attempt * 10 + 10))
        assert made.launchers.run(made.task(attempt=attempt + 1), f"{cut}=kill") == {"killed": 9}
    made.send(*range(40, 50))
    made.send(*range(110, 120), partition=1)
    made.taken(70, "r2")
    ids = made.ids()
    assert [one for one in ids if one < 100] == list(range(50))
    assert [one for one in ids if one >= 100] == list(range(100, 120))
    found = {part.rpartition("/")[2]: at["offset"] for part, at in made.positions().items()}
    assert found == {"0": 50, "1": 20}
    made.launchers.run(made.task("r3") | {"kind": "cleanup"})
    assert made.positions() == {}


@pytest.mark.parametrize("into", soon(DATABASES, "mysql", "duckdb"))
def test_tombstones_delete_in_a_merge(stream: Callable[..., Stream], into: str) -> None:
    made = stream(into=into)
    for key, value in (("1", b'{"name": "a"}'), ("2", b'{"name": "b"}'), ("1", None), ("3", b'{"name": "c"}')):
        made.kafka.send(made.topic, value, key=key.encode())
    sink = {"connection": "lake", "object": made.target, "write": "merge", "key": ["id"], "delete": "gone"}
    mapping = {"fields": [*MERGED["fields"], {"target": "gone", "from": "_deleted"}]}
    made.taken(4 if made.lake.locked else 2, sink=sink, mapping=mapping)
    made.kafka.send(made.topic, b'{"name": "z"}', key=b"2")
    made.kafka.send(made.topic, b'{"name": "d"}', key=b"4")
    made.taken(6 if made.lake.locked else 3, "r2", sink=sink, mapping=mapping)
    assert made.rows(f"SELECT id, name FROM {made.target} ORDER BY id") == [(2, "z"), (3, "c"), (4, "d")]


@pytest.mark.parametrize("into", soon(DATABASES, "mysql", "sqlite"))
def test_what_the_table_refuses_is_isolated_in_order(stream: Callable[..., Stream], into: str) -> None:
    made = stream(into=into)
    made.rows(f"CREATE TABLE {made.target} (id bigint CHECK (id % 10 <> 3), name varchar(20))")
    made.send(*range(40))
    made.taken(40 if made.lake.locked else 36, errors={"dead_letter": {"fail_above": 1}})
    assert made.ids() == [one for one in range(40) if one % 10 != 3]
    assert len(letters_of(made)) == 4


@pytest.mark.parametrize(
    ("into", "point"),
    soon(
        [(into, point) for into in (*DATABASES, "files", "kafka") for point in POINTS],
        ("mysql", "read.block"),
        *((into, "commit.mid_copy") for into in ("mysql", "duckdb", "files")),
    ),
)
def test_a_zombie_writes_nothing_after_its_successor(stream: Callable[..., Stream], into: str, point: str) -> None:
    made = stream(into=into)
    made.send(*range(40))
    task = made.task()
    zombie = made.launchers.stopped(task, point)
    successor = made.task("r2")
    if made.lake.locked:  # by the zombie, until it ends
        kept_out = made.launchers.run(successor, without=("patience",))
        assert kept_out["error"]["transient"]
        return
    pid = made.launchers.start(successor)
    made.until(40)
    late = made.launchers.woken(zombie, task)
    assert late["status"] == "fenced", late
    made.send(*range(40, 50))
    made.until(50)
    made.stop(pid, successor)
    assert made.ids() == list(range(50))


def test_a_zombie_leaves_no_file_in_a_folder(stream: Callable[..., Stream]) -> None:
    """Neither one that it had placed before its successor began, nor one that it places later."""
    made = stream(into="files")
    made.send(*range(40))
    for number, point in enumerate(("commit.before_fence", "commit.copied")):
        task = made.task(f"r{number * 2}")
        zombie = made.launchers.stopped(task, point)
        made.taken(40 + 40 * number, f"r{number * 2 + 1}")
        assert made.launchers.woken(zombie, task)["status"] == "fenced"
        assert made.ids() == list(range(40 + 40 * number))
        made.send(*range(40, 80))
    assert made.lake.folder is not None
    assert list((made.lake.folder / made.target / "_penstock/data").rglob("*.parquet")) == []


@pytest.mark.parametrize("into", soon(["mysql", "sqlite", "duckdb", "files"], "mysql", "files"))
def test_a_partition_that_is_found_while_the_stream_runs(stream: Callable[..., Stream], into: str) -> None:
    """Another session of the run stores where it begins, beside the one that writes, while messages arrive."""
    made = stream(into=into)
    made.send(0)
    task = made.task(limits={"linger": "20ms"})  # that of files is longer
    pid = made.launchers.start(task)
    made.until(1)
    over, sent = threading.Event(), [0]

    def keep_busy() -> None:
        while not over.wait(0.01):
            sent.append(len(sent))
            made.send(sent[-1])

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        admin = AdminClient({"bootstrap.servers": made.kafka.bootstrap})
        admin.create_partitions([NewPartitions(made.topic, 2)])[made.topic].result(30)
        made.partitions = 2
        made.send(-1, partition=1)
        end = time.monotonic() + WAIT
        while made.mirrored(1) < 1:
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        over.set()
        busy.join()
    made.until(len(sent) + 1)
    made.stop(pid, task)
    assert sorted(made.ids()) == [-1, *sent]


def test_a_column_of_mysql_that_no_sampled_message_has_is_read(stream: Callable[..., Stream]) -> None:
    made = stream(into="mysql")
    made.rows(f"CREATE TABLE {made.target} (id bigint, name text, note varchar(9), at bigint DEFAULT 7)")
    made.send(1)
    task = made.task(errors={"dead_letter": {"fail_above": 1}})
    pid = made.launchers.start(task)
    made.until(1)
    made.kafka.send(made.topic, b'{"id": 3, "at": 8}', b'{"id": 2, "note": "NULL", "name": "\\"at\\""}')
    made.until(2)
    made.stop(pid, task)
    assert made.rows(f"SELECT id, note, at FROM {made.target} ORDER BY id") == [(1, None, 7), (2, "NULL", 7)]
    assert letters_of(made) == [("unknown_column", '{"id": 3, "at": 8}')]
