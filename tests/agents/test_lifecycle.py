from __future__ import annotations

from typing import Any

import pytest

from agents.proposals import following
from penstock.records import Record, encode
from tests.agents.control_plane import ControlPlane, pipeline, policy, postgres


def of(plane: ControlPlane, name: str) -> dict[str, Any]:
    found: dict[str, Any] = plane.state("lifecycle")["pipelines"][name]
    return found


def test_each_change_of_a_pipeline_is_a_version(orders: ControlPlane) -> None:
    first = of(orders, "orders")["versions"][0]
    changed = pipeline("orders") | {"metadata": {"name": "orders", "owner": "me"}}
    assert orders.apply(changed)["version"] == 2
    assert of(orders, "orders")["versions"] == [first, changed]
    assert [r.payload["version"] for r in orders.log if r.type.startswith("pipeline.") and "version" in r.payload] == [
        1,
        2,
    ]


def test_applying_an_unchanged_pipeline_changes_nothing(orders: ControlPlane) -> None:
    before = orders.states()
    assert orders.apply(pipeline("orders")) == {"version": 1, "changed": False}
    assert orders.states() == before
    assert orders.of("pipeline.updated") == []


@pytest.mark.parametrize(("expect", "seen"), [(0, 1), (2, 1)])
def test_a_change_expecting_another_version_is_refused(orders: ControlPlane, expect: int, seen: int) -> None:
    document = pipeline("orders", tier="gold")
    refusal = orders.refused("pipeline.apply", pipeline=document, expect=expect)
    assert refusal["what"] == f"pipeline orders: is at version {seen}, not {expect}"
    assert orders.apply(document, expect=1)["version"] == 2
    assert orders.refused("pipeline.pause", name="orders", expect=1)["code"] == "refused"


def test_creating_expects_no_version(plane: ControlPlane) -> None:
    assert plane.refused("pipeline.apply", pipeline=pipeline("orders"), expect=1)["code"] == "refused"
    assert plane.apply(pipeline("orders"), expect=0)["version"] == 1


def test_a_rollback_is_a_new_version_equal_to_the_old_one(orders: ControlPlane) -> None:
    orders.apply(pipeline("orders", tier="gold"))
    assert orders.done("pipeline.rollback", name="orders", to=1)["version"] == 3
    versions = of(orders, "orders")["versions"]
    assert versions[2] == versions[0] != versions[1]
    assert orders.of("pipeline.updated")[-1].payload["rollback_of"] == 1
    assert orders.done("pipeline.rollback", name="orders", to=1) == {"version": 3, "changed": False}
    refusal = orders.refused("pipeline.rollback", name="orders", to=9)
    assert (refusal["code"], refusal["exit_code"]) == ("not_found", 3)
    assert "1 to 3" in refusal["hint"]


def test_a_rollback_to_a_deleted_connection_is_refused_with_its_path(plane: ControlPlane) -> None:
    plane.connect("old")
    plane.apply(pipeline("orders", source="old"))
    plane.apply(pipeline("orders"))
    plane.done("connection.delete", name="old")
    refusal = plane.refused("pipeline.rollback", name="orders", to=1)
    assert [issue["path"] for issue in refusal["issues"]] == ["spec.source.connection"]


def test_a_deletion_cleans_up_first_and_frees_the_name(orders: ControlPlane) -> None:
    first = of(orders, "orders")["uid"]
    orders.done("pipeline.delete", name="orders")
    assert of(orders, "orders")["status"] == "deleting"
    assert orders.refused("pipeline.apply", pipeline=pipeline("orders", tier="gold"))["what"].endswith(
        "is being deleted"
    )
    assert orders.refused("pipeline.rollback", name="orders", to=1)["what"].endswith("is being deleted")
    orders.join("w")
    assert orders.task_of("orders")["kind"] == "cleanup"
    orders.end(orders.task_of("orders"))
    assert orders.of("pipeline.deleted")[0].payload == {"name": "orders", "uid": first}
    assert orders.state("lifecycle")["pipelines"] == orders.state("orchestrator")["pipelines"] == {}
    assert orders.apply(pipeline("orders"))["uid"] != first


