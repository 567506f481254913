# ruff: noqa: E501 - files as users write them
"""The commands test, preview and plan before a run, and dlq for refused rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.starter import PIPELINE, WAREHOUSE
from tests.api.project import Project, penstock

TESTED = """
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: orders}
spec:
  source: {connection: shop, object: public.orders}
  mapping: {fields: [{target: order_id, from: id}, {target: total, sql: "price * quantity"}, {target: day, from: day}]}
  transforms:
    - {name: big, filter: "total > 5"}
    - {name: next, set: {day: "day + 1"}, when: "order_id = 1"}
  sink: {connection: warehouse, object: public.tested, write: replace}
  tests:
    - {name: usd, types: {day: date}, given: [{id: 1, price: 2, quantity: 3, day: 2024-02-28}, {id: 2, price: 1, quantity: 3, day: null}],
       expect: [{order_id: 1, total: 6.0, day: 2024-02-29}]}
    - {name: wrong, types: {day: date}, given: [{id: 1, price: 2.50, quantity: 4, day: "2024-01-01"}], expect: [{order_id: 1, total: EXPECTED}]}
"""


def test_a_pipeline_s_own_tests_run_without_any_system(tmp_path: Path) -> None:
    path = tmp_path / "orders.yaml"
    path.write_text(TESTED.replace("EXPECTED", "11"))
    said = penstock("test", path, "--project", tmp_path)
    assert (said.code, "passed orders: usd" in said.out, "failed orders: wrong" in said.out) == (1, True, True)
    assert "total=11" in said.out
    assert "total=10" in said.out
    assert "1 passed, 1 failed" in said.out
    path.write_text(TESTED.replace("EXPECTED", "10"))
    told = penstock("test", path, "--project", tmp_path, "--json")
    assert (told.code, [one["passed"] for one in told.json]) == (0, [True, True])
    path.write_text(TESTED.replace("EXPECTED", "10").replace("day + 1", "dayy + 1"))
    said = penstock("test", path, "--project", tmp_path)
    assert (said.code, "did you mean `day`" in said.out) == (1, True)


STEPS = """
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: NAME}
spec:
  source: {connection: shop, object: public.orders}
  mapping: {fields: [{target: id, from: id}, {target: share, sql: "CAST(100 / (id % 100) AS integer)"}, {target: price, from: price}]}
  transforms:
    - {name: small, filter: "id <= 500"}
    - {name: hide, mask: {price: redact}}
  errors: {dead_letter: {fail_above: 50%}}
  sink: {connection: warehouse, object: public.NAME, write: replace}
"""


@pytest.fixture
def stepped(running: Project, tmp_path: Path) -> Path:
    path = tmp_path / "stepped.yaml"
    path.write_text(STEPS.replace("NAME", "stepped"))
    return path


def test_plan_shows_what_a_run_would_make_and_changes_nothing(running: Project, stepped: Path) -> None:
    said = running.do("plan", stepped)
    assert said.code == 0, said.err
    columns = '"id" bigint NOT NULL, "share" integer, "price" text NOT NULL, PRIMARY KEY ("id")'
    made = f'CREATE TABLE IF NOT EXISTS "public"."stepped" ({columns})'
    assert made in " ".join(said.out.split())
    (one,) = running.done("plan", stepped)
    assert (one["write"], one["exists"], one["undecoded"]) == ("replace", False, False)
    assert one["lineage"]["share"] == {"from": ["id"], "by": ["mapping"]}
    assert running.sql(WAREHOUSE, "SELECT to_regclass('public.stepped')") == [(None,)]
    stepped.write_text(stepped.read_text().replace("id <= 500", "idd <= 500"))
    said = running.do("plan", stepped)
    assert (said.code, "did you mean `id`" in said.out) == (1, True)


def test_preview_and_dead_letters(running: Project, stepped: Path) -> None:
    running.done("apply", stepped)
    beside = stepped.with_name("beside.yaml")
    beside.write_text(stepped.read_text().replace("name: stepped", "name: beside"))
    for verb in ("plan", "apply"):
        refused = running.do(verb, beside)
        assert (refused.code, "stepped writes to 'public.stepped' already" in refused.out + refused.err) == (1, True)
    shown = running.done("preview", "stepped", "--rows", "150")
    assert [one["step"] for one in shown] == ["source", "mapping", "small", "hide"]
    assert len(shown[0]["rows"]) == 150
    assert all(row["price"] in {"***", None} for row in shown[-1]["rows"])
    assert shown[1]["refused"][0]["step"] == "mapping"
    assert "after hide" in running.do("preview", "stepped").out
    run = running.done("run", "stepped", "--watch")
    counters = run["counters"]
    assert counters["rows_in"] == counters["rows_out"] + counters["filtered"] + counters["dead"] >= 10_000
    assert counters["dead"] == counters["rows_in"] // 100
    found = running.done("dlq", "list", "stepped", "--limit", "1000")
    assert len(found) == 100
    assert {one["values"]["price"] for one in found} == {"***"}
    one = running.done("dlq", "show", found[0]["id"])
    assert one["step"] == "mapping"
    assert "penstock dlq show" in running.do("dlq", "list", "stepped").out
    said = running.do("run", "stepped", "--watch").out
    assert re.search(r"rows, 100 dead letters in [\d.]+ s", said)
    assert "next: penstock dlq list stepped" in said
    assert all(re.search(r"\bdead\b", running.do(*words).out) for words in (["runs", "stepped"], ["status", "stepped"]))
    assert "completed, 100 dead" in running.do("list").out


LOOKED_UP = """
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: looked-up}
spec:
  source: {connection: shop, object: public.orders}
  mapping: {fields: [{target: id, from: id}, {target: currency, from: currency}]}
  transforms:
    - {name: rates, lookup: {connection: shop, object: public.rates, on: {currency: code}, take: {rate: rate}}}
  sink: {connection: warehouse, object: public.tested, write: replace}
  tests:
    - name: known
      TABLES
      given: [{id: 1, currency: USD}, {id: 2, currency: ZZZ}]
      expect: [{id: 1, rate: 0.9}, {id: 2, rate: null}]
"""


def test_a_test_gives_the_tables_that_lookups_read(tmp_path: Path) -> None:
    path = tmp_path / "looked-up.yaml"
    path.write_text(
        LOOKED_UP.replace("TABLES", "tables: {public.rates: [{code: USD, rate: 0.9}, {code: EUR, rate: 1}]}")
    )
    said = penstock("test", path, "--project", tmp_path)
    assert (said.code, "1 passed, 0 failed" in said.out) == (0, True)
    path.write_text(
        LOOKED_UP.replace("TABLES", "").replace("looked-up}", "first}") + "---" + TESTED.replace("EXPECTED", "10")
    )
    said = penstock("test", path, "--project", tmp_path)
    assert (said.code, "2 passed, 1 failed" in said.out) == (1, True)
    assert "tables: {public.rates" in said.out


def test_a_failed_run_is_reported_in_full_with_its_fix(running: Project, tmp_path: Path) -> None:
    path = tmp_path / "failing.yaml"
    path.write_text(PIPELINE.replace("name: orders", "name: failing").replace("from: placed_at", "from: placed"))
    running.done("apply", path)
    running.do("run", "failing", "--watch")
    for words in (("status", "failing"), ("why", "failing"), ("plan", str(path))):
        told = running.do(*words).out
        assert "spec.mapping.fields[3].from: " in told
        assert "did you mean `placed_at`?" in told
