"""Triggers: which run follows from files that arrive, from an updated dataset and from a request to a webhook."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.control_plane import FATAL, ControlPlane, decisions, judged, pipeline, pipeline_set, postgres

FILES = {"files": {"connection": "shop", "object": "in/*.csv"}}
HOOK = {"webhook": {"secret": "${env:PENSTOCK_SECRET_HOOK}"}}


def triggered(name: str, triggers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    document = pipeline(name)
    document["spec"] |= {"triggers": triggers, **spec}
    return document


def plane_of(*documents: dict[str, Any]) -> ControlPlane:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.join("w1", slots=10, kinds=("pipeline", "cleanup", "list", "watch"))
    for one in documents:
        plane.apply(one)
    return plane


def find_files(plane: ControlPlane, name: str, round_: int, *files: str) -> None:
    uid = plane.state("orchestrator")["pipelines"][name]["uid"]
    payload = {"name": name, "uid": uid, "task": "t", "round": round_, "count": len(files), "files": list(files)}
    plane.tell("files.found", name, **payload)


def runs(plane: ControlPlane) -> list[str]:
    return [record.payload["run"]["pipeline"] for record in plane.of("run.created")]


def task_of(plane: ControlPlane, name: str, kind: str = "pipeline") -> dict[str, Any]:
    """Return the only open task of the pipeline of this kind."""
    tasks = plane.state("orchestrator")["tasks"].values()
    (found,) = [one for one in tasks if (one["pipeline"], one["kind"]) == (name, kind)]
    return dict(found)


def end(plane: ControlPlane, name: str, error: dict[str, Any] | None = None) -> None:
    plane.end(task_of(plane, name), error)


def test_files_that_arrive_start_a_run_once_for_each_round() -> None:
    plane = plane_of(triggered("a", FILES))
    assert task_of(plane, "a", "watch")["worker"] == "w1"
    find_files(plane, "a", 1, "in/x.csv")
    find_files(plane, "a", 1, "in/x.csv")
    assert runs(plane) == ["a"]
    assert plane.of("run.created")[0].payload["run"]["trigger"]["files"] == ["in/x.csv"]
    end(plane, "a")
    find_files(plane, "a", 1, "in/x.csv")
    assert runs(plane) == ["a"], "a report that is repeated changes nothing"
    find_files(plane, "a", 2, "in/y.csv")
    assert runs(plane) == ["a", "a"]


def test_what_fires_during_a_run_starts_one_more() -> None:
    plane = plane_of(triggered("a", FILES | HOOK))
    plane.run("a")
    find_files(plane, "a", 1, "in/x.csv")
    find_files(plane, "a", 2, "in/y.csv")
    assert plane.done("run.trigger", pipeline="a") == {"waits": True}
    end(plane, "a", FATAL)
    assert runs(plane) == ["a", "a"]
    reason = [one.payload["reason"] for one in plane.of("agent.decided")][-1]
    assert "a runs since 1 files have arrived, at " in reason
    end(plane, "a")
    assert runs(plane) == ["a", "a"]


def test_what_fires_during_a_pause_starts_one_run_when_it_is_over() -> None:
    plane = plane_of(triggered("a", HOOK))
    plane.done("pipeline.pause", name="a")
    plane.done("run.trigger", pipeline="a")
    plane.done("run.trigger", pipeline="a")
    assert runs(plane) == []
    plane.restart()
    plane.done("pipeline.resume", name="a")
    assert runs(plane) == ["a"]


def test_what_has_fired_is_dropped_by_a_stop_and_by_a_version_without_triggers() -> None:
    plane = plane_of(triggered("a", HOOK), triggered("b", HOOK))
    for name in ("a", "b"):
        plane.done("pipeline.pause", name=name)
        plane.done("run.trigger", pipeline=name)
    plane.done("pipeline.stop", name="a")
    plane.refused("run.trigger", pipeline="a")
    plane.apply(pipeline("b"))
    plane.refused("run.trigger", pipeline="b")
    plane.done("pipeline.resume", name="a")
    plane.done("pipeline.resume", name="b")
    assert runs(plane) == []


def test_a_webhook_starts_a_run_or_a_set() -> None:
    plane = plane_of(triggered("a", HOOK), pipeline_set("s", triggers=HOOK))
    plane.find("s", "public.x")
    assert plane.done("run.trigger", pipeline="a")["run"] == plane.of("run.created")[0].key
    plane.done("run.trigger", pipeline="s")
    plane.find("s", "public.x")
    assert runs(plane) == ["a", "s/public.x"]
    assert plane.of("run.created")[1].payload["run"]["trigger"]["by"] == "webhook"
    assert plane.refused("run.trigger", pipeline="nobody")["code"] == "not_found"


def test_an_updated_dataset_starts_what_it_triggers() -> None:
    plane = plane_of(
        pipeline("a"), triggered("b", {"datasets": ["house:sales.a", "house:sales.c"]}), pipeline("c"), pipeline("d")
    )
    for name in ("a", "d", "c"):
        plane.run(name)
    end(plane, "a", FATAL)
    end(plane, "d")
    assert runs(plane) == ["a", "d", "c"], "a has failed, and d writes another one"
    end(plane, "c")
    assert runs(plane)[3:] == ["b"]
    trigger = plane.of("run.created")[3].payload["run"]["trigger"]
    assert (trigger["dataset"], trigger["pipeline"]) == ("house:sales.c", "c")
    for name in ("a", "c"):
        plane.run(name)
        end(plane, name)
    end(plane, "b")
    assert runs(plane).count("b") == 2, "once for both updates during its run"


def test_a_run_that_has_moved_nothing_has_updated_nothing() -> None:
    plane = plane_of(pipeline("a"), triggered("b", {"datasets": ["house:sales.a"]}))
    plane.run("a")
    task = task_of(plane, "a")
    attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
    plane.tell("task.completed", task["id"], **attempt, counters={})
    assert runs(plane) == ["a"]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (triggered("b", {"datasets": ["house:sales.b"]}), "is a circle: b after b"),
        (triggered("a", {"datasets": ["house:sales.c"]}), "is a circle: a after c after a"),
        (triggered("b", {"datasets": ["nowhere:x"]}), "no connection 'nowhere'"),
        (triggered("b", {"files": {"connection": "lake", "object": "x"}}), "no connection 'lake'"),
        (triggered("b", {"datasets": ["house:sales.s"]}), "written by 's', a stream"),
        (triggered("b", HOOK, mode="stream"), "it takes no `triggers`"),
        (triggered("b", {}), "at least one of"),
        (triggered("b", {"files": {"object": "x"}}), "or neither"),
        (triggered("b", {"webhook": {"secret": "hunter2hunter2"}}), "secret"),
        (pipeline_set("b", triggers={"files": {}}), "names `connection` and `object`"),
    ],
)
def test_triggers_that_cannot_be_are_refused(document: dict[str, Any], expected: str) -> None:
    stream = pipeline("s")
    stream["spec"]["mode"] = "stream"
    plane = plane_of(pipeline("a"), triggered("c", {"datasets": ["house:sales.a"]}), stream)
    refusal = plane.refused("pipeline.apply", pipeline=document)
    assert expected in str(refusal)


def test_files_are_looked_for_only_while_a_pipeline_is_active_and_as_its_file_says() -> None:
    plane = plane_of(triggered("a", FILES))
    first = task_of(plane, "a", "watch")
    plane.apply(triggered("a", FILES, schedule={"cron": "0 0 * * *"}))
    second = task_of(plane, "a", "watch")
    assert first["id"] != second["id"]
    assert plane.of("task.closed")[-1].payload["task"] == first["id"]
    plane.done("pipeline.pause", name="a")
    assert plane.state("orchestrator")["tasks"] == {}
    find_files(plane, "a", 1, "in/x.csv")
    plane.done("pipeline.resume", name="a")
    assert runs(plane) == ["a"], "its last report came when it was paused already"
    assert plane.of("task.assigned")[-1].payload["kind"] in {"watch", "pipeline"}
    assigned = [one for one in plane.of("task.assigned") if one.payload["kind"] == "watch"]
    assert assigned[-1].payload["round"] == 1
    plane.lose("w1")
    plane.join("w2", kinds=("watch",))
    assert task_of(plane, "a", "watch")["worker"] == "w2"
    assert task_of(plane, "a")["worker"] is None
    plane.apply(pipeline("a"))
    assert [one["kind"] for one in plane.state("orchestrator")["tasks"].values()] == ["pipeline"]


def test_a_connection_that_is_watched_stays() -> None:
    plane = ControlPlane()
    plane.connect("shop", "house", "lake")
    plane.apply(triggered("a", {"files": {"connection": "lake", "object": "in/*"}}))
    plane.refused("connection.delete", name="lake")


def test_a_replay_fires_the_same() -> None:
    plane = plane_of(triggered("a", FILES | HOOK), triggered("b", {"datasets": ["house:sales.a"]}))
    find_files(plane, "a", 1, "in/x.csv")
    plane.done("run.trigger", pipeline="a")
    end(plane, "a")
    end(plane, "b")
    end(plane, "a")
    assert judged(plane.log, plane.agents) == decisions(plane.log)
    assert plane.of("agent.faulted") == []


def test_a_connection_that_moves_is_looked_at_in_its_new_place() -> None:
    plane = plane_of(triggered("a", FILES), triggered("b", {"files": {"connection": "house", "object": "in/*"}}))
    before, other = task_of(plane, "a", "watch"), task_of(plane, "b", "watch")
    moved = postgres("elsewhere")
    plane.done("connection.put", name="shop", connection=moved)
    after = task_of(plane, "a", "watch")
    assert after["id"] != before["id"]
    assert (after["worker"], task_of(plane, "b", "watch")["id"]) == ("w1", other["id"])
    assert plane.of("task.assigned")[-1].payload["connections"]["shop"] == moved
    plane.done("connection.put", name="shop", connection=moved)
    assert task_of(plane, "a", "watch")["id"] == after["id"], "nothing has changed"


def test_a_run_has_updated_the_dataset_that_it_wrote_although_its_pipeline_writes_another_one_now() -> None:
    plane = plane_of(pipeline("a"), triggered("b", {"datasets": ["house:sales.a"]}))
    plane.run("a")
    elsewhere = pipeline("a")
    elsewhere["spec"]["sink"]["object"] = "sales.elsewhere"
    plane.apply(elsewhere)
    end(plane, "a")
    assert runs(plane) == ["a", "b"]
    plane.run("a")
    end(plane, "a")
    assert runs(plane) == ["a", "b", "a"]


def test_a_late_report_of_a_deleted_pipeline_starts_nothing_of_the_next_one_of_its_name() -> None:
    plane = plane_of(triggered("a", FILES))
    plane.done("pipeline.delete", name="a")
    find_files(plane, "a", 1, "in/x.csv")
    plane.end(task_of(plane, "a", "cleanup"))
    assert plane.of("pipeline.deleted")
    plane.apply(triggered("a", FILES))
    plane.apply(triggered("a", FILES, schedule={"cron": "0 0 * * *"}))
    assert runs(plane) == []