def test_a_deletion_can_be_repeated_after_a_failed_clean_up(orders: ControlPlane) -> None:
    orders.join("w")
    orders.done("pipeline.delete", name="orders")
    orders.end(orders.task_of("orders"), {"code": "schema.mismatch", "what": "it is a view", "transient": False})
    assert of(orders, "orders")["status"] == "deleting"
    assert orders.state("orchestrator")["tasks"] == {}
    orders.done("pipeline.delete", name="orders")
    orders.end(orders.task_of("orders"))
    assert orders.state("lifecycle")["pipelines"] == {}


def test_a_deletion_passes_drop_table_to_the_clean_up(orders: ControlPlane) -> None:
    orders.join("w")
    orders.done("pipeline.delete", name="orders", drop_table=True)
    assert orders.of("task.assigned")[-1].payload["drop_table"] is True


def test_a_connection_in_use_is_not_deleted(orders: ControlPlane) -> None:
    assert orders.refused("connection.delete", name="shop")["what"] == "connection shop: is used by orders"
    orders.connect("spare")
    orders.done("connection.delete", name="spare")
    assert set(orders.state("lifecycle")["connections"]) == {"shop", "house"}


def test_a_connection_has_versions_too(plane: ControlPlane) -> None:
    assert plane.done("connection.put", name="shop", connection=postgres("shop")) == {"version": 1, "changed": False}
    assert plane.done("connection.put", name="shop", connection=postgres("other")) == {"version": 2, "changed": True}


@pytest.mark.parametrize(
    ("connection", "path"),
    [
        (postgres("x") | {"password": "hunter2"}, "shop.password"),
        ({"type": "postgres", "dsn": "postgresql://me:hunter2@localhost/x"}, "shop.dsn"),
        (postgres("x") | {"pasword": "${env:PENSTOCK_SECRET_X}"}, "shop.pasword"),
        ({"type": "oracle"}, "shop"),
    ],
)
def test_a_connection_with_a_literal_secret_or_a_typo_is_refused_with_its_path(
    plane: ControlPlane, connection: dict[str, Any], path: str
) -> None:
    refusal = plane.refused("connection.put", name="shop", connection=connection)
    assert [issue["path"] for issue in refusal["issues"]] == [path]
    answers = [record for record in plane.log if record.type != "connection.put"]
    assert "hunter2" not in str([encode(record) for record in answers])


def test_a_pipeline_over_an_unknown_connection_is_refused_with_the_nearest_name(plane: ControlPlane) -> None:
    refusal = plane.refused("pipeline.apply", pipeline=pipeline("orders", source="shp", sink="lake"))
    assert [issue["path"] for issue in refusal["issues"]] == ["spec.source.connection", "spec.sink.connection"]
    assert "did you mean `shop`?" in refusal["issues"][0]["message"]


@pytest.mark.parametrize("command", ["pipeline.pause", "pipeline.resume", "pipeline.stop", "pipeline.delete"])
def test_an_unknown_pipeline_is_not_found_with_the_nearest_name(orders: ControlPlane, command: str) -> None:
    refusal = orders.refused(command, name="ordres")
    assert (refusal["exit_code"], refusal["hint"]) == (3, "did you mean `orders`?")


def test_an_unknown_command_is_refused_with_a_suggestion(plane: ControlPlane) -> None:
    refusal = plane.refused("pipeline.aply", pipeline=pipeline("orders"))
    assert (refusal["code"], refusal["exit_code"]) == ("usage", 2)
    assert refusal["hint"] == "did you mean `pipeline.apply`?"


def test_a_command_of_a_later_release_is_refused(plane: ControlPlane) -> None:
    (decided, refused) = plane.put(plane.record("pipeline.pause", "orders", {"name": "orders"}, version=99))
    assert (decided.payload["outcome"], refused.type) == ("refused", "command.refused")


@pytest.mark.parametrize(
    "payload", [{}, {"name": "orders", "nme": 1}, {"name": ["orders"]}, {"name": "orders", "expect": -1}]
)
def test_a_malformed_command_is_refused_with_its_issues(orders: ControlPlane, payload: dict[str, Any]) -> None:
    command = orders.record("pipeline.pause", "orders", payload)
    before = orders.states()
    answer = orders.put(command)[-1]
    assert (answer.type, answer.payload["code"]) == ("command.refused", "document.invalid")
    assert answer.payload["issues"]
    assert orders.states() == before


