"""The discovery agent: on command, by schedule, one at a time, and the same again from the log."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.control_plane import ERROR, FATAL, ControlPlane, policy


@pytest.fixture
def plane() -> ControlPlane:
    plane = ControlPlane()
    plane.connect("shop", "house")
    return plane


def open_task(plane: ControlPlane) -> dict[str, Any]:
    (task,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["kind"] == "discover"]
    return dict(task)


def test_a_command_queues_a_task_and_a_worker_gets_all_that_it_needs(plane: ControlPlane) -> None:
    plane.join("w")
    id_ = plane.done("discovery.start", connection="shop", tables=["public.*"])["discovery"]
    (assigned,) = plane.of("task.assigned")
    assert assigned.payload["kind"] == "discover"
    assert assigned.payload["discovery"]["tables"] == ["public.*"]
    assert set(assigned.payload["connections"]) == {"shop"}
    plane.end(open_task(plane))
    (finished,) = plane.of("discovery.finished")
    assert finished.payload == {"id": id_, "connection": "shop", "status": "completed"}
    assert plane.state("discovery")["open"] == {}


def test_an_unknown_connection_and_a_second_discovery_are_refused(plane: ControlPlane) -> None:
    assert plane.refused("discovery.start", connection="shp")["code"] == "not_found"
    plane.done("discovery.start", connection="shop")
    assert plane.refused("discovery.start", connection="shop")["code"] == "refused"
    plane.done("discovery.start", connection="house")


def test_what_is_not_asked_for_is_as_the_policy_says(plane: ControlPlane) -> None:
    plane.done("policy.publish", policy=policy("p", discovery={"tables": ["a.*"], "sample_rows": 7}))
    plane.done("discovery.start", connection="shop")
    plane.done("discovery.start", connection="house", tables=["b.*"], sample_rows=0)
    first, second = (record.payload["discovery"] for record in plane.of("discovery.started"))
    assert (first["tables"], first["sample_rows"]) == (["a.*"], 7)
    assert (second["tables"], second["sample_rows"]) == (["b.*"], 0)


def test_a_failure_that_may_pass_is_retried_and_the_last_error_is_reported(plane: ControlPlane) -> None:
    plane.join("w")
    plane.done("discovery.start", connection="shop")
    plane.end(open_task(plane), ERROR)
    (timer,) = plane.of("timer.requested")
    plane.fire(timer.key)
    plane.end(open_task(plane), FATAL)
    (finished,) = plane.of("discovery.finished")
    assert finished.payload["status"] == "failed"
    assert finished.payload["error"] == FATAL
    plane.done("discovery.start", connection="shop")


def test_a_task_of_a_lost_worker_goes_to_another(plane: ControlPlane) -> None:
    plane.join("w")
    plane.done("discovery.start", connection="shop")
    plane.lose("w")
    plane.join("v")
    assert [one.payload["worker"] for one in plane.of("task.assigned")] == ["w", "v"]
    plane.end(open_task(plane))
    assert len(plane.of("discovery.finished")) == 1


def test_a_schedule_discovers_every_connection_again_and_again(plane: ControlPlane) -> None:
    plane.join("w", slots=4)
    plane.done("policy.publish", policy=policy("p", discovery={"every": "1h"}))
    timers = plane.of("timer.requested")
    assert {one.payload["subject"] for one in timers} == {"discovery shop", "discovery house"}
    plane.connect("lake")
    assert len(plane.of("timer.requested")) == 3
    shop = next(one for one in timers if one.payload["subject"] == "discovery shop")
    plane.fire(shop.key)
    (started,) = plane.of("discovery.started")
    assert started.payload["discovery"]["connection"] == "shop"
    plane.end(open_task(plane))
    following = plane.of("timer.requested")[-1]
    assert following.payload["subject"] == "discovery shop"
    assert following.payload["due"] > shop.payload["due"]
    plane.fire(shop.key)
    assert len(plane.of("discovery.started")) == 1, "a timer that is no longer pending changes nothing"


@pytest.mark.parametrize("rules", [{}, {"every": "1h", "autonomy": "propose"}], ids=["no time", "not on its own"])
def test_a_policy_that_does_not_let_it_act_requests_no_timer(plane: ControlPlane, rules: dict[str, Any]) -> None:
    plane.done("policy.publish", policy=policy("p", discovery=rules))
    plane.connect("lake")
    assert plane.of("timer.requested") == []


def test_a_schedule_that_ends_or_a_connection_that_is_deleted_ends_the_timers(plane: ControlPlane) -> None:
    plane.done("policy.publish", policy=policy("p", discovery={"every": "1h"}))
    timers = plane.of("timer.requested")
    plane.done("connection.delete", name="house")
    plane.done("policy.publish", policy=policy("p", discovery={"every": "1h", "autonomy": "observe"}))
    for timer in timers:
        plane.fire(timer.key)
    assert plane.of("discovery.started") == []
    assert plane.state("discovery")["timers"] == {}


def test_a_restart_folds_to_the_same_state_and_asks_for_what_is_missing(plane: ControlPlane) -> None:
    plane.join("w")
    plane.done("policy.publish", policy=policy("p", discovery={"every": "1h"}))
    plane.done("discovery.start", connection="shop")
    before = plane.states()
    again = ControlPlane(log=plane.log)
    assert again.states() == before
    assert again.log[len(plane.log) + 1 :] == []


@pytest.mark.parametrize("autonomy", ["propose", "observe"])
def test_a_policy_that_lets_discoveries_begin_takes_effect_at_once(plane: ControlPlane, autonomy: str) -> None:
    rules = {"every": "1h", "tables": ["public.*"]}
    plane.done("policy.publish", policy=policy("p", discovery={**rules, "autonomy": autonomy}))
    assert plane.of("timer.requested") == []
    plane.done("policy.publish", policy=policy("p", discovery={**rules, "autonomy": "act"}))
    assert len(plane.of("timer.requested")) == 2


@pytest.mark.parametrize("autonomy", ["propose", "observe"])
def test_a_discovery_that_was_asked_for_ends_under_each_policy(plane: ControlPlane, autonomy: str) -> None:
    plane.done("policy.publish", policy=policy("p", discovery={"autonomy": autonomy}))
    plane.join("w")
    for _ in range(2):
        plane.done("discovery.start", connection="shop")
        plane.end(open_task(plane))
    assert [one.payload["status"] for one in plane.of("discovery.finished")] == ["completed", "completed"]
