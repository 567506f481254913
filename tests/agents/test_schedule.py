# ruff: noqa: E501 - tables of cases, one a line
"""Schedules: ticks by the clock of a zone, and the orchestrator's reactions to them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.ticks import next_tick, ticks
from penstock.models.schedule import Schedule
from penstock.records import Record
from tests.agents.control_plane import ERROR, FATAL, ControlPlane, decisions, judged, pipeline, pipeline_set

CASES = {
    "a time that the clock skips": ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T01:30", "2026-03-30T00:30"]),
    "spans where the clock skips": ("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00", ["2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30"]),
    "a time that comes twice": ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
    "spans where the clock goes back": ("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:40", ["2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30", "2026-10-25T02:00"]),
    "each hour, New York": ("0 * * * *", "America/New_York", "2026-11-01T04:30", ["2026-11-01T05:00", "2026-11-01T06:00", "2026-11-01T07:00"]),
    "a skipped time, New York": ("15 2 * * *", "America/New_York", "2026-03-07T12:00", ["2026-03-08T07:15", "2026-03-09T06:15"]),
    "half an hour, Lord Howe": ("*/15 * * * *", "Australia/Lord_Howe", "2026-04-04T14:40", ["2026-04-04T14:45", "2026-04-04T15:00", "2026-04-04T15:15", "2026-04-04T15:30"]),
    "a skipped half hour": ("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T20:00", ["2026-10-03T15:45", "2026-10-04T15:15"]),
    "once a year": ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["2028-02-29T00:00", "2032-02-29T00:00"]),
}  # fmt: skip


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize("case", CASES)
def test_ticks_across_clock_changes(case: str) -> None:
    cron, zone, after, expected = CASES[case]
    schedule, now, found = Schedule(cron=cron, timezone=zone), at(after), []
    for _ in expected:
        tick = next_tick(schedule, now)
        assert tick is not None
        found.append(tick)
        now = tick
    assert found == [at(text) for text in expected]
    assert ticks(schedule, at(after), found[-1]) == found


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"]


@settings(max_examples=60, deadline=None)
@given(
    cron=st.sampled_from(["*/15 * * * *", "0 * * * *", "30 2 * * *", "0 0 * * 1", "5,35 1-3 * * *"]),
    zone=st.sampled_from(ZONES),
    after=st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
    cut=st.integers(0, 5 * 24 * 60),
)
def test_no_tick_is_lost_or_doubled_at_a_cut(cron: str, zone: str, after: datetime, cut: int) -> None:
    schedule = Schedule(cron=cron, timezone=zone)
    middle, upto = after + timedelta(minutes=cut), after + timedelta(days=5)
    whole = ticks(schedule, after, upto)
    assert ticks(schedule, after, middle) + ticks(schedule, middle, upto) == whole
    assert len(set(whole)) == len(whole)
    assert next_tick(schedule, after) == (whole[0] if whole else next_tick(schedule, upto))
    minutes = {tick.astimezone(ZoneInfo(zone)).minute % 5 for tick in whole}
    assert minutes <= {0}


@settings(max_examples=60, deadline=None)
@given(
    cron=st.sampled_from(["*/15 * * * *", "0 * * * *", "30 2 * * *", "5,35 1-3 * * *"]),
    zone=st.sampled_from(ZONES),
    change=st.sampled_from(["2026-03-29", "2026-10-25", "2026-03-08", "2026-04-05", "2026-10-04", "2026-06-10"]),
    minutes=st.integers(-40 * 60, 40 * 60),
)
def test_far_from_a_clock_change_ticks_are_those_of_the_comparison(
    cron: str, zone: str, change: str, minutes: int
) -> None:
    schedule, after = Schedule(cron=cron, timezone=zone), at(change) + timedelta(minutes=minutes)
    upto = after + timedelta(hours=5)
    quick = next_tick(schedule, after), ticks(schedule, after, upto)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.ticks.STEADY", timedelta())
        assert (next_tick(schedule, after), ticks(schedule, after, upto)) == quick


# -- the orchestrator ------------------------------------------------------------------------------------------------


def scheduled(**rules: Any) -> ControlPlane:
    """Return a control plane with one scheduled pipeline and one worker."""
    plane = ControlPlane()
    plane.connect("shop", "house")
    document = pipeline("orders")
    document["spec"]["schedule"] = {"cron": "*/10 * * * *", **rules}
    plane.apply(document)
    plane.join("w1", slots=4)
    return plane


def asked(plane: ControlPlane) -> list[Record]:
    return [record for record in plane.of("timer.requested") if record.payload["timer"].startswith("tick:")]


def fire(plane: ControlPlane, late: timedelta = timedelta(seconds=0.1)) -> None:
    """Fire the last requested tick, late by the given time."""
    record = asked(plane)[-1]
    plane.now = datetime.fromisoformat(record.payload["due"]) + late
    plane.fire(record.payload["timer"])


def runs(plane: ControlPlane) -> list[str]:
    return [record.payload["run"]["scheduled_for"][11:16] for record in plane.of("run.created")]


def finish(plane: ControlPlane) -> None:
    """Complete the worker's run."""
    (task,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["status"] == "assigned"]
    plane.end(task)


