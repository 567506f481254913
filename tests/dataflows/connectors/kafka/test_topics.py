"""Streams of several topics: by their names, or by a pattern that later topics match too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from dataflows.runs.job import Job
from penstock.errors import Refused
from tests.dataflows.connectors.kafka.conftest import WAIT, Stream

pytestmark = pytest.mark.xdist_group("kafka")


def source(**named: Any) -> dict[str, Any]:
    return {"connection": "bus", "format": {"type": "jsonl", "columns": {"id": "bigint", "name": "text"}}, **named}


def send(made: Stream, topic: str, *numbers: int) -> None:
    made.kafka.send(topic, *(json.dumps({"id": one}).encode() for one in numbers))


def test_several_topics_are_one_stream_and_more_may_follow(stream: Callable[..., Stream]) -> None:
    made = stream()
    names = [f"{made.topic}-{one}" for one in "abc"]
    for topic in names:
        made.kafka.create(topic)
    send(made, names[0], 1, 2)
    send(made, names[1], 10, 11)
    fields = [{"target": "id", "from": "id"}, {"target": "topic", "from": "_topic"}]
    both = source(topics=names[:2])
    made.taken(4, source=both, mapping={"fields": fields})
    assert sorted(made.rows(f"SELECT id, topic FROM {made.target}")) == [
        (1, names[0]), (2, names[0]), (10, names[1]), (11, names[1]),
    ]  # fmt: skip
    found = made.positions()
    assert {name: one["offset"] for name, one in found.items()} == {f"{names[0]}/0": 2, f"{names[1]}/0": 2}
    assert {one["topic"] for one in found.values()} == {made.kafka.topic_id(one) for one in names[:2]}
    send(made, names[2], 20)
    send(made, names[0], 3)
    made.taken(6, "r2", source=source(topics=[names[2], *names[:2]]), mapping={"fields": fields})
    assert sorted(made.ids()) == [1, 2, 3, 10, 11, 20], "what was read of the others is not read again"
    send(made, names[1], 12)
    made.taken(7, "r3", source=source(topics=names[1:]), mapping={"fields": fields})
    made.kafka.delete(names[1])
    made.kafka.create(names[1])
    refused = made.launchers.run(made.task("r4", source=both, mapping={"fields": fields}))["error"]
    assert "the topic was deleted and made again" in refused["what"]
    assert names[1] in refused["what"]


def test_a_topic_that_a_pattern_matches_later_is_read_from_its_beginning(stream: Callable[..., Stream]) -> None:
    made = stream()
    first, later, other = (f"{made.topic}.{one}" for one in ("eu", "us", "eu-old"))
    made.kafka.create(first)
    made.kafka.create(other)
    send(made, first, 1)
    send(made, other, 100)
    task = made.task(source=source(pattern=rf"{made.topic}\.[a-z]+"))
    pid = made.launchers.start(task)
    made.until(1)
    made.kafka.create(later, 2)
    send(made, later, 2, 3)
    made.until(3)
    send(made, first, 4)
    made.until(4)
    made.kafka.delete(later)
    failed = made.launchers.ended(pid, task)["error"]
    assert (failed["code"], later in str(failed)) == ("schema.missing_table", True)
    assert sorted(made.ids()) == [1, 2, 3, 4]
    assert {name.rpartition("/")[0] for name in made.positions()} == {first, later}
    again = made.task("r3", source=source(pattern=rf"{made.topic}\.[a-z]+")) | {
        "begin": {"from": "latest", "reset": True}
    }
    pid = made.launchers.start(again)
    end = time.monotonic() + WAIT
    while {name.rpartition("/")[0] for name in made.positions()} != {first}:
        assert time.monotonic() < end
        time.sleep(0.05)
    send(made, first, 5)
    made.until(5)
    made.stop(pid, again)
    none = made.launchers.run(made.task("r4", source=source(pattern="nothing-[0-9]")))["error"]
    assert "no topic matches the pattern" in none["what"]


def test_a_split_over_several_topics_is_read_again_in_its_order(stream: Callable[..., Stream]) -> None:
    made = stream()
    names = [f"{made.topic}-{one}" for one in "ab"]
    for topic in names:
        made.kafka.create(topic)
    made.rows(f"CREATE TABLE {made.target} (id bigint CHECK (id <> 7), name text)")
    for topic in names:
        send(made, topic, 1, 7, 2)
    made.taken(4, source=source(topics=names), errors={"dead_letter": {"fail_above": 1}})
    assert sorted(made.ids()) == [1, 1, 2, 2]
    assert [one["offset"] for one in made.positions().values()] == [3, 3]


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ({"topics": ["a", "a"]}, "a topic is named twice"),
        ({"topics": ["a"], "pattern": "b"}, "topics are named twice"),
        ({"topics": ["a"], "object": "b"}, "topics are named twice"),
        ({"pattern": "a("}, "the pattern is no regular expression"),
    ],
)
def test_topics_that_cannot_be_are_refused(stream: Callable[..., Stream], named: dict[str, Any], what: str) -> None:
    made = stream()
    with pytest.raises(Refused, match=what):
        Job.from_task(made.task(source=source(**named)))
    files = made.task(source=source(topics=["a"]))
    files["connections"]["bus"] = {"type": "files", "root": "/nowhere"}
    with pytest.raises(Refused, match="a connection of type files has one `object`"):
        Job.from_task(files)


def test_a_pattern_that_the_sink_matches_is_refused(stream: Callable[..., Stream]) -> None:
    """The stream would read what it writes, and write that again, without an end."""
    made = stream()
    send(made, made.topic, 1)
    for named in ({"pattern": "events-.*"}, {"topics": [made.topic, "events-out"]}):
        task = made.task(source=source(**named), sink={"connection": "bus", "object": "events-out", "write": "append"})
        assert "would read its own rows again" in made.launchers.run(task)["error"]["what"]
