"""Checks, listings and discoveries that nobody waits for: an incident for each until it works again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.records import Record, decode, encode
from tests.agents.control_plane import (
    ERROR,
    FATAL,
    ControlPlane,
    decisions,
    judged,
    pipeline,
    pipeline_set,
    policy,
    postgres,
)
from tests.agents.queue_model import assert_shares

KINDS = ("pipeline", "list", "check", "deletes", "discover")


@pytest.fixture
def plane() -> ControlPlane:
    return begun()


def begun(batch: int = 1) -> ControlPlane:
    """Return a control plane with two connections and a worker."""
    plane = ControlPlane(batch=batch)
    plane.connect("shop", "house")
    plane.join("w", slots=4, kinds=KINDS)
    return plane


def checked(plane: ControlPlane, **spec: Any) -> None:
    document = pipeline("orders")
    document["spec"] |= {"check": {"every": "1h"}, **spec}
    plane.apply(document)


def due(plane: ControlPlane, kind: str = "check") -> dict[str, Any]:
    """Let a comparison fall due; return its task."""
    timer = plane.state("orchestrator")["pipelines"]["orders"]["comparing"][kind]
    plane.now = max(plane.now, datetime.fromisoformat(timer["due"]))
    plane.fire(timer["timer"])
    return comparing(plane, kind)


def comparing(plane: ControlPlane, kind: str = "check") -> dict[str, Any]:
    """Return the open comparison of a kind, next to which there may be a diagnosis."""
    (task,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["kind"] == kind]
    return dict(task)


def found(plane: ControlPlane, task: dict[str, Any], **differing: int) -> list[Record]:
    uid = plane.state("orchestrator")["pipelines"]["orders"]["uid"]
    result = {"name": "orders", "uid": uid, "source_rows": 3, "target_rows": 3, "agree": not differing, **differing}
    attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
    return plane.tell("task.completed", task["id"], **attempt, checked=result)


def open_ones(plane: ControlPlane) -> list[dict[str, Any]]:
    """Return the incidents that are open."""
    over = {one.key for one in plane.of("incident.closed")}
    return [dict(one.payload) for one in plane.of("incident.opened") if one.key not in over]


def opened(plane: ControlPlane) -> dict[str, Any]:
    """Return the only incident that is open."""
    (one,) = open_ones(plane)
    return one


def test_a_check_that_finds_differences_has_an_incident_until_both_sides_agree(plane: ControlPlane) -> None:
    checked(plane)
    found(plane, due(plane), missing=2, changed=1)
    assert opened(plane) | {"id": ""} == {
        "id": "", "component": "check", "pipeline": "orders", "kind": "data",
        "fingerprint": opened(plane)["fingerprint"], "what": "both sides differ: 2 missing, 1 changed rows",
        "hint": "penstock check orders --last", "facts": {"component": "check", "subject": "orders"},
    }  # fmt: skip
    found(plane, due(plane), extra=1)
    assert len(plane.of("incident.opened")) == 1
    plane.run("orders")
    plane.end(plane.task_of("orders"))
    assert plane.of("incident.closed") == [], "a run that works says nothing of it"
    found(plane, due(plane))
    assert [one.payload["reason"] for one in plane.of("incident.closed")] == ["check orders works again"]
    assert judged(plane.log, plane.agents) == decisions(plane.log)


@pytest.mark.parametrize("kind", ["check", "deletes"])
def test_a_comparison_that_cannot_compare_has_an_incident(plane: ControlPlane, kind: str) -> None:
    spec: dict[str, Any] = (
        {"deletes": {"compare": "keys", "mark": "remove", "every": "1h"}} if kind == "deletes" else {}
    )
    merged = {"sink": {**pipeline("orders")["spec"]["sink"], "write": "merge", "key": ["id"]}} if spec else {}
    checked(plane, **spec, **merged)
    plane.fail(due(plane, kind), FATAL)
    incident = opened(plane)
    assert (incident["component"], incident["pipeline"], incident["what"]) == (kind, "orders", FATAL["what"])
    document = pipeline("orders")
    plane.apply(document)
    assert [one.payload["reason"] for one in plane.of("incident.closed")] == ["its pipeline no longer asks for it"]


def test_a_listing_that_fails_has_an_incident_until_the_next_one(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop", "public.*"))
    plane.fail(plane.task_of("shop"), FATAL)
    assert (opened(plane)["component"], opened(plane)["pipeline"]) == ("listing", "shop")
    plane.done("run.start", pipeline="shop")
    plane.find("shop", "public.a")
    assert [one.payload["reason"] for one in plane.of("incident.closed")] == ["listing shop works again"]


def discovering(plane: ControlPlane) -> dict[str, Any]:
    (task,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["kind"] == "discover"]
    return dict(task)


def test_a_discovery_by_schedule_has_an_incident_one_that_was_asked_for_has_none(plane: ControlPlane) -> None:
    plane.done("discovery.start", connection="shop")
    plane.fail(discovering(plane), FATAL)
    assert plane.of("incident.opened") == [], "whoever asked for it has the error"
    plane.done("policy.publish", policy=policy("p", discovery={"every": "1h"}))
    timer = next(one for one in plane.of("timer.requested") if one.payload["subject"] == "discovery shop")
    plane.fire(timer.key)
    plane.fail(discovering(plane), ERROR)
    assert plane.of("incident.opened") == [], "it is tried again"
    plane.fire(plane.of("timer.requested")[-1].key)
    plane.fail(discovering(plane), FATAL)
    assert (opened(plane)["component"], opened(plane)["connection"]) == ("discovery", "shop")
    plane.done("discovery.start", connection="shop")
    plane.end(discovering(plane))
    assert [one.payload["reason"] for one in plane.of("incident.closed")] == ["discovery shop works again"]
    assert judged(plane.log, plane.agents) == decisions(plane.log)


def test_a_check_of_a_part_closes_no_incident(plane: ControlPlane) -> None:
    checked(plane)
    found(plane, due(plane), missing=2, partly=True)
    assert opened(plane)["what"] == "both sides differ: at least 2 missing rows"
    plane.done("check.start", name="orders", since="2026-01-01")
    found(plane, plane.task_of("orders"))
    assert opened(plane)["component"] == "check", "the rest was not compared"
    plane.done("check.start", name="orders")
    found(plane, plane.task_of("orders"))
    assert open_ones(plane) == []


def test_what_kept_a_check_from_comparing_is_over_once_it_finds_differences(plane: ControlPlane) -> None:
    checked(plane)
    plane.fail(due(plane), FATAL)
    found(plane, due(plane), missing=2)
    assert opened(plane)["what"] == "both sides differ: 2 missing rows"
    assert [one.payload["reason"] for one in plane.of("incident.closed")] == ["check orders compares again"]
    plane.fail(due(plane), FATAL)
    assert opened(plane)["what"] == "both sides differ: 2 missing rows", "they still do, as far as is known"


def test_what_a_worker_finds_after_it_was_lost_opens_nothing(plane: ControlPlane) -> None:
    checked(plane)
    late = due(plane)
    plane.lose("w")
    plane.join("w2", slots=4, kinds=KINDS)
    found(plane, late, missing=1)
    assert open_ones(plane) == []
    plane.fail(comparing(plane), FATAL)
    assert opened(plane)["what"] == FATAL["what"]


def test_comparisons_of_keys_that_are_by_command_only_have_no_incident(plane: ControlPlane) -> None:
    deletes = {"compare": "keys", "mark": "remove"}
    merged = {**pipeline("orders")["spec"]["sink"], "write": "merge", "key": ["id"]}
    checked(plane, deletes={**deletes, "every": "1h"}, sink=merged)
    plane.fail(due(plane, "deletes"), FATAL)
    assert opened(plane)["component"] == "deletes"
    checked(plane, deletes=deletes, sink=merged)
    assert open_ones(plane) == []


@pytest.mark.parametrize("what", ["listing", "discovery"])
def test_what_fails_while_it_is_deleted_has_no_incident(plane: ControlPlane, what: str) -> None:
    if what == "listing":
        plane.apply(pipeline_set("shop", "public.*"))
        task, command = plane.task_of("shop"), plane.record("pipeline.delete", "shop", {"name": "shop"})
    else:
        plane.done("policy.publish", policy=policy("p", discovery={"every": "1h"}))
        timer = next(one for one in plane.of("timer.requested") if one.payload["subject"] == "discovery shop")
        plane.fire(timer.key)
        task, command = discovering(plane), plane.record("connection.delete", "shop", {"name": "shop"})
    plane.batch = 3  # each agent reads the command, the error and the failure before it reads what others decide
    plane.log.append(decode(encode(command)))
    plane.fail(task, FATAL)
    assert [one.type for one in plane.log if one.type in {"pipeline.deleted", "connection.deleted", "task.closed"}] == [
        "pipeline.deleted" if what == "listing" else "connection.deleted", "task.closed",
    ]  # fmt: skip
    assert open_ones(plane) == [], "nothing would close it"
    assert plane.state("error_resolution")["chores"] == {}


@pytest.mark.parametrize(
    ("rules", "left"), [({}, 0), ({"every": "1h", "autonomy": "propose"}, 0), ({"every": "2h"}, 1)]
)
def test_discoveries_that_no_policy_asks_for_have_no_incident(
    plane: ControlPlane, rules: dict[str, str], left: int
) -> None:
    plane.done("policy.publish", policy=policy("p", discovery={"every": "1h"}))
    plane.fire(next(one.key for one in plane.of("timer.requested") if one.payload["subject"] == "discovery shop"))
    plane.fail(discovering(plane), FATAL)
    assert opened(plane)["component"] == "discovery"
    plane.done("policy.publish", policy=policy("p", discovery=rules))
    assert len(open_ones(plane)) == left
    assert judged(plane.log, plane.agents) == decisions(plane.log)


SPECS: dict[str, dict[str, Any]] = {
    "apply": {},
    "apply_check": {"check": {"every": "1h"}},
    "apply_deletes": {
        "deletes": {"compare": "keys", "mark": "remove", "every": "2h"},
        "sink": {**pipeline("orders")["spec"]["sink"], "write": "merge", "key": ["id"]},
    },
}
COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ("pipeline.apply", {"pipeline": {**pipeline("orders"), "spec": {**pipeline("orders")["spec"], **spec}}})
       for name, spec in SPECS.items()},
    **{f"{verb}_{name}": (f"pipeline.{verb}", {"name": name})
       for verb in ("pause", "resume", "delete") for name in ("orders", "set")},
    "apply_set": ("pipeline.apply", {"pipeline": pipeline_set("set")}),
    "check": ("check.start", {"name": "orders"}),
    "check_part": ("check.start", {"name": "orders", "since": "1"}),
    "list": ("run.start", {"pipeline": "set"}),
    "discover": ("discovery.start", {"connection": "shop"}),
    "disconnect": ("connection.delete", {"name": "shop"}),
    "connect": ("connection.put", {"name": "shop", "connection": postgres("shop")}),
    "unschedule": ("policy.publish", {"policy": policy("p")}),
    "schedule": ("policy.publish", {"policy": policy("p", discovery={"every": "1h"})}),
    "halt": ("agent.halt", {"agent": "error_resolution"}),
    "act": ("agent.resume", {"agent": "error_resolution"}),
}  # fmt: skip
REPORTS = ("agree", "differ", "fail", "retry", "late")
OTHERS = ("due", "due_deletes", "timers", "lose", "join", "restart", "restart_with_snapshots")
STEPS = (*COMMANDS, *REPORTS * 3, *OTHERS)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=30), batch=st.integers(1, 6))
def test_whatever_happens_incidents_are_about_what_is_there_and_open_once(steps: list[str], batch: int) -> None:
    plane = begun(batch)
    checked(plane)
    attempts: list[dict[str, Any]] = []
    for step in steps:
        if step in COMMANDS:
            plane.command(COMMANDS[step][0], **COMMANDS[step][1])
        elif step in REPORTS:
            report(plane, step, attempts)
        else:
            happen(plane, step)
        hold(plane)
    plane.restart()
    hold(plane)
    assert judged(plane.log, plane.agents) == decisions(plane.log)


def hold(plane: ControlPlane) -> None:
    """Expect what is true of every state."""
    assert plane.of("agent.faulted") == []
    kept, there = plane.state("error_resolution"), plane.state("orchestrator")
    assert_shares(there)
    assert kept["chores"].keys() <= there["tasks"].keys(), "bounded by what is open"
    assert (
        kept["incidents"].keys()
        == plane.state("monitor")["incidents"].keys()
        == {one["id"] for one in open_ones(plane)}
    )
    about = [one for one in kept["incidents"].values() if one.get("component")]
    assert len({one["component"] for one in about}) == len(about), "each is open once"
    assert all(one["pipeline"] in there["pipelines"] or one["connection"] in there["connections"] for one in about)


def report(plane: ControlPlane, step: str, attempts: list[dict[str, Any]]) -> None:
    """Report the outcome of the first attempt at work, or again that of an earlier one."""
    tasks = [one for one in plane.state("orchestrator")["tasks"].values() if one["status"] == "assigned"]
    if step != "late":
        attempts += tasks[:1]
    if not (attempts if step == "late" else tasks):
        return
    task = attempts[0] if step == "late" else tasks[0]
    if step in {"fail", "retry"}:
        plane.fail(task, FATAL if step == "fail" else ERROR)
        return
    attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
    result = {"name": "orders", "uid": "u", "source_rows": 3, "target_rows": 3, "agree": step == "agree"}
    plane.tell("task.completed", task["id"], **attempt, **({"checked": result} if task["kind"] == "check" else {}))


def happen(plane: ControlPlane, step: str) -> None:
    """Do what happens without a command: timers fire, workers are lost and join, the control process starts again."""
    state = plane.state("orchestrator")
    if step.startswith("due"):
        comparing = state["pipelines"].get("orders", {}).get("comparing", {})
        if one := comparing.get("check" if step == "due" else "deletes"):
            plane.now = max(plane.now, datetime.fromisoformat(one["due"]))
            plane.fire(one["timer"])
    elif step == "timers":
        waiting = [one["timer"] for one in state["tasks"].values() if one.get("timer")]
        for timer in (*plane.state("discovery")["timers"].values(), *waiting):
            plane.fire(timer)
    elif step == "lose":
        for name in list(state["workers"])[:1]:
            plane.lose(name)
    elif step == "join":
        plane.join(f"w{len(plane.log)}", slots=4, kinds=(*KINDS, "cleanup", "diagnose"))
    else:
        plane.restart(plane.snapshots() if step.endswith("snapshots") else None)