def test_each_tick_starts_a_run_and_asks_for_the_next() -> None:
    plane = scheduled()
    assert [record.payload["due"][11:16] for record in asked(plane)] == ["00:10"]
    for _ in range(3):
        fire(plane)
        finish(plane)
    assert runs(plane) == ["00:10", "00:20", "00:30"]
    assert [record.payload["due"][11:16] for record in asked(plane)] == ["00:10", "00:20", "00:30", "00:40"]


def test_a_tick_reported_twice_is_one_run() -> None:
    plane = scheduled()
    timer = asked(plane)[-1].payload["timer"]
    fire(plane)
    finish(plane)
    plane.fire(timer)
    assert runs(plane) == ["00:10"]


@pytest.mark.parametrize(
    ("missed", "late", "expected"),
    [
        ("all", 35, ["00:10", "00:20", "00:30", "00:40"]), ("latest", 35, ["00:40"]), ("none", 35, []),
        ("none", 30, ["00:40"]), ("latest", 5, ["00:10"]), ("none", 5, []), ("all", 5, ["00:10"]),
    ],
)  # fmt: skip
def test_missed_ticks(missed: str, late: int, expected: list[str]) -> None:
    plane = scheduled(missed=missed)
    fire(plane, timedelta(minutes=late, seconds=0.1))
    while plane.running():
        assert list(plane.running()) == ["orders"]
        finish(plane)
    assert runs(plane) == expected
    assert asked(plane)[-1].payload["due"][11:16] == ("00:50" if late >= 30 else "00:20")


def test_a_tick_during_a_run_is_skipped_or_queued() -> None:
    for overlap, expected in (("skip", ["00:10"]), ("queue", ["00:10", "00:20", "00:30"])):
        plane = scheduled(overlap=overlap)
        for _ in range(3):
            fire(plane)
            assert list(plane.running()) == ["orders"]
        assert runs(plane) == expected
        for _ in expected:
            finish(plane)
        assert not plane.running()
        assert sorted(run.payload["run"]["status"] for run in plane.of("run.finished")) == ["completed"] * len(expected)


def test_a_paused_pipeline_has_no_ticks_until_it_is_resumed() -> None:
    plane = scheduled()
    plane.done("pipeline.pause", name="orders")
    fire(plane)
    assert runs(plane) == []
    plane.done("pipeline.resume", name="orders")
    assert asked(plane)[-1].payload["due"][11:16] == "00:20"
    fire(plane)
    assert runs(plane) == ["00:20"]


def test_a_changed_schedule_takes_effect_at_once() -> None:
    plane = scheduled()
    old = asked(plane)[-1].payload["timer"]
    document = pipeline("orders")
    document["spec"]["schedule"] = {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}
    plane.apply(document)
    plane.fire(old)
    assert (runs(plane), asked(plane)[-1].payload["due"][:16]) == ([], "2026-01-01T05:00")
    plane.apply(pipeline("orders"))
    plane.fire(asked(plane)[-1].payload["timer"])
    assert runs(plane) == []


