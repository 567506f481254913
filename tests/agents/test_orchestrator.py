from __future__ import annotations

from typing import Any

import pytest

from penstock.records.families import body
from tests.agents.control_plane import ERROR, FATAL, ControlPlane, pipeline, policy


@pytest.fixture
def several(plane: ControlPlane) -> ControlPlane:
    """A control plane with active pipelines a to d over separate connections."""
    for name in "abcd":
        plane.connect(f"from-{name}", f"to-{name}")
        plane.apply(pipeline(name, source=f"from-{name}", sink=f"to-{name}"))
    return plane


def types(records: list[Any]) -> list[str]:
    return [record.type for record in records]


def test_a_run_is_queued_assigned_and_finished(orders: ControlPlane) -> None:
    run = orders.run("orders")
    assert orders.running() == {}
    assert types(orders.join("w")) == ["agent.decided", "task.assigned"]
    assigned = orders.of("task.assigned")[0].payload
    assert (assigned["worker"], assigned["attempt"], assigned["run"], assigned["version"]) == ("w", 1, run, 1)
    assert set(assigned["connections"]) == {"shop", "house"}
    assert types(orders.end(orders.task_of("orders"))) == ["agent.decided", "task.closed", "run.finished"]
    finished = orders.of("run.finished")[0].payload["run"]
    assert (finished["id"], finished["status"], finished["counters"]["rows_out"]) == (run, "completed", 3)
    assert orders.state("orchestrator")["tasks"] == orders.state("orchestrator")["runs"] == {}


def test_every_record_of_an_agent_validates_against_its_type(orders: ControlPlane) -> None:
    orders.join("w")
    orders.run("orders")
    orders.end(orders.task_of("orders"), ERROR)
    orders.fire(orders.of("timer.requested")[0].key)
    orders.end(orders.task_of("orders"), FATAL)
    orders.run("orders")
    orders.done("pipeline.pause", name="orders")
    orders.done("pipeline.delete", name="orders")
    orders.end(orders.task_of("orders"))
    written = {record.type for record in orders.log if record.agent and body(record)}
    assert written >= {
        "task.queued",
        "task.assigned",
        "task.cancelled",
        "task.closed",
        "timer.requested",
        "run.finished",
    }


def test_one_pipeline_has_one_run_at_a_time(orders: ControlPlane) -> None:
    run = orders.run("orders")
    assert orders.refused("run.start", pipeline="orders")["what"] == f"pipeline orders: has a run already, {run}"


@pytest.mark.parametrize(("verb", "status"), [("pause", "paused"), ("stop", "stopped"), ("delete", "deleting")])
def test_only_an_active_pipeline_starts_a_run(orders: ControlPlane, verb: str, status: str) -> None:
    orders.done(f"pipeline.{verb}", name="orders")
    assert orders.refused("run.start", pipeline="orders")["what"] == f"pipeline orders: is {status}"


def test_a_run_of_an_unknown_pipeline_is_not_found(orders: ControlPlane) -> None:
    refusal = orders.refused("run.start", pipeline="order")
    assert (refusal["exit_code"], refusal["hint"]) == (3, "did you mean `orders`?")


def test_tasks_are_assigned_in_the_order_of_arrival(several: ControlPlane) -> None:
    for name in "cab":
        several.run(name)
    several.join("w")
    went = []
    for _ in "cab":
        (name,) = several.running()
        went.append(name)
        several.end(several.task_of(name))
    assert went == ["c", "a", "b"]


def test_priorities_of_the_policy_decide_who_gets_a_worker(plane: ControlPlane) -> None:
    plane.done("policy.publish", policy=policy("p", orchestrator={"priorities": {"gold": 10, "silver": 5}}))
    for name, tier in (("a", "tin"), ("b", "silver"), ("c", "gold"), ("d", "gold")):
        plane.apply(pipeline(name, tier=tier))
        plane.run(name)
    plane.join("w")
    went = []
    for _ in range(4):
        (name,) = plane.running()
        went.append(name)
        plane.end(plane.task_of(name))
    assert went == ["c", "d", "b", "a"]


def test_a_worker_gets_at_most_its_slots_and_the_freest_worker_is_next(several: ControlPlane) -> None:
    several.join("small")
    several.join("large", slots=2)
    for name in "abcd":
        several.run(name)
    assert several.running() == {"a": "large", "b": "large", "c": "small"}
    several.end(several.task_of("c"))
    assert several.running()["d"] == "small"


def test_a_worker_gets_only_tasks_of_its_kinds(several: ControlPlane) -> None:
    several.join("cleaner", slots=4, kinds=["cleanup"])
    several.run("a")
    assert several.running() == {}
    several.done("pipeline.delete", name="b")
    assert several.running() == {"b": "cleaner"}
    several.join("runner", kinds=["pipeline"])
    assert several.running() == {"a": "runner", "b": "cleaner"}