def test_an_invalid_policy_leaves_the_old_one_in_force(plane: ControlPlane) -> None:
    document = policy("default", orchestrator={"max_running": 7})
    first = plane.done("policy.publish", policy=document)
    assert first["changed"] is True
    assert plane.done("policy.publish", policy=document) == {"hash": first["hash"], "changed": False}
    bad = policy("default", orchestrator={"max_runing": 7})
    refusal = plane.refused("policy.publish", policy=bad)
    assert [issue["path"] for issue in refusal["issues"]] == ["spec.orchestrator.max_runing"]
    assert len(plane.of("policy.accepted")) == 1
    assert {policy.hash for fold in plane.folds for policy in fold.policies.all()} == {first["hash"]}


def test_policies_that_tie_are_refused_even_when_sent_at_once(plane: ControlPlane) -> None:
    plane.done("policy.publish", policy=policy("default"))
    assert plane.refused("policy.publish", policy=policy("other"))["what"].startswith("policy other: ties with")
    both = [
        plane.record("policy.publish", name, {"policy": policy(name, applies=applies)})
        for name, applies in (("gold", {"tier": "gold"}), ("mine", {"team": "me"}), ("silver", {"tier": "silver"}))
    ]
    answers = [record.type for record in plane.put(*both) if record.type.startswith("command.")]
    assert answers == ["command.applied", "command.refused", "command.applied"]


def test_the_hash_of_a_policy_does_not_depend_on_the_order_of_keys(plane: ControlPlane) -> None:
    first = policy("default", orchestrator={"priorities": {"gold": 10, "silver": 5}})
    second = policy("default", orchestrator={"priorities": {"silver": 5, "gold": 10}})
    accepted = plane.done("policy.publish", policy=first)
    assert plane.done("policy.publish", policy=second) == {"hash": accepted["hash"], "changed": False}


def test_a_policy_published_twice_at_once_is_accepted_once(plane: ControlPlane) -> None:
    twice = [plane.record("policy.publish", "default", {"policy": policy("default")}) for _ in range(2)]
    answers = [one.payload["result"]["changed"] for one in plane.put(*twice) if one.type == "command.applied"]
    assert answers == [True, False]


def test_a_forbidden_command_is_refused_with_its_exit_code(orders: ControlPlane) -> None:
    orders.done("policy.publish", policy=policy("careful", constraints={"never": ["drop_table"]}))
    refusal = orders.refused("pipeline.delete", name="orders", drop_table=True)
    assert (refusal["code"], refusal["exit_code"]) == ("refused.policy", 4)
    assert "careful" in refusal["what"]
    assert orders.done("pipeline.delete", name="orders")["status"] == "deleting"


def test_the_policy_of_a_pipelines_labels_judges_its_deletion(plane: ControlPlane) -> None:
    plane.apply(pipeline("orders", tier="gold"))
    plane.apply(pipeline("visits"))
    plane.done("policy.publish", policy=policy("default"))
    plane.done("policy.publish", policy=policy("gold", applies={"tier": "gold"}, constraints={"never": ["drop_table"]}))
    assert plane.refused("pipeline.delete", name="orders", drop_table=True)["exit_code"] == 4
    hashes = [record.payload["hash"] for record in plane.of("policy.accepted")]
    assert plane.of("agent.decided")[-1].payload["policy"] == hashes[1] != hashes[0]
    assert plane.done("pipeline.delete", name="visits", drop_table=True)["status"] == "deleting"


def test_every_decision_has_a_reason_and_a_policy(orders: ControlPlane) -> None:
    orders.done("policy.publish", policy=policy("default"))
    orders.done("pipeline.pause", name="orders")
    decided: Record = orders.of("agent.decided")[-1]
    assert decided.payload["action"] == "pause"
    assert decided.payload["policy"] == orders.of("policy.accepted")[0].payload["hash"]
    assert decided.payload["reason"] == "active -> paused"
    assert (decided.cause, decided.brain) == ((orders.log.index(orders.of("pipeline.pause")[0]), 0), 0)


