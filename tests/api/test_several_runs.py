"""Several runs by one command: chosen by name, label or pattern, with one result; and `list` afterwards."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from api.cli.choice import Choice
from api.cli.run import again
from api.starter import PIPELINE, WAREHOUSE
from catalog.overview import Overview
from penstock.clock import now
from penstock.errors import NotFound, PenstockError, UsageError
from tests.api.project import Project, on_a_terminal, penstock

FAMILY = ("batch_a", "batch_b", "batch_c")


@pytest.fixture(scope="module")
def family(running: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Apply three pipelines with the label `family: batch`; the last one fails, since its source is missing."""
    for name in FAMILY:
        text = PIPELINE.replace("name: orders,", f"name: {name}, labels: {{family: batch}},")
        text = text.replace("warehouse, object: public.orders", f"warehouse, object: public.{name}")
        if name == "batch_c":
            text = text.replace("shop, object: public.orders", "shop, object: public.missing")
        else:
            running.sql(WAREHOUSE, f"CREATE TABLE {name} (LIKE orders)")
        path = tmp_path_factory.mktemp(name) / "pipeline.yaml"
        path.write_text(text)
        running.done("apply", path)
    return running


@pytest.mark.parametrize(
    "words", [FAMILY, ("--select", "family=batch"), ("--select", "batch_*"), ("batch_c", "--select", "batch_[ab]")]
)
def test_each_of_several_runs_and_a_failed_one_is_named(family: Project, words: tuple[str, ...]) -> None:
    said = family.do("run", *words, "--watch", "--json")
    assert said.code == 1
    statuses = {one["pipeline"]: one["status"] for one in said.json["runs"]}
    assert statuses == {"batch_a": "completed", "batch_b": "completed", "batch_c": "failed"}
    assert said.json["failed"] == ["batch_c"]


def test_for_people_each_run_has_a_line_and_the_summary_names_those_that_failed(family: Project) -> None:
    said = family.do("run", *FAMILY, "--watch")
    lines = said.out.splitlines()
    assert said.code == 1
    assert {line.split(":")[0] for line in lines if "rows in" in line} == {"batch_a", "batch_b"}
    assert [line for line in lines if line.startswith("batch_c: failed: ")]
    assert lines[-2:] == ["2 of 3 completed, 1 failed: batch_c", "next: penstock status batch_c"]


def test_on_a_terminal_the_runs_share_one_table(family: Project) -> None:
    shown = on_a_terminal(["run", "batch_a", "batch_b", "--watch"], family.folder)
    assert "2 runs" in shown
    assert "2 of 2 completed" in shown
    assert "error" not in shown


def test_next_to_up_runs_are_requested_without_waiting(family: Project) -> None:
    said = family.done("run", "batch_a", "batch_b")
    assert [(one["pipeline"], one["status"]) for one in said["runs"]] == [("batch_a", "queued"), ("batch_b", "queued")]


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("orders", "batch_x"), 3, "did you mean `batch_a`"),
        (("--select", "family=bach"), 3, "did you mean `family=batch`"),
        (("--select", "nothing*"), 3, "penstock list"),
        ((), 2, "--all"),
        (("orders", "--all"), 2, "leave out"),
    ],
)
def test_a_choice_without_pipelines_is_refused_before_anything_runs(
    family: Project, words: tuple[str, ...], code: int, hint: str
) -> None:
    before = len(family.done("runs", "orders"))
    said = family.do("run", *words)
    assert (said.code, hint in said.err) == (code, True)
    assert len(family.done("runs", "orders")) == before


BY_NAME = (
    "status", "runs", "pause", "resume", "stop", "delete --yes", "versions", "rollback --to 1", "preview", "plan",
    "metrics", "run", "backfill --from 1 --to 2",
)  # fmt: skip
"""Commands on one pipeline, with their other arguments."""


@pytest.mark.parametrize("words", BY_NAME)
def test_a_pipeline_that_does_not_exist_is_not_found_with_the_nearest_name(family: Project, words: str) -> None:
    verb, *options = words.split()
    said = family.do(verb, "ordres", *options)
    assert said.code == 3
    assert "ordres" in said.error
    assert "did you mean `orders`" in said.err
    assert family.do(verb, "ordres", *options, "--json").json["error"]["code"] == "not_found"


