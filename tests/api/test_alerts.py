"""`penstock alerts`, through all real parts: runs whose rows collapse, a pipeline that is late, and what people do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.starter import SHOP, WAREHOUSE
from tests.api.conftest import Make
from tests.api.project import Project

POLICY = """
apiVersion: penstock/v1
kind: AgentPolicy
metadata: {name: watched}
spec:
  applies: {kind: watched}
  monitor: {sensitivity: 3, warm_up: 5}
"""
WATCHED = "owner: me, labels: {kind: watched}"
ROWS = """INSERT INTO usual SELECT id, customer, price, quantity, placed_at FROM orders WHERE id <= 100"""


@pytest.fixture(scope="module")
def policy(running: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy for the pipelines of these tests, in effect."""
    path = tmp_path_factory.mktemp("policy") / "watched.yaml"
    path.write_text(POLICY)
    running.done("apply", path)
    return path


def until(found: Callable[[], Any], what: str) -> Any:
    """Look every second, which costs little; return the first true value."""
    for _ in range(60):
        if value := found():
            return value
        time.sleep(1)
    raise AssertionError(what)


def alerts(project: Project, name: str, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = project.done("alerts", "list", name, *more)["alerts"]
    return found


def run(project: Project, name: str) -> dict[str, Any]:
    found: dict[str, Any] = project.done("run", name, "--watch")
    assert found["status"] == "completed"
    return found


@pytest.mark.usefixtures("policy")
def test_rows_that_collapse_are_told_and_that_is_over_by_itself(running: Project, made: Make) -> None:
    running.sql(SHOP, "CREATE TABLE usual (LIKE orders INCLUDING ALL); " + ROWS)
    changes = {"public.orders, cursor: {field: id}": "public.usual", "write: append": "write: replace"}
    name = made(**changes, **{"owner: me": WATCHED, "spec:": "spec:\n  expect: {rows: learned}"})
    for _ in range(6):
        run(running, name)
        time.sleep(1)  # shares of NULLs of one second are one value
    running.sql(SHOP, "DELETE FROM usual")
    last = run(running, name)
    (alert,) = until(lambda: alerts(running, name), "an alert")
    assert (alert["kind"], alert["severity"], alert["alert"]["run"]) == ("volume", "critical", last["id"])
    assert alert["summary"].startswith(f"{name} wrote 0 rows, usually about 100 (score -")
    (listed,) = [one for one in running.done("list") if one["name"] == name]
    assert (listed["alerts"], listed["critical"]) == (1, True)
    assert "critical alert" in running.do("status", name).out
    assert "1, critical" in running.do("list").out
    assert f"run {last['id']} of {name}" in (why := running.do("why", alert["id"][:8])).out, why
    assert f"asked for run.start {name}" in why.out
    text = httpx.get(f"{running.address}/metrics", timeout=20).text
    assert 'penstock_alerts_open{severity="critical"}' in text
    running.done("alerts", "snooze", alert["id"][:8], "--for", "1h", "--why", "known [/bug 7]")
    until(lambda: alerts(running, name)[0]["snooze"], "the snooze")
    assert "snoozed until" in running.do("alerts", "list", name).out
    assert "known [/bug 7]" in running.do("alerts", "show", alert["id"][:8]).out
    running.sql(SHOP, ROWS)
    run(running, name)
    until(lambda: not alerts(running, name), "its end")
    (closed,) = alerts(running, name, "--all")
    assert (closed["id"], closed["status"]) == (alert["id"], "closed")
    (record,) = [one for one in events(running, "alert.closed") if one["payload"]["alert"] == alert["id"]]
    assert record["payload"]["routes"] == [], "what is snoozed is not told"
    tried = running.done("alerts", "test", name, "--sensitivity", "3", "--plot")
    assert [(one["metric"], one["severity"]) for one in tried["alerts"]] == [("rows_out", "critical")]
    assert running.done("alerts", "test", name, "--sensitivity", "50")["alerts"] == []
    running.sql(WAREHOUSE, f"ALTER TABLE {name} ALTER placed_at DROP NOT NULL")
    running.sql(SHOP, "ALTER TABLE usual ALTER placed_at DROP NOT NULL; UPDATE usual SET placed_at = NULL")
    run(running, name)
    (nulls,) = until(lambda: alerts(running, name), "an alert about NULLs")
    assert f"{name} has 100.0% nulls in `placed_at`, usually about 0.0%" in nulls["summary"]


def events(project: Project, type_: str) -> list[dict[str, Any]]:
    said = project.do("events", "--type", type_, "--json")
    assert said.code == 0, said.err
    return said.lines


def test_a_pipeline_that_is_late_is_told_until_a_run_succeeds(running: Project, made: Make) -> None:
    name = made(**{"spec:": "spec:\n  expect: {fresh: 1s}"})
    (alert,) = until(lambda: alerts(running, name), "an alert")
    assert alert["kind"] == "fresh"
    worse = until(lambda: [one for one in alerts(running, name) if one["severity"] == "critical"], "that it is worse")
    assert worse[0]["id"] == alert["id"], "one alert for one cause"
    run(running, name)
    until(lambda: [one for one in alerts(running, name, "--all") if one["status"] == "closed"], "its end")
    running.done("alerts", "silence", name, "--for", "1h", "--why", "a test")
    assert f"{name} is silenced until" in running.do("alerts", "list", name, "--all").out
    again = until(lambda: [one for one in alerts(running, name) if one["id"] != alert["id"]], "another one")
    assert again[0]["alert"]["routes"] == []
    running.done("pause", name)
    until(lambda: not alerts(running, name), "the end of what is paused")


def test_wrong_use_is_answered_by_what_is_right(running: Project, made: Make) -> None:
    name = made()
    assert "No alert is open." in running.do("alerts", "list", name).out
    assert running.do("alerts", "list", "nothing").code == 3
    assert running.do("alerts", "--limit", "0").code == 2
    assert running.do("alerts", "snooze", "nothing", "--for", "1h").code == 3
    assert running.do("alerts", "silence", "nothing", "--for", "1h").code == 3
    for wrong in (
        ("snooze",),
        ("silence", name),
        ("silence", name, "--for", "long"),
        ("silence", name, "--until", "x"),
        ("silence", name, "--until", "2h"),
        ("test", name, "--since", "99999999999d"),
        ("silence", name, "--for", "9999999999d"),
        ("silence", name, "--for", "1h", "--metric", "durations"),
    ):
        said = running.do("alerts", *wrong)
        assert (said.code, any(one in said.err for one in ("penstock", "write", "did you mean"))) == (2, True), said
