"""The changes of a table into a compacted topic: its last messages are the table's rows, whatever is killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from penstock.topics.embedded import EmbeddedServer
from tests.dataflows.connectors.kafka.conftest import WAIT, Stream
from tests.dataflows.connectors.kafka.test_merges import kept

pytestmark = pytest.mark.xdist_group("kafka")

CUTS = ("commit.before_fence", "commit.sent")


@pytest.fixture(scope="module")
def shop(logical: EmbeddedServer) -> Iterator[psycopg.Connection[Any]]:
    """A database whose changes can be read."""
    with psycopg.connect(logical.dsn("postgres"), autocommit=True) as session:
        session.execute("CREATE DATABASE mirrored")
    with psycopg.connect(logical.dsn("mirrored"), autocommit=True) as session:
        yield session


def task_of(made: Stream, logical: EmbeddedServer, run: str = "r1", attempt: int = 1, **more: Any) -> dict[str, Any]:
    source = {"connection": "shop", "object": f"public.s{made.number}"}
    sink = {"connection": "lake", "object": made.target, "write": "merge", "key": ["id"]}
    task = made.task(run, attempt, source=source, sink=sink)
    return task | {"connections": task["connections"] | {"shop": {"type": "postgres", "dsn": logical.dsn("mirrored")}}}


def until_same(made: Stream, shop: psycopg.Connection[Any]) -> None:
    """Wait until the last message of each key is its row, and there is none of others."""
    rows = {str(id_): name for id_, name in shop.execute(f"SELECT id, name FROM s{made.number}").fetchall()}
    end = time.monotonic() + WAIT
    while (found := {key: one["name"] for key, one in kept(made).items()}) != rows:
        assert time.monotonic() < end, (found, rows)
        time.sleep(0.2)  # each look reads the whole topic


def test_the_last_messages_are_the_rows_through_kills_a_truncate_and_a_rebuild(
    stream: Callable[..., Stream], shop: psycopg.Connection[Any], logical: EmbeddedServer
) -> None:
    made = stream(into="kafka")
    table = f"s{made.number}"
    shop.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text)")
    refused = made.launchers.run(task_of(made, logical))
    assert "cannot keep as it was" in refused["error"]["what"], refused
    assert "REPLICA IDENTITY FULL" in refused["error"]["hint"]
    shop.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
    shop.execute(f"INSERT INTO {table} SELECT g, 'name ' || g FROM generate_series(1, 50) g")
    assert made.launchers.run(task_of(made, logical), "commit.before_fence=kill") == {"killed": 9}
    pid = made.launchers.start(task := task_of(made, logical, attempt=2))
    until_same(made, shop)
    made.stop(pid, task)
    for attempt, cut in enumerate(CUTS, 3):
        shop.execute(f"UPDATE {table} SET name = name || '!' WHERE id % 7 = {attempt}")
        shop.execute(f"DELETE FROM {table} WHERE id % 10 = {attempt}")
        shop.execute(f"UPDATE {table} SET id = id + 1000 WHERE id % 9 = {attempt} AND id < 1000")
        assert made.launchers.run(task_of(made, logical, attempt=attempt), f"{cut}=kill") == {"killed": 9}
    task = task_of(made, logical, attempt=9)
    pid = made.launchers.start(task)
    until_same(made, shop)
    shop.execute(f"BEGIN; TRUNCATE {table}; INSERT INTO {table} VALUES (1, 'again'), (2, NULL); COMMIT")
    until_same(made, shop)
    made.stop(pid, task)
    shop.execute(f"DELETE FROM {table} WHERE id = 2")
    task = task_of(made, logical, "r2") | {"begin": {"from": "earliest", "reset": True}}
    pid = made.launchers.start(task)
    until_same(made, shop)
    made.stop(pid, task)
    assert json.loads(made.kafka.read(made.target)[-1].value() or b"{}") == {"id": 1, "name": "again"}
    redrive = task_of(made, logical, "d1") | {"kind": "letters", "redrive": {"action": "replay"}}
    refused = made.launchers.run(redrive)["error"]
    assert "no commit can wait for the stream's there" in refused["what"], refused


def test_a_log_of_changes_has_those_of_a_key_in_order_through_kills(
    stream: Callable[..., Stream], shop: psycopg.Connection[Any], logical: EmbeddedServer
) -> None:
    made = stream(into="kafka")
    table = f"s{made.number}"
    shop.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text)")
    shop.execute(f"INSERT INTO {table} VALUES (1, 'a'), (2, 'a')")
    drain = made.folder / "drain"
    drain.touch()

    def task(attempt: int) -> dict[str, Any]:
        found = task_of(made, logical, attempt=attempt) | {"drain": str(drain)}
        found["pipeline"]["spec"]["sink"] |= {"write": "append"}
        return found

    assert made.launchers.run(task(1), "commit.before_fence=kill") == {"killed": 9}
    assert made.launchers.run(task(2))["status"] == "completed"
    for attempt, cut in enumerate(CUTS, 3):
        shop.execute(f"UPDATE {table} SET name = '{cut}' WHERE id = 1")
        shop.execute(f"UPDATE {table} SET name = name || '!' WHERE id = 1")
        assert made.launchers.run(task(attempt), f"{cut}=kill") == {"killed": 9}
    shop.execute(f"DELETE FROM {table} WHERE id = 2")
    assert made.launchers.run(task(9) | {"run": "r2"})["status"] == "completed"
    events = [json.loads(one.value() or b"") for one in made.kafka.read(made.target)]
    names = [name for cut in CUTS for name in (cut, f"{cut}!")]
    assert [(one["_op"], one["name"]) for one in events if one["id"] == 1] == [
        ("snapshot", "a"), *(("update", name) for name in names)
    ]  # fmt: skip
    assert [one["_op"] for one in events if one["id"] == 2] == ["snapshot", "delete"]
