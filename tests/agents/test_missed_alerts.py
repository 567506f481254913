"""Alerts that open although nothing is recorded at that moment: after a halt, a stop, a change of a file."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from agents.lifecycle import Lifecycle
from agents.monitor import MonitoringAgent
from agents.orchestrator import Orchestrator
from agents.resolution import ErrorResolutionAgent
from tests.agents.control_plane import ERROR, ControlPlane, pipeline
from tests.agents.test_monitor import about_alerts, failed, planned, score, types, wait


def stream(**expect: Any) -> ControlPlane:
    """Return a control plane with the stream `a`, whose file expects that."""
    plane = ControlPlane()
    plane.connect("shop", "house")
    apply(plane, **expect)
    return plane


def apply(plane: ControlPlane, **expect: Any) -> list[str]:
    """Apply the stream with what its file expects; return the types of the records about alerts that follow."""
    before, document = len(plane.log), pipeline("a")
    plane.apply(document | {"spec": {**document["spec"], "mode": "stream", **({"expect": expect} if expect else {})}})
    return types(about_alerts(plane.log[before:]))


def done(plane: ControlPlane, type_: str, **payload: Any) -> list[str]:
    """Carry out a command; return the types of the records about alerts that follow."""
    before = len(plane.log)
    plane.done(type_, **payload)
    return types(about_alerts(plane.log[before:]))


def test_what_went_wrong_while_the_agent_was_halted_is_told_when_it_may_act_again() -> None:
    plane = stream(fresh="1m")
    plane.join("w")
    plane.done("agent.halt", agent="monitor")
    assert score(plane, 0.0, metric="lag", value=90.0) == []
    proposal = {"rule": "renames", "subject": "a", "to": "b", "confidence": 0.9}
    plane.tell("change.proposed", "a", id="c1", name="a", uid="u", run="r1", proposal=proposal)
    plane.tell("agent.faulted", "lifecycle", agent="lifecycle", fault="ValueError", record="r1")
    assert plane.of("alert.opened") == []
    assert done(plane, "agent.resume", agent="monitor") == ["alert.opened"] * 3
    assert sorted(one.payload["kind"] for one in plane.of("alert.opened")) == ["drift", "fresh", "incident"]
    assert plane.of("agent.faulted")[1:] == []


def test_a_silence_that_ends_while_the_agent_is_halted_is_over() -> None:
    plane = planned()
    plane.done("alert.silence", pipeline="a", until=(plane.now + timedelta(hours=1)).isoformat())
    score(plane, -5.0)
    plane.done("agent.halt", agent="monitor")
    assert wait(plane, 3600) == []
    assert done(plane, "agent.resume", agent="monitor") == ["alert.changed"]
    assert plane.of("alert.changed")[0].payload["routes"] == ["log"]
    assert done(plane, "agent.resume", agent="monitor") == []


def test_a_promise_that_is_broken_for_twice_its_time_during_a_halt_is_critical_after_it() -> None:
    plane = planned(fresh="1h")
    assert "alert.opened" in types(wait(plane, 3600))
    plane.done("agent.halt", agent="monitor")
    assert wait(plane, 3700) == []
    plane.done("agent.resume", agent="monitor")
    (changed,) = about_alerts(wait(plane, 1))
    assert changed.payload["severity"] == "critical"


def test_a_stream_is_compared_with_another_promise_at_once() -> None:
    plane = stream()
    assert score(plane, 0.0, metric="lag", value=90.0) == []
    assert apply(plane, fresh="1m") == ["alert.opened"]
    assert apply(plane, fresh="80s") == [], "it is still late"
    assert apply(plane, fresh="30s") == ["alert.changed"]
    assert apply(plane, fresh="2m") == ["alert.closed"]
    assert apply(plane, fresh="1m") == ["alert.opened"]
    assert done(plane, "pipeline.pause", name="a") == ["alert.closed"]
    assert done(plane, "agent.resume", agent="monitor") == [], "while it is paused it is not late"
    assert done(plane, "pipeline.resume", name="a") == [], "the clock starts again from zero"
    assert apply(plane, fresh="70s") == []
    assert types(score(plane, 0.0, metric="lag", value=90.0)) == ["alert.opened"]


def test_what_was_unusual_when_a_pipeline_was_stopped_is_told_when_it_may_run_again() -> None:
    plane = planned()
    score(plane, -5.0)
    assert done(plane, "pipeline.stop", name="a") == ["alert.closed"]
    assert score(plane, -6.0) == []
    assert done(plane, "agent.resume", agent="monitor") == []
    assert done(plane, "pipeline.resume", name="a") == ["alert.opened"]


def test_an_incident_of_a_pipeline_that_was_stopped_is_told_again_when_it_may_run() -> None:
    plane = planned()
    plane.join("w")
    failed(plane, "a")
    assert done(plane, "pipeline.stop", name="a") == ["alert.closed"]
    assert done(plane, "agent.resume", agent="monitor") == []
    assert done(plane, "pipeline.resume", name="a") == ["alert.opened"]


def test_clocks_that_are_set_back_hold_up_neither_numbers_nor_promises() -> None:
    plane = planned(fresh="1h")
    plane.tick(86400)
    plane.join("w")
    plane.run("a")
    plane.end(plane.task_of("a"))
    score(plane, 0.0)
    plane.now -= timedelta(days=1)
    plane.tell("clock.set_back", "clock", seconds=86400.0)
    assert types(score(plane, -5.0)) == ["alert.opened"]
    plane.fire(plane.state("monitor")["pipelines"]["a"]["timer"])
    assert "alert.opened" in types(wait(plane, 3600))


def test_an_agent_that_is_new_tells_of_incidents_that_are_open() -> None:
    plane = ControlPlane(Lifecycle(), Orchestrator(), ErrorResolutionAgent())
    plane.connect("shop", "house")
    plane.apply(pipeline("a"))
    plane.join("w")
    plane.run("a")
    plane.fail(plane.task_of("a"), {**ERROR, "code": "schema.missing_table", "transient": False})
    assert plane.of("alert.opened") == []
    plane.agents += (MonitoringAgent(),)
    plane.restart()
    (opened,) = plane.of("alert.opened")
    assert opened.payload["incident"] == plane.of("incident.opened")[0].key
    plane.restart()
    assert len(plane.of("alert.opened")) == 1