def test_more_missed_ticks_than_one_decision_takes_are_not_lost() -> None:
    plane = scheduled(missed="all")
    fire(plane, timedelta(minutes=10 * 149, seconds=0.1))
    assert len(runs(plane)) == 100
    plane.fire(asked(plane)[-1].payload["timer"])
    while plane.running():
        finish(plane)
    assert len(set(runs_of(plane))) == len(runs_of(plane)) == 150


def runs_of(plane: ControlPlane) -> list[str]:
    return [record.payload["run"]["scheduled_for"] for record in plane.of("run.created")]


def test_a_new_brain_decides_the_same() -> None:
    plane = scheduled(missed="all", overlap="queue")
    fire(plane, timedelta(minutes=25))
    fire(plane)
    before = plane.states()
    plane.restart()
    assert plane.states() == before
    assert decisions(plane.log) == judged(plane.log, plane.agents)


# -- a clock that is set ---------------------------------------------------------------------------------------------


def set_back(plane: ControlPlane, to: str) -> None:
    plane.now = datetime.fromisoformat(f"{to}Z")
    plane.tell("clock.set_back", "clock", seconds=3600.0)


def test_a_clock_that_is_years_ahead_makes_up_for_few_ticks() -> None:
    for missed, expected in (("latest", 1), ("all", 100)):
        plane = scheduled(missed=missed, overlap="queue")
        fire(plane, timedelta(days=3650))
        assert len(runs_of(plane)) == expected
    for _ in range(9):
        plane.fire(asked(plane)[-1].payload["timer"])
    assert len(set(runs_of(plane))) == 1000, "the latest 1000 of half a million"
    assert min(runs_of(plane)) > "2035-12-2"


@pytest.mark.parametrize("restart", [False, True])
def test_the_next_tick_is_near_again_when_a_clock_that_was_years_ahead_is_set(restart: bool) -> None:
    plane = scheduled()
    fire(plane, timedelta(days=3650))
    finish(plane)
    assert asked(plane)[-1].payload["due"] > "2035"
    plane.now = at("2026-01-01T01:02")
    if restart:
        plane.restart()
    else:
        set_back(plane, "2026-01-01T01:02")
    assert asked(plane)[-1].payload["due"][:16] == "2026-01-01T01:10"
    fire(plane)
    assert runs_of(plane)[-1][:16] == "2026-01-01T01:10"


@pytest.mark.parametrize(
    ("cron", "to", "expected"),
    [
        ("*/10 * * * *", "2026-01-02T02:09:59", "2026-01-02T02:20"), ("*/10 * * * *", "2026-01-02T01:30", "2026-01-02T01:40"),
        ("0 2 * * *", "2026-01-02T01:59:58", "2026-01-03T02:00"), ("0 2 * * *", "2026-01-02T00:00", "2026-01-03T02:00"),
        ("0 2 * * *", "2026-01-01T20:00", "2026-01-02T02:00"), ("0 2 * * *", "2026-01-02T03:00", "2026-01-03T02:00"),
    ],
)  # fmt: skip
def test_a_small_correction_of_the_clock_repeats_nothing(cron: str, to: str, expected: str) -> None:
    plane = scheduled(cron=cron)
    plane.now = at("2026-01-02T00:00")
    while asked(plane)[-1].payload["due"][:16] <= ("2026-01-02T02:10" if "/" in cron else "2026-01-02T02:00"):
        fire(plane)
        finish(plane)
    set_back(plane, to if to.count(":") == 2 else f"{to}:00")
    assert asked(plane)[-1].payload["due"][:16] == expected


def test_a_tick_that_comes_again_is_another_run() -> None:
    plane = scheduled()
    fire(plane)
    finish(plane)
    fire(plane)
    finish(plane)
    set_back(plane, "2026-01-01T00:08:00")
    fire(plane)
    assert runs(plane) == ["00:10", "00:20", "00:10"]
    assert len({record.payload["run"]["id"] for record in plane.of("run.created")}) == 3


