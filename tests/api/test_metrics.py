"""`penstock metrics`: what runs processed, from the sink's own counters, and the course of a run."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from api.starter import PIPELINE, SHOP, WAREHOUSE
from tests.api.conftest import Make
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


def test_a_metric_over_time_and_for_prometheus_is_what_the_runs_have_counted(running: Project, made: Make) -> None:
    measured = made()
    run = running.done("run", measured, "--watch")
    assert run["status"] == "completed"
    since = ("metrics", measured, "--since", "1h", "--step", "1h")
    found = until(lambda: _sum(running, *since), "its rows")
    assert found == run["counters"]["rows_out"]
    assert _sum(running, *since, "--metric", "runs", "--part", "completed") == 1
    (duration, *_) = running.done(*since, "--metric", "duration", "--percentile", "99")
    assert 0 < duration["min"] <= duration["percentile"] <= duration["max"]
    shown = running.do("metrics", measured, "--metric", "rows_out", "--plot")
    assert (shown.code, "rows/s" in shown.out, "per second" in shown.out) == (0, True, True)
    assert running.do("metrics", measured, "--metric", "rows").code == 2
    assert running.do("metrics", measured, "--step", "often").code == 2
    text = until(lambda: _scraped(running, measured), "a scrape that has the run")
    samples = {one.name: one.value for one in text}
    assert samples["penstock_rows_written_total"] == run["counters"]["rows_out"]
    assert samples["penstock_run_duration_seconds_count"] == 1


def _sum(running: Project, *arguments: str) -> float:
    return sum(float(one["sum"]) for one in running.done(*arguments))


def _scraped(running: Project, pipeline: str) -> list[Sample]:
    """Return the samples of a pipeline, once they are of a run that has ended."""
    answer = httpx.get(f"{running.address}/metrics", timeout=20)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(answer.text))
    assert len({one.name for one in families}) == len(families)
    found = [one for family in families for one in family.samples]
    assert [one.value for one in found if one.name == "penstock_workers"] == [1]
    mine = [one for one in found if one.labels.get("pipeline") == pipeline]
    return mine if any(one.name == "penstock_runs_total" for one in mine) else []


def test_metrics_of_a_missing_pipeline(running: Project) -> None:
    said = running.do("metrics", "nothing")
    assert said.code == 3
    assert "nothing" in said.err
