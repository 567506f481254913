"""A whole database by one definition, on the command line, from PostgreSQL to PostgreSQL."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from api.cli import set_survey
from api.cli.main import cli
from api.cli.set_plan import SetPlan
from api.starter import SHOP, WAREHOUSE
from penstock.models.moves import moved
from penstock.models.sets import FoundObject, Members
from tests.api.project import Project

SET = """
kind: Pipeline
metadata: {name: whole}
spec:
  source: {connection: shop, objects: ["s.*"], except: ["*.tmp_*"]}
  sink: {connection: warehouse, object: "raw_{schema}.{table}", write: merge, key: auto}
  tables:
    s.events: {sink: {write: append}, source: {cursor: {field: id}}}
    "s.log_*": {disabled: true}
    s.late: {deletes: {compare: keys, mark: remove}}
    s.N*: {validate: {checks: {short: "x <> 'long'"}}, errors: {dead_letter: {fail_above: 50%}}}
"""
TABLES = """
CREATE SCHEMA s;
CREATE TABLE s.customers (id bigint PRIMARY KEY, name text);
INSERT INTO s.customers SELECT n, 'c' || n FROM generate_series(1, 50) n;
CREATE TABLE s."a Order {x}" (a int, b int, customer bigint REFERENCES s.customers, PRIMARY KEY (a, b));
INSERT INTO s."a Order {x}" SELECT n, n, n FROM generate_series(1, 20) n;
CREATE TABLE s.events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
INSERT INTO s.events (what) SELECT 'e' FROM generate_series(1, 30);
CREATE TABLE s."N\u00e4me.dot" (x text);
INSERT INTO s."N\u00e4me.dot" VALUES ('a'), ('a'), ('long');
CREATE TABLE s.tmp_1 (id int); CREATE TABLE s.log_in (id int);
"""


@pytest.fixture
def whole(running: Project) -> Project:
    running.sql(SHOP, TABLES)
    (running.folder / "whole.yaml").write_text(SET)
    return running


def rows(project: Project, *tables: str) -> list[int]:
    return [project.sql(WAREHOUSE, f'SELECT count(*) FROM raw_s."{one}"')[0][0] for one in tables]


def ran(project: Project, *arguments: str) -> dict[str, str]:
    """Run something to its end; return the status of each run by pipeline."""
    said = project.do("run", *arguments, "--watch", "--json")
    return {one["pipeline"]: one["status"] for one in said.json["runs"]}


def look_at_all_members(project: Project, names: set[str]) -> None:
    assert {one["pipeline"] for one in project.done("runs", "whole")} == names
    assert {one["pipeline"] for one in project.done("metrics", "whole")} == names
    assert "name a member" in project.do("preview", "whole").err
    assert project.do("backfill", "whole", "--table", "s.ev*", "--from", "1", "--to", "9", "--watch").code == 0


def look_at_the_set(project: Project) -> None:
    """Watch, explain and complete a set, and name what it does not have."""
    said = project.do("status", "whole", "--watch")
    assert (said.code, "members: 4 completed, 1 failed" in said.out) == (0, True), said.out
    assert " of whole/s.events, version 1, was finished" in project.do("why", "whole").out
    assert "next: penstock status 'whole/s.a Order {x}'" not in said.out
    said = project.do("dlq", "list", "whol")
    assert (said.code, "did you mean `whole`?" in said.err) == (3, True)
    assert project.done("dlq", "list", "whole/s.events") == []
    (shown,) = project.done("dlq", "list", "whole", "--limit", "1")
    assert project.done("dlq", "show", shown["id"][:8]) == shown
    shell = ShellComplete(cli, {}, "penstock", "_PENSTOCK_COMPLETE")
    words = ["run", "--project", str(project.folder)]
    assert [one.value for one in shell.get_completions(words, "whole/s.a")] == ["whole/s.a Order {x}"]
    assert [one.value for one in shell.get_completions([*words, "whole", "--table"], "s.l")] == ["s.late"]
    words = ["discover", "--project", str(project.folder)]
    assert [one.value for one in shell.get_completions(words, "ware")] == ["warehouse"]
    with pytest.MonkeyPatch.context() as bash:
        bash.setenv("_PENSTOCK_COMPLETE", "bash_complete")
        words = ["run", "--project", str(project.folder)]
        assert [one.value for one in shell.get_completions(words, "whole/s.a")] == [r"whole/s.a\ Order\ \{x\}"]


def propose_and_change(project: Project) -> None:
    """Let a table wait for a person, then plan a changed file."""
    (project.folder / "whole.yaml").write_text(SET.replace("tables:", "appear: propose\n  tables:"))
    project.done("apply", project.folder / "whole.yaml")
    project.sql(SHOP, "CREATE TABLE s.asked (id int PRIMARY KEY)")
    said = project.do("plan", "whole", "--json")
    (planned,) = said.json
    assert {one["object"]: one["member"] for one in planned["members"]}["s.asked"] == "proposed"
    assert (said.code, [one["object"] for one in planned["refused_objects"]]) == (1, ["s.customers"])
    project.sql(WAREHOUSE, "ALTER TABLE raw_s.customers ADD name text")
    assert planned["vanished"] == ["s.N\u00e4me.dot"]
    assert "proposes no such object" in project.do("approve", "whole").err, "no listing has seen it yet"
    assert "whole/s.asked" not in ran(project, "whole")
    assert project.done("approve", "whole", "--table", "s.a*")["accepted"] == ["s.asked"]
    assert ran(project, "whole", "--table", "s.asked") == {"whole/s.asked": "completed"}
    other = SET.replace("write: append", "write: replace").replace('"*.tmp_*"', '"*.tmp_*", s.late')
    (project.folder / "whole.yaml").write_text(other)
    (planned,) = project.do("plan", project.folder / "whole.yaml", "--json").json
    (changed,) = [one for one in planned["members"] if one["member"] == "changed"]
    assert (changed["object"], planned["excluded"]) == ("s.events", ["s.late"])
    assert changed["changes"] == [{"path": "spec.sink.write", "before": None, "after": "replace"}]
    shown = project.do("plan", project.folder / "whole.yaml").out
    assert 's.events: spec.sink.write: null -> "replace"' in shown
    assert "s.late is not selected any more" in shown
    moved = SET.replace("tables:", "tables:\n    s.customers: {sink: {object: raw_s.moved}}")
    (project.folder / "whole.yaml").write_text(moved.replace("write: append", "write: append, object: raw_s.customers"))
    (planned,) = project.do("plan", project.folder / "whole.yaml", "--json").json
    reasons = " ".join(one["reason"] for one in planned["refused_objects"])
    assert "already" not in reasons, "a target that a member leaves is free"


def test_what_was_approved_is_not_proposed_again() -> None:
    end = {"connection": "house", "object": "raw.{table}"}
    spec = {"source": {"connection": "shop", "objects": ["s.*"]}, "sink": end, "appear": "propose"}
    client: Any = None
    rule = Members({"metadata": {"name": "shop"}, "spec": spec})
    planned = SetPlan(client, rule, {}, is_changed=False, accepted=["s.b"])
    for table in "ab":
        planned.add(FoundObject(object=f"s.{table}", table=table, key=("id",)))
    assert [one["member"] for one in planned.found["members"]] == ["proposed", "new"]


def test_a_plan_knows_which_member_reads_a_table_under_another_name() -> None:
    end = {"connection": "house", "object": "raw.{table}"}
    spec = {"source": {"connection": "shop", "objects": ["s.*"]}, "sink": end}
    client: Any = None
    rule = Members({"metadata": {"name": "shop"}, "spec": spec})
    first, now = (FoundObject(object=f"s.{table}", table=table, key=("id",)) for table in ("a", "z"))
    followed: Any = SimpleNamespace(pipeline=moved(rule.member(first), "s.z"), status="active")
    planned = SetPlan(client, rule, {"shop/s.a": followed}, is_changed=False)
    for one in (now, first):
        planned.add(one)
    assert [(one["object"], one["target"], one["member"]) for one in planned.found["members"]] == [
        ("s.z", "raw.a", "there")
    ]
    (refused,) = planned.found["refused_objects"]
    assert refused["reason"].startswith("shop/s.a reads s.z, which had this name before")
    assert planned.result(["s.z", "s.a"])["vanished"] == []


KEYED = """
kind: Pipeline
metadata: {name: keyed}
spec:
  source: {connection: shop, objects: ["k.*"]}
  sink: {connection: warehouse, object: "keyed.{table}", write: merge, key: auto}
