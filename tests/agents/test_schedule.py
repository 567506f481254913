# ruff: noqa: E501 - tables of cases, one a line
"""Schedules: ticks by the clock of a zone, and what the orchestrator makes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.ticks import next_tick, ticks
from penstock.models.pipeline import Schedule
from penstock.records import Record
from tests.agents.world import World, decisions, judged, pipeline

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
def test_ticks_where_the_clock_is_changed(case: str) -> None:
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
def test_no_tick_is_lost_or_doubled_wherever_a_span_is_cut(cron: str, zone: str, after: datetime, cut: int) -> None:
    schedule = Schedule(cron=cron, timezone=zone)
    middle, upto = after + timedelta(minutes=cut), after + timedelta(days=5)
    whole = ticks(schedule, after, upto)
    assert ticks(schedule, after, middle) + ticks(schedule, middle, upto) == whole
    assert len(set(whole)) == len(whole)
    assert next_tick(schedule, after) == (whole[0] if whole else next_tick(schedule, upto))
    minutes = {tick.astimezone(ZoneInfo(zone)).minute % 5 for tick in whole}
    assert minutes <= {0}


# -- the orchestrator ------------------------------------------------------------------------------------------------


def scheduled(**rules: Any) -> World:
    """A world with one scheduled pipeline and one worker."""
    world = World()
    world.connect("shop", "house")
    document = pipeline("orders")
    document["spec"]["schedule"] = {"cron": "*/10 * * * *", **rules}
    world.apply(document)
    world.join("w1", slots=4)
    return world


def asked(world: World) -> list[Record]:
    return [record for record in world.of("timer.requested") if record.payload["timer"].startswith("tick:")]


def fire(world: World, late: timedelta = timedelta(seconds=0.1)) -> None:
    """Let the last tick that was asked for be told, so much after its time."""
    record = asked(world)[-1]
    world.now = datetime.fromisoformat(record.payload["due"]) + late
    world.fire(record.payload["timer"])


def runs(world: World) -> list[str]:
    return [record.payload["run"]["scheduled_for"][11:16] for record in world.of("run.created")]


def finish(world: World) -> None:
    """The worker completes the run that it has."""
    (task,) = [one for one in world.state("orchestrator")["tasks"].values() if one["status"] == "assigned"]
    world.end(task)


def test_each_tick_starts_a_run_and_asks_for_the_next() -> None:
    world = scheduled()
    assert [record.payload["due"][11:16] for record in asked(world)] == ["00:10"]
    for _ in range(3):
        fire(world)
        finish(world)
    assert runs(world) == ["00:10", "00:20", "00:30"]
    assert [record.payload["due"][11:16] for record in asked(world)] == ["00:10", "00:20", "00:30", "00:40"]


def test_a_tick_told_twice_is_one_run() -> None:
    world = scheduled()
    timer = asked(world)[-1].payload["timer"]
    fire(world)
    finish(world)
    world.fire(timer)
    assert runs(world) == ["00:10"]


@pytest.mark.parametrize(
    ("missed", "late", "expected"),
    [
        ("all", 35, ["00:10", "00:20", "00:30", "00:40"]), ("latest", 35, ["00:40"]), ("none", 35, []),
        ("none", 30, ["00:40"]), ("latest", 5, ["00:10"]), ("none", 5, []), ("all", 5, ["00:10"]),
    ],
)  # fmt: skip
def test_ticks_that_nobody_told_in_time(missed: str, late: int, expected: list[str]) -> None:
    world = scheduled(missed=missed)
    fire(world, timedelta(minutes=late, seconds=0.1))
    while world.running():
        assert list(world.running()) == ["orders"]
        finish(world)
    assert runs(world) == expected
    assert asked(world)[-1].payload["due"][11:16] == ("00:50" if late >= 30 else "00:20")


def test_a_tick_during_a_run_is_skipped_or_waits_for_its_turn() -> None:
    for overlap, expected in (("skip", ["00:10"]), ("queue", ["00:10", "00:20", "00:30"])):
        world = scheduled(overlap=overlap)
        for _ in range(3):
            fire(world)
            assert list(world.running()) == ["orders"]
        assert runs(world) == expected
        for _ in expected:
            finish(world)
        assert not world.running()
        assert sorted(run.payload["run"]["status"] for run in world.of("run.finished")) == ["completed"] * len(expected)


def test_a_paused_pipeline_does_not_tick_and_goes_on_when_it_is_resumed() -> None:
    world = scheduled()
    world.done("pipeline.pause", name="orders")
    fire(world)
    assert runs(world) == []
    world.done("pipeline.resume", name="orders")
    assert asked(world)[-1].payload["due"][11:16] == "00:20"
    fire(world)
    assert runs(world) == ["00:20"]


def test_a_changed_schedule_takes_effect_at_once() -> None:
    world = scheduled()
    old = asked(world)[-1].payload["timer"]
    document = pipeline("orders")
    document["spec"]["schedule"] = {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}
    world.apply(document)
    world.fire(old)
    assert (runs(world), asked(world)[-1].payload["due"][:16]) == ([], "2026-01-01T05:00")
    world.apply(pipeline("orders"))
    world.fire(asked(world)[-1].payload["timer"])
    assert runs(world) == []


def test_more_missed_ticks_than_one_decision_takes_are_not_lost() -> None:
    world = scheduled(missed="all")
    fire(world, timedelta(minutes=10 * 149, seconds=0.1))
    assert len(runs(world)) == 100
    world.fire(asked(world)[-1].payload["timer"])
    while world.running():
        finish(world)
    assert len(set(runs_of(world))) == len(runs_of(world)) == 150


def runs_of(world: World) -> list[str]:
    return [record.payload["run"]["scheduled_for"] for record in world.of("run.created")]


def test_what_was_decided_is_decided_again_by_a_new_brain() -> None:
    world = scheduled(missed="all", overlap="queue")
    fire(world, timedelta(minutes=25))
    fire(world)
    before = world.states()
    world.restart()
    assert world.states() == before
    assert decisions(world.log) == judged(world.log, world.agents)
