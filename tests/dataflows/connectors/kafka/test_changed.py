"""Streams whose objects were changed, or whose state at the sink is gone: what would be written twice is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors.kafka.ledger import STATE_TOPIC
from dataflows.connectors.kafka.state import LOOK_SECONDS
from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import Refused
from tests.dataflows.connectors.kafka.conftest import Stream

pytestmark = pytest.mark.xdist_group("kafka")

FROM_LATEST = {"begin": {"from": "latest", "reset": True}}


def planned(task: dict[str, Any]) -> list[str]:
    """Return the notes of a plan."""
    job = Job.from_task(task, secrets=Path(task["secrets"]))
    with opened(job) as ends:
        return list(plan(job, ends)["notes"])


@pytest.mark.parametrize("into", [*(pytest.param(one, marks=pytest.mark.chaos) for one in (None, "files")), "kafka"])
def test_another_name_of_the_same_topic_is_refused_if_rows_would_be_there_twice(
    stream: Callable[..., Stream], into: str | None
) -> None:
    made = stream(into=into)
    made.send(*range(10))
    made.taken(10)
    task = made.task("r2", source={"connection": "bus", "topics": [made.topic, f"other-{made.number}"]})
    made.kafka.create(f"other-{made.number}")
    what = f"as it had read {made.topic}, not {made.topic},other-.* repeats 10 messages: from offset 0 on"
    with pytest.raises(Refused, match=what):
        planned(task)
    assert f"{made.topic}/0 repeats 10 messages" in made.launchers.run(task)["error"]["what"]
    drain = made.folder / "drain"
    drain.touch()
    assert made.launchers.run(task | FROM_LATEST | {"drain": str(drain)})["status"] == "completed"
    made.send(10)
    last = made.task("r3", source=task["pipeline"]["spec"]["source"])
    assert made.launchers.run(last | {"drain": str(drain)})["counters"]["rows_out"] == 1
    assert sorted(made.ids()) == list(range(11))
    assert planned(last) == []


def test_another_sink_is_named_by_plan(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(*range(10))
    made.taken(10)
    other = {"connection": "lake", "object": f"{made.target}_b", "write": "append"}
    (note,) = planned(made.task("r2", sink=other))
    assert note.startswith("the stream begins again, from earliest: until now it has read")
    assert made.target.partition(".")[2] in note
    assert "stay as they are" in note


def test_a_merge_that_begins_again_is_named_by_plan(stream: Callable[..., Stream]) -> None:
    made = stream()
    sink = {"connection": "lake", "object": made.target, "write": "merge", "key": ["id"]}
    made.send(*range(10))
    made.taken(10, sink=sink)
    task = made.task("r2", sink=sink, source={"connection": "bus", "pattern": f"{made.topic}"})
    (note,) = planned(task)
    assert note.endswith(f"{made.topic}/0 repeats 10 messages: from offset 0 on, in place of 10")


def test_a_state_that_was_deleted_between_runs_is_noticed(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    made.send(*range(10))
    made.taken(10)
    made.kafka.delete(STATE_TOPIC)
    error = made.launchers.run(made.task("r2"))["error"]
    assert "state at the sink was deleted: nothing says which rows are written" in error["what"]
    assert "--from earliest|latest|TIME --reset" in error["hint"]
    assert not error["transient"]
    with pytest.raises(Refused, match="nothing says which rows are written"):
        planned(made.task("r2"))
    other = stream(into="kafka")
    other.send(1)
    other.taken(1)  # makes the topic again
    assert "was deleted and made again" in made.launchers.run(made.task("r2"))["error"]["what"]
    task = made.task("r3") | {"begin": {"from": {"0": "10"}, "reset": True}}
    made.send(10)
    pid = made.launchers.start(task)
    made.until(11)
    made.stop(pid, task)
    made.send(11)
    made.taken(12, "r4")
    assert made.ids() == list(range(12))


def test_a_state_that_is_deleted_while_the_stream_runs_stops_it(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    made.send(*range(10))
    task = made.task()
    pid = made.launchers.start(task)
    made.until(10)
    made.kafka.delete(STATE_TOPIC)
    time.sleep(LOOK_SECONDS * 1.5)
    made.send(10)
    ended = made.launchers.ended(pid, task)
    assert STATE_TOPIC in str(ended["error"]), ended
    assert "nothing says which rows are written" in made.launchers.run(made.task("r2"))["error"]["what"]
    assert made.ids() == list(range(10))
