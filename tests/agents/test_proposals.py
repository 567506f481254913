"""Changes of schemas that runs propose: a person or the policy answers, and the pipeline follows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.control_plane import ControlPlane, pipeline, pipeline_set, policy

TYPE = {"rule": "types", "subject": "size", "to": "bigint"}
LOST = {"rule": "lost", "subject": "note"}
RENAMED = {"rule": "renames", "subject": "phone", "to": "phone_number", "confidence": 0.92}
MOVED = {"rule": "tables", "subject": "public.orders", "to": "crm.orders", "confidence": 1.0}


def of(plane: ControlPlane, name: str = "orders") -> dict[str, Any]:
    found: dict[str, Any] = plane.state("lifecycle")["pipelines"][name]
    return found


def meets(plane: ControlPlane, *proposed: dict[str, Any], code: str = "schema.mismatch") -> None:
    """Let a run fail that proposes changes; one that is open, else a new one."""
    if not any(run["pipeline"] == "orders" for run in plane.state("orchestrator")["runs"].values()):
        plane.run("orders")
    error = {"code": code, "what": "it has changed", "proposed": list(proposed)}
    plane.end(plane.task_of("orders"), error)


def open_ids(plane: ControlPlane) -> list[str]:
    return [id_ for id_, one in of(plane).get("proposals", {}).items() if one["status"] == "open"]


@pytest.fixture
def worked(orders: ControlPlane) -> ControlPlane:
    orders.join("w")
    return orders


def test_what_is_approved_is_in_a_version_that_runs_at_once(worked: ControlPlane) -> None:
    meets(worked, TYPE, LOST, code="schema.broken")
    assert of(worked)["status"] == "paused"
    assert [one.payload["proposal"]["rule"] for one in worked.of("change.proposed")] == ["types", "lost"]
    assert worked.done("change.answer", name="orders", ids=open_ids(worked), approve=True) == {"changed": 2}
    assert of(worked)["versions"][-1]["spec"]["schema"] == {"approved": ["types size bigint", "lost note"]}
    assert (of(worked)["status"], open_ids(worked)) == ("active", [])
    assert [run["version"] for run in worked.state("orchestrator")["runs"].values()] == [2]
    assert [one.payload["by"] for one in worked.of("change.answered")] == ["tests", "tests"]


def test_a_cast_that_is_approved_is_the_last_step(worked: ControlPlane) -> None:
    meets(worked, RENAMED)
    worked.done("change.answer", name="orders", ids=open_ids(worked), approve=True)
    meets(worked, {"rule": "casts", "subject": "size", "to": "integer", "rows": 400, "failed": 3, "confidence": 0.99})
    worked.done("change.answer", name="orders", ids=open_ids(worked), approve=True)
    steps = of(worked)["versions"][-1]["spec"]["transforms"]
    assert steps[1:] == [{"name": "cast-1", "cast": {"size": "integer"}}]
    assert "schema" not in of(worked)["versions"][-1]["spec"]


@pytest.mark.parametrize("mapped", [True, False])
def test_a_default_that_is_approved_is_in_the_place_of_the_column(plane: ControlPlane, *, mapped: bool) -> None:
    plane.join("w")
    document = pipeline("orders")
    fields = [{"target": "id", "from": "id"}, {"target": "remark", "from": "note"}]
    steps = [{"name": "put-1", "select": ["id", "note"]}]
    document["spec"] |= {"mapping": {"fields": fields}} if mapped else {"transforms": steps}
    plane.apply(document)
    meets(plane, {"rule": "defaults", "subject": "note", "to": "CAST(NULL AS text)"}, code="schema.broken")
    plane.done("change.answer", name="orders", ids=open_ids(plane), approve=True)
    spec = of(plane)["versions"][-1]["spec"]
    if mapped:
        assert spec["mapping"]["fields"] == [fields[0], {"target": "remark", "sql": "CAST(NULL AS text)"}]
    else:
        assert spec["transforms"] == [{"name": "put-2", "set": {"note": "CAST(NULL AS text)"}}, *steps]
    assert of(plane)["status"] == "active"


@pytest.mark.parametrize(("above", "taken"), [(0.98, True), (0.995, False)])
def test_the_policy_takes_a_cast_that_refuses_few_rows(worked: ControlPlane, above: float, *, taken: bool) -> None:
    rules = {"approve": ["casts"], "act_above": above}
    worked.done("policy.publish", policy=policy("p", evolution=rules))
    meets(worked, {"rule": "casts", "subject": "size", "to": "integer", "rows": 400, "failed": 3, "confidence": 0.99})
    assert (len(of(worked)["versions"]) == 2) == taken


def test_a_rename_and_a_move_are_followed_once_they_are_approved(worked: ControlPlane) -> None:
    meets(worked, RENAMED)
    worked.done("change.answer", name="orders", ids=open_ids(worked), approve=True)
    assert of(worked)["versions"][-1]["spec"]["transforms"][0]["rename"] == {"phone_number": "phone"}
    meets(worked, MOVED)
    worked.done("change.answer", name="orders", ids=open_ids(worked), approve=True)
    source = of(worked)["versions"][-1]["spec"]["source"]
    assert (source["object"], source["known_as"]) == ("crm.orders", "public.orders")
    document = pipeline("orders")
    document["spec"]["source"]["object"] = "crm.orders"
    worked.apply(document)
    assert of(worked)["versions"][-1]["spec"]["source"]["known_as"] == "public.orders", "its position is there"
    worked.apply(pipeline("orders"))
    assert "known_as" not in of(worked)["versions"][-1]["spec"]["source"]


@pytest.mark.parametrize(("code", "after"), [("schema.moved", "crm.orders"), ("schema.mismatch", "public.orders")])
def test_a_move_is_followed_at_once_if_the_rule_says_so(worked: ControlPlane, code: str, after: str) -> None:
    worked.run("orders")
    worked.end(worked.task_of("orders"), {"code": code, "what": "it was moved", "moved": "crm.orders"})
    assert of(worked)["versions"][-1]["spec"]["source"]["object"] == after


def test_a_name_in_an_expression_has_to_be_changed_by_hand(plane: ControlPlane) -> None:
    plane.join("w")
    document = pipeline("orders")
    document["spec"]["mapping"] = {"fields": [{"target": "loud", "sql": "upper(phone)"}]}
    plane.apply(document)
    meets(plane, RENAMED)
    refused = plane.refused("change.answer", name="orders", ids=open_ids(plane), approve=True)
    assert "expression" in refused["what"]


def test_what_is_denied_is_not_proposed_again_and_may_still_be_approved(worked: ControlPlane) -> None:
    meets(worked, TYPE)
    (id_,) = open_ids(worked)
    assert worked.done("change.answer", name="orders", ids=[id_], approve=False) == {"changed": 1}
    assert worked.done("change.answer", name="orders", ids=[id_], approve=False) == {"changed": 0}
    meets(worked, TYPE)
    assert (open_ids(worked), len(worked.of("change.proposed"))) == ([], 1)
    meets(worked, {**TYPE, "to": "numeric"})
    assert len(open_ids(worked)) == 1, "another type is another change"
    worked.done("change.answer", name="orders", ids=[id_], approve=True)
    assert of(worked)["versions"][-1]["spec"]["schema"]["approved"] == ["types size bigint"]


def test_a_proposal_is_void_once_a_run_completes_or_the_file_changes(worked: ControlPlane) -> None:
    meets(worked, TYPE)
    worked.run("orders")
    worked.end(worked.task_of("orders"))
    assert of(worked)["proposals"] == {}
    meets(worked, TYPE)
    worked.apply({**pipeline("orders"), "metadata": {"name": "orders", "owner": "me"}})
    assert of(worked)["proposals"] == {}
    assert {one.payload["answer"] for one in worked.of("change.answered")} == {"void"}
    assert "no such change" in worked.refused("change.answer", name="orders", ids=["x"], approve=True)["what"]
    assert "no pipeline" in worked.refused("change.answer", name="order", ids=["x"], approve=True)["what"]


@pytest.mark.parametrize(
    ("rules", "proposed", "follows"),
    [
        ({"approve": ["types"]}, [TYPE], True),
        ({"approve": ["types"]}, [TYPE, LOST], False),
        ({"approve": ["renames"], "act_above": 0.9}, [RENAMED], True),
        ({"approve": ["renames"], "act_above": 0.95}, [RENAMED], False),
    ],
)
def test_the_policy_approves_what_it_names_above_its_threshold(
    worked: ControlPlane, rules: dict[str, Any], proposed: list[dict[str, Any]], follows: bool
) -> None:
    worked.done("policy.publish", policy=policy("p", evolution=rules))
    meets(worked, *proposed, code="schema.broken")
    assert (of(worked)["status"], len(of(worked)["versions"])) == (("active", 2) if follows else ("paused", 1))
    assert len(open_ids(worked)) == (0 if follows else len(proposed))
    if follows:
        meets(worked, *proposed)
        assert len(of(worked)["versions"]) == 2, "it has not helped, so a person is asked"
        assert len(open_ids(worked)) == 1
        assert {one.payload["by"] for one in worked.of("change.answered")} == {"policy:p"}


def test_a_change_of_a_member_that_is_stopped_is_not_approved(plane: ControlPlane) -> None:
    plane.connect("shop", "house")
    plane.join("w", slots=9, kinds=("pipeline", "cleanup", "list"))
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.x")
    name = "shop/public.x"
    plane.run(name)
    plane.end(plane.task_of(name), {"code": "schema.mismatch", "what": "it has changed", "proposed": [TYPE]})
    plane.done("pipeline.stop", name=name)
    (id_,) = of(plane, name)["proposals"]
    refused = plane.command("change.answer", name=name, ids=[id_], approve=True)
    assert refused.type == "command.refused"
    assert refused.payload["hint"] == f"penstock resume {name}, then approve again"
    plane.done("pipeline.resume", name=name)
    plane.done("change.answer", name=name, ids=[id_], approve=True)
    plane.done("run.start", pipeline="shop")
    plane.find("shop", "public.x")
    assert of(plane, name)["versions"][-1]["spec"]["schema"] == {"approved": ["types size bigint"]}
