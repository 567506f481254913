"""`penstock discover` and `penstock catalog`: from a command to the catalog, over log and worker."""

from __future__ import annotations

from pathlib import Path

import yaml

from api.starter import SHOP
from tests.api.project import Project, until


def test_what_a_connection_has_is_found_shown_and_found_again_without_news(running: Project) -> None:
    running.sql(SHOP, "CREATE TABLE discovered (id int PRIMARY KEY, e_mail text, note text)")
    running.sql(SHOP, "COMMENT ON TABLE discovered IS 'zebra crossing'; CREATE VIEW \"Odd View\" AS SELECT 1 AS one")
    first = running.done("discover", "shop")
    assert (first["status"], first["error"]) == ("completed", None)
    assert first["found"]["objects"] >= 2
    assert first["found"]["changed"] >= 2
    again = running.done("discover", "shop")
    assert again["found"] == {"objects": first["found"]["objects"], "changed": 0}
    (hit,) = running.done("catalog", "search", "zebra")["hits"]
    assert (hit["object"], hit["kind"]) == ("public.discovered", "table")
    shown = running.done("catalog", "show", "shop:public.discovered")
    assert [one["name"] for one in shown["schema"]["fields"]] == ["id", "e_mail", "note"]
    assert (shown["schema"]["key"], shown["version"]) == (["id"], 1)
    assert "discovered_pkey" in running.do("catalog", "show", shown["id"]).out
    assert running.done("catalog", "search", "odd", "--type", "view")["hits"][0]["object"] == "public.Odd View"


def test_a_table_that_vanishes_is_gone_until_it_comes_back(running: Project) -> None:
    running.sql(SHOP, "CREATE TABLE shortlived (kumquat int)")
    running.done("discover", "shop")
    running.sql(SHOP, "DROP TABLE shortlived")
    running.done("discover", "shop", "--include", "public.*")
    assert len(running.done("catalog", "search", "kumquat")["hits"]) == 1, "only a look at everything can miss it"
    running.done("discover", "shop")
    assert running.done("catalog", "search", "kumquat")["hits"] == []
    (hit,) = running.done("catalog", "search", "kumquat", "--gone")["hits"]
    assert hit["gone_at"] is not None
    assert "gone" in running.do("catalog", "show", "shop:public.shortlived").out
    assert running.done("discover", "shop")["found"]["changed"] == 0
    running.sql(SHOP, "CREATE TABLE shortlived (kumquat int)")
    running.done("discover", "shop")
    (hit,) = running.done("catalog", "search", "kumquat")["hits"]
    assert (hit["gone_at"], hit["version"]) == (None, 1)


def test_a_run_does_not_undo_what_discovery_has_described(running: Project) -> None:
    running.sql(SHOP, "COMMENT ON TABLE orders IS 'what was sold'")
    said = running.do("discover", "shop", "--include", "public.orders").out
    assert said.count("public.orders") == 1
    assert "\n1 object, " in said
    before = running.done("catalog", "show", "shop:public.orders")
    running.done("run", "orders", "--watch")
    until(lambda: running.done("runs", "orders"), "a run")
    after = running.done("catalog", "show", "shop:public.orders")
    assert (after["version"], after["description"]) == (before["version"], "what was sold")


def test_lineage_follows_a_column_through_its_pipeline(running: Project) -> None:
    running.done("discover", "shop", "--include", "public.orders")
    found = running.done("lineage", "shop:public.orders.id")
    assert (found["column"], found["up"]) == ("id", [])
    mine = [one for one in found["down"] if one["pipeline"] == "orders"]  # other tests may read it, too
    assert [one["from"] for one in mine] == [{"dataset": "shop:public.orders", "column": "id"}]
    whole = running.done("lineage", "shop:public.orders", "--down")
    assert "up" not in whole
    assert len(whole["down"]) >= len(found["down"])
    assert "orders" in running.done("catalog", "show", "shop:public.orders")["read_by"]
    assert running.do("lineage", "shop:public.orders.nix").code == 3
    assert "orders" in running.do("lineage", "shop:public.orders").out