def test_a_version_names_who_asked_for_it() -> None:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.apply(pipeline("orders"))
    (created,) = plane.of("pipeline.created")
    command = next(record for record in plane.log if record.type == "pipeline.apply")
    assert created.payload["by"] == command.actor != created.actor


def test_the_rule_of_a_dataset_is_set_and_changed_again(plane: ControlPlane) -> None:
    dataset = {"connection": "shop", "object": "public.orders"}
    unknown = plane.refused("dataset.configure", dataset={**dataset, "connection": "shp"}, compatibility="full")
    assert (unknown["code"], unknown["hint"]) == ("not_found", "did you mean `shop`?")
    for rule, before in (("full", "none"), ("backward_transitive", "full"), ("none", "backward_transitive")):
        done = plane.done("dataset.configure", dataset=dataset, compatibility=rule)
        assert done == {"compatibility": rule, "before": before, "changed": True}
        assert plane.state("lifecycle")["datasets"] == ({} if rule == "none" else {"shop:public.orders": rule})
        assert plane.done("dataset.configure", dataset=dataset, compatibility=rule)["changed"] is False
    assert [record.payload["compatibility"] for record in plane.of("dataset.configured")] == [
        "full", "backward_transitive", "none",
    ]  # fmt: skip
    assert "compatibility" in str(plane.refused("dataset.configure", dataset=dataset, compatibility="most")["issues"])


def fail(plane: ControlPlane, name: str, **error: Any) -> str:
    """Start a run of a pipeline and let it fail; return its id."""
    run: str = plane.done("run.start", pipeline=name)["run"]
    task = next(task for task in plane.state("orchestrator")["tasks"].values() if task["run"] == run)
    attempt = {"task": task["id"], "run": run, "attempt": task["attempt"], "worker": task["worker"]}
    plane.tell("task.failed", task["id"], **attempt, error={"code": "x", "what": "it has changed", **error})
    return run


def test_a_broken_schema_pauses_its_pipeline_only(orders: ControlPlane) -> None:
    orders.join("w")
    orders.apply(pipeline("others"))
    fail(orders, "orders", code="schema.missing_column")
    assert of(orders, "orders")["status"] == "active"
    fail(orders, "orders", code="schema.broken")
    assert (of(orders, "orders")["status"], of(orders, "others")["status"]) == ("paused", "active")
    decided = [one.payload for one in orders.of("agent.decided") if one.payload["action"] == "pause"]
    assert [(one["subject"], one["reason"]) for one in decided] == [("orders", "it has changed")]
    orders.done("pipeline.resume", name="orders")
    assert orders.done("run.start", pipeline="orders")["run"]


def test_a_renamed_column_is_followed_by_a_new_version_that_runs_at_once(orders: ControlPlane) -> None:
    orders.join("w")
    run = fail(orders, "orders", code="schema.renamed", renamed={"phone": "phone_number"})
    versions = of(orders, "orders")["versions"]
    assert versions[1]["spec"]["transforms"][0] == {"name": "renamed-1", "rename": {"phone_number": "phone"}}
    assert {**versions[1]["spec"], "transforms": None} == {**versions[0]["spec"], "transforms": None}
    started = [one.payload["run"] for one in orders.of("run.created")]
    assert [(one["id"] == run, one["version"]) for one in started] == [(True, 1), (False, 2)]
    assert len(orders.state("orchestrator")["runs"]) == 1


def test_renames_are_followed_in_mappings_and_else_pause_the_pipeline(plane: ControlPlane) -> None:
    fields = [{"target": "tel", "from": "phone"}, {"target": "loud", "sql": "upper(note)"}]
    document = pipeline("orders")
    document["spec"]["mapping"] = {"fields": fields}
    assert following(document, {"phone": "contact"})["spec"]["mapping"]["fields"][0]["from"] == "contact"
    plane.join("w")
    plane.apply(document)
    fail(plane, "orders", code="schema.renamed", renamed={"note": "remark"})
    assert (of(plane, "orders")["status"], len(of(plane, "orders")["versions"])) == ("paused", 1)
