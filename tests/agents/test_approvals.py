"""Approvals: bound to a plan, until it expires or what it is about changes; one mechanism for all proposals."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.control_plane import ControlPlane, classified_as, pipeline, policy

TYPE = {"rule": "types", "subject": "size", "to": "bigint"}
LOST = {"rule": "lost", "subject": "note"}
RENAMED = {"rule": "renames", "subject": "phone", "to": "phone_number", "confidence": 0.92}
MEMORY = {"code": "memory.exceeded", "what": "the run used more memory than allowed", "transient": False}
DAY = 24 * 3600


@pytest.fixture
def plane(orders: ControlPlane) -> ControlPlane:
    orders.join("w", slots=9, kinds=("pipeline", "cleanup", "diagnose"))
    return orders


def of(plane: ControlPlane, name: str = "orders") -> dict[str, Any]:
    return dict(plane.state("lifecycle")["pipelines"][name])


def meets(plane: ControlPlane, *proposed: dict[str, Any]) -> list[dict[str, Any]]:
    """Let a run fail that proposes changes; return what is recorded of them."""
    if not any(run["pipeline"] == "orders" for run in plane.state("orchestrator")["runs"].values()):
        plane.run("orders")
    before = len(plane.of("change.proposed"))
    (task,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["kind"] == "pipeline"]
    plane.end(task, {"code": "schema.mismatch", "what": "it has changed", "proposed": list(proposed)})
    return [one.payload for one in plane.of("change.proposed")[before:]]


def refused(plane: ControlPlane, id_: str, **more: Any) -> str:
    return str(plane.refused("change.answer", name="orders", ids=[id_], approve=True, **more)["what"])


def test_a_proposal_shows_what_it_changes_and_until_when_it_stands(plane: ControlPlane) -> None:
    one, two = meets(plane, TYPE, RENAMED)
    assert one["plan"]["diff"] == [{"path": "spec.schema.approved", "after": ["types size bigint"]}]
    assert two["plan"]["diff"][0]["path"] == "spec.transforms"
    assert one["plan"]["version"] == 1
    assert one["plan"]["expires"][:10] == "2026-01-08", "seven days"
    assert one["plan"]["hash"] != two["plan"]["hash"]
    plane.done("change.answer", name="orders", ids=[one["id"]], approve=True, plans={one["id"]: one["plan"]["hash"]})
    answers = {each.payload["id"]: each.payload for each in plane.of("change.answered")}
    assert (answers[one["id"]]["answer"], answers[one["id"]]["plan"]) == ("approved", one["plan"]["hash"])
    assert (answers[two["id"]]["answer"], answers[two["id"]]["reason"]) == ("void", "the pipeline has version 2 now")


def test_another_plan_than_the_one_that_was_shown_is_not_approved(plane: ControlPlane) -> None:
    (one,) = meets(plane, TYPE)
    assert "another plan now" in refused(plane, one["id"], plans={one["id"]: "0" * 64})
    assert len(of(plane)["versions"]) == 1


@pytest.mark.parametrize("change", ["apply", "rollback", "policy"])
def test_what_is_proposed_is_void_once_the_pipeline_or_its_policy_changes(plane: ControlPlane, change: str) -> None:
    if change == "rollback":
        plane.apply({**pipeline("orders"), "metadata": {"name": "orders", "owner": "me"}})
    (one,) = meets(plane, TYPE)
    if change == "apply":
        plane.apply({**pipeline("orders"), "metadata": {"name": "orders", "owner": "you"}})
        reason = "the pipeline has version 2 now"
    elif change == "rollback":
        plane.done("pipeline.rollback", name="orders", to=1)
        reason = "the pipeline has version 3 now"
    else:
        plane.done("policy.publish", policy=policy("gold", applies={"tier": "gold"}, mapping={"act_above": 0.5}))
        assert plane.of("change.answered") == [], "that policy does not judge it"
        plane.done("policy.publish", policy=policy("p", mapping={"act_above": 0.5}))
        reason = "policy 'p' has changed"
    (answered,) = plane.of("change.answered")
    assert (answered.payload["answer"], answered.payload["reason"]) == ("void", reason)
    found = plane.refused("change.answer", name="orders", ids=[one["id"]], approve=True)
    assert (found["what"], found["hint"].startswith("`penstock run orders`")) == (
        f"change {one['id']}: is void: {reason}",
        True,
    )
    (again,) = meets(plane, TYPE)
    assert again["plan"]["hash"] != one["plan"]["hash"]
    assert plane.done("change.answer", name="orders", ids=[again["id"]], approve=True) == {"changed": 1}


def test_what_the_source_contradicts_is_void(plane: ControlPlane) -> None:
    meets(plane, RENAMED, LOST)

    def looks(*names: str) -> None:
        schema = {"fields": [{"name": name, "type": "text"} for name in names]}
        dataset = {"connection": "shop", "object": "public.orders"}
        plane.tell("schema.observed", "shop:public.orders", dataset=dataset, schema=schema)

    looks("id", "phone_number")
    assert plane.of("change.answered") == [], "it is as the run saw it"
    looks("id", "phone_number", "note")
    assert plane.of("change.answered")[-1].payload["reason"] == "the source has column 'note' again"
    looks("id", "phone_no")
    assert plane.of("change.answered")[-1].payload["reason"] == "the source has no column 'phone_number' any more"
    assert of(plane)["proposals"] == {}


@pytest.mark.parametrize(("then", "after"), [("ask", "expired"), ("deny", "denied")])
def test_nobody_answers_in_time(plane: ControlPlane, then: str, after: str) -> None:
    rules = {"approvals": {"expire": "2d", "then": then}}
    plane.done("policy.publish", policy=policy("p", constraints=rules))
    (one,) = meets(plane, TYPE)
    timer = plane.of("timer.requested")[-1].payload
    assert timer["due"] == one["plan"]["expires"]
    assert timer["due"][:10] == "2026-01-03"
    plane.tick(2 * DAY + 1)
    assert "is expired: nobody answered" in refused(plane, one["id"]), "although the timer has not fired yet"
    plane.fire(timer["timer"])
    plane.fire(timer["timer"])
    (answered,) = plane.of("change.answered")
    assert answered.payload["answer"] == after
    assert len(meets(plane, TYPE)) == (then == "ask"), "what is denied is not proposed again"


def test_what_the_policy_does_not_let_an_agent_set_waits_for_an_approval_like_any_other(plane: ControlPlane) -> None:
    plane.run("orders")
    (task,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["kind"] == "pipeline"]
    plane.fail(task, MEMORY, **{key: value for key, value in classified_as("resource").items() if key != "template"})
    (one,) = [record.payload for record in plane.of("change.proposed")]
    assert one["proposal"] == {
        "rule": "settings", "subject": "limits.batch_rows", "value": 16384, "confidence": 0.75,
    }  # fmt: skip
    assert one["plan"]["diff"] == [{"path": "spec.limits.batch_rows", "after": 16384}]
    plane.done("change.answer", name="orders", ids=[one["id"]], approve=True)
    updated = plane.of("pipeline.updated")[-1].payload
    assert (updated["pipeline"]["spec"]["limits"]["batch_rows"], updated["by"]) == (16384, "tests")
    assert len(plane.of("run.created")) == 2, "it runs at once"


def test_what_the_policy_approves_is_bound_to_its_plan_and_waits_for_nobody(plane: ControlPlane) -> None:
    plane.done("policy.publish", policy=policy("p", evolution={"approve": ["types"]}))
    (one,) = meets(plane, TYPE)
    (answered,) = plane.of("change.answered")
    assert (answered.payload["by"], answered.payload["plan"]) == ("policy:p", one["plan"]["hash"])
    assert [timer.payload for timer in plane.of("timer.requested") if one["id"] in timer.payload["timer"]] == []


def test_what_would_make_no_valid_pipeline_is_proposed_and_not_approved(plane: ControlPlane) -> None:
    plane.done("policy.publish", policy=policy("p", evolution={"approve": ["casts"]}))
    (one,) = meets(plane, {"rule": "casts", "subject": "s" * 200, "to": "bigint"})
    assert (plane.of("change.answered"), plane.of("agent.faulted")) == ([], [])
    assert "spec.transforms" in refused(plane, one["id"])
    assert len(of(plane)["versions"]) == 1


def test_what_is_void_is_known_by_name_and_bounded(plane: ControlPlane) -> None:
    for number in range(25):
        meets(plane, {**TYPE, "to": f"varchar({number})"})
        plane.apply({**pipeline("orders"), "metadata": {"name": "orders", "owner": f"o{number}"}})
    assert len(of(plane)["ended"]) == 20
    assert of(plane)["proposals"] == {}


def test_a_proposal_of_an_older_release_can_be_answered(plane: ControlPlane) -> None:
    (one,) = meets(plane, TYPE)
    at = next(number for number, record in enumerate(plane.log) if record.type == "change.proposed")
    payload = {key: value for key, value in one.items() if key != "plan"}
    log = [*plane.log[:at], plane.log[at].replaced(payload=payload), *plane.log[at + 1 :]]
    older = ControlPlane(log=log)
    assert "plan" not in older.of("change.proposed")[0].payload
    assert older.done("change.answer", name="orders", ids=[one["id"]], approve=True) == {"changed": 1}
