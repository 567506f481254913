"""Members of sets whose table has another name now: they go on, with their target and their position."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.control_plane import ControlPlane, judged, listed, pipeline_set, policy
from tests.agents.test_sets import KINDS, changes, last, members, pipelines


@pytest.fixture
def plane() -> ControlPlane:
    made = ControlPlane()
    made.connect("shop", "house")
    made.join("w1", slots=3, kinds=KINDS)
    return made


def found(object_: str, identity: str) -> dict[str, Any]:
    return listed(object_) | {"identity": identity}


def listing(plane: ControlPlane, *objects: dict[str, Any], page: int = 500) -> list[tuple[str, str]]:
    """List the set again; return what that does to pipelines."""
    plane.done("run.start", pipeline="shop")
    records = plane.find("shop", *objects, page=page)
    for name in [one.payload["run"]["pipeline"] for one in records if one.type == "run.created"]:
        plane.end(plane.task_of(name))
    return changes(records)


def began(plane: ControlPlane, rule: str | None = "apply", **spec: Any) -> None:
    """Begin with the tables `a` and `b` of the identities 1 and 2."""
    plane.apply(pipeline_set("shop", **({"schema": {"tables": rule}} if rule else {}), **spec))
    plane.find("shop", found("public.a", "1"), found("public.b", "2"))


def of(plane: ControlPlane, table: str = "public.a") -> dict[str, Any]:
    one: dict[str, Any] = pipelines(plane)[f"shop/{table}"]
    return one


def ends(plane: ControlPlane, table: str = "public.a") -> tuple[str, str | None, str]:
    """Return what a member reads, under which name its position is, and where it writes."""
    spec = of(plane, table)["versions"][-1]["spec"]
    return spec["source"]["object"], spec["source"].get("known_as"), spec["sink"]["object"]


@pytest.mark.parametrize("page", [1, 500])
def test_a_member_follows_its_table_to_another_name(plane: ControlPlane, page: int) -> None:
    began(plane)
    uid = of(plane)["uid"]
    assert listing(plane, found("public.z", "1"), found("public.b", "2"), page=page) == [("updated", "shop/public.a")]
    assert ends(plane) == ("public.z", "public.a", "raw_public.a")
    assert members(plane) == {"public.a": "active", "public.b": "active"}
    assert of(plane)["uid"] == uid
    assert listing(plane, found("public.b", "2")) == [], "a name that is not selected is not in a listing"
    assert last(plane)["vanished"] == ["public.z"]
    assert listing(plane, found("public.z", "1"), found("public.b", "2"), page=page) == []
    assert not last(plane).get("vanished")
    assert plane.of("run.created")[-1].payload["run"]["pipeline"] == "shop/public.b"
    assert listing(plane, found("public.a", "1"), found("public.b", "2")) == [("updated", "shop/public.a")]
    assert ends(plane) == ("public.a", None, "raw_public.a")


def test_what_follows_a_table_is_replayed_alike(plane: ControlPlane) -> None:
    began(plane)
    listing(plane, found("public.c", "3"), found("public.z", "1"), found("public.b", "2"), page=1)
    before = plane.states()
    plane.restart()
    assert plane.states() == before
    assert not plane.of("agent.faulted")
    decisions = {one.cause: one for one in plane.log if one.agent == "lifecycle" and one.type == "pipeline.updated"}
    again = judged(plane.log, plane.agents)
    assert all(("lifecycle", cause) in again for cause in decisions)


def test_names_come_before_identities(plane: ControlPlane) -> None:
    """A table that is replaced by a copy which gets its name is still that table."""
    began(plane)
    found_ = listing(plane, found("public.a", "3"), found("public.a_old", "1"), found("public.b", "2"))
    assert found_ == [("created", "shop/public.a_old")]
    assert ends(plane) == ("public.a", None, "raw_public.a")
    swapped = listing(plane, found("public.a", "2"), found("public.b", "3"), found("public.a_old", "1"))
    assert swapped == []


def test_a_name_that_comes_pages_after_its_renamed_table_is_read(plane: ControlPlane) -> None:
    """The member has another object by the page that decides about the renamed one."""
    began(plane)
    objects = found("public.0", "1"), found("public.a", "3"), found("public.b", "2")
    assert listing(plane, *objects, page=1) == [("created", "shop/public.0")]
    assert not plane.of("agent.faulted")
    assert listing(plane, *objects, page=1) == []
    assert ends(plane) == ("public.a", None, "raw_public.a")


def test_a_table_is_followed_by_the_member_that_read_it_last(plane: ControlPlane) -> None:
    began(plane, "propose")
    listing(plane, found("public.z", "1"), found("public.b", "2"))
    (asked,) = plane.of("change.proposed")
    plane.done("change.answer", name="shop/public.a", ids=[asked.payload["id"]], approve=False)
    for name in ("public.z", "public.a"):
        listing(plane, found(name, "1"), found("public.b", "2"))
        assert not last(plane).get("renamed")
    listing(plane, found("public.q", "1"), found("public.b", "2"))
    assert last(plane)["renamed"] == {"shop/public.a": "public.q"}


def test_members_that_follow_their_tables_are_held_to_limits(plane: ControlPlane) -> None:
    tables = {"public.a": {"limits": {"workers": 2}}}
    began(plane)
    plane.done("policy.publish", policy=policy("p", constraints={"limits": {"follow_move": {"per_hour": 1}}}))
    plane.apply(pipeline_set("shop", schema={"tables": "apply"}, tables=tables))
    renamed = found("public.y", "1"), found("public.z", "2")
    assert [name for _, name in changes(plane.find("shop", *renamed))] == ["shop/public.a", "shop/public.a"]
    assert (ends(plane)[0], of(plane)["versions"][-1]["spec"]["limits"]["workers"]) == ("public.y", 2)
    why = [one.payload for one in plane.of("agent.decided") if one.payload["action"] == "list"][-1]
    assert why["held"] == "policy 'p': at most 1 x follow_move in an hour"
    assert last(plane)["renamed"] == {"shop/public.b": "public.z"}
    assert [one.key for one in plane.of("change.proposed")] == ["shop/public.b"]
    assert listing(plane, *renamed) == []
    plane.restart()
    assert listing(plane, *renamed) == [], "what is counted comes from the log"
    plane.tick(3600)
    assert listing(plane, *renamed) == [("updated", "shop/public.b")]


def test_a_table_that_the_policy_lets_a_member_follow_counts_as_approved(plane: ControlPlane) -> None:
    began(plane, "propose")
    rules: dict[str, Any] = {
        "evolution": {"approve": ["tables"]},
        "constraints": {"limits": {"approve": {"per_hour": 1}}},
    }
    plane.done("policy.publish", policy=policy("p", **rules))
    renamed = found("public.y", "1"), found("public.z", "2")
    assert listing(plane, *renamed) == [("updated", "shop/public.a")]


def test_a_new_table_of_an_old_name_is_refused_until_names_count(plane: ControlPlane) -> None:
    began(plane)
    listing(plane, found("public.z", "1"), found("public.b", "2"))
    assert listing(plane, found("public.z", "1"), found("public.b", "2"), found("public.a", "3")) == []
    (refused,) = last(plane)["refused"]
    assert refused["object"] == "public.a"
    assert "shop/public.a reads public.z, which had this name before" in refused["reason"]
    plane.apply(pipeline_set("shop", schema={"tables": "apply"}, tables={"public.a": {"schema": {"tables": "ignore"}}}))
    plane.find("shop", found("public.z", "1"), found("public.b", "2"), found("public.a", "3"))
    assert ends(plane) == ("public.a", None, "raw_public.a")
    assert ends(plane, "public.z") == ("public.z", None, "raw_public.z")


@pytest.mark.parametrize(("rule", "status"), [(None, "active"), ("propose", "active"), ("pause", "paused")])
def test_a_renamed_table_is_proposed(plane: ControlPlane, rule: str | None, status: str) -> None:
    began(plane, rule)
    for _ in range(2):
        listing(plane, found("public.z", "1"), found("public.b", "2"))
        assert last(plane)["renamed"] == {"shop/public.a": "public.z"}
        assert not last(plane).get("vanished")
        assert members(plane) == {"public.a": status, "public.b": "active"}, "no second member of one table"
    (proposed,) = plane.of("change.proposed")
    expected = {"rule": "tables", "subject": "public.a", "to": "public.z", "confidence": 1.0}
    assert proposed.payload["proposal"] == expected
    plane.done("change.answer", name="shop/public.a", ids=[proposed.payload["id"]], approve=True)
    assert ends(plane) == ("public.z", "public.a", "raw_public.a")
    assert members(plane)["public.a"] == "active"
    plane.end(plane.task_of("shop/public.a"))
    assert listing(plane, found("public.z", "1"), found("public.b", "2")) == []


def test_a_table_that_a_member_may_not_follow_is_a_new_one(plane: ControlPlane) -> None:
    began(plane, "propose")
    listing(plane, found("public.z", "1"), found("public.b", "2"))
    ids = [one.payload["id"] for one in plane.of("change.proposed")]
    plane.done("change.answer", name="shop/public.a", ids=ids, approve=False)
    assert listing(plane, found("public.z", "1"), found("public.b", "2")) == [("created", "shop/public.z")]
    assert last(plane)["vanished"] == ["public.a"]


@pytest.mark.parametrize("spec", [{"schema": {"tables": "ignore"}}, {"mode": "stream"}])
def test_by_names_alone_a_renamed_table_is_a_new_one(plane: ControlPlane, spec: dict[str, Any]) -> None:
    plane.apply(pipeline_set("shop", **spec))
    plane.find("shop", found("public.a", "1"))
    plane.apply(pipeline_set("shop", **spec, vanish="pause"))
    assert changes(plane.find("shop", found("public.z", "1")))[0] == ("created", "shop/public.z")
    assert members(plane) == {"public.a": "paused", "public.z": "active"}


def test_the_policy_may_approve_it_and_a_halt_prevents_it(plane: ControlPlane) -> None:
    began(plane, "propose")
    plane.done("policy.publish", policy=policy("p", evolution={"approve": ["tables"]}))
    plane.done("agent.halt", agent="evolution")
    assert listing(plane, found("public.z", "1"), found("public.b", "2")) == []
    plane.done("agent.resume", agent="evolution")
    assert listing(plane, found("public.z", "1"), found("public.b", "2")) == [("updated", "shop/public.a")]


def test_a_changed_set_changes_a_member_that_has_followed(plane: ControlPlane) -> None:
    tables = {"public.a": {"limits": {"workers": 2}}}
    began(plane)
    listing(plane, found("public.z", "1"), found("public.b", "2"))
    renamed = {"code": "schema.renamed", "what": "gone", "transient": False, "renamed": {"a": "b"}}
    plane.done("run.start", pipeline="shop/public.a")
    plane.end(plane.task_of("shop/public.a"), renamed)
    plane.end(plane.task_of("shop/public.a"))
    assert listing(plane, found("public.y", "1"), found("public.b", "2")) == [("updated", "shop/public.a")]
    assert of(plane)["versions"][-1]["spec"]["transforms"], "what has repaired it stays"
    plane.apply(pipeline_set("shop", schema={"tables": "apply"}, tables=tables, vanish="pause"))
    assert changes(plane.find("shop", found("public.y", "1"), found("public.b", "2"))) == [("updated", "shop/public.a")]
    assert ends(plane) == ("public.y", "public.a", "raw_public.a")
    assert of(plane)["versions"][-1]["spec"]["limits"]["workers"] == 2
    plane.apply(pipeline_set("shop", source={"except": ["*.y"]}))
    plane.find("shop", found("public.b", "2"))
    assert members(plane)["public.a"] == "stopped"


def test_of_many_renamed_tables_the_rest_follows_in_the_next_listing(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.sets.PAGE", 1)
    began(plane)
    renamed = found("public.y", "1"), found("public.z", "2")
    assert listing(plane, *renamed) == [("updated", "shop/public.a")]
    assert listing(plane, *renamed) == [("updated", "shop/public.b")]
    assert set(members(plane)) == {"public.a", "public.b"}
