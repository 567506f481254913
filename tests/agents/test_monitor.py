"""The monitoring agent: it opens alerts by recorded numbers and by promises, and closes them by itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.alerts import KINDS
from penstock.records import Record
from tests.agents.control_plane import ERROR, FATAL, ControlPlane, decisions, judged, pipeline, policy


def planned(**expect: Any) -> ControlPlane:
    """Return a control plane with the pipeline `a`, whose file expects that."""
    plane = ControlPlane()
    plane.connect("shop", "house")
    document = pipeline("a", tier="gold")
    plane.apply(document | {"spec": {**document["spec"], **({"expect": expect} if expect else {})}})
    return plane


def score(
    plane: ControlPlane, size: float, *, metric: str = "rows_out", samples: int = 50, **more: Any
) -> list[Record]:
    """Record a score; return what follows, without the explanation."""
    payload = {"pipeline": "a", "metric": metric, "at": plane.tick(60).isoformat(), "value": 100 + size}
    payload |= {"expected": 100, "spread": 1, "score": size, "samples": samples, **more}
    return [one for one in plane.tell("series.scored", "a", **payload) if one.type != "agent.decided"]


def types(records: Sequence[Record]) -> list[str]:
    return [one.type for one in records if one.type != "agent.decided"]


def test_an_alert_opens_above_the_sensitivity_is_told_once_and_closes_well_below_it() -> None:
    plane = planned()
    assert score(plane, -4.0) == [], "equal to the sensitivity does not open one"
    (opened,) = score(plane, -5.0, run="r1")
    alert = opened.payload
    assert (alert["kind"], alert["severity"], alert["routes"]) == ("volume", "warning", ["log"])
    assert alert["summary"] == "a wrote 95 rows, usually about 100 (score -5.0 by 50 values)"
    assert score(plane, -6.0) == [], "it is told on changes of state only"
    (changed,) = score(plane, -9.0)
    assert (changed.type, changed.payload["alert"]) == ("alert.changed", alert["alert"])
    assert changed.payload["severity"] == "critical"
    assert score(plane, -5.0) == [], "less severe is not told"
    assert score(plane, -3.0) == [], "just below is not over"
    (closed,) = score(plane, -1.0)
    assert (closed.type, closed.payload["alert"], closed.payload["routes"]) == ("alert.closed", alert["alert"], ["log"])
    assert closed.payload["lasted_s"] == pytest.approx(300, abs=1)
    assert types(score(plane, -8.5)) == ["alert.opened"], "later it is another alert"
    assert plane.of("alert.opened")[1].payload["alert"] != alert["alert"]


def test_nothing_opens_before_the_warm_up_nor_by_a_metric_that_is_better_than_usual() -> None:
    plane = planned()
    assert score(plane, 99.0, samples=19) == []
    assert types(score(plane, 99.0, samples=20)) == ["alert.opened"]
    for metric in ("duration", "lag", "errors"):
        assert score(plane, -99.0, metric=metric) == []
        assert types(score(plane, 99.0, metric=metric)) == ["alert.opened"]
    assert score(plane, 99.0, metric="unheard_of") == []


def test_a_policy_of_other_sensitivity_judges_the_last_numbers_again() -> None:
    plane = planned()
    score(plane, -5.0)
    followed = plane.put(plane.record("policy.publish", "p", {"policy": policy("p", monitor={"sensitivity": 9})}))
    assert "alert.closed" in types(followed)
    plane.done("connection.put", name="ops", connection={"type": "webhook", "url": "https://ops.example.com/hook"})
    rules = policy("p", applies={"tier": "gold"}, monitor={"sensitivity": 2, "routes": ["ops"]})
    followed = plane.put(plane.record("policy.publish", "p", {"policy": rules}))
    (opened,) = [one for one in followed if one.type == "alert.opened"]
    assert (opened.payload["routes"], opened.payload["severity"]) == (["ops"], "critical")


def test_columns_whose_nulls_are_unusual_are_one_alert() -> None:
    plane = planned()
    (opened,) = score(plane, 5.0, metric="nulls", part="email", value=0.4, expected=0.02)
    assert opened.payload["summary"].startswith("a has 40.0% nulls in `email`, usually about 2.0%")
    assert score(plane, 6.0, metric="nulls", part="phone") == []
    assert types(score(plane, 0.0, metric="nulls", part="email")) == ["alert.closed"]


def test_older_and_repeated_numbers_change_nothing() -> None:
    plane = planned()
    late = plane.tick().isoformat()
    (opened,) = score(plane, -5.0)
    assert score(plane, -5.0, at=opened.payload["since"]) == [], "as after a crash between log and position"
    score(plane, 0.0)
    assert score(plane, -9.0, at=late) == []


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 0.1, 1e15])
def test_no_number_that_a_record_can_have_makes_it_raise(value: float) -> None:
    plane = ControlPlane()
    plane.connect("shop", "house")
    document = pipeline("a")
    plane.apply(document | {"spec": {**document["spec"], "mode": "stream", "expect": {"fresh": "1m"}}})
    for metric in (*KINDS, "unheard_of"):
        score(plane, value, metric=metric, value=value, expected=value, part="p")
        score(plane, 9.0, metric=metric, value=value, expected=-value)
        score(plane, 0.0, metric=metric, value=value)
    assert plane.of("agent.faulted") == []
    assert all(len(one.payload["summary"]) < 200 for one in plane.of("alert.opened"))


def test_a_promise_of_rows_makes_it_critical() -> None:
    (opened,) = score(planned(rows="learned"), -5.0)
    assert opened.payload["severity"] == "critical"


def wait(plane: ControlPlane, seconds: float) -> list[Record]:
    """Let time pass, and the timers of the monitor fire that are due then; return what follows."""
    plane.tick(seconds)
    found: list[Record] = []
    fired = {one.payload["timer"] for one in plane.of("timer.fired")}
    for one in plane.of("timer.requested"):
        due = one.payload["due"] <= plane.now.isoformat()
        if due and one.payload["timer"] not in fired and one.actor == "agent:monitor":
            found += plane.fire(one.payload["timer"])
    return [one for one in found if one.type != "agent.decided"]


def complete(plane: ControlPlane) -> list[Record]:
    """Run the pipeline with success."""
    plane.run("a")
    return plane.end(plane.task_of("a"))


def test_a_pipeline_that_is_late_is_told_by_timers_and_by_a_success() -> None:
    plane = planned(fresh="1h")
    plane.join("w")
    assert types(wait(plane, 1800)) == []
    complete(plane)
    assert types(wait(plane, 1801)) == ["timer.requested"], "the success counts, and one timer at a time is enough"
    opened, timer = wait(plane, 1800)
    assert (opened.type, timer.type, opened.payload["severity"]) == ("alert.opened", "timer.requested", "warning")
    assert "has not succeeded since 2026-01-01 00:30:00 UTC" in opened.payload["summary"]
    (changed,) = wait(plane, 3601)
    assert (changed.type, changed.payload["severity"]) == ("alert.changed", "critical")
    assert wait(plane, 9999) == [], "told on changes of state only"
    followed = types(complete(plane))
    assert followed.count("alert.closed") == 1
    assert plane.state("monitor")["alerts"] == {}
    assert types(wait(plane, 3601)) == ["alert.opened", "timer.requested"], "and it may be late again"


def test_a_pipeline_that_is_paused_is_not_late() -> None:
    plane = planned(fresh="1h")
    plane.done("pipeline.pause", name="a")
    assert wait(plane, 7300) == []
    plane.done("pipeline.resume", name="a")
    assert types(wait(plane, 3500)) == []
    assert "alert.opened" in types(wait(plane, 101))
    plane.done("pipeline.pause", name="a")
    assert plane.of("alert.closed")[0].payload["reason"] == "the pipeline is paused"


def test_a_stream_is_late_by_what_a_worker_has_recorded() -> None:
    plane = ControlPlane()
    plane.connect("shop", "house")
    document = pipeline("a")
    plane.apply(document | {"spec": {**document["spec"], "mode": "stream", "expect": {"fresh": "1m"}}})
    assert wait(plane, 600) == [], "no timer"
    (opened,) = score(plane, 1.0, metric="lag", value=90.0)
    assert (opened.payload["kind"], opened.payload["severity"]) == ("fresh", "warning")
    assert opened.payload["summary"] == "a is 1m30s behind its source, and is to be within 1m"
    assert types(score(plane, 9.0, metric="lag", value=130.0)) == ["alert.changed"], "one alert for one cause"
    assert types(score(plane, 0.5, metric="lag", value=2.0)) == ["alert.closed"]


def test_what_is_snoozed_is_not_told_until_that_is_over() -> None:
    plane = planned()
    (opened,) = score(plane, -5.0)
    id_, until = opened.payload["alert"], (plane.now + timedelta(hours=1)).isoformat()
    assert plane.refused("alert.snooze", alert="nothing", until=until)["code"] == "not_found"
    assert plane.refused("alert.snooze", alert=id_, until=plane.now.isoformat())["code"] == "usage"
    plane.done("alert.snooze", alert=id_, until=until, why="known")
    record = plane.of("alert.snoozed")[0].payload
    assert (record["by"], record["why"]) == ("tests", "known")
    (changed,) = score(plane, -9.0)
    assert changed.payload["routes"] == []
    (told,) = wait(plane, 3600)
    assert (told.type, told.payload["severity"], told.payload["routes"]) == ("alert.changed", "critical", ["log"])
    assert score(plane, 0.0)[0].payload["routes"] == ["log"]
    score(plane, -5.0)
    (_, second) = plane.of("alert.opened")
    until = (plane.now + timedelta(hours=1)).isoformat()
    plane.done("alert.snooze", alert=second.payload["alert"], until=until)
    assert score(plane, 0.0)[0].payload["routes"] == []
    assert wait(plane, 3600) == []


def failed(plane: ControlPlane, name: str, **found: Any) -> list[Record]:
    """Let a run of a pipeline fail in a way that needs a person; return the alerts that follow."""
    plane.run(name)
    return about_alerts(plane.fail(at_work(plane, name), FATAL, **found))


def at_work(plane: ControlPlane, name: str) -> dict[str, Any]:
    """Return the open task of a pipeline's run, beside which there may be a diagnosis."""
    tasks = plane.state("orchestrator")["tasks"].values()
    (found,) = [one for one in tasks if (one["kind"], one["pipeline"]) == ("pipeline", name)]
    return dict(found)