def comparing(**spec: Any) -> ControlPlane:
    """Return a plane with a pipeline that is checked each hour, and a worker."""
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.join("w", slots=2, kinds=("pipeline", "cleanup", "check"))
    document = pipeline("orders")
    document["spec"] |= {"check": {"every": "1h"}, **spec}
    plane.apply(document)
    return plane


def checks(plane: ControlPlane) -> list[Record]:
    return [record for record in plane.of("task.queued") if record.payload["task"]["kind"] == "check"]


def pending(plane: ControlPlane) -> dict[str, Any]:
    found: dict[str, Any] = plane.state("orchestrator")["pipelines"]["orders"].get("comparing", {}).get("check", {})
    return found


def fall_due(plane: ControlPlane, late: timedelta = timedelta(seconds=0.1)) -> None:
    """Fire the pending timer of a check, so late."""
    plane.now = max(plane.now, datetime.fromisoformat(pending(plane)["due"])) + late
    plane.fire(pending(plane)["timer"])


def test_the_result_of_a_scheduled_check_is_recorded() -> None:
    plane = comparing()
    plane.join("w2", kinds=("check",))
    for error in (None, FATAL):
        fall_due(plane)
        task = plane.task_of("orders")
        attempt = {"task": task["id"], "attempt": task["attempt"], "worker": task["worker"]}
        found = {
            "name": "orders",
            "uid": task_uid(plane),
            "source_rows": 3,
            "target_rows": 2,
            "missing": 1,
            "agree": False,
        }
        if error:
            plane.end(task, error)
        else:
            plane.tell("task.completed", task["id"], **attempt, checked={**found, "position": "7"})
    done, failed = (record.payload for record in plane.of("check.recorded"))
    assert (done["missing"], done["position"], done["by"], done["agree"]) == (1, "7", "tests", False)
    assert (failed["error"]["code"], failed["agree"]) == (FATAL["code"], False)
    assert (failed["source_rows"], failed["target_rows"]) == (0, 0)


def test_due_times_of_a_check_that_have_passed_are_reported() -> None:
    for late, told, hours in (
        (0.1, "", 1),
        (2 * 3600, ", and 2 times since", 3),
        (2.5 * 3600, ", and 2 times since", 3),
    ):
        plane = comparing()
        due = datetime.fromisoformat(pending(plane)["due"])
        fall_due(plane, timedelta(seconds=late))
        reason = plane.of("agent.decided")[-1].payload["reason"]
        assert reason.startswith(f"due at {due.isoformat()}{told}")
        assert reason.count("since") == bool(told)
        assert datetime.fromisoformat(pending(plane)["due"]) == due + timedelta(hours=hours)


def test_a_check_with_another_interval_is_due_so_long_from_now() -> None:
    plane = comparing()
    first = pending(plane)
    plane.now += timedelta(minutes=10)
    document = pipeline("orders", stage="other")
    document["spec"] |= {"check": {"every": "1h"}}
    plane.apply(document)
    assert pending(plane) == first, "a change of something else moves nothing"
    for every in (timedelta(minutes=5), timedelta(hours=3)):
        document["spec"] |= {"check": {"every": f"{every // timedelta(minutes=1)}m"}}
        plane.apply(document)
        assert datetime.fromisoformat(pending(plane)["due"]) == plane.now + every
    plane.fire(first["timer"])
    assert checks(plane) == []
    plane.done("pipeline.pause", name="orders")
    plane.now += timedelta(minutes=10)
    plane.done("pipeline.resume", name="orders")
    assert datetime.fromisoformat(pending(plane)["due"]) == plane.now + every


def test_the_next_check_is_near_again_when_a_clock_that_was_ahead_is_set() -> None:
    plane = comparing()
    fall_due(plane, timedelta(days=3650))
    set_back(plane, "2026-01-01T01:02:00")
    due = datetime.fromisoformat(pending(plane)["due"])
    assert due - plane.now == timedelta(hours=1)
    count = len(plane.of("timer.requested"))
    set_back(plane, "2026-01-01T01:02:00")
    assert len(plane.of("timer.requested")) == count, "it is due when it was"


