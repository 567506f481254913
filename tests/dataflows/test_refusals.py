"""Rows that the target refuses: each becomes a dead letter, the others are written, in every write mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from dataflows.connectors.sql.names import shadow_prefix
from tests.dataflows.conftest import Copy, Launchers, task_of
from tests.pairs import all_pairs

COLUMNS = "id bigint PRIMARY KEY, name text, price numeric(12,2), at timestamptz"
PARENTS = "CREATE TABLE IF NOT EXISTS w.parents (id bigint PRIMARY KEY)"
RULES = {
    "check": (f"({COLUMNS}, CONSTRAINT small CHECK (id % 100 <> 7))", "23514", "small"),
    "deferred": (
        f"({COLUMNS}, CONSTRAINT known FOREIGN KEY (id) REFERENCES w.parents DEFERRABLE INITIALLY DEFERRED)",
        "23503",
        "known",
    ),
    "foreign": (f"({COLUMNS}, CONSTRAINT known FOREIGN KEY (id) REFERENCES w.parents)", "23503", "known"),
}
UID = "00000000-0000-4000-d000-000000000001"
BAD = [7, 107, 207, 307, 407, 507]


@pytest.fixture
def refusing(copy: Callable[..., Copy], catalog: str) -> Callable[..., tuple[Copy, Callable[..., dict[str, Any]]]]:
    """Make a copy into a given table, and a function that makes its tasks; dead letters go to a separate catalog."""

    def make(write: str, table: str, **more: Any) -> tuple[Copy, Callable[..., dict[str, Any]]]:
        made = copy(write, **more)
        made.session.execute(PARENTS)
        made.session.execute("INSERT INTO w.parents SELECT id FROM items WHERE id % 100 <> 7 ON CONFLICT DO NOTHING")
        made.session.execute(f"DROP TABLE IF EXISTS {made.target}")
        made.session.execute(f"CREATE TABLE {made.target} {table}")

        def task(run: str, fail_above: str = "5%", **changes: Any) -> dict[str, Any]:
            found = made.task(run, letters=catalog, **changes)
            spec = found["pipeline"]["spec"]
            spec["errors"] = {"dead_letter": {"fail_above": fail_above}}
            if write == "merge":
                spec["sink"]["key"] = ["id"]
            return found

        return made, task

    return make


def letters(task: dict[str, Any]) -> list[tuple[Any, ...]]:
    with psycopg.connect(task["letters"]) as session:
        query = (
            'SELECT code, reason, "values" FROM ops.dead_letters WHERE run = %s ORDER BY ("values"->>\'id\')::bigint'
        )
        return session.execute(query, (task["run"],)).fetchall()


@all_pairs(write=["append", "merge"], rule=["check", "deferred", "foreign"], arrow=[False, True])
def test_rows_that_break_a_rule_of_the_target_are_dead_letters(
    refusing: Callable[..., Any], launchers: Launchers, write: str, rule: str, arrow: bool
) -> None:
    table, state, name = RULES[rule]
    made, task = refusing(write, table, arrow=arrow)
    asked = task("r1")
    done = launchers.run(asked)
    assert done["status"] == "completed", done["error"]
    counters = done["counters"]
    assert (counters["rows_in"], counters["rows_out"], counters["filtered"], counters["dead"]) == (600, 594, 0, 6)
    assert made.differences() == {"lost": 6, "doubled": 0}
    found = letters(asked)
    assert [row[2]["id"] for row in found] == BAD
    assert {row[0] for row in found} == {state}
    assert all(f"`{name}`" in row[1] and state in row[1] for row in found)


ITEM = "id bigint, name text, price numeric(12,2), at timestamptz"
REPLACED = {
    "foreign": (f"({ITEM}, CONSTRAINT has FOREIGN KEY (id) REFERENCES w.parents)", "has"),
    "deferred": (
        f"({ITEM}, CONSTRAINT has FOREIGN KEY (id) REFERENCES w.parents DEFERRABLE INITIALLY DEFERRED)",
        "has",
    ),
    "partitions": (f"({ITEM}) PARTITION BY RANGE ((id % 100))", "a partition takes the row"),
}
"""Rules of a table that LIKE does not copy."""


@pytest.mark.parametrize("rule", REPLACED)
def test_rows_that_a_replaced_table_refuses_are_dead_letters(
    refusing: Callable[..., Any], launchers: Launchers, rule: str
) -> None:
    table, name = REPLACED[rule]
    made, task = refusing("replace", table)
    if rule == "partitions":
        for lower, upper in ((0, 7), (8, 100)):
            made.session.execute(
                f"CREATE TABLE w.part{lower} PARTITION OF {made.target} FOR VALUES FROM ({lower}) TO ({upper})"
            )
    asked = task("r1")
    done = launchers.run(asked)
    assert done["status"] == "completed", done["error"]
    assert (done["counters"]["rows_out"], done["counters"]["dead"]) == (594, 6)
    assert made.differences() == {"lost": 6, "doubled": 0}
    found = letters(asked)
    assert [row[2]["id"] for row in found] == BAD
    assert all(f"`{name}`" in row[1] for row in found)


def test_a_table_is_replaced_while_others_use_one_that_it_refers_to(
    refusing: Callable[..., Any], launchers: Launchers
) -> None:
    made, task = refusing("replace", REPLACED["foreign"][0])
    made.session.execute("INSERT INTO w.parents SELECT id FROM items ON CONFLICT DO NOTHING")
    left = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND starts_with(relname, %s)"
    for number, mode in enumerate(("ROW EXCLUSIVE", "ACCESS SHARE")):  # of one that writes, and of a backup
        with psycopg.connect(made.dsn) as other:
            other.execute(f"LOCK TABLE w.parents IN {mode} MODE")
            done = launchers.run(task(f"r{number}"))
        assert done["status"] == "completed", done["error"]
        assert made.differences() == {"lost": 0, "doubled": 0}
    assert made.session.execute(left, (shadow_prefix(made.uid),)).fetchone() == (1,), "it is emptied"
    assert launchers.run(task("r9"))["status"] == "completed"
    assert made.session.execute(left, (shadow_prefix(made.uid),)).fetchone() == (0,)


DOCUMENTS = ['{"a": 1, "b": {"a": 2}}', '{"b": [{"a": 1, "\\u0061": 2}]}', None, '{"x": "\\"a\\": 1", "a": "a"}']


@pytest.mark.parametrize("source", ["postgres", "duckdb"])
def test_documents_that_repeat_a_key_are_dead_letters_where_only_the_last_is_kept(
    launchers: Launchers, database: str, catalog: str, tmp_path: Path, source: str
) -> None:
    rows = list(enumerate(DOCUMENTS))
    lake = {"type": "postgres", "dsn": database}
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("CREATE TABLE given (id bigint, doc json); CREATE TABLE got (id bigint, doc jsonb)")
        session.cursor().executemany("INSERT INTO given VALUES (%s, %s)", rows)
        shop = lake
        if source == "duckdb":
            shop = {"type": "duckdb", "path": str(tmp_path / "f.duckdb")}
            with duckdb.connect(shop["path"]) as file:
                file.execute("CREATE TABLE given (id bigint, doc JSON)")
                file.executemany("INSERT INTO given VALUES (?, ?)", rows)
        spec = {
            "source": {"connection": "shop", "object": "main.given" if source == "duckdb" else "public.given"},
            "sink": {"connection": "lake", "object": "public.got", "write": "replace"},
            "errors": {"dead_letter": {"fail_above": 1.0}},
        }
        task = task_of("r1", UID, {"shop": shop, "lake": lake}, spec, tmp_path) | {"letters": catalog}
        done = launchers.run(task)
        assert done["status"] == "completed", done["error"]
        assert [(row[0], row[2]["id"]) for row in letters(task)] == [("repeated_name", 1)]
        assert session.execute("SELECT id FROM got ORDER BY 1").fetchall() == [(0,), (2,), (3,)]


@pytest.mark.parametrize("cut", ["commit.before_fence:1", "commit.done:0"])
def test_a_run_that_dies_after_a_refusal_keeps_each_row_once(
    refusing: Callable[..., Any], launchers: Launchers, cut: str
) -> None:
    made, task = refusing("append", RULES["check"][0])
    assert "killed" in launchers.run(task("r1"), f"{cut}=kill")
    second = launchers.run(task("r1", attempt=2))
    assert (second["status"], second["counters"]["dead"], second["counters"]["rows_in"]) == ("completed", 6, 600)
    assert [row[2]["id"] for row in letters(task("r1"))] == BAD
    assert made.differences() == {"lost": 6, "doubled": 0}


def test_a_history_has_the_rows_that_its_table_takes(refusing: Callable[..., Any], launchers: Launchers) -> None:
    validity = "valid_from timestamptz, valid_to timestamptz, is_current boolean NOT NULL, PRIMARY KEY (id, valid_from)"
    plain = COLUMNS.replace(" PRIMARY KEY", "")
    made, task = refusing("scd2", f"({plain}, {validity}, CONSTRAINT small CHECK (id % 100 <> 7))")
    asked = task("r1")
    asked["pipeline"]["spec"]["sink"] |= {"key": ["id"], "version": "at"}
    done = launchers.run(asked)
    assert done["status"] == "completed", done["error"]
    assert (done["counters"]["rows_out"], done["counters"]["dead"]) == (594, 6)
    assert [one["id"] for _, _, one in letters(asked)] == BAD
    assert made.differences() == {"lost": 6, "doubled": 0}


def test_only_the_first_row_of_a_unique_value_is_written(refusing: Callable[..., Any], launchers: Launchers) -> None:
    _, task = refusing("append", f"({COLUMNS}, UNIQUE NULLS NOT DISTINCT (price))")
    asked = task("r1", fail_above="100%")
    done = launchers.run(asked)
    assert done["status"] == "completed", done["error"]
    assert (done["counters"]["rows_out"], done["counters"]["dead"]) == (481, 119)
    assert {row[0] for row in letters(asked)} == {"23505"}


def test_too_many_refused_rows_fail_the_run(refusing: Callable[..., Any], launchers: Launchers) -> None:
    _, task = refusing("append", RULES["check"][0])
    done = launchers.run(task("r1", fail_above="0.5%"))
    assert done["error"]["code"] == "data.too_many_refused"
