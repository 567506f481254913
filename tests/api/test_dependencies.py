"""Pipelines that run after others, by real runs: what follows from a run, `--downstream`, `status` and `list`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.cli.downstream import Cascade, downstream
from api.cli.results import Result
from api.starter import PIPELINE, WAREHOUSE
from catalog.overview import Overview
from penstock.clock import now
from penstock.errors import Refused
from tests.api.project import Project

NAMES = ("day_a", "day_b", "day_c", "day_d")
AFTER = {"day_b": "[day_a]", "day_c": "[day_a, day_b]", "day_d": "{pipelines: [day_c], on: end}"}


def _text(name: str, after: str | None = None, source: str = "orders") -> str:
    text = PIPELINE.replace("name: orders,", f"name: {name},")
    text = text.replace("warehouse, object: public.orders", f"warehouse, object: public.{name}")
    text = text.replace("shop, object: public.orders", f"shop, object: public.{source}")
    return text.replace("spec:\n", f"spec:\n  after: {after}\n", 1) if after else text


@pytest.fixture(scope="module")
def days(running: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Apply four pipelines in one file, the last one first; return the file."""
    path = tmp_path_factory.mktemp("days") / "pipelines.yaml"
    path.write_text("\n---\n".join(_text(name, AFTER.get(name)) for name in reversed(NAMES)))
    for name in NAMES:
        running.sql(WAREHOUSE, f"CREATE TABLE {name} (LIKE orders)")
    running.done("apply", path)
    return path


def test_a_command_that_waits_follows_what_runs_after(running: Project, days: Path) -> None:
    said = running.done("run", "day_a", "--watch")
    assert [one["pipeline"] for one in said["runs"]] == ["day_a", "day_b", "day_c", "day_d"]
    assert {one["status"] for one in said["runs"]} == {"completed"}
    lines = running.do("status", "day_c").out
    assert "runs after day_a: last completed" in lines
    assert "waits for its next run" in lines
    assert {one["name"]: one for one in running.done("list")}["day_d"]["next_run"] is None
    assert "after day_a and 1 more" in running.do("list").out
    why = running.do("why", said["runs"][1]["id"]).out
    assert "day_b runs after day_a" in why


def test_downstream_runs_what_is_asked_in_order(running: Project, days: Path) -> None:
    said = running.done("run", "day_b", "--downstream")
    assert [one["pipeline"] for one in said["runs"]] == ["day_b", "day_c", "day_d"]


def test_what_depends_on_a_failure_is_not_run_and_named(running: Project, days: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(_text("day_b", "[day_a]", source="missing"))
    running.done("apply", path)
    try:
        said = running.do("run", "day_b", "--downstream")
        assert said.code == 1
        assert "day_c: not run: day_b did not complete" in said.out
        assert "day_d" in said.out
    finally:
        running.done("apply", days)


@pytest.mark.parametrize(
    ("after", "code", "expected"),
    [
        ("[nobody]", 2, "no pipeline 'nobody'"),
        ("[day_x]", 2, "which is the pipeline itself"),
        ("[]", 2, "spec.after.pipelines"),
    ],
)
def test_wrong_dependencies_are_refused_by_apply(
    running: Project, days: Path, tmp_path: Path, after: str, code: int, expected: str
) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(_text("day_x", after))
    said = running.do("apply", path)
    assert (said.code, expected in said.err) == (code, True)


def test_a_circle_in_files_is_refused_before_anything_is_applied(running: Project, tmp_path: Path) -> None:
    path = tmp_path / "pipelines.yaml"
    path.write_text("\n---\n".join([_text("ring_a", "[ring_b]"), _text("ring_b", "[ring_a]")]))
    for verb in ("validate", "apply"):
        said = running.do(verb, path)
        assert said.code == 2
        assert "is a circle: ring_" in said.err
    assert "ring_a" not in {one["name"] for one in running.done("list")}


def _pipeline(name: str, *after: str) -> Overview:
    document: dict[str, Any] = {"spec": {"source": {}, "after": {"pipelines": list(after)}}}
    return Overview(name, name, 1, "active", None, {}, document, now(), now(), None, None)


def test_a_cascade_takes_each_pipeline_after_all_that_it_asks_for() -> None:
    every = [_pipeline("d", "b", "c"), _pipeline("b", "a"), _pipeline("c", "a", "z"), _pipeline("a"), _pipeline("z")]
    assert sorted(downstream(["a"], every)) == ["b", "c", "d"]
    assert downstream(["shop/public.x"], [_pipeline("t", "shop")]) == ["t"]
    whole = [_pipeline("shop"), _pipeline("shop/public.x"), _pipeline("t", "shop")]
    assert Cascade(["shop/public.x", "t"]).first(whole) == ["shop/public.x"]
    assert Cascade(["shop", "t"], idle={"shop"}).ready({}, whole) == ["t"]
    assert Cascade(["shop", "t"]).left({}, whole) == {"t": "shop"}
    cascade = Cascade(["a", *downstream(["a"], every)])
    assert cascade.first(every) == ["a"]
    good = {name: Result(name, name) for name in "abc"}
    bad = {**good, "c": Result("c", "c", error=Refused("no"))}
    assert sorted(cascade.ready({"a": good["a"]}, every)) == ["b", "c"]
    assert cascade.ready(bad, every) == []
    assert cascade.left(bad, every) == {"d": "c"}
    assert cascade.ready(good, every) == ["d"]