def test_a_check_that_cannot_be_done_is_refused_by_name() -> None:
    plane = comparing()
    plane.join("w2", kinds=("check", "deletes"))
    plane.apply(pipeline_set("shop"))

    def refused(kind: str, name: str) -> tuple[str, str]:
        found = plane.refused(f"{kind}.start", name=name)
        return found["what"], found["hint"]

    assert "is a set" in refused("check", "shop")[0]
    what, hint = refused("check", "oders")
    assert ("there is no pipeline" in what, "orders" in hint) == (True, True)
    assert "penstock list" in refused("check", "zzzzzz")[1]
    assert "does not compare keys" in refused("deletes", "orders")[0]
    plane.done("check.start", name="orders")
    assert f"by task {plane.task_of('orders')['id']}" in refused("check", "orders")[0]
    plane.end(plane.task_of("orders"))
    plane.done("pipeline.delete", name="orders")
    assert "is deleting" in refused("check", "orders")[0]


def task_uid(plane: ControlPlane) -> str:
    return str(plane.state("orchestrator")["pipelines"]["orders"]["uid"])


def test_a_check_of_a_batch_and_its_runs_wait_for_each_other() -> None:
    plane = comparing()
    plane.run("orders")
    fall_due(plane)
    first, second = plane.state("orchestrator")["tasks"].values()
    assert (first["status"], second["status"]) == ("assigned", "queued")
    plane.end(first)
    assert plane.task_of("orders")["status"] == "assigned"
    plane.run("orders")
    check, run = plane.state("orchestrator")["tasks"].values()
    assert (check["kind"], check["status"], run["status"]) == ("check", "assigned", "queued")
    plane.end(check)
    assert plane.running() == {"orders": "w"}


def test_a_stream_is_checked_while_it_runs_and_a_connection_once_at_a_time() -> None:
    plane = comparing(mode="stream")
    plane.apply(
        pipeline("others") | {"spec": {**pipeline("others")["spec"], "mode": "stream", "check": {"every": "1h"}}}
    )
    fall_due(plane)
    other = plane.state("orchestrator")["pipelines"]["others"]["comparing"]["check"]
    plane.now = max(plane.now, datetime.fromisoformat(other["due"]))
    plane.fire(other["timer"])
    tasks = plane.state("orchestrator")["tasks"].values()
    assert [task["status"] for task in tasks if task["kind"] == "check"] == ["assigned", "queued"]
    assert [task["status"] for task in tasks if task["kind"] == "pipeline"] == ["assigned", "assigned"]
    plane.end(next(task for task in tasks if task["kind"] == "check" and task["status"] == "assigned"))
    plane.end(next(task for task in plane.state("orchestrator")["tasks"].values() if task["kind"] == "check"))
    plane.done("check.start", name="orders")
    asked = next(task for task in plane.state("orchestrator")["tasks"].values() if task["kind"] == "check")
    plane.end(asked, ERROR)
    assert asked["id"] not in plane.state("orchestrator")["tasks"], "who asked gets the error: only its run is endless"


def test_a_check_on_command_needs_no_active_pipeline_and_only_its_result_is_recorded() -> None:
    plane = comparing()
    plane.run("orders")
    plane.done("pipeline.pause", name="orders")
    plane.done("check.start", name="orders", since="7")
    plane.refused("check.start", name="orders")
    run, check = plane.state("orchestrator")["tasks"].values()
    assert (run["status"], check["status"], check["since"]) == ("queued", "assigned", "7"), (
        "the run waits for the pause"
    )
    plane.end(check, ERROR)
    assert not plane.of("check.recorded")
    assert [one.payload["status"] for one in plane.of("task.closed")] == ["failed"], "who waits for it tries again"
    plane.done("check.start", name="orders")
    assert [one.payload.get("since") for one in plane.of("task.assigned") if one.payload["kind"] == "check"] == [
        "7",
        None,
    ]
    plane.done("pipeline.resume", name="orders")
    (check,) = [one for one in plane.state("orchestrator")["tasks"].values() if one["kind"] == "check"]
    assert plane.running() == {"orders": "w"}
    plane.end(check)
    assert [one["kind"] for one in plane.state("orchestrator")["tasks"].values()] == ["pipeline"]
    assert plane.running() == {"orders": "w"}