def test_statistics_tags_and_values_are_kept_apart(running: Project) -> None:
    running.sql(
        SHOP, "CREATE TABLE people AS SELECT g AS id, 'p' || g || '@x.example' AS mail FROM generate_series(1, 400) g"
    )
    running.done("discover", "shop", "--include", "public.people")
    assert running.done("discover", "shop", "--include", "public.people")["found"] == {"objects": 1, "changed": 0}
    shown = running.done("catalog", "show", "shop:public.people", "--values")
    columns = {one["name"]: one for one in shown["profile"]["columns"]}
    assert columns["mail"]["personal"]
    assert {"email", "personal"} <= set(shown["tags"])
    assert "@x.example" in shown["values"]["mail"]["least"]
    assert "x.example" not in running.do("events", "--json").out
    assert "public.people" in [one["object"] for one in running.done("catalog", "search", "--tag", "email")["hits"]]
    assert running.done("catalog", "erase", "shop:public.people")["erased"]
    assert running.done("catalog", "show", "shop:public.people", "--values")["values"] == {}


def test_what_changes_in_files_is_seen_like_a_change_of_a_table(running: Project, tmp_path: Path) -> None:
    root = tmp_path / "lake"
    (root / "visits").mkdir(parents=True)
    (root / "orders").mkdir()
    (root / "visits/1.jsonl").write_text('{"id": 1, "e_mail": "a@x.example"}\n{"id": 2, "e_mail": "b@x.example"}\n')
    (root / "orders/1.csv").write_text("id,paid\n1,2.50\n")
    connections = tmp_path / "connections.yaml"
    connections.write_text(f"lake: {{type: files, root: {root}}}\n")
    running.done("apply", connections)
    assert running.done("discover", "lake")["found"] == {"objects": 2, "changed": 2}
    assert running.done("discover", "lake")["found"] == {"objects": 2, "changed": 0}
    shown = running.done("catalog", "show", "lake:visits")
    assert (shown["kind"], shown["profile"]["files"], shown["profile"]["format"]) == ("files", 1, "jsonl")
    assert "email" in shown["tags"]
    assert "about 1 files, the newest of" in running.do("catalog", "show", "lake:visits").out
    for number in range(2, 12):
        (root / f"visits/{number}.jsonl").write_text(f'{{"id": {number}, "phone": "x"}}\n')
    (root / "visits/1.jsonl").unlink()
    (root / "orders/1.csv").unlink()
    assert running.done("discover", "lake")["found"] == {"objects": 1, "changed": 1}
    after = running.done("catalog", "show", "lake:visits")
    assert [one["name"] for one in after["schema"]["fields"]] == ["id", "phone"], "ten files lack what all rows had"
    assert after["version"] == 2
    assert "phone" in running.do("catalog", "diff", "lake:visits").out
    assert running.done("catalog", "show", "lake:orders")["gone_at"] is not None
    for path in (root / "visits").iterdir():
        path.unlink()
    running.done("discover", "lake")
    (root / "visits/1.jsonl").write_text('{"other": 1}\n')
    running.done("discover", "lake")
    back = running.done("catalog", "show", "lake:visits")
    assert [one["name"] for one in back["schema"]["fields"]] == ["other"], "what was gone is not what is there now"


def test_a_pipeline_file_is_written_for_all_that_is_found(running: Project, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    names = ("--include", "public.*", "--exclude", "*.people")
    running.done("discover", "shop", *names, "--write", file, "--to", "warehouse")
    spec = yaml.safe_load(file.read_text())["spec"]
    assert spec["source"] == {"connection": "shop", "objects": ["public.*"], "except": ["*.people"]}
    assert spec["sink"]["connection"] == "warehouse"
    said = running.do("discover", "shop", "--write", file)
    assert (said.code, "is there already" in said.err) == (1, True)


def test_an_unknown_connection_or_dataset_is_not_found(running: Project) -> None:
    assert running.do("discover", "shp").code == 3
    assert running.do("catalog", "show", "shop:public.nix").code == 3
    for words in (["catalog", "show"], ["catalog", "history"], ["lineage"]):
        said = running.do(*words, "shop:public.order", "--json")
        assert "shop:public.order" in said.out
        assert "did you mean `shop:public.orders`?" in said.out
        said = running.do(*words, "shp:public.orders", "--json")
        assert "there is no connection 'shp'" in said.out
        assert "did you mean `shop`?" in said.out
    assert running.do("catalog", "show").code == 2
