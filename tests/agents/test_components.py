"""Components of Penstock that fail: one incident for each until it works again, whatever it fails of meanwhile."""

from __future__ import annotations

from typing import Any

from penstock.records import Record
from tests.agents.control_plane import ControlPlane, decisions, judged

ERROR = {
    "code": "schema.missing_table",
    "what": "metrics are not counted: no table",
    "where": "catalog",
    "hint": "look",
}
FOUND = {"kind": "schema", "confidence": 0.9, "origin": "platform", "fingerprint": "f1", "template": "no table"}


def fail(
    plane: ControlPlane,
    component: str,
    subject: str | None = None,
    fingerprint: str = "f1",
    kind: str = "schema",
) -> list[Record]:
    about: dict[str, Any] = {"component": component} | ({"subject": subject} if subject else {})
    classified = FOUND | {"fingerprint": fingerprint, "kind": kind, "signs": ["SQLSTATE 42P01"]}
    return plane.tell("component.failed", component, **about, error=ERROR, classified=classified)


def test_a_component_that_fails_has_one_incident_until_it_works_again() -> None:
    plane = ControlPlane()
    fail(plane, "metering")
    (opened,) = plane.of("incident.opened")
    assert opened.payload == {
        "id": opened.key, "component": "metering", "fingerprint": "f1", "kind": "schema", "hint": "look",
        "what": "catalog: metrics are not counted: no table", "raised": plane.of("component.failed")[0].id,
        "facts": {"component": "metering", "signs": ["SQLSTATE 42P01"]},
    }  # fmt: skip
    assert fail(plane, "metering", fingerprint="f2") == [], "the open incident covers what else it fails of"
    assert plane.tell("component.recovered", "sealing", component="sealing") == [], "another one says nothing of it"
    plane.restart()
    assert plane.of("incident.closed") == [], "a new control process repairs no other component"
    plane.tell("component.recovered", "metering", component="metering")
    (closed,) = plane.of("incident.closed")
    assert closed.payload == {"id": opened.key, "reason": "metering works again"}
    assert plane.tell("component.recovered", "metering", component="metering") == []
    fail(plane, "metering")
    assert len(plane.of("incident.opened")) == 2
    assert judged(plane.log, plane.agents) == decisions(plane.log)


def test_a_temporary_failure_of_a_component_has_time_to_pass() -> None:
    plane = ControlPlane()
    fail(plane, "openlineage", kind="transient")
    (timer,) = (one.payload for one in plane.of("timer.requested"))
    plane.tell("component.recovered", "openlineage", component="openlineage")
    plane.fire(timer["timer"])
    assert plane.of("incident.opened") == [], "it has passed"
    fail(plane, "openlineage", kind="transient")
    fail(plane, "openlineage", fingerprint="f2", kind="transient")
    (again,) = (one.payload for one in plane.of("timer.requested")[1:])
    plane.restart()
    plane.fire(again["timer"])
    (opened,) = plane.of("incident.opened")
    assert opened.payload["fingerprint"] == "f1"
    plane.tell("component.recovered", "openlineage", component="openlineage")
    assert [one.key for one in plane.of("incident.closed")] == [opened.key]
    fail(plane, "openlineage", kind="transient")
    fail(plane, "openlineage", fingerprint="f3", kind="permission")
    assert plane.of("incident.opened")[-1].payload["fingerprint"] == "f3", "what does not pass is told at once"
    assert plane.state("error_resolution")["components"] == {}
    assert judged(plane.log, plane.agents) == decisions(plane.log)


def test_parts_of_a_component_have_incidents_of_their_own() -> None:
    plane = ControlPlane()
    for name in ("policies/a.yaml", "policies/b.yaml", "policies/a.yaml"):
        fail(plane, "policy_files", name)
    assert len(plane.of("incident.opened")) == 2
    plane.tell("component.recovered", "policy_files", component="policy_files", subject="policies/a.yaml")
    assert [one.payload["reason"] for one in plane.of("incident.closed")] == [
        "policy_files policies/a.yaml works again"
    ]
