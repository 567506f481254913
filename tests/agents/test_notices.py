"""Notices of alerts: a task for each route, in order for each alert, tried again, never held up by another route."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.lifecycle import Lifecycle
from agents.orchestrator import Orchestrator
from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from agents.resolution import ErrorResolutionAgent
from penstock.models.domain import AgentDecision
from penstock.models.notices import Notice
from penstock.records import Record
from tests.agents.control_plane import ControlPlane, decisions, judged, pipeline, policy

DOWN = {"code": "unavailable", "what": "the receiver answers 503", "transient": True}
REFUSED = {"code": "unavailable.access_denied", "what": "the receiver refuses access (403)", "transient": False}
ONCALL = {"type": "webhook", "url": "https://alerts.example.com/hook"}
MAIL = {"type": "smtp", "host": "mail.example.com", "from": "penstock@example.com", "to": ["oncall@example.com"]}


class Told:
    """An agent that opens and closes alerts as it is told."""

    name, rules, concerns = "monitor", 1, frozenset({"tests.alert"})

    def initial(self) -> State:
        return {}

    def decide(self, _: State, cause: Cause, __: Policies) -> Decision | None:
        if cause.type != "tests.alert":
            return None
        why = AgentDecision(agent=self.name, rules=1, action="tell", subject=cause.record.key, reason="it was told to")
        return Decision(why, (Draft(cause.payload["type"], cause.record.key, cause.payload["payload"]),))

    def evolve(self, state: State, _: Record) -> State:
        return state


def made() -> ControlPlane:
    plane = ControlPlane(Lifecycle(), Orchestrator(), ErrorResolutionAgent(), Told())
    plane.connect("shop", "house")
    plane.done("connection.put", name="oncall", connection=ONCALL)
    plane.done("connection.put", name="mail", connection=MAIL)
    plane.join("w1", kinds=("pipeline", "notify"))
    return plane


@pytest.fixture
def plane() -> ControlPlane:
    return made()


def opened(plane: ControlPlane, alert: str = "a1", *routes: str) -> None:
    payload: dict[str, Any] = {"alert": alert, "cause": f"volume {alert}", "pipeline": "orders", "kind": "volume"}
    payload |= {"metric": "rows_out", "severity": "warning", "summary": "orders wrote 12 rows, 1000 were expected"}
    payload |= {"value": 12.0, "expected": 1000.0, "score": -9.5, "since": plane.now.isoformat()}
    payload |= {"routes": list(routes or ("log", "oncall"))}
    plane.tell("tests.alert", alert, type="alert.opened", payload=payload)


def closed(plane: ControlPlane, alert: str = "a1", *routes: str) -> None:
    payload: dict[str, Any] = {"alert": alert, "cause": f"volume {alert}", "pipeline": "orders"}
    payload |= {"reason": "back to normal", "summary": "orders writes as usual", "lasted_s": 90.0}
    payload |= {"routes": list(routes or ("log", "oncall"))}
    plane.tell("tests.alert", alert, type="alert.closed", payload=payload)


def sending(plane: ControlPlane) -> list[dict[str, Any]]:
    """Return the notices that workers have now, by the state."""
    tasks = plane.state("orchestrator")["tasks"].values()
    return [task for task in tasks if task["kind"] == "notify" and task["status"] == "assigned"]


def told(plane: ControlPlane) -> list[tuple[str, str, str]]:
    """Return alert, event and route of each notice in the order in which workers got them."""
    notices = [Notice.parse(one.payload["notice"]) for one in plane.of("task.assigned") if "notice" in one.payload]
    return [(one.about, one.event, one.route) for one in notices]


def test_each_route_but_the_log_gets_a_task_with_its_connection(plane: ControlPlane) -> None:
    opened(plane, "a1", "log", "oncall", "mail")
    assigned = {one.payload["notice"]["route"]: one.payload for one in plane.of("task.assigned")}
    assert {name: one["connections"] for name, one in assigned.items()} == {
        "oncall": {"oncall": {**ONCALL, "headers": {}, "timeout": "10s"}},
        "mail": {"mail": {**MAIL, "tls": "starttls", "timeout": "10s"}},
    }
    notice = assigned["oncall"]["notice"]
    assert (notice["id"], notice["event"]) == (assigned["oncall"]["task"], "alert.opened")
    assert notice["alert"]["summary"] == "orders wrote 12 rows, 1000 were expected"
    assert "routes" not in notice["alert"]
    opened(plane, "a2", "log")
    assert len(plane.of("task.queued")) == 2, "an alert that is only logged sends nothing"


def test_an_alert_is_never_told_closed_before_it_was_told_opened(plane: ControlPlane) -> None:
    opened(plane)
    closed(plane)
    (task,) = sending(plane)
    assert task["notice"]["event"] == "alert.opened"
    plane.end(task, DOWN)
    assert sending(plane) == [], "while the first waits for its next attempt, so does the second"
    opened(plane, "a2")
    assert [one["notice"]["alert"]["alert"] for one in sending(plane)] == ["a2"], "another alert goes on"
    plane.end(sending(plane)[0])
    plane.fire(plane.of("timer.requested")[-1].payload["timer"])
    plane.end(sending(plane)[0])
    plane.end(sending(plane)[0])
    assert told(plane) == [
        ("a1", "alert.opened", "oncall"),
        ("a2", "alert.opened", "oncall"),
        ("a1", "alert.opened", "oncall"),
        ("a1", "alert.closed", "oncall"),
    ]
    receipts = [(one.key, one.payload["event"], one.payload["attempts"]) for one in plane.of("alert.delivered")]
    assert receipts == [("a2", "alert.opened", 1), ("a1", "alert.opened", 2), ("a1", "alert.closed", 1)]
    state = plane.state("orchestrator")
    assert (state["tasks"], state["open"], state["ready"], state["queued"]) == ({}, {}, {}, 0)


def test_what_is_refused_is_given_up_and_leaves_no_incident(plane: ControlPlane) -> None:
    opened(plane)
    closed(plane)
    plane.end(sending(plane)[0], REFUSED)
    (receipt,) = plane.of("alert.delivered")
    assert (receipt.payload["status"], receipt.payload["error"]["what"]) == ("failed", REFUSED["what"])
    assert [one["notice"]["event"] for one in sending(plane)] == ["alert.closed"]
    assert plane.of("incident.opened") == plane.of("diagnosis.requested") == []


def test_waits_grow_to_half_an_hour_and_end_after_eleven_hours(plane: ControlPlane) -> None:
    opened(plane)
    waits: list[timedelta] = []
    while sending(plane):
        plane.end(sending(plane)[0], DOWN)
        if len(plane.of("timer.requested")) == len(waits):
            break
        timer = plane.of("timer.requested")[-1]
        waits.append(wait_of(timer))
        plane.fire(timer.payload["timer"])
    assert [one.total_seconds() for one in waits[:4]] == [5, 10, 20, 40]
    assert (max(waits), len(waits)) == (timedelta(minutes=30), 29)
    assert timedelta(hours=10) < sum(waits, timedelta()) < timedelta(hours=12)
    assert plane.of("alert.delivered")[0].payload["attempts"] == 30


def wait_of(timer: Record) -> timedelta:
    return datetime.fromisoformat(timer.payload["due"]) - timer.at


@pytest.mark.parametrize(("asked", "waits"), [(60, 60), (1, 5), (86_400, 1800)])
def test_a_receiver_says_how_long_to_wait_within_bounds(plane: ControlPlane, asked: float, waits: float) -> None:
    opened(plane)
    (task,) = sending(plane)
    attempt = {"task": task["id"], "attempt": 1, "worker": "w1"}
    plane.tell("task.failed", task["id"], **attempt, error=DOWN, wait=asked)
    assert wait_of(plane.of("timer.requested")[-1]).total_seconds() == waits


def test_a_route_that_is_mended_is_tried_at_once(plane: ControlPlane) -> None:
    opened(plane)
    for _ in range(3):
        plane.end(sending(plane)[0], DOWN)
        plane.fire(plane.of("timer.requested")[-1].payload["timer"])
    plane.end(sending(plane)[0], DOWN)
    stale = plane.of("timer.requested")[-1].payload["timer"]
    plane.done("connection.put", name="oncall", connection={**ONCALL, "url": "https://alerts.example.com/other"})
    timer = plane.of("timer.requested")[-1]
    assert wait_of(timer) == timedelta()
    plane.fire(timer.payload["timer"])
    (task,) = sending(plane)
    assert (task["attempt"], task["failures"]) == (5, 4)
    assert plane.of("task.assigned")[-1].payload["connections"]["oncall"]["url"].endswith("/other")
    plane.fire(stale)
    assert sending(plane) == [task], "the timer before it is over"


OUTCOMES = {"sent": None, "down": DOWN, "refused": REFUSED}
STEPS = st.lists(
    st.tuples(st.sampled_from(["open", "close", *OUTCOMES, "due", "lose", "mend"]), st.integers(0, 5)),
    max_size=40,
)


def take(plane: ControlPlane, step: str, number: int) -> None:
    """Do one step of a random history; nothing if it does not apply."""
    waiting = [one["timer"] for one in plane.state("orchestrator")["tasks"].values() if one.get("timer")]
    tasks = sending(plane)
    if step == "due" and waiting:
        plane.fire(waiting[number % len(waiting)])
    elif step == "lose":
        plane.lose("w1")
        plane.join("w1", kinds=("notify",))
    elif step == "mend":
        connection = {**ONCALL, "url": f"https://alerts.example.com/{len(plane.log)}"}
        plane.done("connection.put", name="oncall", connection=connection)
    elif step in OUTCOMES and tasks:
        plane.end(tasks[number % len(tasks)], OUTCOMES[step])


@settings(max_examples=25)
@given(steps=STEPS)
def test_property_each_route_is_told_in_order_whatever_fails(steps: list[tuple[str, int]]) -> None:
    plane = made()
    changes: dict[str, list[str]] = {"a0": [], "a1": []}
    for step, number in steps:
        if step in {"open", "close"}:
            alert = f"a{number % 2}"
            changes[alert].append("alert.opened" if step == "open" else "alert.closed")
            (opened if step == "open" else closed)(plane, alert, "oncall", "mail")
        else:
            take(plane, step, number)
        routes = [one["notice"]["route"] for one in sending(plane)]
        assert len(routes) == len(set(routes)), "a route gets one notice at a time"
    while plane.state("orchestrator")["tasks"]:
        for timer in [one["timer"] for one in plane.state("orchestrator")["tasks"].values() if one.get("timer")]:
            plane.fire(timer)
        for task in sending(plane):
            plane.end(task)
    for alert, events in changes.items():
        for route in ("oncall", "mail"):
            receipts = [one.payload for one in plane.of("alert.delivered") if one.key == alert]
            assert [one["event"] for one in receipts if one["route"] == route] == events
    assert plane.state("orchestrator")["tasks"] == {}
    assert plane.of("agent.faulted") == []
    assert judged(plane.log, plane.agents) == decisions(plane.log)


def test_runs_do_not_delay_notices_nor_a_route_another_one(plane: ControlPlane) -> None:
    plane.apply(pipeline("orders"))
    plane.run("orders")
    for number in range(3):
        opened(plane, f"a{number}", "oncall", "mail")
    assert sorted(one["notice"]["route"] for one in sending(plane)) == ["mail", "oncall"]
    assert plane.running()["orders"] == "w1", "it has the worker's only slot"


def test_a_notice_of_a_lost_worker_goes_to_another_one_with_the_same_id(plane: ControlPlane) -> None:
    opened(plane)
    plane.join("w2", kinds=("notify",))
    plane.lose("w1")
    (first, second) = plane.of("task.assigned")
    assert (second.payload["worker"], second.payload["attempt"]) == ("w2", 2)
    assert first.payload["notice"] == second.payload["notice"]


def test_a_route_is_tried_once(plane: ControlPlane) -> None:
    result = plane.done("route.try", route="oncall")
    (task,) = sending(plane)
    assert (task["id"], task["notice"]["event"]) == (result["task"], "route.try")
    plane.end(task, DOWN)
    assert plane.of("task.closed")[-1].payload["status"] == "failed"
    assert plane.of("alert.delivered") == []
    assert "there is no connection 'onkall'" in plane.refused("route.try", route="onkall")["what"]
    assert "takes no alerts" in plane.refused("route.try", route="shop")["what"]


def test_only_what_takes_alerts_is_a_route_and_no_pipeline_reads_it(plane: ControlPlane) -> None:
    wrong = plane.refused("policy.publish", policy=policy("p", monitor={"routes": ["log", "oncal", "shop"]}))
    assert [(one["path"], one["message"].partition(";")[0]) for one in wrong["issues"]] == [
        ("spec.monitor.routes[1]", "there is no connection 'oncal'"),
        ("spec.monitor.routes[2]", "connection 'shop' is of type postgres"),
    ]
    assert "did you mean `oncall`?" in wrong["issues"][0]["message"]
    plane.done("policy.publish", policy=policy("p", monitor={"routes": ["log", "oncall"]}))
    assert "gets the alerts of policy p" in plane.refused("connection.delete", name="oncall")["what"]
    plane.done("connection.delete", name="mail")
    assert "takes alerts only" in plane.refused("pipeline.apply", pipeline=pipeline("o", sink="oncall"))["what"]


def test_the_log_is_judged_as_it_was_recorded(plane: ControlPlane) -> None:
    opened(plane, "a1", "oncall", "mail")
    plane.end(sending(plane)[0], DOWN)
    plane.lose("w1")
    closed(plane)
    plane.restart(plane.snapshots(len(plane.cuts) // 2))
    assert judged(plane.log, plane.agents) == decisions(plane.log) != {}
