"""An agent's memory of commands is bounded by number, and no command is carried out twice."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agents import answered
from penstock.records import Record
from tests.agents.control_plane import START, ControlPlane, decisions, judged, pipeline, refold


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    """A control plane that remembers four commands, and has one pipeline."""
    monkeypatch.setattr(answered, "MOST", 4)
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.apply(pipeline("orders"))
    return plane


def _forgotten(plane: ControlPlane) -> Record:
    """Return a command that was applied, and that so many have followed that it is forgotten."""
    command = plane.record("pipeline.pause", "orders", {"name": "orders"})
    assert plane.put(command)
    for verb in ("resume", "pause", "resume", "pause", "resume"):
        plane.done(f"pipeline.{verb}", name="orders")
    return command


def test_a_command_that_is_forgotten_is_refused_when_it_is_repeated(plane: ControlPlane) -> None:
    command = _forgotten(plane)
    before = plane.states()
    (_, answer) = plane.put(command)
    assert (answer.type, answer.payload["code"]) == ("command.refused", "refused.too_old")
    assert "send it again as a new command" in answer.payload["hint"]
    assert plane.states() == before
    assert plane.put(command) == [], "the refusal is remembered"
    plane.done("pipeline.pause", name="orders")
    assert judged(plane.log, plane.agents) == decisions(plane.log)


def test_the_memory_is_bounded_and_survives_a_snapshot(plane: ControlPlane) -> None:
    plane.put(plane.record("pipeline.pause", "orders", {"name": "orders"}, id="x" * 600))
    _forgotten(plane)
    lifecycle = plane.folds[0]
    assert len(lifecycle.answered.seen) == 4
    assert all(len(id_) <= 64 for id_ in lifecycle.answered.seen)
    snapshots = plane.snapshots()
    folds, _ = refold(plane.log, plane.agents, snapshots)
    assert folds[0].answered.to_dict() == lifecycle.answered.to_dict()
    plane.restart(snapshots)
    (_, answer) = plane.put(_forgotten(plane))
    assert answer.payload["code"] == "refused.too_old"


def test_the_oldest_answers_are_forgotten_first_and_the_horizon_never_sinks(plane: ControlPlane) -> None:
    def command(id_: str, minutes: int) -> Record:
        record = plane.record("run.start", "p", {"pipeline": "p"}, id=id_)
        return record.replaced(at=START + timedelta(minutes=minutes))

    memory = answered.Answered()
    for id_, minutes in (("a", 0), ("b", 9), ("c", 5), ("y" * 64, 9), ("a", 9)):
        memory.remember(command(id_, minutes))
    assert list(memory.seen) == ["b", "c", "y" * 64, "a"], "answered again"
    memory.remember(command("d", 9))
    assert (memory.horizon, "b" in memory.seen) == (START + timedelta(minutes=9), False), "of the same time"
    assert memory.is_too_old(command("b", 9))
    assert not memory.is_too_old(command("b", 10))
    assert not memory.is_too_old(command("a", 9)), "it is not forgotten"
    memory.remember(command("e", 10))
    assert (memory.horizon, "c" in memory.seen) == (START + timedelta(minutes=9), False)
    assert answered.Answered(memory.to_dict()).to_dict() == memory.to_dict()


@pytest.mark.parametrize("told", ["clock.set_back", "brain.started"])
def test_a_clock_that_is_set_back_does_not_refuse_what_follows(plane: ControlPlane, told: str) -> None:
    _forgotten(plane)
    plane.now -= timedelta(days=2)
    if told == "brain.started":
        plane.restart()
    else:
        plane.tell("clock.set_back", "clock", seconds=172800.0)
    plane.done("pipeline.pause", name="orders")


def test_a_time_of_a_wrong_clock_does_not_refuse_what_follows(plane: ControlPlane) -> None:
    ahead = plane.record("pipeline.pause", "orders", {"name": "orders"}).replaced(at=plane.now + timedelta(days=9999))
    assert plane.put(ahead)
    _forgotten(plane)
    _forgotten(plane)
    horizon = plane.folds[0].answered.horizon
    assert horizon is not None
    assert horizon < ahead.at
