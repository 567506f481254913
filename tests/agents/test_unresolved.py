"""What keeps going when the agent for errors cannot act, and what ends when its cause is gone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.control_plane import ERROR, FATAL, ControlPlane, pipeline_set, policy
from tests.agents.test_letters import letters_task
from tests.agents.test_resolution import (
    DENIED,
    KINDS,
    MEMORY,
    REFUSED,
    Faulty,
    allow,
    failed,
    last_run,
    orders,
    run_of,
    running,
)

TYPE = {"code": "schema.mismatch", "what": "x", "proposed": [{"rule": "types", "subject": "size", "to": "bigint"}]}
RENAMED = {"code": "schema.renamed", "what": "size is width now", "renamed": {"size": "width"}}


@pytest.fixture
def plane() -> ControlPlane:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.join("w", slots=9, kinds=(*KINDS, "list", "check"))
    return plane


def begun(plane: ControlPlane, name: str) -> None:
    task = run_of(plane, name)
    attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"], "run": task["run"]}
    plane.tell("task.started", task["id"], **attempt)


def timers(plane: ControlPlane, prefix: str) -> list[str]:
    return [one.key for one in plane.of("timer.requested") if one.key.startswith(prefix)]


def held(plane: ControlPlane) -> None:
    """Let five runs fail, so that their connections are held back."""
    for number in range(5):
        orders(plane, f"p{number}")
        plane.run(f"p{number}")
    for number in range(5):
        failed(plane, ERROR, f"p{number}")


def test_a_connection_that_a_new_stream_tries_is_let_go_once_that_has_run_for_a_minute(plane: ControlPlane) -> None:
    held(plane)
    orders(plane, "s", mode="stream")
    plane.fire(timers(plane, "breaker:")[-1])
    assert running(plane) == {"s"}
    begun(plane, "s")
    plane.fire(timers(plane, "settled:")[-1])
    assert plane.of("breaker.changed")[-1].payload["status"] == "closed"
    plane.fire(timers(plane, "retry:")[0])
    assert running(plane) == {"s", "p0"}


def test_a_connection_is_let_go_once_a_check_has_completed(plane: ControlPlane) -> None:
    orders(plane, "other")
    held(plane)
    plane.done("check.start", name="other")
    plane.fire(timers(plane, "breaker:")[-1])
    (check,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["kind"] == "check"]
    assert check["status"] == "assigned"
    plane.end(check)
    assert plane.of("breaker.changed")[-1].payload["status"] == "closed"


def test_failures_of_a_stream_that_has_settled_are_not_in_a_row(plane: ControlPlane) -> None:
    orders(plane, "s", mode="stream")
    for _ in range(6):
        failed(plane, ERROR, "s")
        plane.fire(timers(plane, "retry:")[-1])
        begun(plane, "s")
        plane.fire(timers(plane, "settled:")[-1])
    assert plane.of("breaker.changed") == []
    assert plane.state("error_resolution")["breakers"] == {}


@pytest.mark.parametrize("agent", [None, "error_resolution"])
def test_while_the_agent_is_halted_runs_are_tried_again_by_their_own_rules(
    plane: ControlPlane, agent: str | None
) -> None:
    orders(plane, errors={"retry": {"attempts": 3}})
    plane.run("orders")
    plane.done("agent.halt", **({"agent": agent} if agent else {}))
    for number in (1, 2):
        plane.fail(run_of(plane), ERROR)
        assert timers(plane, "retry:")[-1].endswith(f":{number}")
        if agent is None:
            plane.done("agent.resume")
        plane.fire(timers(plane, "retry:")[-1])
        if agent is None:
            plane.done("agent.halt")
    plane.fail(run_of(plane), ERROR)
    assert last_run(plane) == "failed"
    assert len(plane.of("incident.opened")) == 1, "a person is told"
    assert plane.of("breaker.changed") == []


@pytest.mark.parametrize("agent", [None, "error_resolution"])
def test_a_stream_goes_on_while_agents_are_halted(plane: ControlPlane, agent: str | None) -> None:
    orders(plane, mode="stream", errors={"retry": {"attempts": 1}})
    given = {"agent": agent} if agent else {}
    plane.done("agent.halt", **given)
    plane.fail(run_of(plane), ERROR)
    plane.fire(timers(plane, "retry:")[-1])
    plane.done("agent.resume", **given)
    assert running(plane) == {"orders"}


def test_a_defect_of_the_agent_ends_no_stream() -> None:
    plane = ControlPlane(*ControlPlane().agents[:-1], Faulty())
    plane.connect("shop", "house")
    plane.join("w", kinds=KINDS)
    orders(plane, mode="stream")
    plane.fail(run_of(plane), ERROR)
    plane.fire(timers(plane, "retry:")[-1])
    assert running(plane) == {"orders"}


@pytest.mark.parametrize("by", ["resume", "restart"])
def test_an_active_stream_without_a_run_gets_one(plane: ControlPlane, by: str) -> None:
    orders(plane, mode="stream")
    plane.done("agent.halt")
    plane.fail(run_of(plane), FATAL)
    assert last_run(plane) == "failed"
    if by == "restart":
        plane.restart()
    plane.done("agent.resume")
    assert running(plane) == {"orders"}
    assert len(plane.of("run.created")) == 2


@pytest.mark.parametrize("agent", [None, "evolution"])
@pytest.mark.parametrize("error", [TYPE, RENAMED])
def test_a_halted_evolution_changes_no_pipeline(plane: ControlPlane, error: dict[str, Any], agent: str | None) -> None:
    plane.done("policy.publish", policy=policy("p", evolution={"approve": ["types"]}))
    orders(plane)
    plane.run("orders")
    plane.done("agent.halt", **({"agent": agent} if agent else {}))
    plane.end(run_of(plane), error)
    assert plane.of("pipeline.updated") == []
    assert len(plane.of("change.proposed")) == 1


@pytest.mark.parametrize(("error", "kind"), [(MEMORY, "resource"), (REFUSED, "data")])
def test_settings_of_a_member_are_proposed_to_a_person(plane: ControlPlane, error: dict[str, Any], kind: str) -> None:
    allow(plane, act_above=0.5)
    plane.apply(pipeline_set("all"))
    plane.find("all", "public.x")
    plane.run("all/public.x")
    counters = {"rows_in": 100, "rows_out": 80, "dead": 20}
    assert failed(plane, error, "all/public.x", kind=kind, counters=counters)["action"] == "escalate"
    assert len(plane.of("incident.opened")[0].payload["proposals"]) == 1


def test_no_more_than_all_rows_may_be_refused(plane: ControlPlane) -> None:
    allow(plane, act_above=0.5)
    orders(plane)
    plane.run("orders")
    counters = {"rows_in": 100, "rows_out": 0, "dead": 150}
    chosen = failed(plane, REFUSED, kind="data", counters=counters)
    assert (chosen["action"], chosen["set"]) == ("skip_record", {"errors.dead_letter.fail_above": 1.0})
    assert failed(plane, REFUSED, kind="data", counters=counters)["action"] == "escalate"
    assert plane.of("agent.faulted") == []


def test_an_incident_of_a_connection_closes_when_that_is_deleted(plane: ControlPlane) -> None:
    orders(plane)
    plane.run("orders")
    failed(plane, DENIED, kind="permission")
    plane.done("pipeline.delete", name="orders")
    (cleanup,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["kind"] == "cleanup"]
    plane.end(cleanup)
    (incident,) = plane.of("incident.opened")
    plane.done("connection.delete", name=incident.payload["connection"])
    assert plane.of("incident.closed")[-1].payload["reason"] == "its connection was deleted"


def test_a_failure_of_an_attempt_that_was_taken_away_counts_for_nothing(plane: ControlPlane) -> None:
    orders(plane)
    plane.run("orders")
    taken = run_of(plane)
    plane.lose("w")
    plane.fail(taken, ERROR)
    plane.join("v", kinds=KINDS)
    plane.fail(taken, ERROR)
    assert (plane.of("strategy.chosen"), plane.of("diagnosis.requested")) == ([], [])
    assert failed(plane, ERROR)["failures"] == 1
    plane.fail(taken, ERROR)
    assert len(plane.of("strategy.chosen")) == 1


def test_a_return_of_an_earlier_attempt_by_the_same_worker_does_not_hide_a_failure(plane: ControlPlane) -> None:
    orders(plane)
    plane.run("orders")
    taken = run_of(plane)
    plane.lose("w")
    plane.join("w", kinds=KINDS)
    attempt = {name: taken[name] for name in ("run", "attempt", "worker")}
    plane.tell("task.returned", taken["id"], task=taken["id"], **attempt)
    assert failed(plane, ERROR)["action"] == "retry"


def test_failures_of_tasks_that_are_not_held_back_open_no_breaker(plane: ControlPlane) -> None:
    plane.join("v", kinds=("letters",))
    orders(plane)
    plane.done("letters.start", name="orders", action="replay")
    for _ in range(4):
        plane.fail(letters_task(plane), ERROR)
        plane.fire(letters_task(plane)["timer"])
    plane.run("orders")
    failed(plane, ERROR)
    assert plane.state("error_resolution")["breakers"]["house"]["failures"] == 1
