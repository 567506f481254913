# ruff: noqa: E501 - files as users write them
"""Dead letters by the command line: grouped, tried, fixed, redriven, discarded and erased, each with a receipt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.starter import WAREHOUSE
from tests.api.project import Project

FILE = """
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: lettered}
spec:
  source: {connection: shop, object: public.orders, cursor: {field: id, ordered: true}}
  mapping: {fields: [{target: id, from: id}, {target: share, sql: "CAST(100 / (quantity % 3) AS integer)"}, {target: price, from: price}]}
  validate: {checks: {some: "id % 1000 > 0", more: "id % 1000 <> 7"}}
  errors: {dead_letter: {fail_above: 100%}}
  sink: {connection: warehouse, object: public.lettered, write: append}
"""


def test_letters_are_fixed_redriven_and_deleted_with_receipts(running: Project, tmp_path: Path) -> None:
    path = tmp_path / "lettered.yaml"
    path.write_text(FILE)
    running.done("apply", path)
    before = running.done("run", "lettered", "--watch")["counters"]
    groups = {one["reason"]: one for one in running.done("dlq", "list", "lettered", "--groups")}
    assert [one["step"] for one in groups.values()].count("validate") == 2
    assert sum(one["count"] for one in groups.values()) == before["dead"]
    (zeros,) = (one for one in groups.values() if one["step"] == "mapping")
    fix = ("dlq", "fix", "lettered", "--group", zeros["group"], "--set", "quantity=quantity + 1")
    tried = running.done(*fix)
    assert (tried["chosen"], tried["passed"] + tried["refused"]) == (zeros["count"], zeros["count"])
    assert {one["step"] for one in tried["failing"]} <= {"validate"}
    wrong = running.do(*fix[:-1], "price=quantity / 0")
    assert wrong.code != 0 or "refused again" in wrong.out
    done = running.done(*fix, "--apply")
    assert (done["written"], done["refused"]) == (tried["passed"], tried["refused"])
    count = running.sql(WAREHOUSE, "SELECT count(*), count(DISTINCT id) FROM public.lettered")
    assert count == [(before["rows_out"] + done["written"],) * 2]
    assert "dead letters redriven" in running.do("status", "lettered").out
    left = running.done("dlq", "list", "lettered", "--column", "more", "--limit", "1000")
    again = running.done("dlq", "replay", "lettered", "--column", "more")
    assert (again["written"], again["refused"]) == (0, len(left))
    key = str(left[0]["values"]["id"])
    gone = running.done("dlq", "erase", "lettered", "--key", f"id={key}", "--reason", "asked to")
    assert gone["deleted"] == 1
    assert running.done("dlq", "erase", "lettered", "--key", f"id={key}", "--reason", "asked to")["chosen"] == 0
    gone = running.done("dlq", "discard", "lettered", "--column", "no_such", "--reason", "none")
    assert gone["deleted"] == 0
    gone = running.done("dlq", "discard", "lettered", "--all", "--reason", "test data")
    assert gone["deleted"] > 0
    assert running.done("dlq", "list", "lettered") == []
    lines = running.do("events", "--type", "letters.recorded", "--json").out.splitlines()
    receipts = [one for line in lines if (one := json.loads(line)["payload"])["name"] == "lettered"]
    assert [one["order"]["action"] for one in receipts] == ["replay", "replay", "erase", "discard", "discard"]
    assert [one["order"].get("reason") for one in receipts[2:]] == ["asked to", "none", "test data"]
    assert all("values" not in str(one) for one in receipts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fix", "orders"), "give new values"),
        (("fix", "orders", "--set", "x"), "is no new value"),
        (("fix", "orders", "--set", "x=1", "--reason", "r"), "--reason has no meaning here"),
        (("replay",), "name the pipeline"),
        (("discard", "orders", "--all"), "say why"),
        (("erase", "orders", "--reason", "r"), "say which ones"),
        (("erase", "orders", "--reason", "r", "--key", "id"), "is no column with a value"),
        (("list", "orders", "--group", "no"), "is no choice"),
    ],
)
def test_what_a_command_lacks_is_refused_by_name(running: Project, words: tuple[str, ...], said: str) -> None:
    found = running.do("dlq", *words)
    assert (found.code, said in found.err + found.out) == (2, True), found.err


def test_a_replace_is_not_redriven(running: Project, tmp_path: Path) -> None:
    path = tmp_path / "replaced.yaml"
    text = FILE.replace("lettered", "replaced").replace("write: append", "write: replace")
    path.write_text(text.replace(", cursor: {field: id, ordered: true}", ""))
    running.done("apply", path)
    found = running.do("dlq", "replay", "replaced")
    assert (found.code, "reads all rows at each run" in found.err + found.out) == (1, True), found.err
    assert "reads all rows at each run" in running.do("dlq", "fix", "replaced", "--set", "id=1").err