"""
PARENTS = """
CREATE SCHEMA k;
CREATE TABLE k.customers (id bigint PRIMARY KEY, name text);
INSERT INTO k.customers SELECT n, 'c' || n FROM generate_series(1, 40) n;
CREATE TABLE k.basket (id bigint PRIMARY KEY, customer bigint);
INSERT INTO k.basket SELECT n, n FROM generate_series(1, 20) n;
CREATE TABLE k.items (id bigint PRIMARY KEY, basket bigint);
INSERT INTO k.items SELECT n, n FROM generate_series(1, 10) n;
CREATE TABLE k.staff (id bigint PRIMARY KEY, boss bigint);
INSERT INTO k.staff SELECT n, nullif(n + 1, 31) FROM generate_series(1, 30) n;
CREATE TABLE k.left (id bigint PRIMARY KEY, other bigint); INSERT INTO k.left VALUES (1, 1);
CREATE TABLE k.right (id bigint PRIMARY KEY, other bigint); INSERT INTO k.right VALUES (1, 1);
"""
ENFORCED = """
CREATE SCHEMA keyed;
CREATE TABLE keyed.customers (id bigint PRIMARY KEY, name int);
CREATE TABLE keyed.basket (id bigint PRIMARY KEY, customer bigint REFERENCES keyed.customers);
CREATE TABLE keyed.items (id bigint PRIMARY KEY, basket bigint REFERENCES keyed.basket);
CREATE TABLE keyed.staff (id bigint PRIMARY KEY, boss bigint REFERENCES keyed.staff);
CREATE TABLE keyed."left" (id bigint PRIMARY KEY, other bigint);
CREATE TABLE keyed."right" (id bigint PRIMARY KEY, other bigint REFERENCES keyed."left");
ALTER TABLE keyed."left" ADD CONSTRAINT round FOREIGN KEY (other) REFERENCES keyed."right";
"""


def look_at_each_member(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan members that cannot run, by their tables' types and cursors."""
    file = project.folder / "keyed.yaml"
    cursor = "  tables: {k.items: {sink: {write: append}, source: {cursor: {field: basket}}}}\n"
    file.write_text(KEYED + cursor)
    said = project.do("plan", file, "--json")
    (planned,) = said.json
    refused = {one["object"]: one["reason"] for one in planned["refused_objects"]}
    assert (said.code, set(refused)) == (1, {"k.customers", "k.items", "k.left", "k.right"})
    assert "`name`" in refused["k.customers"], "text into an int"
    assert "cursor" in refused["k.items"]
    assert {one["object"] for one in planned["members"] if "rows" in one} == {"k.basket", "k.staff"}
    assert (planned["looked_at"], planned["not_looked_at"]) == (4, [])
    (some,) = project.do("plan", file, "--table", "k.st*", "--table", "k.basket", "--json").json
    assert (some["looked_at"], some["not_looked_at"]) == (2, [])
    monkeypatch.setattr(set_survey, "SECONDS", -1.0)
    said = project.do("plan", file)
    assert "the time was over after 0 members; 4 were not looked at" in said.out
    file.write_text(KEYED)


