"""Ageing: no task starves behind more urgent ones, by one record for each step, and by none while nothing waits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.control_plane import ControlPlane, decisions, judged, pipeline, policy


def plane_of(**orchestrator: Any) -> ControlPlane:
    limits = {"max_running": 1, "priorities": {"gold": 2}, "ageing": {"every": "10m", "step": 1}} | orchestrator
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.done("policy.publish", policy=policy("p", orchestrator=limits))
    for name in ("a", "b", "c", "d", "e"):
        plane.apply(pipeline(name, tier="gold" if name in "abc" else "tin"))
    plane.join("w1", slots=4)
    return plane


def timers(plane: ControlPlane) -> list[dict[str, Any]]:
    return [one.payload for one in plane.of("timer.requested") if one.payload["subject"] == "ageing"]


def pass_time(plane: ControlPlane) -> None:
    """Let the pending timer fire."""
    plane.fire(plane.state("orchestrator")["ageing"]["timer"])


def test_a_task_that_waits_overtakes_newer_urgent_ones_in_the_end() -> None:
    plane = plane_of()
    for name in ("a", "d", "e"):
        plane.run(name)
    assert [one["due"] for one in timers(plane)] == [timers(plane)[0]["due"]]
    for _ in range(3):
        pass_time(plane)
    aged = [one.payload["tasks"] for one in plane.of("tasks.aged")]
    assert [sorted(one.values()) for one in aged] == [[1], [1, 2], [2]], "one record for both, up to the most urgent"
    assert plane.state("orchestrator")["ageing"] is None, "they cannot gain more"
    plane.run("b")
    for name in ("a", "d", "e", "b"):
        assert list(plane.running()) == [name]
        plane.end(plane.task_of(name))
    reasons = [one.payload["reason"] for one in plane.of("agent.decided")]
    assert "tasks that have waited for 10m or longer: 2" in reasons
    assert judged(plane.log, plane.agents) == decisions(plane.log)


@pytest.mark.parametrize("priorities", [{}, {"gold": 2}])
def test_a_check_takes_its_turn_among_runs_that_keep_coming_once_it_has_aged(priorities: dict[str, int]) -> None:
    plane = plane_of(priorities=priorities)
    plane.lose("w1")
    plane.join("w2", slots=1, kinds=("pipeline", "check"))
    plane.run("a")
    plane.command("check.start", name="d")
    plane.run("b")
    for _ in range(4):
        (name,) = plane.running()
        if name == "d":
            break
        if plane.state("orchestrator")["ageing"]:
            pass_time(plane)
        plane.end(plane.task_of(name))
        plane.run(name)
    assert list(plane.running()) == ["d"], "the check is at work"
    assert judged(plane.log, plane.agents) == decisions(plane.log)


def test_only_what_has_waited_for_the_whole_time_ages() -> None:
    plane = plane_of()
    plane.run("a")
    plane.run("d")
    plane.run("e")
    first, second = (plane.task_of(name)["id"] for name in ("d", "e"))
    pass_time(plane)
    assert set(plane.of("tasks.aged")[0].payload["tasks"]) == {first}, "e came when the timer was pending"
    pass_time(plane)
    assert plane.of("tasks.aged")[1].payload["tasks"] == {first: 2, second: 1}


def test_nothing_is_recorded_while_nothing_waits_or_may_age() -> None:
    plane = plane_of()
    plane.run("a")
    plane.run("b")
    assert timers(plane) == [], "what waits is as urgent as can be"
    plane.end(plane.task_of("a"))
    plane.run("d")
    plane.end(plane.task_of("b"))
    assert len(timers(plane)) == 1
    plane.end(plane.task_of("d"))
    pass_time(plane)
    assert plane.of("tasks.aged") == []
    assert len(timers(plane)) == 1
    without: list[dict[str, Any]] = [{"ageing": {"step": 0}}, {"priorities": {}}]
    for limits in without:
        plane = plane_of(**limits)
        for name in ("a", "d", "e"):
            plane.run(name)
        assert timers(plane) == []


def test_a_task_without_a_capable_worker_ages_up_to_the_most_urgent_and_blocks_nobody() -> None:
    plane = plane_of(max_running=4)
    plane.done("pipeline.stop", name="d")
    plane.done("check.start", name="e")
    pass_time(plane)
    pass_time(plane)
    assert plane.task_of("e")["priority"] == 2
    assert plane.state("orchestrator")["ageing"] is None
    plane.run("a")
    assert list(plane.running()) == ["a"]
