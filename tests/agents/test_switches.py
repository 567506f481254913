"""The kill switch: a halted agent does nothing on its own, and takes up its work again once it is resumed."""

from __future__ import annotations

import pytest

from tests.agents.control_plane import ControlPlane, decisions, judged, pipeline, policy


def test_a_halted_orchestrator_assigns_nothing_and_closes_what_is_at_work(plane: ControlPlane) -> None:
    plane.apply(pipeline("a"))
    plane.apply(pipeline("b"))
    plane.join("w", slots=2)
    plane.run("a")
    assert plane.done("agent.halt", agent="orchestrator") == {
        "halted": ["orchestrator"],
        "resumed": [],
        "changed": True,
    }
    plane.run("b")
    assert set(plane.running()) == {"a"}, "a person may ask; nothing begins"
    plane.end(plane.task_of("a"))
    assert plane.running() == {}
    assert plane.of("run.finished")[-1].payload["run"]["status"] == "completed"
    plane.restart()
    plane.join("w2")
    assert plane.running() == {}, "a new control process knows"
    plane.done("agent.resume", agent="orchestrator")
    assert set(plane.running()) == {"b"}


@pytest.mark.parametrize("agent", [None, "discovery"])
def test_a_halted_discovery_is_taken_up_where_it_was(agent: str | None) -> None:
    plane = ControlPlane()
    plane.done("policy.publish", policy=policy("p", discovery={"every": "1h"}))
    plane.done("agent.halt", agent=agent)
    plane.connect("shop")
    refused = plane.of("agent.decided")[-1].payload
    assert (refused["agent"], refused["outcome"]) == ("discovery", "refused")
    assert plane.of("timer.requested") == []
    assert plane.done("discovery.start", connection="shop"), "a person may ask"
    assert len(plane.of("discovery.started")) == 1
    plane.done("connection.put", name="house", connection={"type": "sqlite", "path": "/x.db"})
    plane.done("agent.resume", agent=agent)
    assert [one.payload["subject"] for one in plane.of("timer.requested")] == ["discovery house"]
    assert judged(plane.log, plane.agents) == decisions(plane.log)


def test_switches_are_refused_by_name(plane: ControlPlane) -> None:
    assert "did you mean `mapping`" in plane.refused("agent.halt", agent="maping")["hint"]
    plane.done("agent.halt")
    assert plane.done("agent.halt") == {"halted": ["*"], "resumed": [], "changed": False}
    assert plane.refused("agent.resume", agent="mapping")["hint"] == "penstock agents resume"
    assert plane.done("agent.resume") == {"halted": [], "resumed": ["*"], "changed": True}
