"""Rows whose cursor is in no window, since it is NULL, or equal to one that was read, by its collation."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta

import duckdb
import psycopg
import pytest

from dataflows.connectors.resolution import LATEST
from penstock.clock import now
from tests.dataflows.connectors.conftest import Flows, SourceFile, System
from tests.pairs import all_pairs


def ask(system: System, statement: str) -> None:
    if system.name == "mysql":
        system.rows(statement)
        return
    if system.name == "postgres":
        with psycopg.connect(system.connection["dsn"], autocommit=True) as server:
            server.execute(statement)
        return
    opened = sqlite3.connect if system.name == "sqlite" else duckdb.connect
    with closing(opened(system.connection["path"])) as session:
        session.execute(statement)
        session.commit()


@all_pairs(name=["postgres", "mysql", "sqlite", "duckdb"], cursor=["n", "seen"], write=["append", "merge"])
def test_a_row_without_a_cursor_is_refused_and_nothing_is_written(
    new_system: Callable[[str], System], source_file: SourceFile, out_of: Flows, name: str, cursor: str, write: str
) -> None:
    system = new_system(name)
    kind = {"mysql": "DATETIME(6)", "duckdb": "TIMESTAMP"}.get(
        name, "TIMESTAMP(6)" if name == "postgres" else "TIMESTAMP"
    )
    ask(system, f"CREATE TABLE copied (id INTEGER PRIMARY KEY, n BIGINT, seen {kind})")
    rows = "(1, 1, '2024-01-01 00:00:00.25'), (2, NULL, NULL), (3, 3, '2024-01-03 00:00:00.25')"
    ask(system, f"INSERT INTO copied VALUES {rows}")
    flow = out_of(system, write)
    flow.source["cursor"] = {"field": cursor} | ({"ordered": True} if cursor == "n" else {"lag": "1h"})
    flow.sink |= {"key": ["id"]} if write == "merge" else {}
    error = flow.failed("r1")
    assert (error["code"], f"`{cursor}` IS NULL" in error["what"]) == ("data.bad", True), error
    there = source_file.rows("SELECT 1 FROM sqlite_master WHERE name = 'back'")
    assert not there or source_file.rows("SELECT count(*) FROM back") == [(0,)]
    ask(system, "UPDATE copied SET n = 2, seen = '2024-01-02 00:00:00.25' WHERE id = 2")
    assert flow.completed("r2") == 3
    assert source_file.rows("SELECT id FROM back ORDER BY id") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("name", ["postgres", "mysql", "sqlite", "duckdb"])
def test_a_first_run_says_that_every_row_is_younger_than_the_lag(
    new_system: Callable[[str], System], out_of: Flows, name: str
) -> None:
    system = new_system(name)
    ask(system, "CREATE TABLE copied (id INTEGER PRIMARY KEY, seen TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)")
    ask(system, "INSERT INTO copied (id) VALUES (1)")
    flow = out_of(system, "append")
    flow.source["cursor"] = {"field": "seen", "lag": "50h"}
    found = flow.run("r1")
    assert found["counters"]["rows_in"] == 0
    assert "no row has a seen older than the lag of 2 days" in " ".join(found["notes"])
    ask(system, "UPDATE copied SET seen = '2024-01-02 00:00:00'")
    assert flow.completed("r2") == 1


IGNORING_CASE = {"postgres": "no_case", "mysql": "utf8mb4_general_ci", "sqlite": "NOCASE", "duckdb": "NOCASE"}


@pytest.mark.parametrize("name", IGNORING_CASE)
def test_texts_that_a_collation_takes_for_equal_are_all_read(
    new_system: Callable[[str], System], source_file: SourceFile, out_of: Flows, name: str
) -> None:
    system = new_system(name)
    if name == "postgres":
        ask(system, "CREATE COLLATION no_case (locale = 'C')")  # a build may lack ICU
        ask(system, "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'no_case'")
    kind = f"VARCHAR(9) COLLATE {IGNORING_CASE[name]} NOT NULL"
    ask(system, f"CREATE TABLE codes (id INTEGER PRIMARY KEY, code {kind})")
    ask(system, "CREATE VIEW copied AS SELECT id, code FROM codes")
    flow = out_of(system, "append")
    flow.source["cursor"] = {"field": "code", "ordered": True}
    error = flow.failed("r")
    assert (error["code"], IGNORING_CASE[name] in error["what"]) == ("refused", True), error
    flow.sink |= {"write": "merge", "key": ["id"]}
    for at, code in enumerate("AabbB"):
        ask(system, f"INSERT INTO codes VALUES ({at}, '{code}')")
        flow.completed(f"r{at}")
    ids = [row[0] for row in source_file.rows("SELECT id FROM back ORDER BY id")]
    assert ids == ([0, 1, 2, 3] if name == "postgres" else [0, 1, 2, 3, 4])  # its collation takes none for equal
    assert flow.completed("r9") == len(ids) - 2


@all_pairs(name=["postgres", "mysql", "sqlite", "duckdb"], write=["append", "merge"])
def test_times_of_whole_weeks_are_read_when_the_week_is_over_or_again(
    new_system: Callable[[str], System], source_file: SourceFile, out_of: Flows, name: str, write: str
) -> None:
    system = new_system(name)
    kind = {"mysql": "DATETIME(6)", "duckdb": "TIMESTAMP"}.get(name, "TIMESTAMP")
    ask(system, f"CREATE TABLE copied (id INTEGER PRIMARY KEY, seen {kind} NOT NULL)")
    week, before = (f"{now() - timedelta(days=days):%Y-%m-%d} 00:00:00" for days in (3, 10))
    of_week = ", ".join(f"({at}, '{week}')" for at in range(2, LATEST + 3))
    ask(system, f"INSERT INTO copied VALUES (1, '{before}'), {of_week}")
    flow = out_of(system, write)
    flow.source["cursor"] = {"field": "seen", "lag": "10ms"}
    flow.sink |= {"key": ["id"]} if write == "merge" else {}
    flow.completed("r1")
    ask(system, f"INSERT INTO copied VALUES ({LATEST + 3}, '{week}')")
    flow.completed("r2")
    ids = [row[0] for row in source_file.rows("SELECT id FROM back ORDER BY id")]
    assert ids == [*range(1, LATEST + 4)] or (write == "append" and ids == [1])


def test_a_key_that_becomes_text_in_a_new_table_is_refused_if_one_value_has_several(
    new_system: Callable[[str], System], source_file: SourceFile, out_of: Flows
) -> None:
    system = new_system("postgres")
    ask(system, "CREATE TABLE copied (id numeric PRIMARY KEY)")
    flow = out_of(system, "merge")
    flow.sink |= {"key": ["id"]}
    error = flow.failed("r1")
    assert (error["code"], "such as 1.0 and 1.00" in error["what"]) == ("refused", True), error
    assert source_file.rows("SELECT 1 FROM sqlite_master WHERE name = 'back'") == [], "nothing is made before"
    ask(system, "ALTER TABLE copied ALTER id TYPE numeric(60,2)")
    ask(system, "INSERT INTO copied VALUES (1)")
    assert flow.completed("r2") == 1, "with a scale each value has one text"