def test_keys_are_compared_on_command_or_by_schedule_and_apart_from_runs() -> None:
    plane = comparing()
    plane.join("w2", kinds=("deletes",))
    plane.refused("deletes.start", name="orders")
    document = pipeline("orders")
    document["spec"]["sink"] |= {"write": "merge", "key": ["id"]}
    document["spec"]["deletes"] = {"mark": "gone", "every": "1d"}
    plane.apply(document)
    assert set(plane.state("orchestrator")["pipelines"]["orders"]["comparing"]) == {"deletes"}
    plane.run("orders")
    plane.done("deletes.start", name="orders", limit=0.5)
    plane.refused("deletes.start", name="orders")
    run, keys = plane.state("orchestrator")["tasks"].values()
    assert (run["status"], keys["status"], keys["limit"]) == ("assigned", "queued", 0.5)
    plane.end(run)
    (assigned,) = [one.payload for one in plane.of("task.assigned") if one.payload["kind"] == "deletes"]
    assert (assigned["limit"], assigned["worker"]) == (0.5, "w2")
    found = {"source_keys": 8, "target_keys": 9, "removed": 1, "returned": 0}
    attempt = {key: assigned[key] for key in ("task", "attempt", "worker")}
    plane.tell("task.completed", assigned["task"], **attempt, deletes=found)
    plane.done("deletes.start", name="orders")
    plane.end(plane.task_of("orders"), FATAL)
    done, failed = (record.payload for record in plane.of("deletes.recorded"))
    assert (done["found"], done["task"], failed["error"]["code"]) == (found, assigned["task"], FATAL["code"])
    plane.done("pipeline.pause", name="orders")
    plane.refused("deletes.start", name="orders")
    plane.refused("deletes.start", name="nobody")


def merged(label: str, **deletes: Any) -> dict[str, Any]:
    document = pipeline("orders", stage=label)
    document["spec"]["sink"] |= {"write": "merge", "key": ["id"]}
    document["spec"] |= {"deletes": {"mark": "remove", **deletes}} if deletes else {}
    return document


def compared(plane: ControlPlane) -> list[tuple[str, str, int]]:
    """Return the open comparisons: kind, status, and the version whose file they follow."""
    tasks = plane.state("orchestrator")["tasks"].values()
    return [(one["kind"], one["status"], one["version"]) for one in tasks if one["kind"] in {"check", "deletes"}]


@pytest.mark.parametrize("busy", [True, False])
def test_a_comparison_never_follows_an_older_version_of_its_file(busy: bool) -> None:
    """Rows that a new version loads, an older one would find gone."""
    plane = comparing()
    plane.join("w2", kinds=("deletes",))
    status = "queued" if busy else "assigned"
    plane.apply(merged("one", every="1d"))
    plane.run("orders") if busy else None

    def fall_due() -> None:
        one = plane.state("orchestrator")["pipelines"]["orders"]["comparing"]["deletes"]
        plane.now = max(plane.now, datetime.fromisoformat(one["due"])) + timedelta(seconds=1)
        plane.fire(one["timer"])

    fall_due()
    assert compared(plane) == [("deletes", status, 2)]
    plane.apply(merged("two", every="1d"))
    assert compared(plane) == [("deletes", status, 3)], "one that was due is done by the new file"
    plane.done("pipeline.rollback", name="orders", to=2)
    assert compared(plane) == [("deletes", status, 4)]
    plane.apply(merged("three"))
    assert compared(plane) == []
    plane.apply(merged("four", limit=0.1))
    plane.done("deletes.start", name="orders", limit=1.0)
    assert compared(plane) == [("deletes", status, 6)]
    plane.apply(merged("five", limit=0.1))
    assert compared(plane) == [], "whoever asked gets the error, and asks again"
    reasons = {one.payload["reason"] for one in plane.of("task.closed")}
    assert reasons == {f"version {version} takes over" for version in (3, 4, 5, 7)}


