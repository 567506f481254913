"""The story by the command line: a source changes, rows are bad, agents and a person mend it, the log tells it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from api.demo.story import FIX, begin_story, change, kept_sales, widen, write_sales
from tests.api.project import Project, until
from tests.otlp import Receiver, Span, receiver


@pytest.fixture
def receiver_(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver of the spans of every process."""
    with receiver() as found:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "500")
        yield found


@pytest.fixture
def shop(receiver_: Receiver, project: Project) -> Project:
    """A project whose one pipeline copies `sales`; nothing runs."""
    (project.folder / "pipelines" / "orders.yaml").unlink()
    write_sales(project.folder)
    with project.server.lease():
        begin_story(project.server)
    return project


def test_a_source_changes_rows_are_bad_agents_and_a_person_mend_it_and_the_log_tells_it(
    shop: Project, receiver_: Receiver
) -> None:
    shop.up()
    shop.done("apply")
    first = shop.done("run", "sales", "--watch")
    assert first["counters"]["rows_out"] == 2000

    change(shop.server)
    said = shop.do("run", "sales", "--watch")
    assert (said.code, "`phone` is called `phone_number` now" in said.error) == (1, True), said.err
    skipped, failed, renamed, _ = _ended(shop, 4)
    assert [(one["version"], one["status"]) for one in (renamed, failed, skipped)] == [
        (1, "failed"),
        (2, "failed"),
        (3, "completed"),
    ]
    _diagnosed(
        shop,
        failed["id"],
        {
            "transient": ("retry", "connection was lost"),
            "data": ("skip_record", "101 of 1,000 rows went to the dead letters"),
        },
    )

    widen(shop.server)
    said = shop.do("run", "sales", "--watch")
    assert (said.code, "penstock approve sales" in said.err) == (1, True), said.err
    _diagnosed(
        shop,
        shop.done("runs", "sales")[0]["id"],
        {"schema": ("escalate", "column `pieces` is bigint now (it was integer)")},
    )
    (incident,) = shop.done("errors", "--incidents")
    assert (incident["pipeline"], incident["kind"], incident["status"]) == ("sales", "schema", "open")
    (asked,) = shop.done("approvals")
    assert asked["proposal"]["rule"] == "types"
    alerts = shop.done("alerts")["alerts"]
    assert [(one["kind"], one["pipeline"], one["severity"]) for one in alerts] == [
        ("incident", "sales", "critical"),
        ("drift", "sales", "warning"),
    ]
    assert shop.done("approve", "sales") == {"approved": [asked["id"]]}
    approved = _ended(shop, 6)[0]
    assert (approved["version"], approved["status"], approved["counters"]["rows_out"]) == (4, "completed", 100)
    until(lambda: shop.done("errors", "--incidents") == [], "the incident to close itself")
    until(lambda: shop.done("alerts")["alerts"] == [], "the alert to close itself")

    (group,) = shop.done("dlq", "list", "sales", "--groups")
    assert (group["count"], group["step"]) == (101, "mapping")
    fix = ("dlq", "fix", "sales", "--group", group["group"], "--set", FIX)
    tried = shop.done(*fix)
    assert (tried["passed"], tried["refused"]) == (100, 1)
    assert shop.done(*fix, "--apply")["written"] == 100
    assert shop.done("dlq", "discard", "sales", "--all", "--reason", "nobody knows its amount")["deleted"] == 1
    source, target = kept_sales(shop.server)
    assert source == target

    _told(shop, failed["id"])
    _traced(receiver_)
    said = shop.do("audit", "verify")
    assert (said.code, "The log is as it was written." in said.out) == (0, True), said.out


