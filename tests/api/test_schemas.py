"""Schemas of datasets from the command line: history, differences, and rules for the next one."""

from __future__ import annotations

from pathlib import Path

from api.starter import SHOP, WAREHOUSE
from dataflows.connectors.files.source import MAX_SAMPLED_FILES
from tests.api.project import Project, until

PIPELINE = """
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: wares}
spec:
  source: {connection: shop, object: public.wares}
  sink: {connection: warehouse, object: public.wares, write: replace}
"""


def test_the_history_of_a_schema_and_the_rule_for_the_next_one(running: Project, tmp_path: Path) -> None:
    running.sql(SHOP, "CREATE TABLE wares (id integer PRIMARY KEY, phone text, weight real)")
    file = tmp_path / "wares.yaml"
    file.write_text(PIPELINE + "  schema: {additive: apply}\n")
    running.done("apply", file)
    assert running.do("catalog", "diff", "shop:public.wares").code == 3
    running.done("run", "wares", "--watch")
    for side in ("shop", "warehouse"):
        found = running.done("discover", side, "--include", "public.wares")["found"]
        assert found == {"objects": 1, "changed": 0}, "the key was there before"
    assert running.do("catalog", "diff", "shop:public.wares").code == 3
    running.sql(SHOP, "ALTER TABLE wares ADD color text")
    running.done("run", "wares", "--watch")

    history = running.done("catalog", "history", "shop:public.wares")
    assert [(one["version"], one["columns"], one["compatibility"]) for one in history] == [(1, 3, None), (2, 4, "full")]
    assert [one["path"] for one in history[1]["changes"]] == ["color"]
    assert history[1]["actor"].startswith("worker")
    why = running.do("why", str(history[1]["offset"]))
    assert "wares" in why.out, why.err

    found = running.done("catalog", "diff", "shop:public.wares")
    assert (found["from"], found["to"], found["compatibility"]) == (1, 2, "full")
    assert [(one["kind"], one["path"], one["compatibility"]) for one in found["changes"]] == [
        ("added", "color", "full")
    ]
    assert found["changes"][0]["pipelines"] == [{"pipeline": "wares", "side": "reads"}]
    back = running.done("catalog", "diff", "shop:public.wares", "2", "1")
    assert [(one["kind"], one["compatibility"]) for one in back["changes"]] == [("removed", "breaking")]
    said = running.do("catalog", "diff", "shop:public.wares", "2", "1").out
    assert "version 2 -> 1: 1 change, breaking" in said
    assert "its values have no place any more" in said
    assert running.done("catalog", "diff", "shop:public.wares", "1")["to"] == 2

    rule = ("catalog", "compatibility", "shop:public.wares")
    assert running.done(*rule)["compatibility"] == "none"
    assert running.done(*rule, "forward_transitive")["compatibility"] == "forward_transitive"
    assert running.done(*rule)["compatibility"] == "forward_transitive"
    assert running.done("catalog", "history", "shop:public.wares")[1]["conflict"] is None
    wrong = running.do(*rule, "forwrd")
    assert wrong.code == 2
    assert "`forward`" in wrong.err
    assert running.do("catalog", "diff", "shop:public.wares", "7").code == 3
    assert running.do("catalog", "diff", "shop:public.wares", "x").code == 2
    assert running.do("catalog", "history", "shop:public.nothing").code == 3
    assert running.do("catalog", "history").code == 2
    assert "color" in running.do("catalog", "history", "shop:public.wares").out
    assert running.done(*rule, "none")["compatibility"] == "none"


def test_a_run_keeps_to_the_rule_of_a_dataset(running: Project, tmp_path: Path) -> None:
    running.sql(SHOP, "CREATE TABLE goods (id integer PRIMARY KEY, phone text, weight real)")
    file = tmp_path / "goods.yaml"
    rules = "  schema: {additive: apply, lost: apply, types: apply}\n"
    file.write_text(PIPELINE.replace("wares", "goods") + rules)
    rule = ("catalog", "compatibility", "shop:public.goods")
    running.done("apply", file)
    running.done("run", "goods", "--watch")
    running.sql(SHOP, "ALTER TABLE goods DROP weight")
    running.done("run", "goods", "--watch")
    running.done(*rule, "backward_transitive")  # version 2 breaks it, and was there before it
    running.sql(SHOP, "ALTER TABLE goods ADD color text")
    assert running.do("run", "goods", "--watch").code == 1
    assert {one["name"]: one["status"] for one in running.done("list")}["goods"] == "paused"
    for said in (running.do("status", "goods").out, running.do("plan", "goods").out):
        assert "not backward_transitive compatible with version 1" in " ".join(said.split())
    running.done(*rule, "backward")
    running.done("resume", "goods")
    running.done("run", "goods", "--watch")


