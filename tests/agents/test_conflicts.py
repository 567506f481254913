"""Conflicts: each pair of tasks on one pipeline or connection is ordered, merged or refused, by a rule on the log."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.models.targets import target_of
from tests.agents.control_plane import ERROR, ControlPlane, pipeline, pipeline_set

KINDS = ("pipeline", "cleanup", "list", "check", "deletes", "letters", "discover", "watch")
ORDER = {"action": "discard", "choice": {}, "reason": "test"}


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
    order = {"name": "a", **ORDER}
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


def beside(name: str, **sink: Any) -> dict[str, Any]:
    """Return a pipeline that writes the table of `a`."""
    found = pipeline(name)
    found["spec"]["sink"] = {**pipeline("a")["spec"]["sink"], **sink}
    return found


def task_of(plane: ControlPlane, run: str) -> dict[str, Any]:
    (found,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["run"] == run]
    return dict(found)


def test_runs_of_pipelines_that_write_one_table_are_done_in_turn() -> None:
    plane = plane_of(document(), beside("b"), pipeline("c"))
    first, second = plane.run("a"), plane.run("b")
    (met,) = last(plane)["inputs"]["conflicts"]
    held = task_of(plane, first)
    assert met == {
        "rule": "writers_in_turn",
        "task": task_of(plane, second)["id"],
        "other": held["id"],
        "outcome": "ordered",
    }
    assert f"ordered by rule writers_in_turn, behind {held['id']}" in last(plane)["reason"]
    plane.run("c")
    assert sorted(plane.running()) == ["a", "c"], "what waits holds up no other table"
    plane.end(held)
    assert sorted(plane.running()) == ["b", "c"]


def test_what_waits_for_its_retry_keeps_its_turn_until_its_pipeline_is_paused() -> None:
    plane = plane_of(document(), beside("b"))
    first = plane.run("a")
    plane.run("b")
    plane.fail(task_of(plane, first), ERROR)
    assert (task_of(plane, first)["status"], plane.running()) == ("waiting", {})
    plane.done("pipeline.pause", name="a")
    assert sorted(plane.running()) == ["b"]
    plane.done("pipeline.resume", name="a")
    assert sorted(plane.running()) == ["b"]
    plane.end(plane.task_of("b"))
    plane.fire(plane.of("timer.requested")[-1].key)
    assert sorted(plane.running()) == ["a"]


@pytest.mark.parametrize(("type_", "more"), [("deletes.start", {}), ("letters.start", ORDER)])
def test_comparisons_of_keys_and_redrives_take_their_turn_with_runs(type_: str, more: dict[str, Any]) -> None:
    merges = {"write": "merge", "key": ["id"]}
    other = beside("b", **merges)
    other["spec"]["deletes"] = {"mark": "remove"}
    plane = plane_of(other, beside("a", **merges))
    first = plane.run("a")
    task = plane.done(type_, name="b", **more)["task"]
    (met,) = last(plane)["inputs"]["conflicts"]
    assert (met["rule"], met["other"]) == ("writers_in_turn", task_of(plane, first)["id"])
    assert sorted(plane.running()) == ["a"]
    plane.end(task_of(plane, first))
    assert plane.state("orchestrator")["tasks"][task]["status"] == "assigned"
    plane.run("a")
    assert sorted(plane.running()) == ["b"]


def test_a_stream_appends_beside_a_batch() -> None:
    plane = plane_of(document())
    other = beside("b")
    other["spec"]["mode"] = "stream"
    plane.apply(other)
    plane.run("a")
    assert sorted(plane.running()) == ["a", "b"]


@pytest.mark.parametrize(("mine", "its"), [("replace", "append"), ("append", "replace"), ("replace", "replace")])
def test_a_replace_beside_another_writer_is_refused(mine: str, its: str) -> None:
    plane = plane_of(beside("a", write=its))
    refused(plane, "replace_alone", "a", "pipeline.apply", pipeline=beside("b", write=mine))
    what = last(plane, "refused")["reason"]
    assert "pipeline b: spec.sink.object: a writes to 'sales.a' already" in what
    plane.done("pipeline.stop", name="a")
    plane.apply(beside("b", write=mine))
    assert plane.apply(beside("a", write=its) | {"metadata": {"name": "a", "owner": "me"}})["version"] == 2
    refused(plane, "replace_alone", "b", "pipeline.resume", name="a")


def test_a_pipeline_that_comes_to_replace_is_refused_and_so_is_a_rollback_to_that() -> None:
    plane = plane_of(beside("b", write="replace"))
    plane.apply(beside("b"))
    plane.apply(document())
    refused(plane, "replace_alone", "a", "pipeline.apply", pipeline=beside("b", write="replace"))
    refused(plane, "replace_alone", "a", "pipeline.rollback", name="b", to=1)


def test_a_member_that_would_replace_the_rows_of_another_pipeline_is_refused_by_name() -> None:
    plane = plane_of(beside("b", object="raw_public.t"))
    plane.apply(pipeline_set("s", sink={"write": "replace"}))
    plane.find("s", "public.t", "public.u")
    (page,) = plane.of("set.listed")
    assert page.payload["members"] == ["s/public.u"]
    assert "b writes to 'raw_public.t' already" in page.payload["refused"][0]["reason"]


@pytest.mark.parametrize(
    ("connection", "one", "other", "same"),
    [
        ({"type": "postgres"}, "t", "public.t", True),
        ({"type": "postgres"}, "t", "T", False),
        ({"type": "duckdb"}, "T", "main.t", True),
        ({"type": "mysql", "database": "d"}, "t", "d.T", True),
        ({"type": "mysql"}, "t", "d.t", False),
        ({"type": "files"}, "out/t", "out/u", False),
    ],
)
def test_names_of_one_table(connection: dict[str, Any], one: str, other: str, same: bool) -> None:
    found = {target_of({"sink": {"connection": "c", "object": name}}, {"c": connection}) for name in (one, other)}
    assert (len(found) == 1) is same