def about_alerts(records: Sequence[Record]) -> list[Record]:
    return [one for one in records if one.type.startswith("alert.")]


def test_an_incident_is_told_and_is_over_with_it() -> None:
    plane = planned()
    plane.join("w")
    (opened,) = failed(plane, "a")
    (incident,) = plane.of("incident.opened")
    alert = opened.payload
    assert (alert["kind"], alert["severity"], alert["pipeline"], alert["incident"]) == (
        "incident",
        "critical",
        "a",
        incident.key,
    )
    assert (alert["summary"], alert["routes"]) == (f"a: {FATAL['what']}", ["log"])
    assert failed(plane, "a") == [], "a repeat belongs to the open one"
    assert score(plane, 9.0, metric="dead") == [], "the incident says so"
    plane.run("a")
    (closed,) = about_alerts(plane.end(at_work(plane, "a")))
    assert (closed.payload["alert"], closed.payload["reason"]) == (alert["alert"], "pipeline a works")


def test_an_incident_of_a_connection_is_told_where_any_of_its_pipelines_is() -> None:
    plane = planned()
    plane.apply(pipeline("b"))
    hook = {"type": "webhook", "url": "https://ops.example.com/hook"}
    for name in ("ops", "spare"):
        plane.done("connection.put", name=name, connection=hook)
    for tier, route in (("gold", "ops"), ("tin", "spare")):
        rules = policy(tier, applies={"tier": tier}, monitor={"routes": ["log", route]})
        plane.put(plane.record("policy.publish", tier, {"policy": rules}))
    plane.join("w")
    (opened,) = failed(plane, "b", kind="permission")
    assert "pipeline" not in opened.payload
    assert (opened.payload["connection"], opened.payload["routes"]) == ("house", ["log", "ops"])
    assert opened.payload["summary"] == f"connection house: {FATAL['what']}"
    until = (plane.now + timedelta(hours=1)).isoformat()
    plane.done("alert.snooze", alert=opened.payload["alert"], until=until)
    (told,) = about_alerts(wait(plane, 3600))
    assert (told.type, told.payload["routes"]) == ("alert.changed", ["log", "ops"])
    plane.run("a")
    (closed,) = about_alerts(plane.end(at_work(plane, "a")))
    assert closed.payload["routes"] == ["log", "ops"]
    assert plane.of("agent.faulted") == []