def test_max_running_is_respected_and_a_higher_limit_applies_at_once(several: ControlPlane) -> None:
    several.done("policy.publish", policy=policy("p", orchestrator={"max_running": 1}))
    several.join("w", slots=4)
    for name in "abc":
        several.run(name)
    assert set(several.running()) == {"a"}
    several.done("policy.publish", policy=policy("p", orchestrator={"max_running": 2}))
    assert set(several.running()) == {"a", "b"}


def test_a_lower_limit_does_not_interrupt_runs(several: ControlPlane) -> None:
    several.join("w", slots=4)
    several.run("a")
    several.run("b")
    several.done("policy.publish", policy=policy("p", orchestrator={"max_running": 1}))
    several.run("c")
    assert set(several.running()) == {"a", "b"}
    several.end(several.task_of("a"))
    assert set(several.running()) == {"b"}


def test_per_connection_is_respected(plane: ControlPlane) -> None:
    plane.connect("other")
    for name in "abc":
        plane.apply(pipeline(name, sink="other"))
    plane.apply(pipeline("d", source="house", sink="other"))
    plane.done("policy.publish", policy=policy("p", orchestrator={"per_connection": 2, "max_running": 9}))
    plane.join("w", slots=9)
    for name in "abc":
        plane.run(name)
    assert set(plane.running()) == {"a", "b"}
    plane.end(plane.task_of("a"))
    assert set(plane.running()) == {"b", "c"}


def test_a_temporary_failure_is_retried_with_exponential_backoff(orders: ControlPlane) -> None:
    document = pipeline("orders")
    document["spec"]["errors"] = {"retry": {"base": "2s", "factor": 3.0, "max": "10s", "attempts": 4}}
    orders.apply(document)
    orders.join("w")
    orders.run("orders")
    waits = []
    for attempt in (1, 2, 3):
        assert orders.task_of("orders")["attempt"] == attempt
        failed_at = orders.now
        orders.end(orders.task_of("orders"), ERROR)
        timer = body(orders.of("timer.requested")[-1])
        waits.append(round((timer.due - failed_at).total_seconds(), 1))  # type: ignore[attr-defined]
        assert orders.running() == {}
        orders.fire(orders.of("timer.requested")[-1].key)
    assert waits == [2.0, 6.0, 10.0]
    orders.end(orders.task_of("orders"), ERROR)
    finished = orders.of("run.finished")[-1].payload
    assert (finished["run"]["status"], finished["error"]["code"]) == ("failed", ERROR["code"])
    assert len(orders.of("timer.requested")) == 3


def test_a_task_that_waits_for_another_stays_in_the_trace_of_its_own_command(several: ControlPlane) -> None:
    several.join("w")
    traces = {name: f"00-{number:032x}-{number:016x}-01" for number, name in enumerate("ab", 1)}
    for name, trace in traces.items():
        several.put(several.record("run.start", name, {"pipeline": name}).replaced(traceparent=trace))
    several.end(several.task_of("a"))
    assigned = several.of("task.assigned")
    assert {record.payload["pipeline"]: record.traceparent for record in assigned} == traces
    assert len({record.correlation for record in assigned}) == 2


def test_a_permanent_failure_is_not_retried(orders: ControlPlane) -> None:
    orders.join("w")
    orders.run("orders")
    orders.end(orders.task_of("orders"), FATAL)
    assert orders.of("run.finished")[0].payload["run"]["status"] == "failed"
    assert orders.of("timer.requested") == []
    assert orders.of("task.closed")[0].payload["reason"] == "schema.missing_table: trying again would not help"


def test_an_unknown_timer_is_ignored(orders: ControlPlane) -> None:
    orders.join("w")
    orders.run("orders")
    orders.end(orders.task_of("orders"), ERROR)
    timer = orders.of("timer.requested")[0].key
    assert types(orders.fire(timer)) == ["agent.decided", "task.assigned"]
    before = orders.states()
    assert orders.fire(timer) == orders.fire("retry:nothing:1") == []
    assert orders.states() == before


def test_tasks_of_a_lost_worker_keep_their_places_in_the_queue(several: ControlPlane) -> None:
    several.join("w", slots=2)
    for name in "abc":
        several.run(name)
    assert set(several.running()) == {"a", "b"}
    several.lose("w")
    assert several.running() == {}
    several.join("v")
    assert several.running() == {"a": "v"}
    assert several.task_of("a")["attempt"] == 2
    several.end(several.task_of("a"))
    assert several.running() == {"b": "v"}
    assert several.lose("w") == [], "a repeated report changes nothing"


def test_outcomes_of_a_closed_attempt_are_ignored(orders: ControlPlane) -> None:
    orders.join("w")
    orders.run("orders")
    late = orders.task_of("orders")
    orders.join("v")
    orders.lose("w")
    before = orders.states()
    assert orders.running() == {"orders": "v"}
    assert orders.end(late) == orders.end(late, ERROR) == orders.end(late, FATAL) == []
    assert orders.end({**late, "attempt": 2}) == orders.end({**late, "worker": "v"}) == [], "nor of a mixture"
    assert orders.states() == before


