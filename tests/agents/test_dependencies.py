"""Pipelines that run after others: which run follows from the end of another, and what may depend on what."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agents.control_plane import FATAL, ControlPlane, decisions, judged, pipeline, pipeline_set


def after(name: str, *others: str, **more: Any) -> dict[str, Any]:
    """Return a pipeline that runs after others, by the short form, or by the long one with `more`."""
    document = pipeline(name)
    schedule = {"schedule": more.pop("schedule")} if "schedule" in more else {}
    document["spec"] |= {"after": {"pipelines": list(others), **more} if more else list(others), **schedule}
    return document


def plane_of(*documents: dict[str, Any]) -> ControlPlane:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.join("w1", slots=10, kinds=("pipeline", "cleanup", "list"))
    for one in documents:
        plane.apply(one)
    return plane


def run(plane: ControlPlane, name: str, error: dict[str, Any] | None = None) -> None:
    """Run a pipeline to its end."""
    plane.run(name)
    plane.end(plane.task_of(name), error)


def runs(plane: ControlPlane) -> list[str]:
    return [record.payload["run"]["pipeline"] for record in plane.of("run.created")]


def test_a_run_follows_once_each_dependency_has_succeeded() -> None:
    plane = plane_of(pipeline("a"), pipeline("b"), after("c", "a", "b"), after("d", "c"))
    run(plane, "a")
    run(plane, "a")
    assert runs(plane) == ["a", "a"]
    run(plane, "b", FATAL)
    assert list(plane.running()) == []
    run(plane, "b")
    assert list(plane.running()) == ["c"]
    plane.end(plane.task_of("c"))
    plane.end(plane.task_of("d"))
    assert runs(plane) == ["a", "a", "b", "b", "c", "d"]
    run(plane, "b")
    assert list(plane.running()) == [], "a has not run since"
    run(plane, "a")
    assert list(plane.running()) == ["c"]
    decision = next(one for one in plane.of("agent.decided") if "c runs after a, b" in str(one.payload))
    assert decision.cause is not None
    assert plane.log[decision.cause[0]].type == "task.completed"


def test_any_end_counts_where_that_is_asked_for() -> None:
    plane = plane_of(pipeline("a"), after("b", "a", on="end"), after("c", "a"))
    run(plane, "a", FATAL)
    assert list(plane.running()) == ["b"]


def test_what_ends_during_a_run_starts_the_next_one() -> None:
    plane = plane_of(pipeline("a"), after("b", "a"))
    run(plane, "a")
    run(plane, "a")
    run(plane, "a")
    assert runs(plane).count("b") == 1
    plane.end(plane.task_of("b"))
    assert runs(plane).count("b") == 2, "once for all that ended in between"
    plane.end(plane.task_of("b"))
    assert runs(plane).count("b") == 2


def test_a_paused_pipeline_catches_up_once_when_it_is_resumed() -> None:
    plane = plane_of(pipeline("a"), after("b", "a"))
    plane.done("pipeline.pause", name="b")
    run(plane, "a")
    run(plane, "a")
    assert "b" not in runs(plane)
    plane.done("pipeline.resume", name="b")
    assert runs(plane).count("b") == 1


def test_a_new_version_keeps_what_has_ended_of_the_dependencies_that_it_still_has() -> None:
    plane = plane_of(pipeline("a"), pipeline("b"), after("c", "a", "b"))
    run(plane, "a")
    plane.apply(after("c", "a"))
    assert list(plane.running()) == ["c"], "it needs b no more"
    plane.end(plane.task_of("c"))
    plane.apply(pipeline("c"))
    run(plane, "a")
    assert runs(plane).count("c") == 1
    assert plane.state("orchestrator")["followers"] == {}


def test_a_set_counts_once_all_runs_of_a_start_have_succeeded() -> None:
    plane = plane_of(pipeline_set("shop", "public.*"), after("b", "shop"), after("c", "shop/public.x"))
    plane.find("shop", "public.x", "public.y")
    for errors in ((None, FATAL), (None, None)):
        plane.done("run.start", pipeline="shop")
        plane.find("shop", "public.x", "public.y")
        assert sorted(plane.running()) == ["shop/public.x", "shop/public.y"]
        plane.end(plane.task_of("shop/public.x"))
        assert "c" in plane.running(), "a member alone"
        plane.end(plane.task_of("c"))
        assert "b" not in plane.running()
        plane.end(plane.task_of("shop/public.y"), errors[1])
        assert ("b" in plane.running()) == (errors[1] is None)


def test_rounds_of_a_set_that_overlap_are_counted_apart() -> None:
    plane = plane_of(pipeline_set("shop"), after("z", "shop"))
    members = ("public.a", "public.b", "public.c")
    plane.find("shop", *members)
    for errors in ((None, None), (FATAL,)):
        plane.done("run.start", pipeline="shop")
        plane.find("shop", *members)
        for member, error in zip(("b", "c"), errors, strict=False):
            plane.end(plane.task_of(f"shop/public.{member}"), error)
    assert "z" not in runs(plane), "a is running, since the first start"
    plane.end(plane.task_of("shop/public.a"))
    assert runs(plane).count("z") == 1, "the first start is complete"
    plane.end(plane.task_of("z"))
    plane.end(plane.task_of("shop/public.c"))
    assert runs(plane).count("z") == 1, "b failed in the second one"


def test_a_start_of_a_set_that_fails_is_an_end() -> None:
    plane = plane_of(pipeline_set("shop"), after("z", "shop", on="end"), pipeline("a"), after("y", "shop"))
    plane.find("shop")
    plane.done("run.start", pipeline="shop")
    plane.end(plane.task_of("shop"), FATAL)
    assert (runs(plane).count("z"), runs(plane).count("y")) == (1, 0)


def test_what_ends_while_a_set_lists_its_objects_in_vain_starts_it_again() -> None:
    plane = plane_of(pipeline("a"), pipeline_set("shop", after=["a"]))
    plane.find("shop", "public.x")
    run(plane, "a")
    run(plane, "a")
    plane.end(plane.task_of("shop"), FATAL)
    plane.find("shop", "public.x")
    assert list(plane.running()) == ["shop/public.x"]


TYPES = {"code": "schema.mismatch", "what": "x", "proposed": [{"rule": "types", "subject": "size", "to": "bigint"}]}


def test_a_schedule_goes_on_after_a_change_was_approved() -> None:
    document = pipeline("a")
    document["spec"]["schedule"] = {"cron": "0 * * * *"}
    plane = plane_of(document)
    run(plane, "a", TYPES)
    plane.done(
        "change.answer", name="a", ids=list(plane.state("lifecycle")["pipelines"]["a"]["proposals"]), approve=True
    )
    plane.end(plane.task_of("a"))
    before = len(runs(plane))
    for timer in plane.of("timer.requested"):
        plane.fire(timer.key)
    assert len(runs(plane)) == before + 1


def test_an_approved_change_of_a_paused_pipeline_runs_in_its_new_version() -> None:
    plane = plane_of(pipeline("a"), after("b", "a"))
    run(plane, "a")
    plane.end(plane.task_of("b"), {**TYPES, "code": "schema.broken"})
    assert plane.state("lifecycle")["pipelines"]["b"]["status"] == "paused"
    run(plane, "a")
    plane.done(
        "change.answer", name="b", ids=list(plane.state("lifecycle")["pipelines"]["b"]["proposals"]), approve=True
    )
    assert [one.payload["run"]["version"] for one in plane.of("run.created") if one.key != "a"][-1] == 2
    assert list(plane.running()) == ["b"]


def test_a_set_may_run_after_a_pipeline() -> None:
    document = pipeline_set("shop", "public.*", after=["a"])
    plane = plane_of(pipeline("a"), document)
    plane.find("shop", "public.x")
    assert "shop/public.x" not in plane.running()
    run(plane, "a")
    plane.find("shop", "public.x")
    assert list(plane.running()) == ["shop/public.x"]
    assert not plane.state("orchestrator")["pipelines"]["shop/public.x"]["pipeline"]["spec"].get("after")


def test_a_tick_waits_until_each_dependency_is_fresh() -> None:
    plane = plane_of(pipeline("a"), after("b", "a", fresh="30m", schedule={"cron": "0 * * * *"}))

    def fire() -> None:
        timer = plane.of("timer.requested")[-1]
        plane.now = datetime.fromisoformat(timer.payload["due"]) + timedelta(seconds=0.1)
        plane.fire(timer.key)

    fire()
    assert "b" not in runs(plane)
    assert plane.of("timer.requested")[-1].payload["held"][11:16] == "01:00"
    plane.now += timedelta(minutes=10)
    run(plane, "a", FATAL)
    assert "b" not in runs(plane)
    run(plane, "a")
    created = plane.of("run.created")[-1].payload["run"]
    assert (created["pipeline"], created["scheduled_for"][11:16]) == ("b", "01:00")
    plane.end(plane.task_of("b"))
    run(plane, "a")
    assert runs(plane).count("b") == 1, "no tick waits"
    plane.now = plane.now.replace(hour=1, minute=45)
    run(plane, "a")
    fire()
    assert plane.of("run.created")[-1].payload["run"]["scheduled_for"][11:16] == "02:00", "it is fresh"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (after("x", "nobody"), "no pipeline 'nobody'"),
        (after("x", "orderz"), "did you mean `orders`"),
        (after("x", "live"), "'live' is a stream"),
        (after("x", "shop/billing.none"), "the set shop selects no such object"),
        (after("orders", "later"), "orders after later"),
        (after("orders", "last"), "orders after last after later"),
        (pipeline_set("shop", after=["totals"]), "shop after totals"),
        (pipeline("orders") | {"spec": {**pipeline("orders")["spec"], "mode": "stream"}}, "later runs after it"),
        (after("x", "orders", fresh="99999999d", schedule={"cron": "* * * * *"}), "spec.after.fresh"),
        (after("x", "orders", fresh="0s", schedule={"cron": "* * * * *"}), "spec.after.fresh"),
    ],
)
def test_dependencies_that_cannot_be_are_refused(document: dict[str, Any], expected: str) -> None:
    live = pipeline("live")
    live["spec"] |= {"mode": "stream"}
    live["spec"]["sink"] |= {"write": "append"}
    plane = plane_of(pipeline("orders"), after("later", "orders"), after("last", "later"), live, pipeline_set("shop"))
    plane.find("shop", "public.x")
    plane.apply(after("totals", "shop/public.x"))
    said = str(plane.refused("pipeline.apply", pipeline=document))
    assert expected in said


def test_what_others_run_after_is_not_deleted_before_them() -> None:
    plane = plane_of(pipeline("a"), after("b", "a"))
    assert "b runs after it" in str(plane.refused("pipeline.delete", name="a"))
    plane.done("pipeline.delete", name="b")
    plane.done("pipeline.delete", name="a")


ENDS = st.tuples(st.sampled_from("abcd"), st.booleans())


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(ENDS, max_size=25), restart=st.integers(0, 25))
def test_no_success_is_lost_and_none_counts_twice(steps: list[tuple[str, bool]], restart: int) -> None:
    plane = plane_of(pipeline("a"), pipeline("b"), after("c", "a", "b"), after("d", "c", on="end"))
    waits: dict[str, set[str]] = {"c": {"a", "b"}, "d": {"c"}}
    arrived: dict[str, set[str]] = {"c": set(), "d": set()}
    expected: list[str] = []
    for number, (name, success) in enumerate(steps):
        if number == restart:
            plane.restart()
        queue = [(name, success)]
        plane.run(name)
        if name in arrived:
            arrived[name] = set()
        expected.append(name)
        while queue:
            one, good = queue.pop()
            for follower, needed in waits.items():
                if one in needed and (good or follower == "d"):
                    arrived[follower].add(one)
            plane.end(plane.task_of(one), None if good else FATAL)
            for follower, needed in waits.items():
                if arrived[follower] == needed:
                    arrived[follower] = set()
                    expected.append(follower)
                    queue.append((follower, True))
    assert runs(plane) == expected
    assert judged(plane.log, plane.agents) == decisions(plane.log)
