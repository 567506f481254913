"""Tasks with dead letters: one of a pipeline at a time, next to its runs, each with a receipt on the log."""

from __future__ import annotations

from typing import Any

from tests.agents.control_plane import ERROR, FATAL, ControlPlane, pipeline

KINDS = ("pipeline", "letters", "cleanup")


def plane_with(name: str) -> ControlPlane:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.apply(pipeline(name))
    plane.join("w", kinds=KINDS, slots=2)
    return plane


def letters_task(plane: ControlPlane) -> dict[str, Any]:
    (task,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["kind"] == "letters"]
    return dict(task)


def test_letters_are_redriven_next_to_a_run_one_task_at_a_time_with_a_receipt() -> None:
    plane = plane_with("orders")
    plane.run("orders")
    order = {"action": "replay", "choice": {"step": "low"}, "fix": {"set": {"price": "0"}}}
    plane.done("letters.start", name="orders", **order)
    plane.refused("letters.start", name="orders", action="replay")
    plane.refused("letters.start", name="nobody", action="replay")
    assert [one["status"] for one in plane.state("orchestrator")["tasks"].values()] == ["assigned", "assigned"]
    (assigned,) = [one.payload for one in plane.of("task.assigned") if one.payload["kind"] == "letters"]
    assert assigned["letters"]["fix"] == {"set": {"price": "0"}}
    found = {"action": "replay", "chosen": 3, "written": 2, "refused": 1, "groups": {"0a1b": 2}}
    attempt = {key: assigned[key] for key in ("task", "attempt", "worker")}
    plane.tell("task.completed", assigned["task"], **attempt, letters=found)
    (receipt,) = [one.payload for one in plane.of("letters.recorded")]
    assert (receipt["found"], receipt["order"]["action"], receipt["task"]) == (found, "replay", assigned["task"])
    plane.done("letters.start", name="orders", action="discard", reason="test data")


def test_a_redrive_that_dies_is_tried_again_and_one_that_cannot_succeed_is_recorded() -> None:
    plane = plane_with("orders")
    plane.done("letters.start", name="orders", action="replay")
    plane.end(letters_task(plane), ERROR)
    assert letters_task(plane)["status"] == "waiting"
    plane.fire(letters_task(plane)["timer"])
    plane.end(letters_task(plane), FATAL)
    (receipt,) = [one.payload for one in plane.of("letters.recorded")]
    assert (receipt["error"]["code"], "found" in receipt) == (FATAL["code"], False)


def test_a_pipeline_that_is_deleted_ends_what_is_done_with_its_letters() -> None:
    plane = plane_with("orders")
    plane.done("letters.start", name="orders", action="replay")
    plane.done("pipeline.delete", name="orders")
    assert {one["kind"] for one in plane.state("orchestrator")["tasks"].values()} == {"cleanup"}
    plane.refused("letters.start", name="orders", action="replay")