def test_foreign_keys_of_the_sink_order_the_first_loads(running: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project = running
    project.sql(SHOP, PARENTS)
    project.sql(WAREHOUSE, ENFORCED)
    look_at_each_member(project, monkeypatch)
    said = project.do("plan", project.folder / "keyed.yaml", "--json")
    (planned,) = said.json
    after = {one["object"]: one["after"] for one in planned["members"] if "after" in one}
    assert (after["k.items"], after["k.basket"]) == (["k.basket"], ["k.customers"])
    assert planned["self_references"] == ["k.staff"]
    refused = {one["object"]: one["reason"] for one in planned["refused_objects"]}
    assert "k.left -> k.right -> k.left" in refused["k.left"]
    project.done("apply", project.folder / "keyed.yaml")

    # The parent of all cannot be loaded: those that refer to it say so, and the others go on.
    said = project.do("run", "keyed", "--watch", "--json")
    found = {one["pipeline"].removeprefix("keyed/k."): one for one in said.json["runs"]}
    assert {name: one["status"] for name, one in found.items()} == {
        "staff": "completed", **dict.fromkeys(("customers", "basket", "items", "left", "right"), "failed"),
    }  # fmt: skip
    assert "first load of keyed/k.customers" in found["basket"]["error"]["what"]
    assert "first load of keyed/k.basket" in found["items"]["error"]["what"]
    assert "make a circle" in found["right"]["error"]["what"]

    project.sql(WAREHOUSE, "ALTER TABLE keyed.customers ALTER name TYPE text")
    project.sql(WAREHOUSE, 'ALTER TABLE keyed."left" DROP CONSTRAINT round')
    for _ in range(2):
        said = project.do("run", "keyed", "--watch", "--json")
        counters = {one["pipeline"]: (one["status"], one["counters"]["dead"]) for one in said.json["runs"]}
        assert counters == {one["pipeline"]: ("completed", 0) for one in found.values()}
    (planned,) = project.done("plan", "keyed")
    assert not [one for one in planned["members"] if "after" in one], "all are loaded"


def test_a_database_by_one_definition(whole: Project) -> None:
    project = whole
    (planned,) = project.done("plan", project.folder / "whole.yaml")
    assert (len(planned["members"]), planned["without_key"]) == (4, ["s.N\u00e4me.dot"])
    project.done("apply", project.folder / "whole.yaml")
    names = {f"whole/s.{one}" for one in ("customers", "a Order {x}", "events", "N\u00e4me.dot")}
    listed = {one["name"]: one for one in project.done("list", "--members")}
    assert {name for name, one in listed.items() if one["member_of"] == "whole"} == names
    assert "whole/s.events" not in {one["name"] for one in project.done("list")}

    assert ran(project, "whole") == dict.fromkeys(names, "completed")
    assert rows(project, "customers", "a Order {x}", "events", "N\u00e4me.dot") == [50, 20, 30, 2]
    assert "completed, 1 dead" in project.do("status", "whole").out
    order = [one["pipeline"] for one in reversed(project.done("runs", "--limit", "4"))]
    assert order.index("whole/s.customers") > order.index("whole/s.N\u00e4me.dot")
    assert order[-1] == "whole/s.a Order {x}", "it refers to the customers"

    # A table comes, one goes, one is broken: the others are not touched, and nothing is held up.
    project.sql(SHOP, "CREATE TABLE s.late (id int PRIMARY KEY); INSERT INTO s.late VALUES (1); DROP TABLE s.tmp_1")
    project.sql(SHOP, "DROP TABLE s.\"N\u00e4me.dot\"; INSERT INTO s.events (what) VALUES ('new')")
    project.sql(WAREHOUSE, "ALTER TABLE raw_s.customers DROP COLUMN name")
    found = ran(project, "whole")
    assert found == {
        "whole/s.customers": "failed",
        "whole/s.a Order {x}": "completed",
        "whole/s.events": "completed",
        "whole/s.late": "completed",
    }
    assert rows(project, "a Order {x}", "events", "N\u00e4me.dot", "late") == [20, 31, 2, 1]
    versions = {one["name"]: one["version"] for one in project.done("list", "--members") if one["member_of"]}
    assert set(versions.values()) == {1}, "no member was changed"

    look_at_all_members(project, names | {"whole/s.late"})
    look_at_the_set(project)
    propose_and_change(project)

    project.sql(WAREHOUSE, "DELETE FROM raw_s.events")
    said = project.do("check", "whole", "--json")
    verdicts = {one["pipeline"]: one.get("agree", one.get("refused")) for one in said.json}
    assert (said.code, verdicts["whole/s.events"], verdicts["whole/s.a Order {x}"]) == (1, False, True)
    assert "has disappeared" in str(verdicts["whole/s.N\u00e4me.dot"]) or "no such table" in str(
        verdicts["whole/s.N\u00e4me.dot"]
    )
    assert "and 11 more" in project.do("check", "whole/s.events", "--last").out
    (alone,) = project.done("check", "--table", "s.a O*")
    assert (alone["pipeline"], alone["agree"]) == ("whole/s.a Order {x}", True)
    project.sql(WAREHOUSE, "INSERT INTO raw_s.late VALUES (2)")
    said = project.do("deletes", "whole", "--limit", "50%", "--json")
    compared = {one["pipeline"]: one for one in said.json}
    assert (said.code, compared["whole/s.late"]["found"]["removed"]) == (1, 1)
    assert "does not compare keys" in compared["whole/s.events"]["error"]["what"]
    assert compared["whole/s.N\u00e4me.dot"] == {"pipeline": "whole/s.N\u00e4me.dot", "replaced": True}
    said = project.do("deletes", "--table", "s.N*")
    assert (said.code, "has no need to: it is replaced" in said.out) == (0, True), said.err
    assert [one["found"]["removed"] for one in project.done("deletes", "--table", "s.late")] == [0]
    assert project.done("run", "whole/s.events", "--full", "--watch")["counters"]["rows_out"] == 31
    assert rows(project, "a Order {x}", "events") == [20, 31]

    # Nobody lists the objects of a set that is paused, so that nobody waits for them.
    project.done("pause", "whole")
    (project.folder / "whole.yaml").write_text(SET.replace("s.log_*", "s.l_*"))
    assert "whole: is paused" in " ".join(project.do("apply", project.folder / "whole.yaml").out.split())

    project.done("delete", "whole", "--yes")
    assert [one["name"] for one in project.done("list", "--members") if one["name"].startswith("whole")] == []
    assert rows(project, "events") == [31], "targets stay"
