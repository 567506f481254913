"""Dead letters: each refused row is kept once, whatever process dies, and every row of the source is counted."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.dataflows.conftest import Copy, Launchers, result
from tests.pairs import soon

STEPS = [
    {"name": "open", "filter": "id % 10 <> 3"},
    {"name": "share", "set": {"price": "CAST(100 / (id % 50) AS numeric(12,2))"}},
    {"name": "hide", "mask": {"name": "redact"}},
]
BAD, FILTERED = 12, 60
"""Ids among the 600 items: multiples of 50, and those that end in 3."""


@pytest.fixture
def kept(copy: Callable[..., Copy], catalog: str) -> Callable[..., tuple[Copy, Callable[..., dict[str, Any]]]]:
    """Make a copy with steps, and a function that makes its tasks; dead letters go to a separate catalog."""

    def make(write: str, **more: Any) -> tuple[Copy, Callable[..., dict[str, Any]]]:
        made = copy(write, **more)

        def task(run: str, fail_above: str = "5%", **changes: Any) -> dict[str, Any]:
            found = made.task(run, letters=catalog, **changes)
            found["pipeline"]["spec"] |= {"transforms": STEPS, "errors": {"dead_letter": {"fail_above": fail_above}}}
            return found

        return made, task

    return make


def letters(task: dict[str, Any]) -> list[tuple[Any, ...]]:
    with psycopg.connect(task["letters"]) as session:
        query = 'SELECT run, step, code, "values" FROM ops.dead_letters ORDER BY ("values"->>\'id\')::int'
        return session.execute(query).fetchall()


def ids(task: dict[str, Any]) -> list[int]:
    return [row[3]["id"] for row in letters(task)]


WANTED = [50 * number for number in range(1, BAD + 1)]


@pytest.mark.parametrize(
    ("write", "workers"), soon(product(("append", "replace"), (1, 2)), ("append", 2), ("replace", 1))
)
def test_every_row_is_written_filtered_or_a_dead_letter(
    kept: Callable[..., Any], launchers: Launchers, write: str, workers: int
) -> None:
    made, task = kept(write, workers=workers)
    done = launchers.run(task("r1"))
    assert done["status"] == "completed", done["error"]
    counters = done["counters"]
    assert (counters["rows_in"], counters["filtered"], counters["dead"]) == (600, FILTERED, BAD)
    assert counters["rows_out"] == 600 - FILTERED - BAD == made.value(f"SELECT count(*) FROM {made.target}")
    assert ids(task("r1")) == WANTED
    assert {(row[1], row[2], row[3]["name"]) for row in letters(task("r1"))} == {
        ("share", "expression.failed", "***")
    } | (
        {("share", "expression.failed", None)} if any(row[3]["name"] is None for row in letters(task("r1"))) else set()
    )


QUICK = [
    ("append", "commit.mid_copy:0"), ("append", "commit.done:0"), ("append", "publish.begin"),
    ("append", "publish.moved"), ("append", "result.written"), ("replace", "commit.before_fence:1"),
    ("replace", "commit.done:2"), ("replace", "publish.locked"), ("replace", "publish.moved"),
    ("replace", "result.before"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("write", "cut"),
    soon(
        product(("append", "replace"), dict.fromkeys(cut for _, cut in QUICK)),
        *QUICK,
    ),
)
def test_a_run_that_dies_keeps_each_dead_row_once(
    kept: Callable[..., Any], launchers: Launchers, write: str, cut: str
) -> None:
    made, task = kept(write)
    assert "killed" in launchers.run(task("r1"), f"{cut}=kill")
    second = launchers.run(task("r1", attempt=2))
    assert (second["status"], second["counters"]["dead"], second["counters"]["rows_in"]) == ("completed", BAD, 600)
    assert ids(task("r1")) == WANTED
    assert made.value(f"SELECT count(*) FROM {made.target}") == 600 - FILTERED - BAD


@pytest.mark.parametrize("write", ["append", "replace"])
def test_another_run_that_takes_over_keeps_each_dead_row_once(
    kept: Callable[..., Any], launchers: Launchers, write: str
) -> None:
    made, task = kept(write)
    assert "killed" in launchers.run(task("r1"), "commit.before_fence:1=kill")
    assert launchers.run(task("r2"))["counters"]["dead"] == BAD
    assert ids(task("r2")) == WANTED
    assert made.value(f"SELECT count(*) FROM {made.target}") == 600 - FILTERED - BAD


def test_a_zombie_adds_no_dead_row(kept: Callable[..., Any], launchers: Launchers) -> None:
    _, task = kept("append")
    zombie = task("r1")
    pid = launchers.stopped(zombie, "commit.begin:1")
    assert launchers.run(task("r1", attempt=2))["status"] == "completed"
    os.kill(pid, signal.SIGCONT)
    launchers.wait(pid)
    assert result(zombie)["status"] in {"fenced", "failed"}
    assert ids(task("r1")) == WANTED


def test_too_many_dead_rows_publish_nothing_in_replace_and_are_reported_in_append(
    kept: Callable[..., Any], launchers: Launchers
) -> None:
    for write, rows in (("replace", 0), ("append", 600 - FILTERED - BAD)):
        made, task = kept(write)
        for attempt in (1, 2):
            done = launchers.run(task("r1", "1%", attempt=attempt))
            assert (done["status"], done["error"]["code"]) == ("failed", "data.too_many_refused"), done
            assert done["counters"]["dead"] == BAD
            assert "12 of 600 rows" in done["error"]["what"]
            assert "most often by `" in done["error"]["what"]
            assert made.value(f"SELECT count(*) FROM {made.target}") == rows


def test_without_a_place_for_dead_letters_a_bad_row_fails_the_run(
    kept: Callable[..., Any], launchers: Launchers
) -> None:
    made, task = kept("replace")
    error = launchers.run(task("r1") | {"letters": None})["error"]
    assert (error["code"], "step `share`" in error["what"]) == ("data.bad", True)
    assert made.value(f"SELECT count(*) FROM {made.target}") == 0


def test_rows_that_are_not_unique_are_not_published(kept: Callable[..., Any], launchers: Launchers) -> None:
    made, task = kept("replace")
    order = task("r1")
    order["pipeline"]["spec"] |= {"transforms": [], "validate": {"unique": ["name"]}}
    error = launchers.run(order)["error"]
    assert (error["code"], "spec.validate.unique" in error["where"]) == ("data.bad", True)
    assert made.value(f"SELECT count(*) FROM {made.target}") == 0
    order = task("r2")
    order["pipeline"]["spec"] |= {"transforms": [], "validate": {"unique": ["id"]}}
    assert launchers.run(order)["status"] == "completed"


def test_values_are_looked_up_in_another_table(kept: Callable[..., Any], launchers: Launchers) -> None:
    made, task = kept("replace")
    made.session.execute("CREATE TABLE IF NOT EXISTS rates (code int PRIMARY KEY, rate numeric(6,2))")
    made.session.execute("INSERT INTO rates VALUES (1, 2.50), (2, 4.00) ON CONFLICT DO NOTHING")
    order = task("r1")
    rule = {"connection": "shop", "object": "public.rates", "on": {"code": "code"}, "take": {"rate": "rate"}}
    order["pipeline"]["spec"] |= {
        "transforms": [
            {"name": "code", "set": {"code": "CAST(id % 3 AS integer)"}},
            {"name": "rate", "lookup": rule},
            {"name": "total", "set": {"price": "CAST(coalesce(rate, 0) AS numeric(12,2))"}},
            {"name": "only", "select": ["id", "name", "price", "at"]},
        ]
    }
    done = launchers.run(order)
    assert done["status"] == "completed", done["error"]
    assert (
        made.value(
            f"SELECT count(*) FROM {made.target} WHERE price = CASE id % 3 WHEN 1 THEN 2.5 WHEN 2 THEN 4 ELSE 0 END"
        )
        == 600
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("SELECT g AS code, repeat(md5(g::text), 40) AS note FROM generate_series(1, 1000000) g", "is too large"),
        ("SELECT 1 AS code, 'a' AS note UNION ALL SELECT 1, 'b'", "is not unique"),
        ("SELECT 1 AS code, 'a' AS note UNION ALL SELECT 1, 'a'", "is not unique"),
    ],
    ids=["huge", "a key twice", "a row twice"],
)
def test_a_lookup_table_that_is_huge_or_has_a_key_twice_is_refused(
    kept: Callable[..., Any], launchers: Launchers, rows: str, said: str
) -> None:
    made, task = kept("replace")
    made.session.execute(f"CREATE OR REPLACE VIEW looked_up AS {rows}")
    order = task("r1")
    rule = {"connection": "shop", "object": "public.looked_up", "on": {"id": "code"}, "take": {"note": "note"}}
    order["pipeline"]["spec"] |= {
        "transforms": [{"name": "note", "lookup": rule}, {"name": "only", "select": ["id", "name", "price", "at"]}]
    }
    done = launchers.run(order)
    made.session.execute("DROP VIEW looked_up")
    assert done["status"] == "failed"
    assert said in done["error"]["what"]
    assert "looked_up" in done["error"]["what"] + str(done["error"]["where"])
    assert not done["error"]["transient"]
    assert made.value(f"SELECT count(*) FROM {made.target}") == 0


def test_a_row_of_a_lookup_table_that_cannot_be_read_fails_the_run(
    kept: Callable[..., Any], launchers: Launchers, tmp_path: Path
) -> None:
    """Without the row, rows that refer to it would get NULL, in silence; a column that no step uses is not read."""
    made, task = kept("replace")
    with closing(sqlite3.connect(tmp_path / "rates.db", isolation_level=None)) as session:
        session.execute("CREATE TABLE rates (code BIGINT PRIMARY KEY, rate INTEGER, note TEXT)")
        session.execute("INSERT INTO rates VALUES (1, 7, x'ff'), (2, 'much', CAST(x'ff' AS TEXT))")
    order = task("r1")
    order["connections"]["file"] = {"type": "sqlite", "path": str(tmp_path / "rates.db")}
    for take, column in (({"rate": "rate"}, "`rate`"), ({"rate": "note"}, "`note`"), ({"rate": "code"}, "")):
        rule = {"connection": "file", "object": "rates", "on": {"id": "code"}, "take": take}
        order["pipeline"]["spec"] |= {
            "transforms": [{"name": "rate", "lookup": rule}, {"name": "only", "select": ["id", "name", "price", "at"]}]
        }
        done = launchers.run(order)
        if column:
            assert (done["error"]["code"], column in done["error"]["what"]) == ("data.bad", True), done
        else:
            assert done["status"] == "completed", done["error"]
    assert made.value(f"SELECT count(*) FROM {made.target}") == 600


ODD = pa.table({
    "id": [1, 2, 3, 4, 5], "share": [0.5, float("nan"), float("-inf"), 1.0, 2.0],
    "name": ["one", "x", "x", "nul \0, no \\u0000", "12"],
})  # fmt: skip


def test_a_row_that_json_cannot_represent_is_a_dead_letter_too(
    kept: Callable[..., Any], launchers: Launchers, tmp_path: Path
) -> None:
    """NaN, infinities and NUL: a letter that cannot be stored would fail the run for ever."""
    pq.write_table(ODD, tmp_path / "odd.parquet")
    made, task = kept("replace")
    order = task("r1", fail_above="99%")
    order["connections"]["odd"] = {"type": "files", "root": str(tmp_path)}
    spec = order["pipeline"]["spec"]
    spec["source"] = {"connection": "odd", "object": "odd.parquet"}
    spec["sink"]["object"] = f"{made.target}_odd"
    spec["transforms"] = [{"name": "number", "cast": {"name": "integer"}}]
    done = launchers.run(order)
    assert (done["status"], done["counters"]["dead"], done["counters"]["rows_out"]) == ("completed", 4, 1), done
    values = [row[3] for row in letters(order)]
    assert [one["share"] for one in values] == [0.5, "NaN", "-Infinity", 1.0]
    assert values[3]["name"] == "nul ␀, no \\u0000"
