"""A whole database by one definition, on the command line, from PostgreSQL to PostgreSQL."""

from __future__ import annotations

import pytest

from api.starter import SHOP, WAREHOUSE
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


def propose_and_change(project: Project) -> None:
    """Let a table wait for a person, then plan a changed file."""
    (project.folder / "whole.yaml").write_text(SET.replace("tables:", "appear: propose\n  tables:"))
    project.done("apply", project.folder / "whole.yaml")
    project.sql(SHOP, "CREATE TABLE s.asked (id int PRIMARY KEY)")
    (planned,) = project.done("plan", "whole")
    assert {one["object"]: one["member"] for one in planned["members"]}["s.asked"] == "proposed"
    assert planned["vanished"] == ["s.N\u00e4me.dot"]
    assert "proposes no such object" in project.do("approve", "whole").err, "no listing has seen it yet"
    assert "whole/s.asked" not in ran(project, "whole")
    assert project.done("approve", "whole", "--table", "s.a*")["accepted"] == ["s.asked"]
    assert ran(project, "whole", "--table", "s.asked") == {"whole/s.asked": "completed"}
    other = SET.replace("write: append", "write: replace").replace('"*.tmp_*"', '"*.tmp_*", s.late')
    (project.folder / "whole.yaml").write_text(other)
    (planned,) = project.done("plan", project.folder / "whole.yaml")
    (changed,) = [one for one in planned["members"] if one["member"] == "changed"]
    assert (changed["object"], planned["excluded"]) == ("s.events", ["s.late"])
    assert changed["changes"] == [{"path": "spec.sink.write", "before": None, "after": "replace"}]
    said = project.do("plan", project.folder / "whole.yaml").out
    assert 's.events: spec.sink.write: null -> "replace"' in said
    assert "s.late is not selected any more" in said
    moved = SET.replace("tables:", "tables:\n    s.customers: {sink: {object: raw_s.moved}}")
    (project.folder / "whole.yaml").write_text(moved.replace("write: append", "write: append, object: raw_s.customers"))
    (planned,) = project.done("plan", project.folder / "whole.yaml")
    assert planned["refused_objects"] == [], "a target that a member leaves is free"


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