def test_list_shows_the_last_run_and_only_failed_ones_if_asked(family: Project) -> None:
    family.do("run", "batch_a", "batch_c", "--watch")
    every = {one["name"]: one for one in family.done("list")}
    assert every["batch_a"]["last_run"]["status"] == "completed"
    assert datetime.fromisoformat(every["batch_a"]["last_run"]["finished_at"]) <= now()
    assert every["batch_a"]["next_run"] is None
    failed = {one["name"]: one for one in family.done("list", "--failed")}
    assert "batch_c" in failed
    assert "batch_a" not in failed
    assert "missing" in failed["batch_c"]["last_run"]["error"]["what"] + str(failed["batch_c"]["last_run"]["error"])
    said = family.do("list", "--failed").out
    assert "batch_c" in said
    assert "batch_a" not in said


def test_list_shows_when_a_schedule_runs_next(running: Project, tmp_path: Path) -> None:
    path = tmp_path / "yearly.yaml"
    path.write_text(
        PIPELINE.replace("name: orders", "name: yearly").replace("spec:", "spec:\n  schedule: {cron: '0 0 1 1 *'}")
    )
    running.done("apply", path)
    deadline = time.monotonic() + 20
    while not (tick := next(one for one in running.done("list") if one["name"] == "yearly")["next_run"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (datetime.fromisoformat(tick).month, datetime.fromisoformat(tick).day) == (1, 1)
    assert "in " in next(line for line in running.do("list").out.splitlines() if line.startswith("yearly"))


def test_plan_by_name_takes_the_project_s_file_else_what_was_applied(family: Project) -> None:
    (one,) = family.done("plan", "orders")
    assert one["pipeline"] == "orders"
    (one,) = family.done("plan", "batch_a")
    assert (one["pipeline"], "batch_a" in one["target"]) == ("batch_a", True)


def test_without_up_all_of_them_run_in_one_go_and_nothing_is_left(project: Project) -> None:
    project.done("apply")
    said = project.done("run", "--all")
    assert [(one["pipeline"], one["status"]) for one in said["runs"]] == [("orders", "completed")]
    assert project.processes() == []
    (planned,) = project.done("plan", "orders")
    assert "refused" not in planned


def pipeline(name: str, status: str = "active", **labels: str) -> Overview:
    moment = now()
    return Overview(name, name, 1, status, None, labels, {}, moment, moment, None, None)


EXISTING = [
    pipeline("a", tier="gold"),
    pipeline("ab", tier="gold"),
    pipeline("b", "paused", tier="gold"),
    pipeline("c"),
]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"names": ("b", "a", "b")}, ["b", "a"]),
        ({"selectors": ("tier=gold",)}, ["a", "ab"]),
        ({"selectors": ("a*", "c")}, ["a", "ab", "c"]),
        ({"names": ("b",), "selectors": ("tier=gold",)}, ["b", "a", "ab"]),
        ({"every": True}, ["a", "ab", "c"]),
        ({"names": ("x",)}, NotFound),
        ({"selectors": ("b",)}, NotFound),
        ({"selectors": ("tier=silver",)}, NotFound),
        ({}, UsageError),
        ({"every": True, "names": ("a",)}, UsageError),
    ],
)
def test_a_choice_takes_what_is_named_and_of_the_rest_what_is_active(
    choice: dict[str, Any], expected: list[str] | type[PenstockError]
) -> None:
    if isinstance(expected, list):
        assert Choice(**choice).names_among(EXISTING) == expected
    else:
        with pytest.raises(expected):
            Choice(**choice).names_among(EXISTING)


@pytest.mark.parametrize(("command", "following"), [("run", "--all"), ("check", "NAME"), ("deletes", "NAME")])
def test_a_choice_of_nothing_names_what_its_command_has(tmp_path: Path, command: str, following: str) -> None:
    (tmp_path / "penstock.toml").write_text("")
    said = penstock(command, "--project", tmp_path, "--json")
    assert said.json["error"]["hint"] == f"penstock list, or penstock {command} {following}"


def test_an_interrupted_command_names_the_one_that_reads_the_same_rows() -> None:
    choice = Choice(("a", "b"))
    assert again(choice, None) == "penstock run a b --watch"
    assert again(choice, {"rows": "all"}) == "penstock run a b --full --watch"
    window = {"rows": "window", "from": "2026-01-01", "to": "2026-02-01"}
    assert again(Choice(("a",)), window) == "penstock backfill a --from 2026-01-01 --to 2026-02-01 --watch"
