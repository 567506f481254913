"""Keys of the tables that a `replace` creates in a database file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pytest

from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened

if TYPE_CHECKING:
    from tests.dataflows.connectors.sql.conftest import File, Move

    Make = Callable[..., Move]

KINDS = pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
TEXT = {"sqlite": "TEXT", "duckdb": "VARCHAR"}
PAIRED = (
    "CREATE TABLE paired (name VARCHAR, b BIGINT NOT NULL, a VARCHAR NOT NULL, more DOUBLE, PRIMARY KEY (a, b))",
    "INSERT INTO paired VALUES ('x', 2, 'a', 0.5), (NULL, 1, 'a', NULL), ('y', 2, 'A', 1.5)",
)


def of_pairs(made: Move, run: str, **spec: Any) -> dict[str, Any]:
    task = made.task(run)
    task["pipeline"]["spec"]["source"] = {"connection": "from", "object": "paired"}
    task["pipeline"]["spec"] |= spec
    return task


def shape(file: File, table: str = "copied") -> tuple[list[str], list[str]]:
    """Return the columns of the table's primary key, in order, and those that are NOT NULL."""
    found = file.rows(f"SELECT name, \"notnull\", pk FROM pragma_table_info('{table}')")
    if file.kind == "duckdb":
        query = "SELECT constraint_column_names FROM duckdb_constraints() WHERE table_name = ? AND constraint_type = ?"
        key = file.rows(query, (table, "PRIMARY KEY"))
        return (key[0][0] if key else []), [row[0] for row in found if row[1]]
    return [row[0] for row in sorted(found, key=lambda row: row[2]) if row[2]], [row[0] for row in found if row[1]]


@KINDS
def test_a_target_that_a_replace_creates_has_the_sources_key_and_not_nulls(move: Make, kind: str) -> None:
    made = move("duckdb" if kind == "sqlite" else "sqlite", kind, "replace")
    made.source.script(*PAIRED)
    for run in ("r1", "r2", "r3"):
        done = made.launchers.run(of_pairs(made, run))
        assert done["status"] == "completed", done["error"]
        assert shape(made.sink) == (["a", "b"], ["b", "a"])
        assert made.sink.rows("SELECT count(*), count(more) FROM copied") == [(3, 2)]
    with pytest.raises((sqlite3.IntegrityError, duckdb.ConstraintException)):
        made.sink.rows("INSERT INTO copied VALUES ('z', 2, 'A', 1)")
    assert made.leftovers() == []


@KINDS
def test_such_a_table_can_be_merged_into_afterwards(move: Make, kind: str) -> None:
    made = move(kind, kind, "replace")
    made.completed("r1")
    assert shape(made.sink)[0] == ["id"]
    made.write = "merge"
    made.add(5)
    assert made.completed("r2")["rows_in"] == 605
    assert made.rows() == made.wanted()


@KINDS
def test_the_key_that_the_pipeline_names_comes_first(move: Make, kind: str) -> None:
    made = move(kind, kind, "replace")
    made.source.script(*PAIRED, "CREATE UNIQUE INDEX by_more ON paired (more)")
    task = of_pairs(made, "r1")
    task["pipeline"]["spec"]["sink"]["key"] = ["b", "a"]
    for run in ("r1", "r2"):
        done = made.launchers.run(task | {"run": run})
        assert done["status"] == "completed", done["error"]
        assert shape(made.sink)[0] == ["b", "a"]


@KINDS
def test_rows_that_repeat_a_key_are_never_lost_in_silence(move: Make, catalog: str, kind: str) -> None:
    """SQLite has the key from the beginning, so that the row is set aside; DuckDB makes it after the load."""
    made = move(kind, kind, "replace", errors={"dead_letter": {"fail_above": "50%"}})
    made.source.script(*PAIRED)
    assert made.launchers.run(of_pairs(made, "r1"))["status"] == "completed"
    made.source.script("CREATE TABLE twice AS SELECT * FROM paired", "INSERT INTO twice VALUES ('z', 2, 'a', 7)")
    task = of_pairs(made, "r2") | {"letters": catalog}
    task["pipeline"]["spec"]["source"]["object"] = "twice"
    done = made.launchers.run(task)
    kept = made.sink.rows("SELECT name FROM copied ORDER BY a, b")
    if kind == "duckdb":
        assert (done["error"]["code"], "key (a, b) cannot be made" in done["error"]["what"]) == ("data.bad", True)
        assert kept == [("y",), (None,), ("x",)]
        return
    assert (done["status"], done["counters"]["dead"]) == ("completed", 1), done
    with psycopg.connect(catalog) as session:
        assert session.execute("SELECT code, \"values\"->>'name' FROM ops.dead_letters").fetchall() == [
            ("SQLITE_CONSTRAINT_PRIMARYKEY", "z")
        ]
    assert kept == [("y",), (None,), ("x",)]


