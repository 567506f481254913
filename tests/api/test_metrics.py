"""`penstock metrics`: what runs processed, from the sink's own counters, and the course of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.starter import PIPELINE, SHOP, WAREHOUSE
from tests.api.project import Project, until

NAME = "measured"


@pytest.fixture
def measured(running: Project, tmp_path: Path) -> str:
    """A pipeline that has not run yet."""
    text = PIPELINE.replace("name: orders", f"name: {NAME}")
    text = text.replace("warehouse, object: public.orders", f"warehouse, object: public.{NAME}")
    (tmp_path / f"{NAME}.yaml").write_text(text)
    running.sql(WAREHOUSE, f"CREATE TABLE IF NOT EXISTS {NAME} (LIKE orders INCLUDING ALL)")
    running.done("apply", tmp_path / f"{NAME}.yaml")
    return NAME


def test_metrics_of_runs_are_those_of_the_catalog(running: Project, measured: str) -> None:
    assert "has no runs yet" in running.do("metrics", measured).out
    run = running.done("run", measured, "--watch")
    found = until(lambda: running.done("metrics", measured), "its metrics")[0]
    assert found["run"] == run["id"]
    assert found["counters"] == run["counters"]
    rows = running.sql(SHOP, "SELECT count(*) FROM orders")[0][0]
    assert (found["counters"]["rows_in"], found["status"]) == (rows, "completed")
    assert set(found["seconds"]) == {"prepare", "flow", "publish"}
    assert found["rows_per_second"] > 0
    course = found["course"]
    assert (course[-1]["phase"], course[-1]["rows_out"]) == ("done", run["counters"]["rows_out"])
    assert [one["rows_in"] for one in course] == sorted(one["rows_in"] for one in course)
    shown = running.do("metrics", measured, "--plot")
    assert (shown.code, "rows/s" in shown.out.splitlines()[-2]) == (0, True)
    assert shown.out.splitlines()[-1].startswith("next: penstock why ")


def test_metrics_of_a_missing_pipeline(running: Project) -> None:
    said = running.do("metrics", "nothing")
    assert said.code == 3
    assert "nothing" in said.err
