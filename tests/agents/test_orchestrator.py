from __future__ import annotations

from typing import Any

import pytest

from penstock.records import body
from tests.agents.world import ERROR, FATAL, World, pipeline, policy


@pytest.fixture
def several(world: World) -> World:
    """Pipelines a to d over connections of their own, all active."""
    for name in "abcd":
        world.connect(f"from-{name}", f"to-{name}")
        world.apply(pipeline(name, source=f"from-{name}", sink=f"to-{name}"))
    return world


def types(records: list[Any]) -> list[str]:
    return [record.type for record in records]


def test_a_run_is_queued_assigned_and_finished(orders: World) -> None:
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


def test_every_record_that_an_agent_writes_is_what_its_type_says(orders: World) -> None:
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


def test_one_pipeline_has_one_run_at_a_time(orders: World) -> None:
    run = orders.run("orders")
    assert orders.refused("run.start", pipeline="orders")["what"] == f"pipeline orders: has a run already, {run}"


@pytest.mark.parametrize(("verb", "status"), [("pause", "paused"), ("stop", "stopped"), ("delete", "deleting")])
def test_only_an_active_pipeline_starts_a_run(orders: World, verb: str, status: str) -> None:
    orders.done(f"pipeline.{verb}", name="orders")
    assert orders.refused("run.start", pipeline="orders")["what"] == f"pipeline orders: is {status}"


def test_a_run_of_an_unknown_pipeline_is_not_found(orders: World) -> None:
    refusal = orders.refused("run.start", pipeline="order")
    assert (refusal["exit_code"], refusal["hint"]) == (3, "did you mean `orders`?")


def test_tasks_go_in_the_order_in_which_they_came(several: World) -> None:
    for name in "cab":
        several.run(name)
    several.join("w")
    went = []
    for _ in "cab":
        (name,) = several.running()
        went.append(name)
        several.end(several.task_of(name))
    assert went == ["c", "a", "b"]


def test_a_conflict_over_a_worker_is_settled_by_the_policys_priorities(world: World) -> None:
    world.done("policy.publish", policy=policy("p", orchestrator={"priorities": {"gold": 10, "silver": 5}}))
    for name, tier in (("a", "tin"), ("b", "silver"), ("c", "gold"), ("d", "gold")):
        world.apply(pipeline(name, tier=tier))
        world.run(name)
    world.join("w")
    went = []
    for _ in range(4):
        (name,) = world.running()
        went.append(name)
        world.end(world.task_of(name))
    assert went == ["c", "d", "b", "a"]


def test_a_worker_gets_no_more_than_its_slots_and_the_roomiest_one_gets_the_next(several: World) -> None:
    several.join("small")
    several.join("large", slots=2)
    for name in "abcd":
        several.run(name)
    assert several.running() == {"a": "large", "b": "large", "c": "small"}
    several.end(several.task_of("c"))
    assert several.running()["d"] == "small"


def test_a_worker_gets_only_what_it_can_do(several: World) -> None:
    several.join("cleaner", slots=4, kinds=["cleanup"])
    several.run("a")
    assert several.running() == {}
    several.done("pipeline.delete", name="b")
    assert several.running() == {"b": "cleaner"}
    several.join("runner", kinds=["pipeline"])
    assert several.running() == {"a": "runner", "b": "cleaner"}


def test_no_more_runs_at_once_than_the_policy_says_and_a_higher_limit_works_at_once(several: World) -> None:
    several.done("policy.publish", policy=policy("p", orchestrator={"max_running": 1}))
    several.join("w", slots=4)
    for name in "abc":
        several.run(name)
    assert set(several.running()) == {"a"}
    several.done("policy.publish", policy=policy("p", orchestrator={"max_running": 2}))
    assert set(several.running()) == {"a", "b"}


def test_a_lower_limit_interrupts_nothing(several: World) -> None:
    several.join("w", slots=4)
    several.run("a")
    several.run("b")
    several.done("policy.publish", policy=policy("p", orchestrator={"max_running": 1}))
    several.run("c")
    assert set(several.running()) == {"a", "b"}
    several.end(several.task_of("a"))
    assert set(several.running()) == {"b"}


def test_no_more_runs_on_a_connection_than_the_policy_says(world: World) -> None:
    world.connect("other")
    for name in "abc":
        world.apply(pipeline(name, sink="other"))
    world.apply(pipeline("d", source="house", sink="other"))
    world.done("policy.publish", policy=policy("p", orchestrator={"per_connection": 2, "max_running": 9}))
    world.join("w", slots=9)
    for name in "abc":
        world.run(name)
    assert set(world.running()) == {"a", "b"}
    world.end(world.task_of("a"))
    assert set(world.running()) == {"b", "c"}


def test_a_failure_that_may_pass_is_tried_again_after_longer_and_longer_waits(orders: World) -> None:
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


def test_a_failure_that_will_not_pass_is_given_up_at_once(orders: World) -> None:
    orders.join("w")
    orders.run("orders")
    orders.end(orders.task_of("orders"), FATAL)
    assert orders.of("run.finished")[0].payload["run"]["status"] == "failed"
    assert orders.of("timer.requested") == []
    assert orders.of("task.closed")[0].payload["reason"] == "schema.missing_table: trying again would not help"


def test_a_timer_that_nothing_waits_for_is_ignored(orders: World) -> None:
    orders.join("w")
    orders.run("orders")
    orders.end(orders.task_of("orders"), ERROR)
    timer = orders.of("timer.requested")[0].key
    assert types(orders.fire(timer)) == ["agent.decided", "task.assigned"]
    before = orders.states()
    assert orders.fire(timer) == orders.fire("retry:nothing:1") == []
    assert orders.states() == before


def test_a_lost_workers_tasks_go_on_elsewhere_in_their_places(several: World) -> None:
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
    assert several.lose("w") == [], "told twice, it changes nothing"


def test_outcomes_of_a_closed_attempt_are_ignored(orders: World) -> None:
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


def test_a_repeated_outcome_counts_once(orders: World) -> None:
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


def test_pausing_interrupts_a_run_and_resuming_goes_on_with_it_in_its_place(several: World) -> None:
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


def test_a_wait_that_ends_during_a_pause_is_not_lost(orders: World) -> None:
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
def test_stopping_and_deleting_end_the_open_run(orders: World, verb: str, phase: str) -> None:
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


def test_agents_are_told_by_records_of_what_concerns_them(orders: World) -> None:
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


def test_a_task_runs_the_version_that_it_was_queued_for(orders: World) -> None:
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


def test_commands_of_unknown_shape_never_reach_the_queue(orders: World) -> None:
    refusal = orders.refused("run.start", pipeline="orders", ful=True)
    assert [issue["path"] for issue in refusal["issues"]] == ["ful"]