@pytest.mark.parametrize("metric", [None, "rows_out", "volume", "duration"])
def test_what_is_silenced_opens_untold_until_that_is_over(metric: str | None) -> None:
    plane = planned()
    assert plane.refused("alert.silence", pipeline="b", until=plane.now.isoformat())["hint"]
    until = (plane.now + timedelta(hours=1)).isoformat()
    plane.done("alert.silence", pipeline="a", until=until, **({"metric": metric} if metric else {}))
    (opened,) = score(plane, -5.0)
    told = metric == "duration"
    assert opened.payload["routes"] == (["log"] if told else [])
    followed = wait(plane, 3600)
    assert [(one.type, one.payload["routes"]) for one in followed] == ([] if told else [("alert.changed", ["log"])])
    assert plane.state("monitor")["silences"] == {}


def test_a_failing_pipeline_is_told_by_its_incident_which_other_alerts_name() -> None:
    plane = planned()
    plane.join("w")
    plane.run("a")
    plane.fail(plane.task_of("a"), {**ERROR, "code": "schema.missing_table", "transient": False})
    incident = plane.of("incident.opened")[0].payload["id"]
    assert score(plane, 9.0, metric="errors") == []
    assert score(plane, 9.0, metric="duration")[0].payload["incident"] == incident


@pytest.mark.parametrize("about", [{"pipeline": "a"}, {"connection": "shop"}])
def test_a_check_or_discovery_that_fails_is_told_and_hides_no_errors_of_runs(about: dict[str, str]) -> None:
    plane = planned()
    facts = {"component": "check", "subject": "a"}
    incident = {"component": "check", "fingerprint": "f", "kind": "data", "what": "both sides differ", "facts": facts}
    (opened,) = about_alerts(plane.tell("incident.opened", "i1", id="i1", **about, **incident))
    assert (opened.payload["incident"], opened.payload["routes"]) == ("i1", ["log"])
    assert about.items() <= opened.payload.items()
    (other,) = score(plane, 9.0, metric="dead")
    assert (other.type, "incident" in other.payload) == ("alert.opened", False)
    (closed,) = about_alerts(plane.tell("incident.closed", "i1", id="i1", reason="check a works again"))
    assert closed.payload["alert"] == opened.payload["alert"]


