"""Checks, listings and discoveries that nobody waits for: an incident for each until it works again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from penstock.records import Record
from tests.agents.control_plane import ERROR, FATAL, ControlPlane, decisions, judged, pipeline, pipeline_set, policy

KINDS = ("pipeline", "list", "check", "deletes", "discover")


@pytest.fixture
def plane() -> ControlPlane:
    plane = ControlPlane()
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
    return plane.task_of("orders")


def found(plane: ControlPlane, task: dict[str, Any], **differing: int) -> list[Record]:
    uid = plane.state("orchestrator")["pipelines"]["orders"]["uid"]
    result = {"name": "orders", "uid": uid, "source_rows": 3, "target_rows": 3, "agree": not differing, **differing}
    attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
    return plane.tell("task.completed", task["id"], **attempt, checked=result)


def opened(plane: ControlPlane) -> dict[str, Any]:
    """Return the only incident that is open."""
    over = {one.key for one in plane.of("incident.closed")}
    (record,) = [one for one in plane.of("incident.opened") if one.key not in over]
    return dict(record.payload)


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
