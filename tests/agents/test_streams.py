"""Streams: one run each for as long as they are active, tried again for ever, and restarted with each version."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.control_plane import ERROR, FATAL, ControlPlane, pipeline, postgres

KAFKA = {"type": "kafka", "bootstrap": "localhost:9092"}


def stream(name: str, **limits: Any) -> dict[str, Any]:
    """Return a stream as a user writes it."""
    document = pipeline(name, source="bus")
    document["spec"] |= {"mode": "stream", **({"limits": limits} if limits else {})}
    return document


@pytest.fixture
def events(plane: ControlPlane) -> ControlPlane:
    """A control plane with a worker and the stream `events`."""
    plane.done("connection.put", name="bus", connection=KAFKA)
    plane.join("w")
    plane.apply(stream("events"))
    return plane


def test_a_stream_begins_with_its_pipeline(events: ControlPlane) -> None:
    assert events.running() == {"events": "w"}
    assert events.refused("run.start", pipeline="events")["what"].startswith("pipeline events: has a run already")


def test_a_new_version_takes_over(events: ControlPlane) -> None:
    first = events.task_of("events")
    events.apply(stream("events", linger="1s"))
    second = events.task_of("events")
    assert (second["version"], second["status"]) == (2, "assigned")
    assert second["run"] != first["run"]
    assert events.of("run.finished")[-1].payload["run"]["status"] == "stopped"
    assert [one.payload["status"] for one in events.of("task.closed")] == ["cancelled"]


def test_a_paused_stream_waits_and_a_stopped_one_ends(events: ControlPlane) -> None:
    run = events.task_of("events")["run"]
    events.done("pipeline.pause", name="events")
    assert events.running() == {}
    events.done("pipeline.resume", name="events")
    assert events.task_of("events")["run"] == run
    assert events.running() == {"events": "w"}
    events.done("pipeline.stop", name="events")
    assert events.state("orchestrator")["runs"] == {}
    events.done("pipeline.resume", name="events")
    assert events.task_of("events")["run"] != run
    assert events.running() == {"events": "w"}


def test_a_stream_begins_anew_only_if_that_is_meant(events: ControlPlane) -> None:
    first, latest = events.task_of("events"), {"from": "latest"}
    refused = events.refused("run.start", pipeline="events", begin=latest)
    assert "runs already, from its own positions" in refused["what"]
    begin = latest | {"reset": True}
    run = events.done("run.start", pipeline="events", begin=begin)["run"]
    assert events.of("task.closed")[-1].payload["task"] == first["id"]
    assigned = events.of("task.assigned")[-1].payload
    assert (assigned["run"], assigned["begin"]) == (run, begin)
    fail(events, 0)
    assert events.of("task.assigned")[-1].payload["begin"] == begin, "another attempt of the same run"
    events.apply(stream("events", linger="1s"))
    assert "begin" not in events.of("task.assigned")[-1].payload


def test_only_a_stream_begins_from_a_position(plane: ControlPlane) -> None:
    for name in ("shop", "house"):
        plane.done("connection.put", name=name, connection=postgres(name))
    plane.apply(pipeline("orders"))
    assert "is no stream" in plane.refused("run.start", pipeline="orders", begin={"from": "earliest"})["what"]


def test_a_stream_drains_and_is_then_paused(events: ControlPlane) -> None:
    task = events.task_of("events")
    events.done("pipeline.drain", name="events")
    assert events.running() == {"events": "w"}
    assert "it is draining" in events.refused("pipeline.resume", name="events")["what"]
    assert fail(events, 0)[1] == 1
    assigned = events.of("task.assigned")[-1].payload
    assert (assigned["task"], assigned["drain"]) == (task["id"], True)
    events.end(events.task_of("events"))
    assert events.state("lifecycle")["pipelines"]["events"]["status"] == "paused"
    assert events.state("orchestrator")["runs"] == {}
    events.done("pipeline.resume", name="events")
    assert events.task_of("events")["run"] != task["run"]
    assert "drain" not in events.of("task.assigned")[-1].payload


def test_a_drained_stream_that_fails_for_good_is_paused(events: ControlPlane) -> None:
    events.done("pipeline.drain", name="events")
    assert fail(events, 0, FATAL) is None
    assert events.state("lifecycle")["pipelines"]["events"]["status"] == "paused"


def test_a_batch_drains_by_finishing_its_runs(plane: ControlPlane) -> None:
    for name in ("shop", "house"):
        plane.done("connection.put", name=name, connection=postgres(name))
    plane.apply(pipeline("orders"))
    plane.run("orders")
    plane.done("pipeline.drain", name="orders")
    assert "is draining" in plane.refused("run.start", pipeline="orders")["what"]
    plane.join("w")
    assert plane.running() == {"orders": "w"}, "a run that waited is begun"
    plane.end(plane.task_of("orders"))
    assert plane.state("lifecycle")["pipelines"]["orders"]["status"] == "paused"
    plane.done("pipeline.resume", name="orders")
    plane.done("pipeline.drain", name="orders")
    assert plane.state("lifecycle")["pipelines"]["orders"]["status"] == "paused", "there was nothing to wait for"


def test_a_drain_gives_way_to_pause_and_stop(events: ControlPlane) -> None:
    task = events.task_of("events")
    events.done("pipeline.drain", name="events")
    events.done("pipeline.pause", name="events")
    assert events.running() == {}
    events.done("pipeline.resume", name="events")
    assert events.task_of("events")["run"] == task["run"]
    events.done("pipeline.drain", name="events")
    events.done("pipeline.stop", name="events")
    events.tell("task.completed", task["id"], task=task["id"], attempt=3, worker="w")
    assert events.state("lifecycle")["pipelines"]["events"]["status"] == "stopped"


def fail(events: ControlPlane, rows: int, error: dict[str, Any] = ERROR) -> Any:
    """Report a failure after so many rows; return what the agent decided to wait for, if anything."""
    task, before = events.task_of("events"), len(events.of("timer.requested"))
    attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
    events.tell("task.failed", task["id"], **attempt, error=error, counters={"rows_in": rows})
    asked = events.of("timer.requested")[before:]
    if not asked:
        return None
    waited = asked[0].payload["due"]
    events.fire(asked[0].key)
    return waited, asked[0].payload["failures"]


def test_a_stream_is_tried_again_for_ever_and_rows_reset_its_waits(events: ControlPlane) -> None:
    assert [fail(events, 0)[1] for _ in range(10)] == list(range(1, 11))
    assert fail(events, 5)[1] == 1
    assert fail(events, 5)[1] == 2
    events.tick(400)
    assert fail(events, 5)[1] == 1
    assert events.running() == {"events": "w"}


def test_an_error_that_stays_ends_the_run_until_somebody_starts_one(events: ControlPlane) -> None:
    assert fail(events, 0, FATAL) is None
    assert events.running() == {}
    assert events.run("events")
    assert events.running() == {"events": "w"}


def test_streams_take_no_slots(events: ControlPlane) -> None:
    for name in "abc":
        events.apply(stream(name))
    events.apply(pipeline("batch"))
    events.run("batch")
    assert events.running() == dict.fromkeys(("events", "a", "b", "c", "batch"), "w")


def test_a_stream_that_becomes_a_batch_ends(events: ControlPlane) -> None:
    events.apply(pipeline("events"))
    assert events.running() == {}
    assert events.state("orchestrator")["runs"] == {}