def test_a_halted_monitor_opens_nothing_and_catches_up() -> None:
    plane = planned(fresh="1h")
    plane.done("agent.halt", agent="monitor")
    assert score(plane, -5.0) == []
    assert wait(plane, 7300) == []
    before = len(plane.log)
    plane.done("agent.resume", agent="monitor")
    assert "alert.opened" in types(plane.log[before:])
    assert "alert.opened" in types(wait(plane, 1))


def test_a_change_of_the_schema_that_waits_for_an_answer_is_told_until_all_have_one() -> None:
    plane = planned()
    proposal = {"rule": "renames", "subject": "a", "to": "b", "confidence": 0.9}
    found = []
    for id_ in ("c1", "c2"):
        found += plane.tell("change.proposed", "a", id=id_, name="a", uid="u", run="r1", proposal=proposal)
    (opened,) = [one for one in found if one.type == "alert.opened"]
    assert (opened.payload["kind"], opened.payload["severity"]) == ("drift", "warning")
    assert opened.payload["summary"].endswith("it waits for an answer: read `b` in place of `a`, 90% sure")
    answers = [
        types(plane.tell("change.answered", "a", id=id_, name="a", uid="u", answer="denied", by="ann"))
        for id_ in ("c1", "c2")
    ]
    assert answers == [[], ["alert.closed"]]


def test_what_is_deleted_takes_its_alerts_along() -> None:
    plane = planned()
    score(plane, -5.0)
    plane.done("pipeline.stop", name="a")
    assert plane.of("alert.closed")[0].payload["reason"] == "the pipeline is stopped"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["score", "policy", "snooze", "silence", "fire", "run", "pause", "resume", "halt", "unhalt"]),
        st.integers(0, 9),
    ),
    max_size=25,
)


def take(plane: ControlPlane, step: str, number: int) -> None:
    """Do one step of a random history."""
    until = (plane.now + timedelta(minutes=number)).isoformat()
    match step:
        case "score":
            score(plane, (-1) ** number * number * 1.5, metric=["rows_out", "duration", "lag"][number % 3])
        case "policy":
            rules = {"sensitivity": 1 + number, "warm_up": 1 + number * 10}
            plane.command("policy.publish", policy=policy("p", monitor=rules))
        case "snooze":
            open_ones = [*plane.state("monitor")["alerts"].values(), {"alert": "none"}]
            plane.command("alert.snooze", alert=open_ones[number % len(open_ones)]["alert"], until=until)
        case "silence":
            plane.command("alert.silence", pipeline="a", until=until)
        case "fire":
            wait(plane, number * 600)
        case "run":
            plane.command("run.start", pipeline="a")
            for task in plane.state("orchestrator")["tasks"].values():
                if task["status"] == "assigned":
                    plane.end(task)
                    break
        case "halt" | "unhalt":
            plane.command("agent.halt" if step == "halt" else "agent.resume", agent="monitor")
        case _:
            plane.command(f"pipeline.{step}", name="a")


@settings(max_examples=15, deadline=None)
@given(history=STEPS)
def test_any_history_has_one_open_alert_for_a_cause_and_is_decided_again_alike(history: list[tuple[str, int]]) -> None:
    plane = planned(fresh="1h")
    plane.join("w")
    for step, number in history:
        take(plane, step, number)
    open_ones: dict[str, str] = {}
    for one in plane.log:
        if one.type == "alert.opened":
            assert one.payload["cause"] not in open_ones
            open_ones[one.payload["cause"]] = one.payload["alert"]
        elif one.type in {"alert.changed", "alert.closed"}:
            assert open_ones[one.payload["cause"]] == one.payload["alert"]
            if one.type == "alert.closed":
                del open_ones[one.payload["cause"]]
    assert not plane.of("agent.faulted")
    assert {key: one["alert"] for key, one in plane.state("monitor")["alerts"].items()} == open_ones
    assert {name: v for name, v in judged(plane.log, plane.agents).items() if name[0] == "monitor"} == {
        name: v for name, v in decisions(plane.log).items() if name[0] == "monitor"
    }
