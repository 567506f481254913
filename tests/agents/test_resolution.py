"""The agent for errors: what it chooses, what it leaves to a person, what it learns, and which connections it holds."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from agents.policies import Policies
from agents.protocol import Cause, Decision, State
from agents.resolution import ErrorResolutionAgent
from agents.retries import delay
from agents.strategies import learned, strategies
from penstock.models.pipeline import Retry
from tests.agents.control_plane import ERROR, FATAL, ControlPlane, classified_as, pipeline, policy

MEMORY = {"code": "memory.exceeded", "what": "the run used more memory than allowed", "transient": False}
DENIED = {"code": "unavailable.access_denied", "what": "the server refuses this user", "transient": False}
REFUSED = {"code": "data.too_many_refused", "what": "too many rows were refused", "transient": False}
KINDS = ("pipeline", "cleanup", "discover", "diagnose")


@pytest.fixture
def plane() -> ControlPlane:
    plane = ControlPlane()
    plane.connect("shop", "house", "attic")
    plane.join("w", slots=9, kinds=KINDS)
    return plane


def orders(plane: ControlPlane, name: str = "orders", **spec: Any) -> None:
    document = pipeline(name)
    document["spec"] |= spec
    plane.apply(document)


def allow(plane: ControlPlane, **rules: Any) -> None:
    plane.done("policy.publish", policy=policy("p", error_resolution=rules), origin="api")


def run_of(plane: ControlPlane, name: str = "orders") -> dict[str, Any]:
    tasks = plane.state("orchestrator")["tasks"].values()
    (task,) = [one for one in tasks if (one["pipeline"], one["kind"]) == (name, "pipeline")]
    return dict(task)


def running(plane: ControlPlane) -> set[str]:
    """Return the pipelines that have a run at work."""
    tasks = plane.state("orchestrator")["tasks"].values()
    return {one["pipeline"] for one in tasks if (one["kind"], one["status"]) == ("pipeline", "assigned")}


def failed(plane: ControlPlane, error: dict[str, Any], name: str = "orders", **found: Any) -> dict[str, Any]:
    """Let the open attempt of a pipeline fail; return what was chosen."""
    plane.fail(run_of(plane, name), error, **found)
    return plane.of("strategy.chosen")[-1].payload


def last_run(plane: ControlPlane) -> str:
    return str(plane.of("run.finished")[-1].payload["run"]["status"])


def test_a_temporary_error_is_retried_until_its_budget_is_used_up_then_escalated(
    plane: ControlPlane,
) -> None:
    orders(plane, errors={"retry": {"base": "2s", "factor": 3.0, "max": "30s", "attempts": 3}})
    plane.run("orders")
    retry = Retry.parse({"base": "2s", "factor": 3.0, "max": "30s"})
    for failures in (1, 2):
        chosen = failed(plane, ERROR)
        timer, cause = plane.of("timer.requested")[-1], plane.of("task.failed")[-1]
        assert (chosen["action"], chosen["failures"]) == ("retry", failures)
        assert "continues after what its sink has committed" in chosen["reason"]
        assert datetime.fromisoformat(timer.payload["due"]) - cause.at == delay(retry, failures, cause.id)
        plane.fire(timer.key)
    chosen = failed(plane, ERROR)
    assert (chosen["action"], chosen["reason"]) == ("escalate", "unavailable.unreachable: no attempt is left")
    assert last_run(plane) == "failed"
    (incident,) = plane.of("incident.opened")
    assert (incident.payload["connection"], incident.payload["facts"]["attempts"]) == ("house", 3)
    assert plane.of("strategy.ended")[-1].payload["outcome"] == "failed"


@pytest.mark.parametrize(
    ("error", "kind", "action"),
    [
        (ERROR, "transient", "retry"),
        (FATAL, "schema", "escalate"),
        (DENIED, "permission", "escalate"),
        (MEMORY, "resource", "escalate"),
        (REFUSED, "data", "escalate"),
        ({"code": "defect", "what": "a defect in the run: KeyError", "transient": False}, "bug", "escalate"),
    ],
)
def test_by_default_only_what_may_pass_is_tried_again(
    plane: ControlPlane, error: dict[str, Any], kind: str, action: str
) -> None:
    orders(plane)
    plane.run("orders")
    assert failed(plane, error, kind=kind)["action"] == action
    decided = [one for one in plane.of("agent.decided") if one.payload["agent"] == "error_resolution"][-1].payload
    assert (decided["action"], decided["outcome"], decided["threshold"]) == (action, "acted", 0.8)
    assert decided["inputs"]["kind"] == kind


def test_a_policy_that_only_lets_it_propose_escalates_with_the_proposal(plane: ControlPlane) -> None:
    allow(plane, actions={"retry": "propose"})
    orders(plane)
    plane.run("orders")
    chosen = failed(plane, ERROR)
    assert chosen["action"] == "escalate"
    assert "policy p does not let it be tried again" in chosen["reason"]
    (proposal,) = plane.of("incident.opened")[0].payload["proposals"]
    assert (proposal["action"], proposal["confidence"]) == ("retry", 0.95)
    assert plane.of("timer.requested") == []
    assert last_run(plane) == "failed"


def test_settings_are_adjusted_within_bounds_where_the_policy_allows_it(plane: ControlPlane) -> None:
    allow(plane, act_above=0.5)
    orders(plane, limits={"batch_rows": 8000})
    plane.run("orders")
    chosen = failed(plane, MEMORY, kind="resource")
    assert (chosen["action"], chosen["set"]) == ("adjust_config", {"limits.batch_rows": 2000})
    updated = plane.of("pipeline.updated")[-1].payload
    assert (updated["version"], updated["by"]) == (2, "agent:error_resolution")
    assert updated["pipeline"]["spec"]["limits"]["batch_rows"] == 2000
    plane.end(run_of(plane))
    assert last_run(plane) == "completed"
    assert plane.of("strategy.ended")[-1].payload == {
        "fingerprint": "f1", "pipeline": "orders", "action": "adjust_config", "outcome": "resolved",
    }  # fmt: skip
    plane.run("orders")
    failed(plane, MEMORY, kind="resource")
    assert failed(plane, MEMORY, kind="resource")["action"] == "escalate", "1024 rows are the least"
    assert plane.of("pipeline.updated")[-1].payload["pipeline"]["spec"]["limits"]["batch_rows"] == 1024


@pytest.mark.parametrize(("stalled", "longer"), [("1m30s", "180s"), ("1m", "120s"), ("20m", "1800s"), ("1h", None)])
def test_a_run_that_stalls_gets_twice_the_time_within_bounds(
    plane: ControlPlane, stalled: str, longer: str | None
) -> None:
    allow(plane, act_above=0.5)
    orders(plane, limits={"stalled": stalled})
    plane.run("orders")
    set_ = failed(plane, {"code": "unavailable.stalled", "what": "nothing moves", "transient": False}).get("set")
    assert set_ == ({"limits.stalled": longer} if longer else None)


@pytest.mark.parametrize(("most", "action"), [(1000, "skip_record"), (10, "escalate")])
def test_more_dead_letters_are_allowed_up_to_the_rows_of_the_policy(
    plane: ControlPlane, most: int, action: str
) -> None:
    rules = policy("p", error_resolution={"act_above": 0.5}, constraints={"max_rows_skipped": most})
    plane.done("policy.publish", policy=rules, origin="api")
    orders(plane)
    plane.run("orders")
    counters = {"rows_in": 100, "rows_out": 80, "dead": 20}
    assert failed(plane, REFUSED, kind="data", counters=counters)["action"] == action
    if action == "skip_record":
        letters = plane.of("pipeline.updated")[-1].payload["pipeline"]["spec"]["errors"]["dead_letter"]
        assert letters["fail_above"] == 0.2


def test_a_pipeline_whose_login_is_refused_again_and_again_is_paused(plane: ControlPlane) -> None:
    orders(plane)
    for _ in range(4):
        plane.run("orders")
        assert failed(plane, DENIED, kind="permission")["action"] == "escalate"
    plane.run("orders")
    assert failed(plane, DENIED, kind="permission")["action"] == "pause"
    assert plane.of("pipeline.status_changed")[-1].payload["status"] == "paused"
    assert len(plane.of("incident.opened")) == 1, "repeats belong to the open incident"


def test_an_incident_closes_itself_when_a_run_completes(plane: ControlPlane) -> None:
    orders(plane)
    plane.run("orders")
    failed(plane, FATAL)
    plane.run("orders")
    failed(plane, FATAL)
    assert len(plane.of("incident.opened")) == 1
    plane.run("orders")
    plane.end(run_of(plane))
    (closed,) = plane.of("incident.closed")
    assert closed.payload == {"id": plane.of("incident.opened")[0].key, "reason": "pipeline orders works"}
    assert plane.state("error_resolution")["incidents"] == {}
    plane.run("orders")
    failed(plane, FATAL)
    assert len(plane.of("incident.opened")) == 2


def test_errors_of_one_connection_are_one_incident_for_all_its_pipelines(plane: ControlPlane) -> None:
    for name in ("a", "b"):
        orders(plane, name, errors={"retry": {"attempts": 1}})
        plane.run(name)
        failed(plane, ERROR, name)
    assert len(plane.of("incident.opened")) == 1
    plane.run("b")
    plane.end(run_of(plane, "b"))
    assert len(plane.of("incident.closed")) == 1


def test_each_failure_is_diagnosed_once_for_each_task_and_kind_of_error(plane: ControlPlane) -> None:
    orders(plane)
    plane.run("orders")
    failed(plane, ERROR)
    (asked,) = plane.of("diagnosis.requested")
    assert asked.payload["failure"]["id"] == plane.of("error.raised")[0].id
    (task,) = [t for t in plane.state("orchestrator")["tasks"].values() if t["kind"] == "diagnose"]
    assigned = [one for one in plane.of("task.assigned") if one.key == task["id"]][-1].payload
    assert assigned["failure"] == asked.payload["failure"]
    assert assigned["spec"]["metadata"]["name"] == "orders"
    plane.fire(plane.of("timer.requested")[-1].key)
    failed(plane, ERROR)
    assert len(plane.of("diagnosis.requested")) == 1
    plane.fire(plane.of("timer.requested")[-1].key)
    failed(plane, FATAL, fingerprint="f2")
    assert len(plane.of("diagnosis.requested")) == 2
    plane.end(task, ERROR)
    assert len(plane.of("diagnosis.requested")) == 2, "a diagnosis that fails is neither repeated nor diagnosed"
    assert [t["kind"] for t in plane.state("orchestrator")["tasks"].values()] == ["diagnose"]


def test_a_connection_is_held_back_after_failures_over_pipelines_and_tried_by_one_run(plane: ControlPlane) -> None:
    names = [f"p{number}" for number in range(6)]
    for name in names:
        orders(plane, name)
        plane.run(name)
    for name in names[:5]:
        failed(plane, ERROR, name)
    changes = plane.of("breaker.changed")
    assert [one.payload["status"] for one in changes] == ["open"]
    assert changes[0].payload["failures"] == 5
    retries = [one.key for one in plane.of("timer.requested") if one.key.startswith("retry:")]
    for timer in retries:
        plane.fire(timer)
    assert running(plane) == {"p5"}, "what runs already goes on, nothing else begins"
    hold = next(one.key for one in plane.of("timer.requested") if one.key.startswith("breaker:"))
    plane.fire(hold)
    assert plane.of("breaker.changed")[-1].payload["status"] == "half_open"
    assert running(plane) == {"p5", "p0"}, "one run tries it"
    failed(plane, ERROR, "p0")
    again = plane.of("breaker.changed")[-1]
    assert again.payload["status"] == "open"
    assert datetime.fromisoformat(again.payload["until"]) - plane.of("task.failed")[-1].at == timedelta(minutes=1)
    plane.end(run_of(plane, "p5"))
    assert plane.of("breaker.changed")[-1].payload["status"] == "closed", "a run has completed"
    assert running(plane) == {"p1", "p2", "p3", "p4"}


def test_a_changed_connection_is_let_go_at_once(plane: ControlPlane) -> None:
    for number in range(5):
        orders(plane, f"p{number}", errors={"retry": {"attempts": 1}})
        plane.run(f"p{number}")
    for number in range(5):
        failed(plane, ERROR, f"p{number}")
    plane.run("p0")
    assert running(plane) == set()
    plane.done("connection.put", name="house", connection={"type": "postgres", "dsn": "postgresql://me@localhost/new"})
    assert plane.of("breaker.changed")[-1].payload["status"] == "closed"
    assert running(plane) == {"p0"}


def test_a_stream_is_retried_for_ever_and_reported_once(plane: ControlPlane) -> None:
    orders(plane, mode="stream", errors={"retry": {"attempts": 2, "max": "1s"}})
    for _ in range(4):
        assert failed(plane, ERROR)["action"] == "retry"
        plane.fire([one.key for one in plane.of("timer.requested") if one.key.startswith("retry:")][-1])
        for hold in plane.of("breaker.changed"):
            assert hold.payload["status"] == "open"
    assert len(plane.of("incident.opened")) == 1
    task = run_of(plane)
    attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"], "run": task["run"]}
    plane.tell("task.started", task["id"], **attempt)
    settles = plane.of("timer.requested")[-1]
    assert settles.key == f"settled:{task['id']}:{task['attempt']}"
    plane.fire(settles.key)
    assert len(plane.of("incident.closed")) == 1
    assert plane.of("strategy.ended")[-1].payload["outcome"] == "resolved"


def test_what_helped_and_what_did_not_moves_the_confidence_and_is_bounded() -> None:
    spec: dict[str, Any] = {"limits": {}}
    failure = {"error": MEMORY, "classified": classified_as("resource")}
    known: dict[str, Any] = {}
    assert strategies(failure, spec, {}, left=True, repeats=0)[0].confidence == 0.75
    for _ in range(8):
        known = learned(known, "f1", "adjust_config", resolved=True)
    assert strategies(failure, spec, known["f1"], left=True, repeats=0)[0].confidence > 0.8
    for _ in range(30):
        known = learned(known, "f1", "adjust_config", resolved=False)
    assert strategies(failure, spec, known["f1"], left=True, repeats=0)[0].confidence < 0.5
    assert sum(known["f1"]["adjust_config"]) <= 21
    for number in range(700):
        known = learned(known, f"other {number}", "retry", resolved=True)
    assert len(known) == 500
    assert "f1" not in known


class Faulty(ErrorResolutionAgent):
    """Raises at each failure."""

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        if cause.type == "task.failed":
            raise ZeroDivisionError
        return super().decide(state, cause, policies)


def test_a_run_ends_as_failed_if_the_agent_has_a_defect_and_no_retry_helps() -> None:
    whole = ControlPlane()
    plane = ControlPlane(*whole.agents[:-1], Faulty())
    plane.connect("shop", "house")
    plane.join("w", kinds=KINDS)
    orders(plane)
    plane.run("orders")
    plane.fail(run_of(plane), FATAL)
    assert plane.of("agent.faulted")[0].payload["agent"] == "error_resolution"
    assert last_run(plane) == "failed"
    assert plane.of("run.finished")[-1].payload["error"]["code"] == FATAL["code"]


def test_another_agents_defect_is_an_incident_until_the_next_start(plane: ControlPlane) -> None:
    for _ in range(2):
        plane.tell("agent.faulted", "discovery", agent="discovery", fault="builtins.KeyError", record="r1")
    (incident,) = plane.of("incident.opened")
    assert (incident.payload["kind"], incident.payload["what"]) == (
        "bug",
        "agent discovery has a defect: builtins.KeyError",
    )
    plane.restart()
    assert plane.of("incident.closed")[-1].key == incident.key


def test_errors_that_pass_count_for_no_connection_if_they_are_about_rows(plane: ControlPlane) -> None:
    for _ in range(6):
        orders(plane)
        plane.run("orders")
        failed(plane, FATAL)
    assert plane.of("breaker.changed") == []
