"""Nothing on the log is trusted: mutated records of every type stop no flow, and the next command is answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from catalog.database import migrate, reset
from dataflows.scheduler import Watch
from penstock.records import LATER, UNREADABLE, records_of
from penstock.records.families import body, is_known
from penstock.topics.log import Message, Stored
from penstock.topics.table import CONTROL, METRICS
from tests.agents.control_plane import ControlPlane, decisions, judged, pipeline
from tests.dataflows.flows.installation import AGENTS, Flow, Installation, until
from tests.forgeries import forgeries


@pytest.mark.parametrize("seed", range(8))
def test_no_message_stops_an_agent_or_the_scheduler(seed: int) -> None:
    """Even what the log's stamps would keep out: here every decision counts."""
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.apply(pipeline("orders"))
    watch = Watch({}, set())
    for number, message in enumerate(forgeries(seed, 60, brain=0)):
        ((_, record),) = records_of([Stored(CONTROL, 0, len(plane.log), message)])
        if record.type == "brain.started":
            continue
        plane.log.append(record)
        plane.settle()
        watch.follow(number, record)
        if number % 10 == 9:
            plane.run("orders")
            plane.done("pipeline.stop", name="orders")
            plane.done("pipeline.resume", name="orders")
    unreadable = [offset for offset, record in enumerate(plane.log) if record.type == UNREADABLE]
    assert unreadable
    told = [record.payload["offset"] for record in plane.log if record.type == "record.unreadable" and record.agent]
    assert [offset for offset in told if offset in unreadable] == unreadable, "each is reported, once"


@pytest.mark.parametrize("seed", range(20))
def test_what_passes_the_door_is_valid_and_the_same_for_every_reader(seed: int) -> None:
    stored = [Stored(CONTROL, 0, 1000 + n, message) for n, message in enumerate(forgeries(seed, 200, brain=3))]
    first = records_of(stored)
    assert first == records_of(stored)
    assert [offset for offset, _ in first] == [one.offset for one in stored]
    for _, record in first:
        if record.kind != "command" and is_known(record):
            assert body(record)
        if record.type in {UNREADABLE, LATER}:
            assert len(record.payload["reason"]) <= 2000
            assert record.payload["reason"].isprintable()


def test_a_huge_message_is_skipped_without_reading_it() -> None:
    value = b'{"id":"a","type":"worker.lost","payload":{"worker":"' + b"x" * 9_000_000 + b'"}}'
    message = Message(key=None, value=value, at=next(forgeries(0, 1)).at)
    ((_, record),) = records_of([Stored(CONTROL, 0, 0, message)])
    assert record.type == UNREADABLE
    assert record.payload["size"] == len(value)


def _answered(installation: Installation, flows: list[Flow], seconds: float = 20) -> None:
    """Assert that the next command is answered by the flows that run."""
    verb = ("pause", "resume")[len(installation.sent) % 2]
    command = installation.send(f"pipeline.{verb}", name="p0")
    until(lambda: command in installation.answers(), "the next command's answer", seconds)
    assert all(flow.running for flow in flows), [flow.said for flow in flows]


def _rebuilt(busy: Installation, fresh: str) -> None:
    """Assert that the catalog equals a rebuilt one, at a moment when the scheduler reports nothing more."""
    while True:
        busy.projected()
        end = busy.log.end(CONTROL, 0)
        migrate(fresh)
        reset(fresh)
        try:
            return busy.check_catalog(fresh)
        except AssertionError:
            if busy.log.end(CONTROL, 0) == end:
                raise


def _attacked(busy: Installation, fresh: str, batches: int, size: int) -> None:
    flows = [busy.start("control", "projector", "scheduler"), busy.start("worker")]
    busy.all_answered()
    brain = next(offset for offset, one in busy.counted() if one.type == "brain.started")
    for batch in range(batches):
        messages = list(forgeries(batch, size, brain))
        for begin in range(0, size, 50):
            busy.log.append(CONTROL, messages[begin : begin + 50])
        busy.log.append(METRICS, messages[:50])
        _answered(busy, flows)
        if batch % 10 == 0 or batch == batches - 1:
            _rebuilt(busy, fresh)
    _answered(busy, flows)
    log = busy.records()
    unreadable = {offset for offset, one in enumerate(log) if one.type == UNREADABLE}
    told = [one.payload["offset"] for one in busy.of("record.unreadable")]
    assert sorted(told) == sorted(unreadable), "each is reported once"
    assert judged(log, AGENTS) == decisions(log)


def test_mutated_records_stop_no_flow_and_the_next_command_is_answered(
    busy: Installation, fresh: Callable[..., str]
) -> None:
    _attacked(busy, fresh(catalog=True), batches=1, size=300)
    again = busy.start("control")
    busy.started[0].kill()
    busy.done("pipeline.apply", pipeline=pipeline("p9"))
    assert again.running


@pytest.mark.chaos
def test_20_000_mutated_records_stop_no_flow(busy: Installation, fresh: Callable[..., str]) -> None:
    _attacked(busy, fresh(catalog=True), batches=40, size=500)