def test_a_change_waits_until_somebody_approves_it(running: Project, tmp_path: Path) -> None:
    running.sql(SHOP, "CREATE TABLE parts (id integer PRIMARY KEY, size integer); INSERT INTO parts VALUES (1, 1)")
    file = tmp_path / "parts.yaml"
    file.write_text(PIPELINE.replace("wares", "parts") + "  schema: {types: pause}\n")
    running.done("apply", file)
    running.done("run", "parts", "--watch")
    running.sql(SHOP, "ALTER TABLE parts ALTER size TYPE bigint, ADD color text")
    assert running.do("run", "parts", "--watch").code == 1
    assert "penstock approve parts" in " ".join(running.do("status", "parts").out.split())

    def proposed(*more: str) -> dict[str, dict[str, str]]:
        mine = [one for one in running.done("approvals", *more) if one["pipeline"] == "parts"]
        return {one["proposal"]["rule"]: one for one in mine}

    waiting = proposed()
    assert {rule: one["status"] for rule, one in waiting.items()} == {"additive": "open", "types": "open"}
    said = running.do("approvals").out
    assert "let `size` be bigint in the target" in " ".join(said.split())
    id_ = waiting["additive"]["id"]
    assert running.done("deny", id_[:8]) == {"denied": [id_]}
    assert proposed() == {"types": waiting["types"]}
    assert running.done("approve", "parts") == {"approved": [waiting["types"]["id"]]}
    until(lambda: len(running.done("runs", "parts")) == 3, "the run that follows")
    assert running.do("approve", "parts").code == 3
    assert running.do("deny", "nothing").code == 3
    running.done("approve", id_)
    types = "SELECT string_agg(format_type(atttypid, NULL), ' ' ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 "
    columns = f"{types} AND attrelid = 'parts'::regclass"
    until(lambda: running.sql(WAREHOUSE, columns) == [("integer bigint text",)], "both to be carried out")
    answers = {rule: one["status"] for rule, one in proposed("--all").items()}
    assert answers == {"additive": "approved", "types": "approved"}
    until(lambda: running.done("list") and running.done("runs", "parts")[0]["status"] == "completed", "its end")


def test_the_rule_of_a_target_holds_where_the_types_of_its_source_come_from_a_sample(
    running: Project, tmp_path: Path
) -> None:
    (folder := tmp_path / "public.bolts").mkdir()
    connection, file = tmp_path / "connections.yaml", tmp_path / "bolts.yaml"
    connection.write_text(f"yard: {{type: files, root: '{tmp_path}'}}\n")
    text = PIPELINE.replace("wares", "bolts").replace("connection: shop", "connection: yard")
    file.write_text(text + "  schema: {types: apply}\n")

    def write(made: str) -> None:
        for number in range(MAX_SAMPLED_FILES["csv"] + 1):
            (folder / f"{number}.csv").write_text(f"id,made\n{number},{made}\n")

    write("2026-01-02")
    running.done("apply", connection)
    running.done("apply", file)
    running.done("run", "bolts", "--watch")
    running.done("catalog", "compatibility", "warehouse:public.bolts", "full")
    write("2026-01-02 10:00:00")
    assert running.do("run", "bolts", "--watch").code == 1
    assert "not full compatible with version 1" in " ".join(running.do("status", "bolts").out.split())
    (tmp_path / "nuts.jsonl").write_text('{"id": 1, "rare": 1}\n')
    file.write_text(
        PIPELINE.replace("connection: shop, object: public.wares", "connection: yard, object: nuts.jsonl")
        .replace("wares", "nuts")
        .replace("  sink:", "  transforms: [{name: some, select: [id]}]\n  sink:")
    )
    running.done("apply", file)
    running.done("run", "nuts", "--watch")
    running.done("catalog", "compatibility", "yard:nuts.jsonl", "full")
    (tmp_path / "nuts.jsonl").write_text('{"id": 2}\n')
    running.done("run", "nuts", "--watch")