def test_what_somebody_waits_for_ends_with_its_worker() -> None:
    """An approval counts for the data of its time: it must not be used days later."""
    plane = comparing()
    plane.apply(merged("one", every="1d"))
    plane.join("w2", kinds=("deletes",))
    plane.join("w3", kinds=("deletes",))
    plane.done("deletes.start", name="orders", limit=1.0)
    at = plane.task_of("orders")["worker"]
    (other,) = {"w2", "w3"} - {at}
    plane.lose(at)
    assert compared(plane) == [], "another worker does not repeat it"
    plane.run("orders")
    plane.done("deletes.start", name="orders", limit=1.0)
    assert compared(plane) == [("deletes", "queued", 2)]
    plane.lose(other)
    assert compared(plane) == [], "none is left that could do it"
    plane.done("deletes.start", name="orders", limit=1.0)
    plane.now += timedelta(hours=23)
    plane.join("w4", kinds=("check",))
    assert compared(plane) == [("deletes", "queued", 2)]
    plane.now += timedelta(hours=2)
    plane.join("w5", kinds=("deletes",))
    assert compared(plane) == []
    plane.done("deletes.start", name="orders")
    plane.now += timedelta(days=2)
    plane.restart()
    assert compared(plane) == []


STEPS = st.sampled_from(
    ["due", "late", "again", "done", "fails", "run", "pause", "resume", "restart", "lose", "faster", "none"]
)


@given(st.lists(STEPS, min_size=1, max_size=25), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_a_check_is_never_started_twice_for_one_due_time_and_is_caught_up_once(taken: list[str], batch: int) -> None:
    plane = comparing()
    plane.batch = batch
    fired: list[str] = []
    for number, step in enumerate(taken):
        tasks = list(plane.state("orchestrator")["tasks"].values())
        open_ = [task for task in tasks if task["kind"] == "check"]
        before = len(checks(plane))
        match step:
            case "due" | "late" if pending(plane):
                timer, due = pending(plane)["timer"], datetime.fromisoformat(pending(plane)["due"])
                fall_due(plane, timedelta(hours=50.5) if step == "late" else timedelta(seconds=0.1))
                fired.append(timer)
                assert len(checks(plane)) - before == (0 if open_ else 1), "missed times are made up for by one check"
                following = datetime.fromisoformat(pending(plane)["due"])
                every = timedelta(minutes=30) if "faster" in plane_every(plane) else timedelta(hours=1)
                assert following > plane.now
                assert (following - due) % every == timedelta(0)
            case "again" if fired:
                plane.fire(fired[number % len(fired)])
                assert len(checks(plane)) == before
            case "done" | "fails" if assigned := [task for task in tasks if task["status"] == "assigned"]:
                plane.end(assigned[0], FATAL if step == "fails" else None)
            case "run" | "pause" | "resume":
                plane.command("run.start", pipeline="orders") if step == "run" else plane.command(
                    f"pipeline.{step}", name="orders"
                )
            case "restart":
                before_it = plane.states()
                plane.restart()
                assert plane.states() == before_it
            case "lose":
                plane.lose("w")
                plane.join("w", slots=2, kinds=("pipeline", "cleanup", "check"))
            case "faster" | "none":
                document = pipeline("orders")
                document["spec"] |= {"check": {"every": "30m"}} if step == "faster" else {}
                plane.apply(document)
        working = [
            task["kind"] for task in plane.state("orchestrator")["tasks"].values() if task["status"] == "assigned"
        ]
        assert len(working) <= 1, "a check and a run of a batch exclude each other"
    assert decisions(plane.log) == judged(plane.log, plane.agents)


def plane_every(plane: ControlPlane) -> str:
    spec = plane.state("orchestrator")["pipelines"]["orders"]["pipeline"]["spec"]
    return "faster" if spec.get("check", {}).get("every") in {"30m", "PT30M"} else ""