def test_a_key_too_large_for_duckdb_is_left_out_with_a_note(move: Make) -> None:
    made = move("duckdb", "duckdb", "replace", rows=1)
    made.split_rows = 500_000
    made.source.script(
        "CREATE TABLE large AS SELECT (hash(i) // 2)::BIGINT AS k FROM range(2_000_000) r(i)",
        "ALTER TABLE large ADD PRIMARY KEY (k)",
    )
    for run in ("r1", "r2"):
        task = made.task(run)
        task["pipeline"]["spec"]["source"]["object"] = "large"
        done = made.launchers.run(task)
        assert done["status"] == "completed", done["error"]
        assert any("no key (k)" in note for note in done["notes"]), done
        assert made.sink.rows("SELECT count(*) FROM copied") == [(2_000_000,)]
        assert shape(made.sink) == ([], ["k"])
    made.source.script("CREATE OR REPLACE TABLE large (k BIGINT PRIMARY KEY)", "INSERT INTO large FROM range(40_000)")
    task["run"] = "r3"
    assert made.launchers.run(task)["status"] == "completed"
    assert shape(made.sink) == (["k"], ["k"])


def test_a_table_that_a_person_changed_is_refilled_and_keeps_what_depends_on_it(move: Make) -> None:
    made = move("sqlite", "duckdb", "replace")
    made.completed("r1")
    made.sink.script("CREATE INDEX by_price ON copied (price)", "COMMENT ON COLUMN copied.price IS 'in euros'")
    for run in ("r2", "r3"):
        made.completed(run)
        assert made.rows() == made.wanted()
        assert made.sink.rows("SELECT count(*) FROM duckdb_indexes()") == [(1,)]
    made.sink.script("DROP INDEX by_price", "CREATE VIEW shown AS SELECT id FROM copied")
    made.sink.script("ALTER TABLE copied ALTER name SET DEFAULT 'none'")
    made.add(4)
    made.completed("r4")
    assert made.rows() == made.wanted()
    assert shape(made.sink)[0] == ["id"]
    assert made.sink.rows("SELECT count(*) FROM shown") == [(604,)]
    query = "SELECT comment, column_default FROM duckdb_columns() WHERE table_name = 'copied' ORDER BY column_index"
    assert made.sink.rows(query) == [(None, None), (None, "'none'"), ("in euros", None)]


@KINDS
def test_a_plan_shows_the_key_that_it_will_make(move: Make, kind: str) -> None:
    made = move(kind, kind, "replace")
    made.source.script(*PAIRED)
    key = f'"a" {TEXT[kind]} NOT NULL, "more" DOUBLE, PRIMARY KEY ("a", "b"))'
    for task, shown in (
        (of_pairs(made, "r1"), key),
        (of_pairs(made, "r1", transforms=[{"name": "n", "set": {"b": "b + 1"}}]), '"more" DOUBLE)'),
    ):
        job = Job.from_task(task)
        with opened(job) as ends:
            found = plan(job, ends)
        assert found["statements"][0].endswith(shown), found["statements"]
        assert bool(found["notes"]) == (shown != key), found["notes"]
    merging = made.task("r1")
    merging["pipeline"]["spec"]["sink"] |= {"write": "merge", "key": ["id"]}
    job = Job.from_task(merging)
    with opened(job) as ends:
        assert plan(job, ends)["statements"][0].endswith('PRIMARY KEY ("id"))')


def test_a_key_is_made_once_however_often_a_run_is_published(move: Make) -> None:
    made = move("sqlite", "duckdb", "replace")
    made.completed("r0")
    for point in ("publish.begin", "publish.locked", "publish.moved", "publish.done"):
        made.add(1)
        assert "killed" in made.run(f"r-{point}", f"{point}=kill")
        made.completed(f"r-{point}")
        assert (made.rows(), shape(made.sink)[0], made.leftovers()) == (made.wanted(), ["id"], []), point
    with closing(duckdb.connect(str(made.sink.path))) as session:
        assert session.execute("SELECT comment FROM duckdb_tables() WHERE table_name = 'copied'").fetchone() != (None,)
