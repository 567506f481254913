"""Conflicts: each pair of tasks on one pipeline or connection is ordered, merged or refused, by a rule on the log."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.control_plane import ControlPlane, pipeline, pipeline_set

KINDS = ("pipeline", "cleanup", "list", "check", "deletes", "letters", "discover", "watch")


def plane_of(*documents: dict[str, Any], kinds: tuple[str, ...] = KINDS) -> ControlPlane:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.join("w1", slots=10, kinds=kinds)
    for one in documents:
        plane.apply(one)
    return plane


def document(**spec: Any) -> dict[str, Any]:
    found = pipeline("a")
    found["spec"] |= spec
    return found


def last(plane: ControlPlane, outcome: str = "acted") -> dict[str, Any]:
    """Return the last decision with this outcome."""
    return [one.payload for one in plane.of("agent.decided") if one.payload["outcome"] == outcome][-1]


def refused(plane: ControlPlane, rule: str, other: str, type_: str, **payload: Any) -> None:
    """Send a command that must be refused by this rule, since something else came first."""
    plane.refused(type_, **payload)
    decision = last(plane, "refused")
    assert (decision["inputs"]["rule"], decision["inputs"]["other"]) == (rule, other)
    assert f"(rule {rule})" in decision["reason"]


@pytest.mark.parametrize("second", [{}, {"reload": {"rows": "all"}}])
def test_a_run_or_a_backfill_during_a_run_is_refused(second: dict[str, Any]) -> None:
    plane = plane_of(document(source={"connection": "shop", "object": "public.a", "cursor": {"field": "id"}}))
    run = plane.run("a")
    refused(plane, "one_run_at_a_time", run, "run.start", pipeline="a", **second)


def test_a_start_of_a_set_during_a_start_is_refused() -> None:
    plane = plane_of(pipeline_set("s"))
    group = plane.done("run.start", pipeline="s")["group"]
    refused(plane, "one_start_at_a_time", group, "run.start", pipeline="s")


def test_a_second_comparison_of_a_kind_is_refused() -> None:
    plane = plane_of(document())
    task = plane.done("check.start", name="a")["task"]
    refused(plane, "one_comparison_at_a_time", task, "check.start", name="a")


def test_a_second_redrive_is_refused() -> None:
    plane = plane_of(document())
    order = {"name": "a", "action": "discard", "choice": {}, "reason": "test"}
    task = plane.done("letters.start", **order)["task"]
    refused(plane, "one_redrive_at_a_time", task, "letters.start", **order)


def test_a_second_discovery_is_refused() -> None:
    plane = plane_of()
    plane.done("discovery.start", connection="shop")
    (found,) = [one.payload["discovery"]["id"] for one in plane.of("discovery.started")]
    refused(plane, "one_discovery_at_a_time", found, "discovery.start", connection="shop")


@pytest.mark.parametrize("type_", ["check.start", "deletes.start"])
def test_a_comparison_waits_for_a_run_and_a_run_for_it(type_: str) -> None:
    upkeep = {
        "deletes": {"mark": "remove"},
        "sink": {"connection": "house", "object": "x", "write": "merge", "key": ["id"]},
    }
    plane = plane_of(document(**upkeep))
    run = plane.run("a")
    (task,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["run"] == run]
    compared = plane.done(type_, name="a")["task"]
    (met,) = last(plane)["inputs"]["conflicts"]
    rule = "runs_and_comparisons_in_turn"
    assert met == {"rule": rule, "task": compared, "other": task["id"], "outcome": "ordered"}
    assert f"ordered by rule {rule}, behind {task['id']}" in last(plane)["reason"]
    tasks = plane.state("orchestrator")["tasks"]
    assert tasks[compared]["status"] == "queued"
    plane.end(tasks[task["id"]])
    assert plane.state("orchestrator")["tasks"][compared]["status"] == "assigned"
    plane.run("a")
    (met,) = last(plane)["inputs"]["conflicts"]
    assert (met["rule"], met["other"]) == (rule, compared)


def test_runs_of_one_pipeline_are_done_in_turn() -> None:
    schedule = {"cron": "* * * * *", "overlap": "queue"}
    plane = plane_of(document(schedule=schedule))
    plane.run("a")
    plane.now = plane.now.replace(minute=1)
    plane.fire(plane.of("timer.requested")[-1].key)
    (met,) = last(plane)["inputs"]["conflicts"]
    assert (met["rule"], met["outcome"]) == ("runs_in_turn", "ordered")


def test_triggers_during_a_run_are_merged() -> None:
    plane = plane_of(document(triggers={"webhook": {"secret": "${env:PENSTOCK_SECRET_HOOK}"}}))
    run = plane.run("a")
    plane.done("run.trigger", pipeline="a")
    (met,) = last(plane)["inputs"]["conflicts"]
    assert met == {"rule": "triggers_merge", "pipeline": "a", "other": run, "outcome": "merged"}
    assert "merged by rule triggers_merge" in last(plane)["reason"]


def test_two_pipelines_may_write_one_table_side_by_side() -> None:
    other = pipeline("b")
    other["spec"]["sink"] = pipeline("a")["spec"]["sink"]
    plane = plane_of(document(), other)
    plane.run("a")
    plane.run("b")
    assert sorted(plane.running()) == ["a", "b"]