def _diagnosed(shop: Project, run: str, expected: dict[str, tuple[str, str]]) -> None:
    """Wait for the diagnoses of a run; compare what was done about each kind of error, and the cause that is named."""

    def diagnosed() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = shop.done("errors", run)["errors"]
        return found if all(one["diagnosis"] for one in found) else None

    errors = until(diagnosed, "the diagnoses")
    assert {one["classified"]["kind"]: one["strategy"]["action"] for one in errors} == {
        kind: strategy for kind, (strategy, _) in expected.items()
    }
    causes = {one["classified"]["kind"]: one["diagnosis"]["cause"] for one in errors}
    assert [kind for kind, (_, cause) in expected.items() if cause not in causes[kind]] == [], causes
    assert all("last success" in {check["what"] for check in one["diagnosis"]["checks"]} for one in errors)


def _told(shop: Project, failed: str) -> None:
    """What is told afterwards: the figures, the decisions in order, and the causes of runs and rows."""
    counters = [one["counters"] for one in shop.done("metrics", "sales")]
    assert [(one["rows_in"], one["rows_out"], one["dead"]) for one in counters if one["rows_in"]] == [
        (100, 100, 0),
        (1000, 899, 101),
        (2000, 2000, 0),
    ]
    history = shop.done("metrics", "sales", "--since", "1h", "--metric", "dead")
    assert sum(one["sum"] for one in history) == 102, "and one of them once more, when they were redriven"
    decided = shop.done("decisions", "--pipeline", "sales")["items"]
    acted = [(one["agent"], one["action"]) for one in reversed(decided) if one["outcome"] == "acted"]
    order = iter(acted)
    for step in (
        ("lifecycle", "follow_rename"),
        ("error_resolution", "retry"),
        ("orchestrator", "diagnose"),
        ("error_resolution", "skip_record"),
        ("lifecycle", "skip_record"),
        ("error_resolution", "escalate"),
        ("lifecycle", "propose"),
        ("lifecycle", "answer"),
    ):
        assert step in order, f"{step} is not, or not in this order, among {acted}"
    for run, causes in (
        ("sales", ("approved: let `pieces` be bigint", "root asked for change.answer sales")),
        (failed, ("pipeline sales got version 2", "decided to follow rename", "root asked for run.start sales")),
    ):
        why = shop.do("why", run).out
        assert [cause for cause in causes if cause not in why] == [], why
    row = shop.done("why", "--row", "public.sales", "2020")
    assert failed in {run["id"] for one in row["writers"] for run in one["runs"]}


def _traced(found: Receiver) -> None:
    """One trace leads from the command through decisions and tasks to the chunks of its runs; a redrive names it."""

    def spans() -> list[Span]:
        second = sorted(found.named("run.start"), key=lambda one: one.begin)[1]
        return [one for one in found.spans if one.trace == second.trace]

    wanted = {
        "run.start",
        "begin task",
        "run",
        "prepare",
        "flow",
        "read",
        "transform 0",
        "write",
        "commit",
        "diagnosis",
    }
    wanted |= {f"decide {action}" for action in ("start_run", "follow_rename", "retry", "skip_record")}
    until(lambda: wanted <= {one.name for one in spans()}, "the spans of the second run")
    until(lambda: sum(one.name == "run" for one in spans()) == 4, "the spans of its four attempts")
    by_id = {one.id: one for one in spans()}
    for name, services in {
        "read": ["read", "flow", "run", "run.start"],
        "write": ["write", "flow", "run", "run.start"],
        "decide start_run": ["decide start_run", "run.start"],
    }.items():
        one = next(one for one in by_id.values() if one.name == name)
        path = [one]
        while path[-1].parent:
            path.append(by_id[path[-1].parent])
        assert [one.name for one in path] == services
    (redrive,) = found.named("replay letters")
    assert redrive.trace not in {one.trace for one in by_id.values()}
    assert redrive.links == (spans()[0].trace,)


def _ended(shop: Project, count: int) -> list[Any]:
    """Return the runs of the pipeline, the last one first, once there are `count` and none is at work."""

    def ended() -> list[Any] | None:
        runs = shop.done("runs", "sales")
        return runs if len(runs) == count and all(one["finished_at"] for one in runs) else None

    found: list[Any] = until(ended, f"{count} runs to end")
    return found