def test_a_repeated_outcome_is_ignored(orders: ControlPlane) -> None:
    orders.join("w")
    orders.run("orders")
    task = orders.task_of("orders")
    assert orders.end(task, ERROR)
    before = orders.states()
    assert orders.end(task, ERROR) == orders.end(task) == []
    assert orders.states() == before
    orders.fire(orders.of("timer.requested")[0].key)
    task = orders.task_of("orders")
    assert orders.end(task)
    assert orders.end(task) == []
    assert len(orders.of("run.finished")) == 1


def test_a_paused_run_is_interrupted_and_resumes_in_its_place(several: ControlPlane) -> None:
    several.join("w")
    run = several.run("a")
    several.run("b")
    several.done("pipeline.pause", name="a")
    assert several.of("task.cancelled")[0].payload["worker"] == "w"
    assert several.running() == {"b": "w"}
    several.run("c")
    several.done("pipeline.resume", name="a")
    several.end(several.task_of("b"))
    assert several.running() == {"a": "w"}, "it came before c"
    assert (several.task_of("a")["attempt"], several.task_of("a")["run"]) == (2, run)


def test_a_retry_that_is_due_during_a_pause_is_kept(orders: ControlPlane) -> None:
    orders.join("w")
    orders.run("orders")
    orders.end(orders.task_of("orders"), ERROR)
    orders.done("pipeline.pause", name="orders")
    orders.fire(orders.of("timer.requested")[0].key)
    assert orders.running() == {}
    orders.done("pipeline.resume", name="orders")
    assert orders.running() == {"orders": "w"}


@pytest.mark.parametrize("verb", ["stop", "delete"])
@pytest.mark.parametrize("phase", ["queued", "assigned", "waiting"])
def test_stopping_or_deleting_ends_the_open_run(orders: ControlPlane, verb: str, phase: str) -> None:
    run = orders.run("orders")
    if phase != "queued":
        orders.join("w")
    if phase == "waiting":
        orders.end(orders.task_of("orders"), ERROR)
    late = orders.task_of("orders")
    assert late["status"] == phase
    orders.done(f"pipeline.{verb}", name="orders")
    assert [r.payload["run"]["status"] for r in orders.of("run.finished")] == ["stopped"]
    assert [r.payload["attempt"] for r in orders.of("task.cancelled")] == ([1] if phase == "assigned" else [])
    assert orders.state("orchestrator")["runs"] == {}
    assert run == late["run"]
    assert orders.end(late) == []
    for timer in orders.of("timer.requested"):
        assert orders.fire(timer.key) == []
    kinds = [task["kind"] for task in orders.state("orchestrator")["tasks"].values()]
    assert kinds == (["cleanup"] if verb == "delete" else [])


def test_the_orchestrator_learns_from_the_records_of_the_lifecycle(orders: ControlPlane) -> None:
    """A coordination workflow: command, lifecycle, orchestrator, worker, orchestrator, lifecycle, each by a record."""
    orders.join("w")
    orders.done("pipeline.delete", name="orders")
    orders.end(orders.task_of("orders"))
    by = [
        (record.type, record.agent)
        for record in orders.log
        if record.type.startswith(("pipeline.", "task.", "command"))
    ]
    assert by[by.index(("pipeline.delete", None)) :] == [
        ("pipeline.delete", None),
        ("pipeline.status_changed", "lifecycle"),
        ("command.applied", "lifecycle"),
        ("task.queued", "orchestrator"),
        ("task.assigned", "orchestrator"),
        ("task.completed", None),
        ("task.closed", "orchestrator"),
        ("pipeline.deleted", "lifecycle"),
    ]


def test_a_task_runs_the_version_it_was_queued_for(orders: ControlPlane) -> None:
    orders.run("orders")
    orders.apply(pipeline("orders", tier="gold"))
    orders.join("w")
    assigned = orders.of("task.assigned")[0].payload
    assert (assigned["version"], assigned["spec"]) == (1, pipeline("orders"))


def test_the_wait_before_an_attempt_never_overflows() -> None:
    from datetime import timedelta

    from agents.retries import delay
    from penstock.models.pipeline import Retry

    retry = Retry.parse({"base": "1s", "factor": 100.0, "max": "5m"})
    assert [delay(retry, n) for n in (1, 2, 3, 1000)] == [timedelta(seconds=s) for s in (1, 100, 300, 300)]


def test_malformed_commands_are_refused(orders: ControlPlane) -> None:
    refusal = orders.refused("run.start", pipeline="orders", ful=True)
    assert [issue["path"] for issue in refusal["issues"]] == ["ful"]
