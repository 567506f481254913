"""Sets: members come, change and go by records, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agents.control_plane import ERROR, FATAL, ControlPlane, listed, pipeline, pipeline_set, policy
from tests.agents.queue_model import assert_shares

KINDS = ("pipeline", "cleanup", "list")
TOPICS = {"type": "kafka", "bootstrap": "localhost:9092"}


@pytest.fixture
def plane() -> ControlPlane:
    made = ControlPlane()
    made.connect("shop", "house")
    made.join("w1", slots=3, kinds=KINDS)
    return made


def pipelines(plane: ControlPlane) -> dict[str, Any]:
    found: dict[str, Any] = plane.state("lifecycle")["pipelines"]
    return found


def members(plane: ControlPlane, name: str = "shop") -> dict[str, str]:
    return {one.removeprefix(f"{name}/"): p["status"] for one, p in pipelines(plane).items() if one != name}


def last(plane: ControlPlane) -> dict[str, Any]:
    return plane.of("set.listed")[-1].payload


def changes(records: Any) -> list[tuple[str, str]]:
    """Return what happened to pipelines, as types and names."""
    return [(one.type.partition(".")[2], one.key) for one in records if one.type.startswith("pipeline.")]


def test_a_set_makes_a_pipeline_for_each_object(plane: ControlPlane) -> None:
    plane.apply(
        pipeline_set("shop", "public.*", source={"except": ["*.tmp_*"]}, sink={"write": "merge", "key": "auto"})
    )
    plane.find("shop", "public.orders", listed("public.Odd Nam\u00e9 {x}", "a", "b"), "public.tmp_1")
    assert members(plane) == {"public.orders": "active", "public.Odd Nam\u00e9 {x}": "active"}
    odd = pipelines(plane)["shop/public.Odd Nam\u00e9 {x}"]["versions"]
    assert [one["spec"]["sink"] for one in odd] == [
        {"connection": "house", "object": "raw_public.Odd Nam\u00e9 {x}", "write": "merge", "key": ["a", "b"]}
    ]
    assert not plane.state("orchestrator")["tasks"], "listing alone runs nothing"


def test_a_listing_that_finds_the_same_changes_nothing(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a", "public.b")
    plane.done("run.start", pipeline="shop")
    assert changes(plane.find("shop", "public.a", "public.b")) == []


def test_a_changed_set_changes_only_the_members_that_differ(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a", "public.b", "public.c")
    plane.apply(pipeline_set("shop", tables={"public.b": {"sink": {"write": "replace"}}}, source={"except": ["*.c"]}))
    found = plane.find("shop", "public.a", "public.b")
    assert changes(found) == [("updated", "shop/public.b"), ("status_changed", "shop/public.c")]
    assert members(plane) == {"public.a": "active", "public.b": "active", "public.c": "stopped"}
    plane.apply(pipeline_set("shop"))
    found = plane.find("shop", "public.a", "public.b", "public.c")
    assert changes(found) == [("updated", "shop/public.b"), ("status_changed", "shop/public.c")]
    assert members(plane)["public.c"] == "active", "it continues from where it was"


def test_members_of_a_set_are_compared_each(plane: ControlPlane) -> None:
    """One without a key replaces its target, and has no deletes to find."""
    both = {"check": {"every": "1d"}, "deletes": {"mark": "remove", "every": "1d"}}
    plane.apply(pipeline_set("shop", sink={"write": "merge", "key": "auto"}, **both))
    plane.find("shop", listed("public.a"), listed("public.b") | {"key": []})
    timers = {name: set(one.get("comparing", {})) for name, one in plane.state("orchestrator")["pipelines"].items()}
    assert timers == {"shop": set(), "shop/public.a": {"check", "deletes"}, "shop/public.b": {"check"}}


@pytest.mark.parametrize(("vanish", "status"), [("keep", "active"), ("pause", "paused")])
def test_a_member_whose_table_is_gone(plane: ControlPlane, vanish: str, status: str) -> None:
    plane.apply(pipeline_set("shop", vanish=vanish))
    plane.find("shop", "public.a", "public.b", "public.c", page=1)
    plane.done("run.start", pipeline="shop")
    runs = plane.find("shop", "public.a", "public.c", page=1)
    assert members(plane)["public.b"] == status
    assert last(plane)["vanished"] == ["public.b"]
    started = [one.payload["run"]["pipeline"] for one in runs if one.type == "run.created"]
    assert started == ["shop/public.a", "shop/public.c"]
    plane.apply(pipeline_set("shop", vanish=vanish, limits={"workers": 1}, appear="ignore"))
    plane.find("shop", "public.a", "public.b", "public.c")
    assert members(plane)["public.b"] == "active", "the table is back"


@pytest.mark.parametrize(("appear", "proposed"), [("propose", ["public.b"]), ("ignore", None)])
def test_new_tables_wait_until_the_file_changes(plane: ControlPlane, appear: str, proposed: list[str] | None) -> None:
    plane.apply(pipeline_set("shop", appear=appear))
    plane.find("shop", "public.a")
    plane.done("run.start", pipeline="shop")
    plane.find("shop", "public.a", "public.b")
    assert members(plane) == {"public.a": "active"}
    assert last(plane).get("proposed") == proposed
    plane.apply(pipeline_set("shop", appear=appear, tables={"public.b": {"limits": {"workers": 2}}}))
    plane.find("shop", "public.a", "public.b")
    assert members(plane) == {"public.a": "active", "public.b": "active"}


def test_proposed_tables_become_members_once_a_person_accepts_them(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop", appear="propose"))
    plane.find("shop", "public.a")
    plane.done("run.start", pipeline="shop")
    plane.find("shop", "public.a", "public.b", "public.c")
    assert last(plane)["proposed"] == ["public.b", "public.c"]
    assert plane.done("set.accept", name="shop", objects=["public.c"])["changed"]
    found = plane.find("shop", "public.a", "public.b", "public.c")
    assert changes(found) == [("created", "shop/public.c")]
    assert last(plane)["proposed"] == ["public.b"]
    assert not plane.done("set.accept", name="shop", objects=["public.c"])["changed"]
    plane.done("pipeline.pause", name="shop")
    assert "is paused" in plane.refused("set.accept", name="shop", objects=["public.b"])["what"]
    plane.apply(pipeline("one"))
    assert "is not a set" in plane.refused("set.accept", name="one", objects=["public.b"])["what"]


@pytest.mark.parametrize(
    ("mode", "connection", "write", "after"),
    [
        ("batch", {"type": "files", "root": "/lake"}, "merge", "replace"),
        ("stream", {"type": "files", "root": "/lake"}, "merge", None),
        ("stream", TOPICS, "merge", None),
        ("stream", TOPICS, "append", "append"),
        ("stream", TOPICS, "scd2", "no primary key, which `write: scd2` needs"),
        ("stream", {"type": "postgres", "dsn": "host=x"}, "merge", "no primary key, which `write: merge` needs"),
    ],
)
def test_what_an_object_without_a_key_gets(
    plane: ControlPlane, mode: str, connection: dict[str, Any], write: str, after: str | None
) -> None:
    plane.done("connection.put", name="lake", connection=connection)
    sink = {"object": "raw.{table}", "write": write, "key": "auto"}
    plane.apply(pipeline_set("shop", "*", mode=mode, source={"connection": "lake"}, sink=sink))
    plane.find("shop", {"object": "orders", "schema": "", "table": "orders", "key": []})
    if after and " " in after:
        assert after in last(plane)["refused"][0]["reason"]
        return
    (made,) = pipelines(plane)["shop/orders"]["versions"]
    assert made["spec"]["sink"].get("write") == (None if after == "append" else after)
    assert "key" not in made["spec"]["sink"]


def test_a_placeholder_without_a_meaning_is_refused_by_name(plane: ControlPlane) -> None:
    plane.done("connection.put", name="bus", connection=TOPICS)
    wrong = pipeline_set("shop", "*", mode="stream", source={"connection": "bus"})
    (issue,) = plane.refused("pipeline.apply", pipeline=wrong)["issues"]
    assert issue["path"] == "spec.sink.object"
    assert "{schema} has no meaning: a source of type kafka has no schemas" in issue["message"]
    plane.apply(pipeline_set("shop", "*", sink={"object": "raw.{object}"}))
    plane.find("shop", {"object": "a.b", "schema": "", "table": "b", "key": []})
    assert pipelines(plane)["shop/a.b"]["versions"][-1]["spec"]["sink"]["object"] == "raw.a.b"


def test_a_disabled_table_is_no_member(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop", tables={"public.log_*": {"disabled": True}, "public.log_in": {"disabled": False}}))
    plane.find("shop", "public.log_in", "public.log_out", "public.a")
    assert members(plane) == {"public.log_in": "active", "public.a": "active"}


def test_null_in_tables_takes_a_key_of_the_set_away(plane: ControlPlane) -> None:
    source, tables = {"cursor": {"field": "at"}}, {"public.*": {"source": {"cursor": None}}, "public.b": {"limits": {}}}
    plane.apply(pipeline_set("shop", "*.*", source=source, tables=tables))
    plane.find("shop", "public.a", "public.b", "sales.a")
    cursors = [one["versions"][-1]["spec"]["source"].get("cursor") for one in pipelines(plane).values()]
    assert cursors == [{"field": "at"}, None, None, {"field": "at"}]


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ({"source": None}, "source"),
        ({"sink": 5}, "sink"),
        ({"source": "x"}, "source"),
        ({"sink": {"object": None}}, "sink.object"),
    ],
)
def test_tables_that_do_not_fit_a_set_are_refused(plane: ControlPlane, entry: dict[str, Any], path: str) -> None:
    refused = plane.refused("pipeline.apply", pipeline=pipeline_set("shop", tables={"public.a": entry}))
    assert [one["path"] for one in refused["issues"]] == [f"spec.tables['public.a'].{path}"]


def test_a_member_that_is_not_selected_is_not_resumed(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a")
    plane.apply(pipeline_set("shop", source={"except": ["*.a"]}))
    plane.find("shop")
    assert "does not select it any more" in plane.refused("pipeline.resume", name="shop/public.a")["what"]
    assert members(plane) == {"public.a": "stopped"}


def test_two_objects_with_one_target_are_refused_by_name(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop", "*.orders", sink={"object": "raw.{table}"}))
    plane.find("shop", "a.orders", "b.orders", page=1)
    assert members(plane) == {"a.orders": "active"}
    (refused,) = last(plane)["refused"]
    assert refused["object"] == "b.orders"
    assert "shop/a.orders writes to 'raw.orders' already" in refused["reason"]


def test_the_runs_of_a_set_start_after_its_listing(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a", "public.b")
    answer = plane.done("run.start", pipeline="shop")
    assert "already" in plane.refused("run.start", pipeline="shop")["what"]
    plane.find("shop", "public.b", "public.a", "public.c")
    runs = [one.payload["run"] for one in plane.of("run.created")]
    assert [one["pipeline"] for one in runs] == ["shop/public.b", "shop/public.a", "shop/public.c"]
    assert {one["group"] for one in runs} == {answer["group"]}
    assert plane.of("set.started")[-1].payload["last"]
    assert len(plane.running()) == 3


def test_a_set_runs_as_many_members_as_the_policy_allows_for_a_connection(plane: ControlPlane) -> None:
    plane.done("policy.publish", policy=policy("p", orchestrator={"per_connection": 2}))
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a", "public.b")
    plane.done("run.start", pipeline="shop")
    plane.find("shop", "public.a", "public.b", "public.c")
    assert len(plane.running()) == 2


@pytest.fixture
def begun(plane: ControlPlane) -> ControlPlane:
    """Return a control plane in which two members of a set run, two wait behind them, and one waits in the queue."""
    plane.done("policy.publish", policy=policy("p", orchestrator={"per_connection": 2}))
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a")
    plane.done("run.start", pipeline="shop")
    plane.find("shop", *(f"public.{name}" for name in "abcde"))
    assert [*plane.running()] == ["shop/public.a", "shop/public.b"]
    assert plane.following() == {"shop/public.c": "shop/public.a", "shop/public.d": "shop/public.b"}
    return plane


def test_a_run_that_ends_makes_way_for_the_one_behind_it(begun: ControlPlane) -> None:
    begun.end(begun.task_of("shop/public.a"))
    assert [*begun.running()] == ["shop/public.b", "shop/public.c"]
    assert begun.following() == {"shop/public.d": "shop/public.b", "shop/public.e": "shop/public.c"}
    begun.end(begun.task_of("shop/public.b"), ERROR)
    assert [*begun.running()] == ["shop/public.c", "shop/public.d"], "a retry waits for its turn"
    for name in "cde":
        begun.end(begun.task_of(f"shop/public.{name}"))
    assert not begun.running()


def test_a_task_that_is_given_back_keeps_its_place_in_the_queue(begun: ControlPlane) -> None:
    task = begun.task_of("shop/public.c")
    attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
    begun.tell("task.returned", task["id"], **attempt)
    assert begun.following() == {"shop/public.d": "shop/public.b"}, "none waits behind a run that takes long"
    begun.end(begun.task_of("shop/public.b"))
    assert [*begun.running()] == ["shop/public.a", "shop/public.d"]
    assert begun.following() == {"shop/public.c": "shop/public.d"}
    before = begun.states()
    begun.tell("task.returned", task["id"], **attempt)
    assert begun.states()[:2] == before[:2], "that attempt is over"


@pytest.mark.parametrize("command", ["pause", "stop", "delete"])
def test_a_set_that_takes_no_work_has_none_behind_its_runs(begun: ControlPlane, command: str) -> None:
    begun.done(f"pipeline.{command}", name="shop")
    assert not [name for name in (*begun.running(), *begun.following()) if begun.task_of(name)["kind"] == "pipeline"]


def test_what_waits_behind_a_run_goes_back_when_its_worker_is_lost(begun: ControlPlane) -> None:
    begun.lose("w1")
    assert not begun.running()
    begun.join("v", slots=1, kinds=KINDS)
    assert (begun.running(), begun.following()) == ({"shop/public.a": "v"}, {"shop/public.b": "shop/public.a"})


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["run", "end", "fail", "fire", "lose", "join", "return", "pause", "resume", "delete"]),
            st.integers(0, 3),
        ),
        max_size=25,
    )
)
def test_what_workers_have_at_work_is_counted_whatever_happens(steps: list[tuple[str, int]]) -> None:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.join("w1", slots=2, kinds=KINDS)
    plane.apply(pipeline_set("shop"))
    plane.find("shop", *(f"public.{name}" for name in "abcd"))
    for step, number in steps:
        state = plane.state("orchestrator")
        assigned = [state["tasks"][id_] for id_ in state["assigned"]]
        task = assigned[number % len(assigned)] if assigned else None
        if step == "run":
            plane.command("run.start", pipeline=f"shop/public.{'abcd'[number]}")
        elif step in {"pause", "resume", "delete"}:
            plane.command(f"pipeline.{step}", name="shop")
        elif step == "join":
            plane.join(f"w{len(plane.log)}", slots=1, kinds=KINDS)
        elif step == "lose" and state["workers"]:
            plane.lose(min(state["workers"]))
        elif step == "fire":
            for one in [one["timer"] for one in state["tasks"].values() if one.get("timer")]:
                plane.fire(one)
        elif step in {"end", "fail"} and task is not None:
            plane.end(task, ERROR if step == "fail" else None)
        elif step == "return" and task is not None and task["after"]:
            attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
            plane.tell("task.returned", task["id"], **attempt)
        assert_shares(plane.state("orchestrator"))
        assert plane.of("agent.faulted") == []


def test_a_task_of_higher_priority_comes_before_the_next_member(plane: ControlPlane) -> None:
    plane.done("policy.publish", policy=policy("p", orchestrator={"per_connection": 1, "priorities": {"gold": 9}}))
    plane.apply(pipeline_set("shop"))
    plane.apply(pipeline("other", source="shop", sink="house", tier="gold"))
    plane.find("shop", "public.a")
    plane.done("run.start", pipeline="shop")
    plane.find("shop", "public.a")
    plane.run("other")
    assert (plane.running(), plane.following()) == ({"shop/public.a": "w1"}, {})


def test_a_member_that_fails_holds_up_no_other(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a")
    plane.done("run.start", pipeline="shop")
    plane.find("shop", "public.a", "public.b", "public.c")
    plane.end(plane.task_of("shop/public.a"), FATAL)
    plane.end(plane.task_of("shop/public.b"))
    plane.end(plane.task_of("shop/public.c"))
    ends = {one.payload["run"]["pipeline"]: one.payload["run"]["status"] for one in plane.of("run.finished")}
    assert ends == {"shop/public.a": "failed", "shop/public.b": "completed", "shop/public.c": "completed"}


def test_a_listing_that_fails_is_retried_and_ends_the_start_when_it_is_given_up(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a")
    plane.done("run.start", pipeline="shop")
    plane.end(plane.task_of("shop"), ERROR)
    plane.fire(plane.of("timer.requested")[-1].key)
    plane.end(plane.task_of("shop"), FATAL)
    assert not plane.state("orchestrator")["tasks"]
    plane.done("run.start", pipeline="shop")


def test_a_listing_leaves_a_member_that_follows_a_renamed_column_alone(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a")
    for new in ("b", "c"):
        plane.done("run.start", pipeline="shop")
        assert changes(plane.find("shop", "public.a")) == []
        renamed = {"code": "schema.renamed", "what": "a is gone", "transient": False, "renamed": {"a": new}}
        found = plane.end(plane.task_of("shop/public.a"), renamed)
        assert changes(found) == [("updated", "shop/public.a")]
        plane.end(plane.task_of("shop/public.a"))
    plane.apply(pipeline_set("shop", limits={"workers": 2}))
    assert changes(plane.find("shop", "public.a")) == [("updated", "shop/public.a")]
    assert "transforms" not in pipelines(plane)["shop/public.a"]["versions"][-1]["spec"]
    plane.apply(pipeline_set("shop", limits={"workers": 2}, vanish="pause"))
    assert changes(plane.find("shop", "public.a")) == []


def test_a_start_is_over_when_the_set_is_stopped_before_its_listing_is_answered(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a")
    plane.done("run.start", pipeline="shop")
    task = plane.task_of("shop")
    page = {"name": "shop", "uid": pipelines(plane)["shop"]["uid"], "version": 1, "task": task["id"]}
    plane.put(
        plane.record("pipeline.stop", "shop", {"name": "shop"}),
        plane.record("objects.found", "shop", {**page, "page": 0, "last": True, "objects": [listed("public.a")]}),
        plane.record("task.completed", task["id"], {"task": task["id"], "attempt": 1, "worker": task["worker"]}),
    )
    plane.done("pipeline.resume", name="shop")
    plane.find("shop", "public.a")
    assert not plane.of("run.created")


def test_a_schedule_starts_the_set(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop", schedule={"cron": "* * * * *"}))
    plane.find("shop", "public.a")
    plane.tick(60)
    plane.fire(plane.of("timer.requested")[-1].key)
    plane.find("shop", "public.a", "public.b")
    runs = [one.payload["run"] for one in plane.of("run.created")]
    assert [one["pipeline"] for one in runs] == ["shop/public.a", "shop/public.b"]
    assert all(one["scheduled_for"] for one in runs)


def test_a_set_of_streams_looks_for_new_objects_by_its_schedule(plane: ControlPlane) -> None:
    plane.done("connection.put", name="bus", connection=TOPICS)
    sink, cron = {"object": "raw.{table}"}, {"cron": "* * * * *"}
    plane.apply(pipeline_set("shop", "*", mode="stream", source={"connection": "bus"}, sink=sink, schedule=cron))
    topics: list[dict[str, Any]] = [{"object": name, "schema": "", "table": name, "key": []} for name in ("a", "b")]
    plane.find("shop", topics[0])
    assert [one.payload["run"]["pipeline"] for one in plane.of("run.created")] == ["shop/a"]
    plane.tick(60)
    plane.fire(plane.of("timer.requested")[-1].key)
    plane.find("shop", *topics)
    assert [one.payload["run"]["pipeline"] for one in plane.of("run.created")] == ["shop/a", "shop/b"]


def test_a_set_of_streams_gets_no_run_of_its_own_when_the_control_process_restarts(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop", mode="stream", sink={"write": "merge", "key": "auto"}))
    plane.find("shop", "public.a")
    plane.restart()
    assert [one.payload["run"]["pipeline"] for one in plane.of("run.created")] == ["shop/public.a"]


def test_a_set_that_changes_while_it_starts_is_listed_again(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a")
    group = plane.done("run.start", pipeline="shop")["group"]
    plane.apply(pipeline_set("shop", source={"except": ["*.b"]}))
    plane.find("shop", "public.a")
    assert [one.payload["run"]["group"] for one in plane.of("run.created")] == [group]


def test_commands_on_a_set_reach_its_members(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a", "public.b")
    plane.done("pipeline.pause", name="shop/public.a")
    assert plane.done("pipeline.pause", name="shop")["members"] == 1
    assert set(members(plane).values()) == {"paused"}
    plane.done("pipeline.resume", name="shop")
    assert set(members(plane).values()) == {"active"}
    assert plane.task_of("shop")["kind"] == "list", "tables may have come meanwhile"


def test_a_deleted_set_is_gone_with_its_members(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a", "public.b")
    plane.apply(pipeline("other"))
    plane.done("pipeline.delete", name="shop")
    for name in ("shop/public.a", "shop/public.b"):
        plane.end(plane.task_of(name))
    assert list(pipelines(plane)) == ["other"]
    plane.apply(pipeline_set("empty"))
    plane.done("pipeline.delete", name="empty")
    assert list(pipelines(plane)) == ["other"]


def test_a_member_is_not_deleted_or_rolled_back_by_itself(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a")
    assert "would come back" in plane.refused("pipeline.delete", name="shop/public.a")["what"]
    assert "makes its versions" in plane.refused("pipeline.rollback", name="shop/public.a", to=1)["what"]
    assert plane.refused("pipeline.apply", pipeline=pipeline("shop/x"))["issues"][0]["path"] == "metadata.name"
    plane.apply(pipeline_set("shop", source={"except": ["*.a"]}))
    plane.find("shop")
    plane.done("pipeline.delete", name="shop/public.a")


def test_a_set_stays_a_set(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    assert "is a set" in plane.refused("pipeline.apply", pipeline=pipeline("shop"))["what"]


def test_a_listing_of_another_version_counts_for_nothing(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    task = plane.task_of("shop")
    plane.apply(pipeline_set("shop", "sales.*"))
    page = {"name": "shop", "uid": pipelines(plane)["shop"]["uid"], "version": 1, "task": task["id"]}
    found = plane.tell("objects.found", "shop", **page, page=0, last=True, objects=[listed("public.a")])
    assert found == []


def test_everything_is_replayed_alike(plane: ControlPlane) -> None:
    plane.apply(pipeline_set("shop"))
    plane.find("shop", "public.a", "public.b", page=1)
    plane.done("run.start", pipeline="shop")
    plane.find("shop", "public.b", "public.c", page=1)
    before = plane.states()
    plane.restart()
    assert plane.states() == before
    assert not plane.of("agent.faulted")


def test_streams_of_a_set_run_where_they_can_share_a_slot(plane: ControlPlane) -> None:
    plane.join("w2", slots=3, kinds=KINDS)
    plane.apply(pipeline_set("shop", mode="stream", sink={"write": "merge", "key": "auto"}))
    plane.find("shop", "public.a", "public.b", "public.c")
    assert len(set(plane.running().values())) == 1
    assigned = [one.payload for one in plane.of("task.assigned") if one.payload["kind"] == "pipeline"]
    assert {one["set_id"] for one in assigned} == {pipelines(plane)["shop"]["uid"]}
    plane.lose(next(iter(plane.running().values())))
    assert len(plane.running()) == 3
    assert len(set(plane.running().values())) == 1
